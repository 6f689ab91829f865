//! Every interleaving, and every value that the memory model allows, of the small cases.
//!
//! ```sh
//! RUSTFLAGS="--cfg loom" cargo test -p hybrid-core --release --test slab_loom
//! ```
//!
//! Loom also watches the value of each slot: a read that races the move in or out of it fails
//! the model. Pages start at one slot here, so that growth is part of the models.
//!
//! Models with `explore` are exhaustive. Those with `explore_switches` take minutes or hours
//! that way, so they try all runs with so many involuntary switches between threads;
//! `LOOM_MAX_PREEMPTIONS` sets another bound for all models.
//!
//! Each ordering in the slab stronger than relaxed was weakened once, and each check removed: a
//! model failed each time. The one exception is the pair of `fill` and `vacate`, which orders
//! a second time what the free list orders already.

#![cfg(loom)]

use std::collections::HashSet;
use std::sync::Arc as Untracked;

use hybrid_core::slab::{Record, Slab, Ticket};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

fn explore(model: impl Fn() + Send + Sync + 'static) {
    loom::model(model);
}

fn explore_switches(bound: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(bound);
    builder.check(model);
}

/// A value whose copies are counted. Not one of loom's types: the slab orders its accesses.
type Value = Untracked<u32>;

fn record(seed: u64) -> Record {
    Record {
        started_ns: seed,
        soft_deadline_ns: seed + 1,
        hard_deadline_ns: seed + 2,
    }
}

fn assert_is_whole(record: Record) {
    assert_eq!(record.soft_deadline_ns, record.started_ns + 1);
    assert_eq!(record.hard_deadline_ns, record.started_ns + 2);
}

/// Fills `slab` up to its limit: each slot that was left behind must be usable, once.
fn assert_all_slots_work(slab: &Slab<Value>) {
    let mut tickets = HashSet::new();
    while let Ok(ticket) = slab.insert(Value::new(0), record(0)) {
        assert!(tickets.insert(ticket.index()), "two jobs in one slot");
    }
    assert_eq!(slab.len(), slab.limit());
}

fn reused_slots(slab: &Slab<Value>, count: u32) {
    let tickets: Vec<Ticket> = (0..count)
        .map(|value| slab.insert(Value::new(value), record(0)).unwrap())
        .collect();
    for ticket in tickets {
        slab.take(ticket).unwrap();
    }
}

#[test]
fn one_of_two_takers_wins() {
    explore(|| {
        let slab = Arc::new(Slab::new(1));
        let value = Value::new(7);
        let ticket = slab.insert(Value::clone(&value), record(0)).unwrap();

        let other = Arc::clone(&slab);
        let theirs = thread::spawn(move || other.take(ticket));
        let ours = slab.take(ticket);
        let theirs = theirs.join().unwrap();

        assert!(ours.is_some() != theirs.is_some());
        assert_eq!(Value::strong_count(&value), 2);
        assert!(slab.is_empty());
        assert_eq!(
            slab.insert(value, record(0)).unwrap().index(),
            ticket.index()
        );
    });
}

#[test]
fn a_reader_sees_the_whole_job_or_none() {
    explore(|| {
        let slab = Arc::new(Slab::new(1));
        let value = Value::new(7);
        let ticket = slab.insert(Value::clone(&value), record(0)).unwrap();

        let other = Arc::clone(&slab);
        let reader = thread::spawn(move || other.get_with(ticket, |value| **value));
        let taken = slab.take(ticket);
        let read = reader.join().unwrap();

        assert_eq!(taken.as_deref(), Some(&7));
        assert!(read.is_none_or(|read| read == 7));
        assert_eq!(Value::strong_count(&value), 2, "the original stayed behind");
        assert_eq!(
            slab.insert(value, record(0)).unwrap().index(),
            ticket.index()
        );
    });
}

#[test]
fn the_last_of_two_readers_leaves_nothing_behind() {
    explore_switches(3, || {
        let slab = Arc::new(Slab::new(1));
        let value = Value::new(7);
        let ticket = slab.insert(Value::clone(&value), record(0)).unwrap();

        let readers: Vec<_> = (0..2)
            .map(|_| {
                let slab = Arc::clone(&slab);
                thread::spawn(move || slab.get_with(ticket, |value| **value))
            })
            .collect();
        assert_eq!(slab.take(ticket).as_deref(), Some(&7));
        for reader in readers {
            assert!(reader.join().unwrap().is_none_or(|read| read == 7));
        }
        assert_eq!(Value::strong_count(&value), 1);
        assert_eq!(
            slab.insert(value, record(0)).unwrap().index(),
            ticket.index()
        );
    });
}

