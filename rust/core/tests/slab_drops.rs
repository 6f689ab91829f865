//! Each value is dropped exactly once, and only when the slab is ready for whatever code
//! the drop runs.

#![cfg(not(loom))]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use hybrid_core::slab::{Full, Record, Slab, Ticket};

const RECORD: Record = Record::started_at(0);

/// Counts its drops. A clone has its own count.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new() -> (Self, Arc<AtomicUsize>) {
        let drops = Arc::new(AtomicUsize::new(0));
        (Self(Arc::clone(&drops)), drops)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn count(drops: &AtomicUsize) -> usize {
    drops.load(Ordering::Relaxed)
}

#[test]
fn a_slab_drops_what_it_still_holds() {
    let slab = Slab::new(200);
    let all: Vec<_> = (0..200)
        .map(|_| {
            let (value, drops) = Counted::new();
            (slab.insert(value, RECORD).unwrap(), drops)
        })
        .collect();
    let (taken, kept) = all.split_at(70);
    for (ticket, drops) in taken {
        let value = slab
            .take_with(*ticket, |_| unreachable!("nobody reads"))
            .unwrap();
        assert_eq!(count(drops), 0);
        drop(value);
    }
    assert!(kept.iter().all(|(_, drops)| count(drops) == 0));

    drop(slab);
    assert!(all.iter().all(|(_, drops)| count(drops) == 1));
}

#[test]
fn a_full_slab_gives_the_value_back() {
    let slab = Slab::new(0);
    let (value, drops) = Counted::new();
    let Err(Full(value)) = slab.insert(value, RECORD) else {
        panic!("the limit is 0")
    };
    assert_eq!(count(&drops), 0);
    drop(value);
    assert_eq!(count(&drops), 1);
}

#[test]
fn the_last_reader_drops_the_original() {
    let slab = Slab::new(1);
    let (value, original) = Counted::new();
    let (copy, copied) = Counted::new();
    let ticket = slab.insert(value, RECORD).unwrap();

    let taken = slab.get_with(ticket, |_| {
        let taken = slab.take_with(ticket, |_| copy).unwrap();
        assert_eq!(count(&original), 0, "the reader still has it");
        taken
    });
    assert_eq!((count(&original), count(&copied)), (1, 0));
    drop(taken);
    assert_eq!((count(&original), count(&copied)), (1, 1));
}

#[test]
fn a_taken_job_makes_room_while_it_is_still_read() {
    let slab = Slab::new(1);
    let first = slab.insert(1, RECORD).unwrap();
    slab.get_with(first, |_| {
        assert_eq!(slab.insert(2, RECORD), Err(Full(2)));
        assert_eq!(slab.take(first), Some(1));
        assert_eq!(slab.len(), 0);
        let second = slab.insert(2, RECORD).unwrap();
        assert_ne!(second.index(), first.index());
    })
    .unwrap();

    slab.set_limit(2);
    let third = slab.insert(3, RECORD).unwrap();
    assert_eq!(
        third.index(),
        first.index(),
        "the last reader frees the slot"
    );
}

#[test]
fn a_reader_that_panics_leaves_the_job_in_place() {
    let slab = Slab::new(1);
    let (value, drops) = Counted::new();
    let ticket = slab.insert(value, RECORD).unwrap();

    let read = AssertUnwindSafe(|| slab.get_with(ticket, |_| panic!("on purpose")));
    assert!(catch_unwind(read).is_err());

    let taken = slab.take_with(ticket, |_| unreachable!("the pin is released"));
    assert!(taken.is_some());
    assert_eq!(count(&drops), 0);
}

#[test]
fn a_reader_that_panics_after_a_take_still_frees_the_slot() {
    let slab = Slab::new(1);
    let (value, drops) = Counted::new();
    let ticket = slab.insert(value, RECORD).unwrap();

    let read = AssertUnwindSafe(|| {
        slab.get_with(ticket, |_| {
            let (copy, _) = Counted::new();
            let taken = slab.take_with(ticket, |_| copy);
            assert!(taken.is_none(), "on purpose");
        })
    });
    assert!(catch_unwind(read).is_err());
    assert_eq!(count(&drops), 1);
    assert_eq!(
        slab.insert(Counted::new().0, RECORD).unwrap().index(),
        ticket.index()
    );
}

#[test]
fn a_clone_that_panics_loses_the_job_but_not_the_slot() {
    let slab = Slab::new(1);
    let (value, drops) = Counted::new();
    let ticket = slab.insert(value, RECORD).unwrap();

    slab.get_with(ticket, |_| {
        let take = AssertUnwindSafe(|| slab.take_with(ticket, |_| panic!("on purpose")));
        assert!(catch_unwind(take).is_err());
        assert_eq!((count(&drops), slab.len()), (0, 0));
    })
    .unwrap();
    assert_eq!(count(&drops), 1);
    assert!(
        slab.take_with(ticket, |_| unreachable!("the job is gone"))
            .is_none()
    );
    assert_eq!(
        slab.insert(Counted::new().0, RECORD).unwrap().index(),
        ticket.index()
    );
}

/// Uses the slab that it was in while it is dropped, as a Python destructor may.
struct Reentrant {
    slab: Weak<Slab<Reentrant>>,
    ticket: OnceLock<Ticket>,
}

impl Drop for Reentrant {
    fn drop(&mut self) {
        let (Some(slab), Some(&own)) = (self.slab.upgrade(), self.ticket.get()) else {
            return;
        };
        assert!(slab.get_with(own, |_| ()).is_none(), "its ticket is stale");

        let next = Reentrant {
            slab: Weak::new(),
            ticket: OnceLock::new(),
        };
        let reused = slab.insert(next, RECORD).unwrap();
        assert_eq!(reused.index(), own.index(), "its slot is vacant");
        assert_eq!(slab.len(), 1);
    }
}

#[test]
fn dropping_a_leftover_may_use_the_slab() {
    let slab = Arc::new(Slab::new(1));
    let value = Reentrant {
        slab: Arc::downgrade(&slab),
        ticket: OnceLock::new(),
    };
    let own = slab.insert(value, RECORD).unwrap();

    slab.get_with(own, |value| {
        value.ticket.set(own).unwrap();
        let copy = |_: &_| Reentrant {
            slab: Weak::new(),
            ticket: OnceLock::new(),
        };
        assert!(slab.take_with(own, copy).is_some());
    })
    .unwrap();
    assert_eq!(slab.len(), 1, "the drop of the leftover has run");
}
