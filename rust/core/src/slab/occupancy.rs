//! How many jobs there are and how many there may be.
//!
//! Both numbers live in one word, so that the check and the count are one step: an insert
//! that races a smaller limit, or another insert for the last place, never overshoots.

use crate::sync::{AtomicU64, Ordering};

const LEN_BITS: u32 = u32::BITS;

/// The length (low half) and the limit (high half) of a slab.
#[derive(Debug)]
pub(super) struct Occupancy(AtomicU64);

impl Occupancy {
    pub(super) fn new(limit: u32) -> Self {
        Self(AtomicU64::new(pack(limit, 0)))
    }

    pub(super) fn len(&self) -> u32 {
        len(self.0.load(Ordering::Relaxed))
    }

    pub(super) fn limit(&self) -> u32 {
        limit(self.0.load(Ordering::Relaxed))
    }

    pub(super) fn set_limit(&self, limit: u32) {
        let mut seen = self.0.load(Ordering::Relaxed);
        while let Err(now) = self.0.compare_exchange_weak(
            seen,
            pack(limit, len(seen)),
            Ordering::Relaxed,
            Ordering::Relaxed,
        ) {
            seen = now;
        }
    }

    /// Counts one more job, unless the limit is reached.
    pub(super) fn reserve(&self) -> bool {
        let mut seen = self.0.load(Ordering::Relaxed);
        while len(seen) < limit(seen) {
            // `Acquire` pairs with the `Release` in `release`: who gets the place of a job
            // that left also finds its slot on the free list, and claims no new one.
            match self
                .0
                .compare_exchange_weak(seen, seen + 1, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
        false
    }

    /// Counts one job less.
    pub(super) fn release(&self) {
        // `Release` pairs with the `Acquire` in `reserve`.
        self.0.fetch_sub(1, Ordering::Release);
    }
}

const fn pack(limit: u32, len: u32) -> u64 {
    (limit as u64) << LEN_BITS | len as u64
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the low half is the length"
)]
const fn len(word: u64) -> u32 {
    word as u32
}

const fn limit(word: u64) -> u32 {
    (word >> LEN_BITS) as u32
}
