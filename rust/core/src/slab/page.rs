//! Slots and the pages that hold them: all of the slab's `unsafe` code.
//!
//! Ground rules, on which every SAFETY comment below rests:
//!
//! 1. A page is installed once, never moved, and freed only when the slab is dropped. So a
//!    reference to a slot lives as long as a borrow of [`Pages`].
//! 2. The state word says who may touch the value. *Vacant*: nobody, it is uninitialised.
//!    *Filling*: the thread whose exchange set this phase, alone. *Full*: whoever has a pin may
//!    share it. *Taken*: whoever still has a pin may share it; nobody can get a new one. With no
//!    pin left it belongs to one thread alone: the winner of the ticket when there was no
//!    reader, else the one whose unpin brought the count to zero.
//! 3. Only exchanges on that word move a slot from phase to phase, so these rules hold whatever
//!    the free list or a caller with a made-up ticket does. This file trusts no other.
//!
//! A [`Pin`] stands for one pin in the word. It is neither `Clone` nor `Drop`: forgetting one
//! keeps the slot occupied for good, which wastes it and is sound.

use std::array;
use std::fmt;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr;

use super::Record;
use super::state::{ONE_PIN, State};
use super::ticket::INDEX_BITS;
use crate::sync::{AtomicPtr, AtomicU32, AtomicU64, Ordering, UnsafeCell};

/// Slots in the first page, as a power of two. One under loom, so that models reach growth.
const FIRST_PAGE_BITS: u32 = if cfg!(loom) { 0 } else { 6 };

/// The first two pages have the same size, each later one doubles the total.
const PAGES: usize = (INDEX_BITS - FIRST_PAGE_BITS + 1) as usize;

/// A place for one job.
pub(super) struct Slot<T> {
    state: AtomicU64,
    record: [AtomicU64; 3],
    value: UnsafeCell<MaybeUninit<T>>,
    /// The link of the free list, which alone reads and writes it.
    pub(super) next: AtomicU32,
}

// SAFETY: by ground rule 2 the value is reached from one thread at a time, except through
// pins, which share `&T`: hence `T: Sync`. A value that one thread put in is moved out or
// dropped by another: hence `T: Send`. All other fields are atomics.
unsafe impl<T: Send + Sync> Sync for Slot<T> {}

/// What the winner of a ticket gets.
pub(super) enum Claim<'a, T> {
    /// Nobody was reading: the value itself. The slot is vacant.
    Value(T),
    /// Somebody is reading: a pin, to clone the value through.
    Shared(Pin<'a, T>),
}

impl<T> Slot<T> {
    fn new() -> Self {
        Self {
            state: AtomicU64::new(State::NEW.0),
            record: array::from_fn(|_| AtomicU64::new(0)),
            value: UnsafeCell::new(MaybeUninit::uninit()),
            next: AtomicU32::new(0),
        }
    }

    /// Puts a job into a vacant slot and returns its generation, or gives the value back.
    pub(super) fn fill(&self, value: T, record: Record) -> Result<u64, T> {
        let seen = State(self.state.load(Ordering::Relaxed));
        if !seen.is_vacant() {
            return Err(value);
        }
        let filling = seen.filling();

        // `Acquire` pairs with the `Release` in `vacate`: the value before ours has left. The free
        // list orders the two as well, but soundness must not rest on it (rule 3).
        let claimed =
            self.state
                .compare_exchange(seen.0, filling.0, Ordering::Acquire, Ordering::Relaxed);
        if claimed.is_err() {
            return Err(value);
        }

        // SAFETY: our exchange set the filling phase, so the value is ours alone (rule 2).
        self.value.with_mut(|cell| unsafe { (*cell).write(value) });

        let words = [
            record.started_ns,
            record.soft_deadline_ns,
            record.hard_deadline_ns,
        ];
        for (word, now) in self.record.iter().zip(words) {
            // `Release` pairs with the `Acquire` in `record`: a scan that reads this word
            // also sees that the job before is over, and discards what it has.
            word.store(now, Ordering::Release);
        }

        // `Release` pairs with the `Acquire` in `pin`, `take` and `record`: who sees the
        // slot full sees the value and the record.
        self.state.store(filling.full().0, Ordering::Release);
        Ok(filling.generation())
    }

