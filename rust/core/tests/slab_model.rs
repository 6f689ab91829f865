//! The slab behaves like a `HashMap` with a limit, whatever single thread drives it.

#![cfg(not(loom))]

use std::collections::HashMap;
use std::rc::Rc;

use hybrid_core::slab::{Full, MAX_JOBS, Record, Slab, Ticket};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Insert { record: Record },
    Take { nth: usize },
    TakeStale { nth: usize },
    TakeForged { raw: u64 },
    TakeWhileRead { nth: usize },
    Get { nth: usize },
    SetLimit { limit: u32 },
    Scan,
}

fn record() -> impl Strategy<Value = Record> {
    any::<[u64; 3]>().prop_map(|[started_ns, soft_deadline_ns, hard_deadline_ns]| Record {
        started_ns,
        soft_deadline_ns,
        hard_deadline_ns,
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => record().prop_map(|record| Step::Insert { record }),
        4 => any::<usize>().prop_map(|nth| Step::Take { nth }),
        2 => any::<usize>().prop_map(|nth| Step::TakeStale { nth }),
        1 => any::<u64>().prop_map(|raw| Step::TakeForged { raw }),
        2 => any::<usize>().prop_map(|nth| Step::TakeWhileRead { nth }),
        2 => any::<usize>().prop_map(|nth| Step::Get { nth }),
        1 => (0_u32..200).prop_map(|limit| Step::SetLimit { limit }),
        1 => Just(Step::Scan),
    ]
}

/// Picks one of the live tickets, in a reproducible way.
fn pick(live: &HashMap<Ticket, (Rc<u32>, Record)>, nth: usize) -> Option<Ticket> {
    let mut tickets: Vec<_> = live.keys().copied().collect();
    tickets.sort_unstable();
    (!tickets.is_empty()).then(|| tickets[nth % tickets.len()])
}

proptest! {
    #[test]
    fn the_slab_is_a_bounded_map(steps in prop::collection::vec(step(), 1..400)) {
        let mut limit = 100;
        let slab = Slab::new(limit);
        let mut live = HashMap::new();
        let mut stale: Vec<Ticket> = Vec::new();
        let mut values = 0_u32..;
        let mut made = Vec::new();

        for step in steps {
            match step {
                Step::Insert { record } => {
                    let value = Rc::new(values.next().unwrap());
                    made.push(Rc::downgrade(&value));
                    match slab.insert(Rc::clone(&value), record) {
                        Ok(ticket) => {
                            prop_assert!(live.len() < limit as usize);
                            prop_assert_ne!(ticket.to_raw(), 0);
                            prop_assert_eq!(Ticket::from_raw(ticket.to_raw()), ticket);
                            prop_assert!(!stale.contains(&ticket), "a ticket came back");
                            prop_assert!(live.insert(ticket, (value, record)).is_none());
                        }
                        Err(Full(back)) => {
                            prop_assert!(live.len() >= limit as usize);
                            prop_assert!(Rc::ptr_eq(&back, &value));
                        }
                    }
                }
                Step::Take { nth } => {
                    if let Some(ticket) = pick(&live, nth) {
                        let (expected, _) = live.remove(&ticket).unwrap();
                        prop_assert!(Rc::ptr_eq(&slab.take(ticket).unwrap(), &expected));
                        prop_assert_eq!(Rc::strong_count(&expected), 1, "the slab kept a value");
                        stale.push(ticket);
                    }
                }
                Step::TakeStale { nth } => {
                    if !stale.is_empty() {
                        let ticket = stale[nth % stale.len()];
                        prop_assert!(slab.take(ticket).is_none());
                        prop_assert!(slab.get_with(ticket, |_| ()).is_none());
                    }
                }
                Step::TakeForged { raw } => {
                    let ticket = Ticket::from_raw(raw);
                    if !live.contains_key(&ticket) {
                        prop_assert!(slab.take(ticket).is_none());
                    }
                }
                Step::TakeWhileRead { nth } => {
                    if let Some(ticket) = pick(&live, nth) {
                        let (expected, _) = live.remove(&ticket).unwrap();
                        let taken = slab.get_with(ticket, |value| {
                            let taken = slab.take(ticket).unwrap();
                            assert!(slab.take(ticket).is_none(), "a ticket was won twice");
                            assert_eq!((&taken, slab.len() as usize), (value, live.len()));
                            taken
                        });
                        prop_assert!(Rc::ptr_eq(&taken.unwrap(), &expected));
                        prop_assert_eq!(Rc::strong_count(&expected), 1, "the slab kept a value");
                        stale.push(ticket);
                    }
                }
                Step::Get { nth } => {
                    if let Some(ticket) = pick(&live, nth) {
                        let seen = slab.get_with(ticket, Rc::clone).unwrap();
                        prop_assert!(Rc::ptr_eq(&seen, &live[&ticket].0));
                    }
                }
                Step::SetLimit { limit: new } => {
                    limit = new;
                    slab.set_limit(limit);
                }
                Step::Scan => {
                    let mut seen = HashMap::new();
                    slab.scan(|ticket, record| {
                        assert!(seen.insert(ticket, record).is_none(), "{ticket:?} was reported twice");
                    });
                    let expected: HashMap<_, _> =
                        live.iter().map(|(&ticket, &(_, record))| (ticket, record)).collect();
                    prop_assert_eq!(seen, expected);
                }
            }
            prop_assert_eq!(slab.len() as usize, live.len());
            prop_assert_eq!(slab.is_empty(), live.is_empty());
            prop_assert_eq!(slab.limit(), limit);
        }

        drop(slab);
        drop(live);
        prop_assert!(made.iter().all(|value| value.strong_count() == 0), "a value leaked");
    }
}

#[test]
fn limits_above_the_maximum_count_as_the_maximum() {
    let slab = Slab::<u8>::new(u32::MAX);
    assert_eq!(slab.limit(), MAX_JOBS);
    slab.set_limit(3);
    assert_eq!(slab.limit(), 3);
    slab.set_limit(u32::MAX);
    assert_eq!(slab.limit(), MAX_JOBS);
}

#[test]
fn every_index_can_be_used_and_used_again() {
    let slab = Slab::new(MAX_JOBS);
    for _ in 0..2 {
        let tickets: Vec<_> = (0..MAX_JOBS)
            .map(|value| slab.insert(value, Record::started_at(0)).unwrap())
            .collect();
        assert_eq!(slab.insert(7, Record::started_at(0)), Err(Full(7)));
        for (value, ticket) in (0..).zip(tickets) {
            assert_eq!(slab.take(ticket), Some(value));
        }
    }
}

#[test]
fn memory_follows_the_most_jobs_held_at_once() {
    let slab = Slab::new(MAX_JOBS);
    for value in 0..10_000 {
        let ticket = slab.insert(value, Record::started_at(0)).unwrap();
        assert_eq!(ticket.index(), 0, "a vacant slot is used before a new one");
        slab.take(ticket);
    }
}
