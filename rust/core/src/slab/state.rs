//! The state word of a slot: generation (44 bits), phase (2 bits), pins (18 bits).
//!
//! One word, so that every transition is one atomic operation and a generation can never be
//! seen with the phase of another. Plain values here; `page.rs` owns the atomics.
//!
//! ```text
//!           fill                 publish               take
//! vacant, g ────► filling, g+1 ────────► full, g+1 ──────────► taken, g+1 ──► vacant, g+1
//!                                        pins come and go      pins only go
//! ```

use super::ticket::next_generation;

const PIN_BITS: u32 = 18;
const PHASE_BITS: u32 = 2;
const GENERATION_SHIFT: u32 = PIN_BITS + PHASE_BITS;

const PINS: u64 = (1 << PIN_BITS) - 1;
const PHASE: u64 = 0b11 << PIN_BITS;

const VACANT: u64 = 0b00 << PIN_BITS;
const FILLING: u64 = 0b01 << PIN_BITS;
const FULL: u64 = 0b10 << PIN_BITS;
const TAKEN: u64 = 0b11 << PIN_BITS;

/// What one pin adds to the word.
pub(super) const ONE_PIN: u64 = 1;

/// One value of a slot's state word. Zero is a slot that never held a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State(pub(super) u64);

impl State {
    /// A slot that never held a job.
    pub(super) const NEW: Self = Self(0);

    pub(super) const fn generation(self) -> u64 {
        self.0 >> GENERATION_SHIFT
    }

    pub(super) const fn pins(self) -> u64 {
        self.0 & PINS
    }

    pub(super) const fn is_vacant(self) -> bool {
        self.0 & PHASE == VACANT
    }

    pub(super) const fn is_full(self) -> bool {
        self.0 & PHASE == FULL
    }

    pub(super) const fn is_taken(self) -> bool {
        self.0 & PHASE == TAKEN
    }

    /// Whether the slot holds the job that a ticket of `generation` names.
    pub(super) const fn holds(self, generation: u64) -> bool {
        self.is_full() && self.generation() == generation
    }

    /// Whether both words describe the same phase of the same job, whoever has it pinned.
    pub(super) const fn same_job(self, other: Self) -> bool {
        self.0 & !PINS == other.0 & !PINS
    }

    /// The slot while its next job is written.
    pub(super) const fn filling(self) -> Self {
        Self(next_generation(self.generation()) << GENERATION_SHIFT | FILLING)
    }

    pub(super) const fn full(self) -> Self {
        Self(self.0 & !PHASE | FULL)
    }

    pub(super) const fn taken(self) -> Self {
        Self(self.0 & !PHASE | TAKEN)
    }

    pub(super) const fn vacant(self) -> Self {
        Self(self.0 & !PHASE & !PINS | VACANT)
    }

    /// The same slot with one more pin.
    ///
    /// # Panics
    ///
    /// With 262 143 pins there is no bit left for another. Each pin is a running call, so
    /// only unbounded recursion gets here.
    pub(super) const fn pinned(self) -> Self {
        assert!(
            self.pins() < PINS,
            "a slot cannot be pinned more than 262143 times"
        );
        Self(self.0 + ONE_PIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_goes_through_its_phases_with_one_generation() {
        let filling = State::NEW.filling();
        assert_eq!(filling.generation(), 1);
        assert!(!filling.is_vacant() && !filling.is_full() && !filling.is_taken());

        let full = filling.full();
        assert!(full.holds(1) && !full.holds(2));

        let taken = full.pinned().taken();
        assert!(taken.is_taken() && !taken.holds(1));
        assert_eq!((taken.pins(), taken.generation()), (1, 1));

        let vacant = taken.vacant();
        assert!(vacant.is_vacant());
        assert_eq!((vacant.pins(), vacant.generation()), (0, 1));
        assert_eq!(vacant.filling().generation(), 2);
    }

    #[test]
    fn pins_do_not_make_another_job() {
        let full = State::NEW.filling().full();
        assert!(full.same_job(full.pinned()));
        assert!(!full.same_job(full.taken()));
        assert!(!full.same_job(full.vacant().filling().full()));
    }

    #[test]
    #[should_panic(expected = "pinned more than")]
    fn pins_never_overflow_into_the_phase() {
        let _ = State(State::NEW.filling().full().0 | PINS).pinned();
    }
}