#[test]
fn a_reader_that_takes_races_another_taker() {
    explore(|| {
        let slab = Arc::new(Slab::new(1));
        let value = Value::new(7);
        let ticket = slab.insert(Value::clone(&value), record(0)).unwrap();

        let other = Arc::clone(&slab);
        let nested = thread::spawn(move || other.get_with(ticket, |_| other.take(ticket)));
        let ours = slab.take(ticket);
        let theirs = nested.join().unwrap().flatten();

        assert!(ours.is_some() != theirs.is_some());
        assert_eq!(Value::strong_count(&value), 2);
        assert_all_slots_work(&slab);
    });
}

#[test]
fn a_stale_ticket_takes_nothing_while_its_slot_is_reused() {
    explore(|| {
        let slab = Arc::new(Slab::new(1));
        let first = slab.insert(Value::new(1), record(0)).unwrap();

        let other = Arc::clone(&slab);
        let stale = thread::spawn(move || other.take(first));
        let ours = slab.take(first);
        // When the other thread won it may still be freeing the slot: the slab is full then.
        let second = slab.insert(Value::new(2), record(0));
        let theirs = stale.join().unwrap();

        assert!(ours.is_some() != theirs.is_some());
        assert!(ours.or(theirs).is_some_and(|taken| *taken == 1));
        if let Ok(second) = second {
            assert_ne!(second, first);
            assert_eq!(slab.take(second).as_deref(), Some(&2));
        }
        assert_all_slots_work(&slab);
    });
}

#[test]
fn a_stale_ticket_reads_nothing_while_its_slot_is_reused() {
    explore(|| {
        let slab = Arc::new(Slab::new(1));
        let first = slab.insert(Value::new(1), record(0)).unwrap();

        let other = Arc::clone(&slab);
        let reader = thread::spawn(move || other.get_with(first, |value| **value));
        assert_eq!(slab.take(first).as_deref(), Some(&1));
        let second = slab.insert(Value::new(2), record(0)).unwrap();
        assert!(reader.join().unwrap().is_none_or(|read| read == 1));

        assert_eq!(slab.take(second).as_deref(), Some(&2));
        assert_all_slots_work(&slab);
    });
}

#[test]
fn a_ticket_handed_to_another_thread_finds_its_job() {
    explore(|| {
        let slab = Arc::new(Slab::new(1));
        let other = Arc::clone(&slab);
        let inserter = thread::spawn(move || other.insert(Value::new(7), record(4)).unwrap());

        // Sees the job through the scan alone, without synchronising with the insert.
        slab.scan(|ticket, record| {
            assert_is_whole(record);
            assert_eq!(slab.get_with(ticket, |value| **value), Some(7));
        });
        let ticket = inserter.join().unwrap();
        assert_eq!(slab.take(ticket).as_deref(), Some(&7));
    });
}

#[test]
fn a_ticket_alone_is_enough_to_see_the_whole_job() {
    explore(|| {
        let slab = Arc::new(Slab::new(1));
        let mailbox = Arc::new(AtomicU64::new(0));

        let (other, posted) = (Arc::clone(&slab), Arc::clone(&mailbox));
        let inserter = thread::spawn(move || {
            let ticket = other.insert(Value::new(7), record(4)).unwrap();
            // Relaxed: whatever the reader sees of the job, the slab itself has ordered.
            posted.store(ticket.to_raw(), Ordering::Relaxed);
        });
        let ticket = Ticket::from_raw(mailbox.load(Ordering::Relaxed));
        assert!(
            slab.get_with(ticket, |value| **value)
                .is_none_or(|read| read == 7)
        );
        assert!(slab.take(ticket).is_none_or(|taken| *taken == 7));
        inserter.join().unwrap();
    });
}

#[test]
fn concurrent_inserts_never_pass_the_limit() {
    explore(|| {
        let slab = Arc::new(Slab::new(1));
        let other = Arc::clone(&slab);
        let theirs = thread::spawn(move || other.insert(Value::new(1), record(0)));
        let ours = slab.insert(Value::new(2), record(0));
        let theirs = theirs.join().unwrap();

        assert!(ours.is_ok() != theirs.is_ok());
        assert_eq!(slab.len(), 1);
        let (ticket, value) = ours.map_or_else(|_| (theirs.unwrap(), 1), |ours| (ours, 2));
        assert_eq!(slab.take(ticket).as_deref(), Some(&value));
    });
}

#[test]
fn a_limit_that_changes_meanwhile_is_never_passed() {
    explore(|| {
        let slab = Arc::new(Slab::new(1));
        let other = Arc::clone(&slab);
        let insert = thread::spawn(move || other.insert(Value::new(1), record(0)).is_ok());
        slab.set_limit(0);
        let after = slab.insert(Value::new(2), record(0));
        assert!(after.is_err(), "the limit was 0 before");
        assert_eq!(slab.len(), u32::from(insert.join().unwrap()));
    });
}

