//! The timer heap behaves like a sorted map from deadline and insertion to value.

#![cfg(not(loom))]

use std::collections::{BTreeMap, HashSet};

use hybrid_core::timer::{Key, TimerHeap};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Insert { deadline_ns: u64 },
    Burst { deadline_ns: u64, count: usize },
    Cancel { nth: usize },
    CancelStale { nth: usize },
    CancelForged { raw: u64 },
    CancelAllBut { kept: usize },
    Expire { now_ns: u64, limit: usize },
    Clear,
}

fn step() -> impl Strategy<Value = Step> {
    // Few different deadlines, so that insertion order matters.
    let deadline = || prop_oneof![8 => 0_u64..50, 1 => Just(u64::MAX), 1 => any::<u64>()];
    prop_oneof![
        12 => deadline().prop_map(|deadline_ns| Step::Insert { deadline_ns }),
        1 => (deadline(), 0_usize..400)
            .prop_map(|(deadline_ns, count)| Step::Burst { deadline_ns, count }),
        6 => any::<usize>().prop_map(|nth| Step::Cancel { nth }),
        2 => any::<usize>().prop_map(|nth| Step::CancelStale { nth }),
        1 => any::<u64>().prop_map(|raw| Step::CancelForged { raw }),
        1 => (0_usize..20).prop_map(|kept| Step::CancelAllBut { kept }),
        3 => (deadline(), 0_usize..30).prop_map(|(now_ns, limit)| Step::Expire { now_ns, limit }),
        1 => Just(Step::Clear),
    ]
}

/// What the heap must agree with. The value of an entry is its number of insertion.
#[derive(Default)]
struct Model {
    entries: BTreeMap<(u64, u64), Key>,
    stale: Vec<Key>,
    inserted: u64,
}

impl Model {
    fn insert(&mut self, heap: &mut TimerHeap<u64>, deadline_ns: u64) {
        let key = heap.insert(deadline_ns, self.inserted);
        assert_ne!(key.to_raw(), 0);
        assert_eq!(Key::from_raw(key.to_raw()), key);
        self.entries.insert((deadline_ns, self.inserted), key);
        self.inserted += 1;
    }

    fn nth(&self, nth: usize) -> Option<((u64, u64), Key)> {
        let nth = nth.checked_rem(self.entries.len())?;
        self.entries
            .iter()
            .nth(nth)
            .map(|(&rank, &key)| (rank, key))
    }

    fn cancel(&mut self, heap: &mut TimerHeap<u64>, nth: usize) {
        let Some((rank, key)) = self.nth(nth) else {
            return;
        };
        assert_eq!(heap.get(key), Some((rank.0, &rank.1)));
        assert_eq!(heap.cancel(key), Some(rank.1));
        self.entries.remove(&rank);
        self.stale.push(key);
    }

    fn expire(&mut self, heap: &mut TimerHeap<u64>, now_ns: u64, limit: usize) {
        let due: Vec<_> = self
            .entries
            .range(..=(now_ns, u64::MAX))
            .take(limit)
            .map(|(&rank, &key)| (rank, key))
            .collect();
        let expired = heap.expire(now_ns, limit);
        assert_eq!(
            expired,
            due.iter()
                .map(|&(rank, key)| (key, rank.1))
                .collect::<Vec<_>>()
        );
        for (rank, key) in due {
            self.entries.remove(&rank);
            self.stale.push(key);
        }
    }

    fn clear(&mut self, heap: &mut TimerHeap<u64>) {
        let mut values = heap.clear();
        values.sort_unstable();
        let mut expected: Vec<_> = self.entries.keys().map(|&(_, value)| value).collect();
        expected.sort_unstable();
        assert_eq!(values, expected);
        self.stale
            .extend(std::mem::take(&mut self.entries).into_values());
    }

    fn check(&self, heap: &TimerHeap<u64>) {
        assert_eq!(
            (heap.len(), heap.is_empty()),
            (self.entries.len(), self.entries.is_empty())
        );
        let next = self
            .entries
            .keys()
            .next()
            .map(|&(deadline_ns, _)| deadline_ns);
        assert_eq!(heap.next_deadline(), next);
    }

    fn check_all(&self, heap: &TimerHeap<u64>) {
        let mut seen: Vec<_> = heap
            .iter()
            .map(|(deadline_ns, &value)| (deadline_ns, value))
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, self.entries.keys().copied().collect::<Vec<_>>());
        for (rank, &key) in &self.entries {
            assert_eq!(heap.get(key), Some((rank.0, &rank.1)));
        }
        let keys: HashSet<_> = self.entries.values().chain(&self.stale).collect();
        assert_eq!(
            keys.len(),
            self.entries.len() + self.stale.len(),
            "two entries share a key"
        );
        assert!(
            self.stale.iter().all(|&key| heap.get(key).is_none()),
            "a key came back"
        );
    }
}

proptest! {
    #[test]
    fn the_heap_is_a_map_sorted_by_deadline_and_insertion(
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let mut heap = TimerHeap::new();
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Insert { deadline_ns } => model.insert(&mut heap, deadline_ns),
                Step::Burst { deadline_ns, count } => {
                    (0..count).for_each(|_| model.insert(&mut heap, deadline_ns));
                }
                Step::Cancel { nth } => model.cancel(&mut heap, nth),
                Step::CancelStale { nth } => {
                    if let Some(nth) = nth.checked_rem(model.stale.len()) {
                        prop_assert_eq!(heap.cancel(model.stale[nth]), None);
                    }
                }
                Step::CancelForged { raw } => {
                    let key = Key::from_raw(raw);
                    if model.entries.values().all(|&live| live != key) {
                        prop_assert_eq!(heap.cancel(key), None);
                    }
                }
                Step::CancelAllBut { kept } => {
                    while model.entries.len() > kept {
                        model.cancel(&mut heap, model.inserted.try_into().unwrap());
                    }
                    model.check_all(&heap);
                }
                Step::Expire { now_ns, limit } => model.expire(&mut heap, now_ns, limit),
                Step::Clear => model.clear(&mut heap),
            }
            model.check(&heap);
        }
        model.check_all(&heap);
        model.expire(&mut heap, u64::MAX, usize::MAX);
        model.check_all(&heap);
    }
}
