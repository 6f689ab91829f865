//! The order in which timers expire, and what a caller may rely on at the edges.

#![cfg(not(loom))]

use hybrid_core::timer::{Key, TimerHeap};

fn values<T>(expired: Vec<(Key, T)>) -> Vec<T> {
    expired.into_iter().map(|(_, value)| value).collect()
}

#[test]
fn timers_expire_by_deadline_then_by_insertion() {
    let mut heap = TimerHeap::new();
    for (deadline_ns, value) in [(30, 'e'), (10, 'a'), (20, 'c'), (10, 'b'), (20, 'd')] {
        heap.insert(deadline_ns, value);
    }
    assert_eq!(values(heap.expire(100, 100)), ['a', 'b', 'c', 'd', 'e']);
}

#[test]
fn a_cancel_in_the_middle_keeps_the_order_of_equals() {
    let mut heap = TimerHeap::new();
    let keys: Vec<_> = (0..100).map(|value| heap.insert(5, value)).collect();
    for &key in keys.iter().step_by(3) {
        heap.cancel(key).unwrap();
    }
    let left: Vec<_> = (0..100).filter(|value| value % 3 != 0).collect();
    assert_eq!(values(heap.expire(5, usize::MAX)), left);
}

#[test]
fn a_timer_is_due_at_its_deadline_and_not_before() {
    let mut heap = TimerHeap::new();
    heap.insert(10, ());
    assert!(heap.expire(9, 1).is_empty());
    assert_eq!(heap.expire(10, 1).len(), 1);
}

#[test]
fn expire_stops_at_its_limit() {
    let mut heap = TimerHeap::new();
    for value in 0..10 {
        heap.insert(value, value);
    }
    assert!(heap.expire(100, 0).is_empty());
    assert_eq!(values(heap.expire(100, 4)), [0, 1, 2, 3]);
    assert_eq!(heap.next_deadline(), Some(4));
    assert_eq!(values(heap.expire(100, usize::MAX)), [4, 5, 6, 7, 8, 9]);
    assert_eq!(heap.next_deadline(), None);
}

#[test]
fn expire_returns_the_keys_that_insert_returned() {
    let mut heap = TimerHeap::new();
    let key = heap.insert(1, "value");
    assert_eq!(heap.get(key), Some((1, &"value")));
    assert_eq!(heap.expire(1, 1), [(key, "value")]);
    assert_eq!(heap.get(key), None);
    assert_eq!(heap.cancel(key), None);
}

#[test]
fn a_stale_key_leaves_the_next_timer_in_its_place_alone() {
    let mut heap = TimerHeap::new();
    let first = heap.insert(1, 'a');
    assert_eq!(heap.cancel(first), Some('a'));
    let second = heap.insert(2, 'b');
    assert_eq!(heap.cancel(first), None);
    assert_eq!(heap.get(second), Some((2, &'b')));
}

#[test]
fn a_forged_key_finds_nothing() {
    let mut heap = TimerHeap::new();
    let key = heap.insert(1, 'a');
    heap.insert(2, 'b');
    heap.cancel(key);
    for raw in [0, 1, u64::MAX, key.to_raw(), key.to_raw() + (1 << 32)] {
        assert_eq!(heap.cancel(Key::from_raw(raw)), None, "{raw:#x}");
    }
    assert_eq!(heap.len(), 1);
}

#[test]
fn no_value_is_dropped_inside() {
    let mut heap = TimerHeap::new();
    let value = std::rc::Rc::new(());
    let keys: Vec<_> = (0..4).map(|n| heap.insert(n, value.clone())).collect();
    let cancelled = heap.cancel(keys[2]);
    let expired = heap.expire(0, 1);
    let cleared = heap.clear();
    assert_eq!(std::rc::Rc::strong_count(&value), 5);
    drop((cancelled, expired, cleared));
    assert_eq!(std::rc::Rc::strong_count(&value), 1);
}