    /// Keeps the value where it is while somebody reads it. `None` when the job is gone.
    pub(super) fn pin(&self, generation: u64) -> Option<Pin<'_, T>> {
        self.advance(generation, State::pinned)?;
        Some(Pin { slot: self })
    }

    /// Wins the job of `generation`, for one caller only. `None` when the job is gone.
    pub(super) fn take(&self, generation: u64) -> Option<Claim<'_, T>> {
        let won = self.advance(generation, |seen| {
            if seen.pins() == 0 {
                seen.taken()
            } else {
                seen.taken().pinned()
            }
        })?;
        if won.pins() > 0 {
            return Some(Claim::Shared(Pin { slot: self }));
        }
        // SAFETY: our exchange set the taken phase and found no pin (rule 2).
        Some(Claim::Value(unsafe { self.vacate(won) }))
    }

    /// Reads generation and record of the job in this slot, if there is one.
    ///
    /// A sequence lock whose counter is the state word: it never comes back to the same
    /// generation, so equal words before and after mean that one job was read.
    pub(super) fn record(&self) -> Option<(u64, Record)> {
        // `Acquire` pairs with the last `Release` in `fill`: the record is not older than this.
        let before = State(self.state.load(Ordering::Acquire));
        if !before.is_full() {
            return None;
        }
        // `Acquire` pairs with the `Release` per word in `fill`: if one is newer than
        // `before`, then so is `after`.
        let [started_ns, soft_deadline_ns, hard_deadline_ns] =
            array::from_fn(|i| self.record[i].load(Ordering::Acquire));
        let after = State(self.state.load(Ordering::Relaxed));

        let record = Record {
            started_ns,
            soft_deadline_ns,
            hard_deadline_ns,
        };
        before
            .same_job(after)
            .then_some((before.generation(), record))
    }

    /// Moves the state of a full slot to `step` of it, and returns what it found.
    fn advance(&self, generation: u64, step: impl Fn(State) -> State) -> Option<State> {
        let mut seen = State(self.state.load(Ordering::Relaxed));
        while seen.holds(generation) {
            // `Acquire` pairs with two releases: the last one in `fill`, so that the value is
            // all there, and the one in `Pin::release`, so that a winner that finds no pin
            // comes after all reads. Pins are read-modify-writes and hide neither.
            match self.state.compare_exchange_weak(
                seen.0,
                step(seen).0,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Some(seen),
                Err(now) => seen = State(now),
            }
        }
        None
    }

    /// Moves the value out and makes the slot vacant.
    ///
    /// # Safety
    ///
    /// The slot is taken, has no pin, and the caller is the one whom rule 2 names.
    unsafe fn vacate(&self, state: State) -> T {
        // SAFETY: the caller vouches for being alone. The value is initialised, because the
        // taken phase follows the full one, and is read once, because nobody else is alone.
        let value = self
            .value
            .with_mut(|cell| unsafe { (*cell).assume_init_read() });

        // `Release` pairs with the `Acquire` in `fill`: nobody writes before we have read.
        self.state.store(state.vacant().0, Ordering::Release);
        value
    }
}

impl<T> Drop for Slot<T> {
    fn drop(&mut self) {
        // `&mut` orders this after everything else, as does each access below.
        if State(self.state.load(Ordering::Relaxed)).is_full() {
            // SAFETY: a full slot holds an initialised value, and `&mut` makes us alone.
            self.value
                .with_mut(|cell| unsafe { (*cell).assume_init_drop() });
        }
    }
}

/// One pin: the value stays, initialised and unmoved, until [`Pin::release`].
pub(super) struct Pin<'a, T> {
    slot: &'a Slot<T>,
}

impl<T> Pin<'_, T> {
    /// Runs `f` on the value.
    pub(super) fn read<R>(&self, f: impl FnOnce(&T) -> R) -> R {
        // SAFETY: while we have a pin the value is initialised and only shared (rule 2), and
        // the reference ends with `f`, before `release` can run.
        self.slot
            .value
            .with(|cell| f(unsafe { (*cell).assume_init_ref() }))
    }

    /// Ends the pin. When the job was taken and this was the last pin, the slot becomes vacant
    /// and the value is returned: the caller drops it when nothing of the slab is held.
    pub(super) fn release(self) -> Option<T> {
        // `Release` pairs with the `Acquire` here and in `advance`: our reads come before the
        // value is moved. `Acquire` pairs with the `Release` of the pins that ended before.
        let before = State(self.slot.state.fetch_sub(ONE_PIN, Ordering::AcqRel));
        if !before.is_taken() || before.pins() > 1 {
            return None;
        }
        // SAFETY: the slot is taken and our step removed the last pin (rule 2).
        Some(unsafe { self.slot.vacate(before) })
    }
}

