//! The vacant slots: a Treiber stack, linked through the slots themselves.
//!
//! The head carries a tag that changes with each push. Without it a pop that was delayed
//! between reading the head's successor and swinging the head could install a successor that
//! has left the stack (the ABA problem).

use super::MAX_JOBS;
use super::page::{Pages, Slot};
use crate::sync::{AtomicU64, Ordering};

/// Bits of the head that hold `index + 1`; 0 is the empty stack.
const LINK_BITS: u32 = MAX_JOBS.ilog2() + 1;
const LINK: u64 = (1 << LINK_BITS) - 1;
const ONE_TAG: u64 = 1 << LINK_BITS;

/// A lock-free stack of slot indices.
#[derive(Debug)]
pub(super) struct FreeList {
    head: AtomicU64,
}

impl FreeList {
    pub(super) fn new() -> Self {
        Self {
            head: AtomicU64::new(0),
        }
    }

    /// Offers the vacant `slot`, which is the one at `index`.
    pub(super) fn push<T>(&self, index: u32, slot: &Slot<T>) {
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            slot.next.store(link(head), Ordering::Relaxed);
            let pushed = (head & !LINK).wrapping_add(ONE_TAG) | u64::from(index + 1);

            // `Release` pairs with the `Acquire` in `pop`: who finds the index also finds its
            // link, its page and a slot that is vacant. The other changes to the head are
            // read-modify-writes, so this holds for indices further down as well.
            match self.head.compare_exchange_weak(
                head,
                pushed,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Takes the slot that was offered last.
    pub(super) fn pop<'a, T>(&self, pages: &'a Pages<T>) -> Option<(u32, &'a Slot<T>)> {
        // `Acquire`, here and on failure below, pairs with the `Release` in `push`.
        let mut head = self.head.load(Ordering::Acquire);
        loop {
            let index = link(head).checked_sub(1)?;
            let slot = pages.get(index).expect("the page of a slot is never freed");
            let popped = head & !LINK | u64::from(slot.next.load(Ordering::Relaxed));
            // Relaxed on success: `head` was acquired when it was read, and its tag says that no
            // push has happened since.
            match self.head.compare_exchange_weak(
                head,
                popped,
                Ordering::Relaxed,
                Ordering::Acquire,
            ) {
                Ok(_) => return Some((index, slot)),
                Err(now) => head = now,
            }
        }
    }
}

const fn link(head: u64) -> u32 {
    (head & LINK) as u32
}
