//! Tickets: how the outside names one stay of one job in the slab.

use super::MAX_JOBS;

/// Bits of a ticket that hold the slot index; the rest is the generation.
pub(super) const INDEX_BITS: u32 = 20;

/// Bits of the generation, in a ticket and in a slot's state word alike.
const GENERATION_BITS: u32 = u64::BITS - INDEX_BITS;

const LAST_GENERATION: u64 = (1 << GENERATION_BITS) - 1;

const _: () = assert!(
    MAX_JOBS == 1 << INDEX_BITS,
    "an index must fit its bits exactly"
);

/// Names one stay of one job in a [`Slab`](super::Slab).
///
/// The low 20 bits are the index of the slot, the high 44 bits its generation, which starts
/// at 1 and changes with each job, so that no ticket is 0 and a stale ticket finds nothing.
/// A generation comes round again after 1.7e13 jobs in one slot (27 years of 20 000 jobs per
/// second through that slot alone).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

impl Ticket {
    pub(super) fn new(index: u32, generation: u64) -> Self {
        debug_assert!(index < MAX_JOBS && generation != 0 && generation <= LAST_GENERATION);
        Self(generation << INDEX_BITS | u64::from(index))
    }

    /// Rebuilds a ticket from [`to_raw`](Self::to_raw).
    ///
    /// Any number is accepted: one that no insert returned finds nothing.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// Returns the ticket as one number, never 0.
    #[must_use]
    pub const fn to_raw(self) -> u64 {
        self.0
    }

    /// Returns the index of the slot, below [`MAX_JOBS`].
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "masked to 20 bits")]
    pub const fn index(self) -> u32 {
        (self.0 as u32) & (MAX_JOBS - 1)
    }

    /// Returns which job of that slot is meant, counted from 1.
    #[must_use]
    pub const fn generation(self) -> u64 {
        self.0 >> INDEX_BITS
    }
}

/// Returns the generation after `generation`, skipping 0 so that no ticket is 0.
pub(super) const fn next_generation(generation: u64) -> u64 {
    if generation >= LAST_GENERATION {
        1
    } else {
        generation + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_survives_the_way_through_its_raw_form() {
        for (index, generation) in [(0, 1), (MAX_JOBS - 1, LAST_GENERATION), (77, 12_345)] {
            let ticket = Ticket::from_raw(Ticket::new(index, generation).to_raw());
            assert_eq!((ticket.index(), ticket.generation()), (index, generation));
            assert_ne!(ticket.to_raw(), 0);
        }
    }

    #[test]
    fn the_last_generation_is_followed_by_the_first() {
        assert_eq!(next_generation(0), 1);
        assert_eq!(next_generation(LAST_GENERATION - 1), LAST_GENERATION);
        assert_eq!(next_generation(LAST_GENERATION), 1);
    }
}
