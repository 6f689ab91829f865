//! The acknowledgements of a window settle what was settled, and in as few steps as possible.

#![cfg(not(loom))]

use std::collections::BTreeSet;

use hybrid_core::amqp::{Ack, AckWindow};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Deliver { gap: u64 },
    Settle { nth: usize },
    SettleLowest { count: usize },
    Forget { nth: usize },
    Stale { tag: u64 },
    Flush,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1_u64..3).prop_map(|gap| Step::Deliver { gap }),
        4 => any::<usize>().prop_map(|nth| Step::Settle { nth }),
        1 => (0_usize..8).prop_map(|count| Step::SettleLowest { count }),
        2 => any::<usize>().prop_map(|nth| Step::Forget { nth }),
        1 => (0_u64..40).prop_map(|tag| Step::Stale { tag }),
        2 => Just(Step::Flush),
    ]
}

/// What the broker and the worker know.
#[derive(Default)]
struct Model {
    /// What the broker waits for.
    unacked: BTreeSet<u64>,
    /// What of it the next flush settles.
    acked: BTreeSet<u64>,
    last: u64,
}

impl Model {
    fn nth(&self, nth: usize) -> Option<u64> {
        let open: Vec<_> = self.unacked.difference(&self.acked).copied().collect();
        nth.checked_rem(open.len()).map(|nth| open[nth])
    }

    fn flush(&mut self, acks: &[Ack]) {
        // How the broker understands them.
        let before = self.unacked.clone();
        for ack in acks {
            assert!(
                self.unacked.contains(&ack.delivery_tag),
                "an unknown tag closes the channel"
            );
            if ack.multiple {
                self.unacked = self.unacked.split_off(&(ack.delivery_tag + 1));
            } else {
                self.unacked.remove(&ack.delivery_tag);
            }
        }
        let settled: BTreeSet<_> = before.difference(&self.unacked).copied().collect();
        assert_eq!(settled, self.acked);
        // One for the run at the start, one for each after the first that stays.
        let run = before
            .iter()
            .take_while(|tag| settled.contains(tag))
            .count();
        assert_eq!(acks.len(), usize::from(run > 0) + settled.len() - run);
        self.acked.clear();
    }
}

proptest! {
    #[test]
    fn a_window_settles_what_a_set_would(steps in prop::collection::vec(step(), 1..200)) {
        let mut window = AckWindow::new();
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Deliver { gap } => {
                    model.last += gap;
                    model.unacked.insert(model.last);
                    prop_assert!(window.delivered(model.last));
                    prop_assert!(!window.delivered(model.last));
                }
                Step::Settle { nth } => {
                    if let Some(tag) = model.nth(nth) {
                        prop_assert!(window.settle(tag));
                        model.acked.insert(tag);
                    }
                }
                Step::SettleLowest { count } => {
                    for _ in 0..count {
                        if let Some(tag) = model.nth(0) {
                            prop_assert!(window.settle(tag));
                            model.acked.insert(tag);
                        }
                    }
                }
                Step::Forget { nth } => {
                    if let Some(tag) = model.nth(nth) {
                        prop_assert!(window.forget(tag));
                        model.unacked.remove(&tag);
                    }
                }
                Step::Stale { tag } => {
                    if !model.unacked.contains(&tag) || model.acked.contains(&tag) {
                        prop_assert!(!window.settle(tag));
                        prop_assert!(!window.forget(tag));
                    }
                }
                Step::Flush => model.flush(&window.flush()),
            }
            let open = model.unacked.len() - model.acked.len();
            prop_assert_eq!((window.len(), window.is_empty()), (open, open == 0));
        }
        model.flush(&window.flush());
        prop_assert!(window.flush().is_empty());
    }
}

#[test]
fn the_tag_for_all_messages_is_never_outstanding() {
    let mut window = AckWindow::new();
    assert!(!window.delivered(0));
    assert!(!window.settle(0));
}

#[test]
fn a_delivery_that_is_held_keeps_what_came_before_together() {
    let mut window = AckWindow::new();
    (1..=100_000).for_each(|tag| assert!(window.delivered(tag)));
    (1..=100_000)
        .rev()
        .filter(|tag| *tag != 50_000)
        .for_each(|tag| assert!(window.settle(tag)));
    let acks = window.flush();
    let multiple = true;
    assert_eq!(
        acks[0],
        Ack {
            delivery_tag: 49_999,
            multiple
        }
    );
    assert_eq!(acks.len(), 1 + 50_000);
    assert!(window.settle(50_000));
    assert_eq!(
        window.flush(),
        [Ack {
            delivery_tag: 50_000,
            multiple: false
        }]
    );
}