/// All slots, by index. Grows without moving any.
pub(super) struct Pages<T> {
    pages: [AtomicPtr<Slot<T>>; PAGES],
    /// `AtomicPtr` is `Send` and `Sync` for any `T`; what it owns decides here.
    owns: PhantomData<Box<[Slot<T>]>>,
}

impl<T> Pages<T> {
    pub(super) fn new() -> Self {
        Self {
            pages: array::from_fn(|_| AtomicPtr::new(ptr::null_mut())),
            owns: PhantomData,
        }
    }

    /// Returns the slot at `index`, or `None` when its page was never needed.
    pub(super) fn get(&self, index: u32) -> Option<&Slot<T>> {
        let (page, offset) = locate(index);

        // `Acquire` pairs with the `Release` in `install`: the slots are initialised.
        let first = self.pages.get(page)?.load(Ordering::Acquire);
        if first.is_null() {
            return None;
        }
        // SAFETY: a page that is not null has `page_len(page)` slots, `locate` stays below
        // that, and the page lives as long as `self` (rule 1).
        Some(unsafe { &*first.add(offset) })
    }

    /// Returns the slot at `index`, which must be below `MAX_JOBS`, adding its page if needed.
    pub(super) fn get_or_install(&self, index: u32) -> &Slot<T> {
        if let Some(slot) = self.get(index) {
            return slot;
        }
        self.install(locate(index).0);
        self.get(index).expect("the page was installed above")
    }

    fn install(&self, page: usize) {
        let slots: Box<[Slot<T>]> = (0..page_len(page)).map(|_| Slot::new()).collect();
        let first = Box::into_raw(slots).cast::<Slot<T>>();

        // `Release` pairs with the `Acquire` in `get`. The loser of a race needs nothing from
        // the winner here: it reads the page through `get`.
        let installed = self.pages[page].compare_exchange(
            ptr::null_mut(),
            first,
            Ordering::Release,
            Ordering::Relaxed,
        );
        if installed.is_err() {
            // SAFETY: the exchange failed, so nobody else has seen these slots.
            drop(unsafe { page_from_raw(first, page) });
        }
    }
}

impl<T> Drop for Pages<T> {
    fn drop(&mut self) {
        for (page, first) in self.pages.iter().enumerate() {
            let first = first.load(Ordering::Relaxed);
            if !first.is_null() {
                // SAFETY: `&mut self` ends all borrows of slots, and each page is freed once.
                drop(unsafe { page_from_raw(first, page) });
            }
        }
    }
}

impl<T> fmt::Debug for Pages<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages").finish_non_exhaustive()
    }
}

/// Turns a page back into the box that [`Pages::install`] took apart.
///
/// # Safety
///
/// `first` comes from `install` for this `page`, and nobody uses it any more.
unsafe fn page_from_raw<T>(first: *mut Slot<T>, page: usize) -> Box<[Slot<T>]> {
    let slots = ptr::slice_from_raw_parts_mut(first, page_len(page));
    // SAFETY: `install` made this very pointer and length out of a box; the caller vouches
    // for being the last to use it.
    unsafe { Box::from_raw(slots) }
}

const fn page_len(page: usize) -> usize {
    if page == 0 {
        1 << FIRST_PAGE_BITS
    } else {
        1 << (FIRST_PAGE_BITS as usize + page - 1)
    }
}

/// Returns the page of `index` and the offset in it, which is below the page's length.
const fn locate(index: u32) -> (usize, usize) {
    let bits = if index == 0 { 0 } else { index.ilog2() };
    if index < 1 << FIRST_PAGE_BITS {
        (0, index as usize)
    } else {
        (
            (bits - FIRST_PAGE_BITS + 1) as usize,
            (index - (1 << bits)) as usize,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::MAX_JOBS;
    use super::*;

    #[test]
    fn pages_cover_every_index_once_and_nothing_else() {
        let mut expected = 0;
        for page in 0..PAGES {
            for offset in 0..page_len(page) {
                assert_eq!(locate(expected), (page, offset));
                expected += 1;
            }
        }
        assert_eq!(expected, MAX_JOBS);
    }
}
