//! What a timer costs, and that memory goes when timers do.

#![cfg(not(loom))]

use hybrid_core::timer::{Key, TimerHeap};

const MANY: u64 = 1_000_000;

/// Spreads consecutive numbers over the whole range, the same way each time.
fn scatter(n: u64) -> u64 {
    n.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

fn filled(count: u64) -> (TimerHeap<u64>, Vec<Key>) {
    let mut heap = TimerHeap::new();
    let keys = (0..count).map(|n| heap.insert(scatter(n), n)).collect();
    (heap, keys)
}

#[test]
fn a_new_heap_allocates_nothing() {
    assert_eq!(TimerHeap::<u64>::new().memory_bytes(), 0);
}

#[test]
fn an_entry_costs_less_than_a_hundred_bytes_at_any_size() {
    let mut heap = TimerHeap::new();
    for n in 0..MANY {
        heap.insert(scatter(n), n);
        if n > 64 {
            assert!(heap.memory_bytes() <= 100 * heap.len());
        }
    }
    assert!(heap.memory_bytes() <= 48 * heap.len());
}

#[test]
fn cancelled_timers_give_their_memory_back() {
    let (mut heap, keys) = filled(MANY);
    let full = heap.memory_bytes();
    for key in keys {
        heap.cancel(key).unwrap();
    }
    assert!(
        heap.memory_bytes() < full / 1000,
        "{} bytes are left",
        heap.memory_bytes()
    );
}

#[test]
fn expired_timers_give_their_memory_back() {
    let (mut heap, _) = filled(100_000);
    let full = heap.memory_bytes();
    let mut last = 0;
    while let [.., (_, last_value)] = heap.expire(u64::MAX, 1000)[..] {
        assert!(scatter(last_value) >= last);
        last = scatter(last_value);
    }
    assert!(
        heap.memory_bytes() < full / 100,
        "{} bytes are left",
        heap.memory_bytes()
    );
}

#[test]
fn clear_gives_all_memory_back() {
    let (mut heap, _) = filled(100_000);
    assert_eq!(heap.clear().len(), 100_000);
    assert!(heap.memory_bytes() < 4096);
}

#[test]
fn survivors_of_a_peak_let_go_of_its_memory_over_time() {
    let (mut heap, keys) = filled(100_000);
    let full = heap.memory_bytes();
    let mut periodic = *keys.last().unwrap();
    for &key in &keys[..99_999] {
        heap.cancel(key);
    }
    // A repeated timer moves to a low place when it is renewed; the table then lets go.
    for n in 0..100_000 {
        heap.cancel(periodic).unwrap();
        periodic = heap.insert(n, n);
    }
    assert!(
        heap.memory_bytes() < full / 100,
        "{} bytes are left",
        heap.memory_bytes()
    );
}

#[test]
fn a_length_that_goes_up_and_down_does_not_reallocate() {
    let (mut heap, mut keys) = filled(10_000);
    for key in keys.drain(5_000..) {
        heap.cancel(key);
    }
    let settled = heap.memory_bytes();
    for _ in 0..10 {
        for n in 0..2_000 {
            keys.push(heap.insert(n, n));
        }
        for key in keys.drain(5_000..) {
            heap.cancel(key);
        }
        assert_eq!(heap.memory_bytes(), settled);
    }
}

#[test]
fn no_key_comes_back_after_its_place_was_given_up() {
    let mut heap = TimerHeap::new();
    let mut seen = std::collections::HashSet::new();
    for round in 0..20 {
        let keys: Vec<_> = (0..500).map(|n| heap.insert(n, round)).collect();
        assert!(
            keys.iter().all(|key| seen.insert(*key)),
            "round {round} repeats a key"
        );
        if round % 2 == 0 {
            assert_eq!(heap.clear().len(), 500);
        } else {
            assert_eq!(heap.expire(u64::MAX, usize::MAX).len(), 500);
        }
        assert!(seen.iter().all(|&key| heap.get(key).is_none()));
    }
}