#[test]
fn inserts_that_race_to_grow_get_different_slots() {
    explore_switches(4, || {
        let slab = Arc::new(Slab::new(4));
        // Leaves the first two pages full: both inserts below need the next, which is new.
        for value in 0..2 {
            slab.insert(Value::new(value), record(0)).unwrap();
        }
        let other = Arc::clone(&slab);
        let theirs = thread::spawn(move || other.insert(Value::new(10), record(0)).unwrap());
        let ours = slab.insert(Value::new(11), record(0)).unwrap();
        let theirs = theirs.join().unwrap();

        assert_ne!(ours.index(), theirs.index());
        assert_eq!(slab.take(theirs).as_deref(), Some(&10));
        assert_eq!(slab.take(ours).as_deref(), Some(&11));
        assert_all_slots_work(&slab);
    });
}

#[test]
fn a_pop_that_was_overtaken_does_not_corrupt_the_free_list() {
    explore_switches(4, || {
        let slab = Arc::new(Slab::new(3));
        reused_slots(&slab, 2);

        // The other thread takes both slots off the list and returns the one that was on top:
        // the head that we may have read looks unchanged, and its successor is in use.
        let other = Arc::clone(&slab);
        let theirs = thread::spawn(move || {
            let first = other.insert(Value::new(10), record(0)).unwrap();
            let second = other.insert(Value::new(11), record(0)).unwrap();
            assert_eq!(other.take(first).as_deref(), Some(&10));
            second
        });
        let ours = slab.insert(Value::new(12), record(0)).unwrap();
        let theirs = theirs.join().unwrap();

        assert_ne!(ours.index(), theirs.index());
        assert_eq!(slab.get_with(ours, |value| **value), Some(12));
        assert_eq!(slab.get_with(theirs, |value| **value), Some(11));
        assert_all_slots_work(&slab);
    });
}

#[test]
fn slots_freed_together_are_all_found_again() {
    explore(|| {
        let slab = Arc::new(Slab::new(2));
        let first = slab.insert(Value::new(1), record(0)).unwrap();
        let second = slab.insert(Value::new(2), record(0)).unwrap();

        let other = Arc::clone(&slab);
        let theirs = thread::spawn(move || other.take(first));
        assert_eq!(slab.take(second).as_deref(), Some(&2));
        assert_eq!(theirs.join().unwrap().as_deref(), Some(&1));

        for _ in 0..2 {
            let again = slab.insert(Value::new(3), record(0)).unwrap();
            assert!(again.index() < 2, "a slot was lost");
        }
    });
}

#[test]
fn the_place_of_a_job_that_left_comes_with_its_slot() {
    explore(|| {
        let slab = Arc::new(Slab::new(1));
        let first = slab.insert(Value::new(1), record(0)).unwrap();

        let other = Arc::clone(&slab);
        let taker = thread::spawn(move || other.take(first));
        if let Ok(second) = slab.insert(Value::new(2), record(0)) {
            assert_eq!(
                second.index(),
                first.index(),
                "a slot more than the limit is in use"
            );
        }
        assert_eq!(taker.join().unwrap().as_deref(), Some(&1));
    });
}

#[test]
fn a_scan_never_mixes_two_jobs() {
    explore_switches(4, || {
        let slab = Arc::new(Slab::new(1));
        let first = slab.insert(Value::new(1), record(10)).unwrap();

        let other = Arc::clone(&slab);
        let reuse = thread::spawn(move || {
            other.take(first).unwrap();
            other.insert(Value::new(2), record(20)).unwrap()
        });
        let mut seen = Vec::new();
        slab.scan(|ticket, record| seen.push((ticket, record)));
        let second = reuse.join().unwrap();

        assert!(seen.len() <= 1, "one slot was reported twice");
        for (ticket, found) in seen {
            let expected = if ticket == first {
                record(10)
            } else {
                record(20)
            };
            assert!(ticket == first || ticket == second);
            assert_eq!(found, expected);
        }
    });
}

#[test]
fn a_scan_reports_a_job_that_stays() {
    explore_switches(4, || {
        let slab = Arc::new(Slab::new(2));
        let leaves = slab.insert(Value::new(1), record(10)).unwrap();
        let stays = slab.insert(Value::new(2), record(20)).unwrap();

        let other = Arc::clone(&slab);
        let busy = thread::spawn(move || {
            other.get_with(stays, |_| other.take(leaves)).unwrap();
        });
        let mut seen = 0;
        slab.scan(|ticket, found| {
            assert_is_whole(found);
            if ticket == stays {
                assert_eq!(found, record(20));
                seen += 1;
            }
        });
        busy.join().unwrap();
        assert_eq!(seen, 1);
    });
}
