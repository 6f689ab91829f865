//! Real threads on one slab: what the models prove for small cases, at size and at speed.

#![cfg(not(loom))]

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use hybrid_core::slab::{Full, Record, Slab, Ticket};

/// Jobs per inserting thread. Miri needs about a thousand times longer for each.
const JOBS: u64 = if cfg!(miri) { 60 } else { 60_000 };

fn record(seed: u64) -> Record {
    Record {
        started_ns: seed,
        soft_deadline_ns: !seed,
        hard_deadline_ns: seed.rotate_left(17),
    }
}

fn insert_with_patience<T>(slab: &Slab<T>, mut value: T, seed: u64) -> Ticket {
    loop {
        match slab.insert(value, record(seed)) {
            Ok(ticket) => return ticket,
            Err(Full(back)) => value = back,
        }
        thread::yield_now();
    }
}

#[test]
fn each_job_is_taken_exactly_once() {
    const THREADS: u64 = 3;
    const LIMIT: u32 = 300;

    let slab = Slab::<Arc<u64>>::new(LIMIT);
    // Tickets go round between the threads, so that each is tried by several.
    let shared: Vec<AtomicU64> = (0..64).map(|_| AtomicU64::new(0)).collect();
    let taken: Vec<AtomicUsize> = (0..THREADS * JOBS).map(|_| AtomicUsize::new(0)).collect();
    let done = AtomicBool::new(false);
    let take = |ticket: u64| {
        if let Some(value) = slab.take(Ticket::from_raw(ticket)) {
            taken[usize::try_from(*value).unwrap()].fetch_add(1, Ordering::Relaxed);
        }
    };

    thread::scope(|scope| {
        let watchdog = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                slab.scan(|ticket, found| {
                    assert_eq!(found, record(found.started_ns), "{ticket:?} is torn");
                    slab.get_with(ticket, |value| assert_eq!(**value, found.started_ns));
                });
                assert!(slab.len() <= LIMIT);
                thread::yield_now();
            }
        });
        let workers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (slab, shared, take) = (&slab, &shared, &take);
                scope.spawn(move || {
                    for value in thread * JOBS..(thread + 1) * JOBS {
                        let ticket = insert_with_patience(slab, Arc::new(value), value);
                        let cell = &shared[usize::try_from(value * 31 % 64).unwrap()];
                        let other = cell.swap(ticket.to_raw(), Ordering::Relaxed);
                        take(other);
                        if value % 3 == 0 {
                            take(ticket.to_raw());
                        }
                        if value % 5 == 0 {
                            take(other);
                        }
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
        watchdog.join().unwrap();
    });

    for cell in &shared {
        take(cell.load(Ordering::Relaxed));
    }
    assert!(taken.iter().all(|taken| taken.load(Ordering::Relaxed) == 1));
    assert!(slab.is_empty());
}

#[test]
fn no_value_is_lost_or_dropped_twice_under_readers() {
    let slab = Slab::new(8);
    let tickets: Vec<AtomicU64> = (0..8).map(|_| AtomicU64::new(0)).collect();
    let alive = Arc::new(());
    let finished = AtomicBool::new(false);

    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !finished.load(Ordering::Relaxed) {
                    for ticket in &tickets {
                        let ticket = Ticket::from_raw(ticket.load(Ordering::Relaxed));
                        slab.get_with(ticket, |value: &Arc<()>| {
                            assert!(Arc::ptr_eq(value, &alive));
                        });
                    }
                    thread::yield_now();
                }
            });
        }
        for round in 0..JOBS {
            let cell = &tickets[usize::try_from(round % 8).unwrap()];
            let previous = Ticket::from_raw(cell.load(Ordering::Relaxed));
            assert_eq!(slab.take(previous).is_some(), round >= 8);
            let ticket = slab.insert(Arc::clone(&alive), record(round)).unwrap();
            cell.store(ticket.to_raw(), Ordering::Relaxed);
        }
        finished.store(true, Ordering::Relaxed);
    });

    assert_eq!(Arc::strong_count(&alive), 1 + slab.len() as usize);
    drop(slab);
    assert_eq!(Arc::strong_count(&alive), 1);
}

#[test]
fn threads_that_grow_the_slab_together_share_its_slots() {
    const EACH: u32 = if cfg!(miri) { 100 } else { 20_000 };

    let slab = Slab::new(3 * EACH);
    let tickets = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for thread in 0..3 {
            let (slab, tickets) = (&slab, &tickets);
            scope.spawn(move || {
                let values = (thread * EACH)..((thread + 1) * EACH);
                let own: Vec<_> = values
                    .map(|value| (value, slab.insert(value, record(u64::from(value))).unwrap()))
                    .collect();
                tickets.lock().unwrap().extend(own);
            });
        }
    });

    assert_eq!(slab.insert(0, record(0)), Err(Full(0)));
    let mut indices: Vec<_> = Vec::new();
    for (value, ticket) in tickets.into_inner().unwrap() {
        assert_eq!(slab.take(ticket), Some(value));
        indices.push(ticket.index());
    }
    indices.sort_unstable();
    assert!(
        indices.into_iter().eq(0..3 * EACH),
        "no slot beyond the limit is in use"
    );
}
