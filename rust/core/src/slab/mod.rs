//! The jobs in flight, addressed by ticket: a bounded, lock-free map.
//!
//! A [`Ticket`] is a slot index and a generation in one number. [`Slab::insert`] hands one out,
//! and exactly one [`Slab::take_with`] gets the job back: a stale ticket finds nothing, even when
//! the slot holds another job by then.
//!
//! # Concurrency
//!
//! Everything takes `&self` and may be called from any thread at any time, also from inside
//! the closures given to it. No call waits for another: insert, take, get and scan are
//! lock-free, growth included. A thread that is stopped in the middle of a call delays the reuse
//! of at most one slot.
//!
//! A [`Record`] is readable by [`Slab::scan`] without touching the value, so a watchdog needs
//! neither a pin nor the GIL to see what runs.
//!
//! # Drops
//!
//! Dropping a value may run any code. The slab does so only at the end of a call, when the
//! slot is vacant and usable again, and nothing of the slab is held.
//!
//! # Memory
//!
//! Slots live in pages whose sizes double. Pages are added when needed and freed with the
//! slab, so it keeps the memory of the most jobs it held at once: 40 bytes and the value for
//! each.
//!
//! # Layout
//!
//! `page.rs` holds slots, pages and all `unsafe`; `state.rs` the word that says who owns a
//! slot; `free.rs` the vacant slots; `occupancy.rs` length and limit.

mod free;
mod occupancy;
mod page;
mod state;
mod ticket;

use std::error::Error;
use std::fmt;

use self::free::FreeList;
use self::occupancy::Occupancy;
use self::page::{Claim, Pages, Pin, Slot};
pub use self::ticket::Ticket;
use crate::sync::{AtomicU32, Ordering};

/// The most jobs a slab can hold.
pub const MAX_JOBS: u32 = 1 << 20;

/// What a watchdog may know about a job without touching it. Times are in nanoseconds of the
/// caller's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// When the job started.
    pub started_ns: u64,
    /// When its soft time limit strikes, or [`Record::NEVER`].
    pub soft_deadline_ns: u64,
    /// When its hard time limit strikes, or [`Record::NEVER`].
    pub hard_deadline_ns: u64,
}

impl Record {
    /// The deadline of a job without that limit.
    pub const NEVER: u64 = u64::MAX;

    /// Describes a job without time limits.
    #[must_use]
    pub const fn started_at(started_ns: u64) -> Self {
        Self {
            started_ns,
            soft_deadline_ns: Self::NEVER,
            hard_deadline_ns: Self::NEVER,
        }
    }
}

/// The slab has no room; gives the value back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Full<T>(pub T);

impl<T> fmt::Debug for Full<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Full(..)")
    }
}

impl<T> fmt::Display for Full<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the slab holds as many jobs as its limit allows")
    }
}

impl<T> Error for Full<T> {}

/// A bounded, lock-free map from tickets to jobs. The [module](self) describes it.
///
/// Threads may share it when `T` is `Send` (one thread takes what another inserted) and `Sync`
/// (several read one job):
///
/// ```
/// fn shared<T: Send + Sync>() {}
/// shared::<hybrid_core::slab::Slab<String>>();
/// ```
///
/// ```compile_fail,E0277
/// # fn shared<T: Send + Sync>() {}
/// shared::<hybrid_core::slab::Slab<std::cell::Cell<u8>>>();
/// ```
///
/// ```compile_fail,E0277
/// # fn shared<T: Send + Sync>() {}
/// shared::<hybrid_core::slab::Slab<std::sync::MutexGuard<'static, u8>>>();
/// ```
pub struct Slab<T> {
    occupancy: Occupancy,
    free: FreeList,
    /// How many slots were ever used; the free list recycles those below.
    claimed: AtomicU32,
    pages: Pages<T>,
}

impl<T> Slab<T> {
    /// Creates a slab for at most `limit` jobs, or [`MAX_JOBS`] if that is less.
    #[must_use]
    pub fn new(limit: u32) -> Self {
        Self {
            occupancy: Occupancy::new(limit.min(MAX_JOBS)),
            free: FreeList::new(),
            claimed: AtomicU32::new(0),
            pages: Pages::new(),
        }
    }

    /// Returns how many jobs the slab admits.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.occupancy.limit()
    }

    /// Changes how many jobs the slab admits, [`MAX_JOBS`] at most.
    ///
    /// A smaller limit removes nothing: it refuses new jobs until enough have left.
    pub fn set_limit(&self, limit: u32) {
        self.occupancy.set_limit(limit.min(MAX_JOBS));
    }

    /// Returns how many jobs the slab holds, with those that an insert is just adding.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.occupancy.len()
    }

    /// Returns whether the slab holds no job.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a job.
    ///
    /// # Errors
    ///
    /// [`Full`] gives the value back when the limit is reached. Below it this happens only
    /// when all [`MAX_JOBS`] slots are in use, those of taken jobs that are still being read
    /// included.
    pub fn insert(&self, value: T, record: Record) -> Result<Ticket, Full<T>> {
        if !self.occupancy.reserve() {
            return Err(Full(value));
        }
        let Some((index, slot)) = self.find_vacant() else {
            self.occupancy.release();
            return Err(Full(value));
        };
        match slot.fill(value, record) {
            Ok(generation) => Ok(Ticket::new(index, generation)),
            Err(_) => unreachable!("slot {index} was offered as vacant, and is not"),
        }
    }

    /// Runs `f` on the job behind `ticket`. `None` when the job is gone.
    ///
    /// The job stays in place while `f` runs. When it is taken in the meantime the last
    /// reader drops the original as its call ends, so call this only where dropping a `T` is
    /// allowed.
    pub fn get_with<R>(&self, ticket: Ticket, f: impl FnOnce(&T) -> R) -> Option<R> {
        let slot = self.pages.get(ticket.index())?;
        let pin = slot.pin(ticket.generation())?;
        Some(self.reader(ticket, slot, pin).read(f))
    }

    /// Takes the job behind `ticket` and frees its slot. `None` when the job is gone.
    ///
    /// When several threads race for one ticket, exactly one gets the job. When somebody is
    /// reading it, the winner gets a copy made by `clone`, and the last reader drops the
    /// original. If `clone` panics, the job is gone and its value dropped.
    pub fn take_with(&self, ticket: Ticket, clone: impl FnOnce(&T) -> T) -> Option<T> {
        let slot = self.pages.get(ticket.index())?;
        match slot.take(ticket.generation())? {
            Claim::Value(value) => {
                self.free.push(ticket.index(), slot);
                self.occupancy.release();
                Some(value)
            }
            Claim::Shared(pin) => {
                // The slot is busy until its readers leave, but the job no longer counts: the
                // pool that took it must be able to insert the next one.
                self.occupancy.release();
                Some(self.reader(ticket, slot, pin).read(clone))
            }
        }
    }

    /// Takes the job behind `ticket`, as [`take_with`](Self::take_with) does.
    pub fn take(&self, ticket: Ticket) -> Option<T>
    where
        T: Clone,
    {
        self.take_with(ticket, T::clone)
    }

    /// Calls `f` with the ticket and record of each job, in no particular order.
    ///
    /// Each entry is consistent in itself. A job that is there from begin to end is reported
    /// once; one that comes or goes meanwhile may be reported or not. Takes time in proportion
    /// to the most jobs the slab ever held.
    pub fn scan(&self, mut f: impl FnMut(Ticket, Record)) {
        for index in 0..self.claimed.load(Ordering::Relaxed) {
            // A slot is claimed before its page is there.
            let Some(slot) = self.pages.get(index) else {
                continue;
            };
            if let Some((generation, record)) = slot.record() {
                f(Ticket::new(index, generation), record);
            }
        }
    }

    fn find_vacant(&self) -> Option<(u32, &Slot<T>)> {
        self.free
            .pop(&self.pages)
            .or_else(|| {
                let index = self.claim_unused()?;
                Some((index, self.pages.get_or_install(index)))
            })
            // All slots are claimed: another may have been freed since the first look.
            .or_else(|| self.free.pop(&self.pages))
    }

    fn claim_unused(&self) -> Option<u32> {
        let step = |claimed| (claimed < MAX_JOBS).then_some(claimed + 1);
        self.claimed
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, step)
            .ok()
    }

    fn reader<'a>(&'a self, ticket: Ticket, slot: &'a Slot<T>, pin: Pin<'a, T>) -> Reader<'a, T> {
        Reader {
            slab: self,
            index: ticket.index(),
            slot,
            pin: Some(pin),
        }
    }
}

impl<T> fmt::Debug for Slab<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slab")
            .field("len", &self.len())
            .field("limit", &self.limit())
            .finish_non_exhaustive()
    }
}

/// Ends a pin on every way out, panics included.
struct Reader<'a, T> {
    slab: &'a Slab<T>,
    index: u32,
    slot: &'a Slot<T>,
    pin: Option<Pin<'a, T>>,
}

impl<T> Reader<'_, T> {
    fn read<R>(&self, f: impl FnOnce(&T) -> R) -> R {
        self.pin.as_ref().expect("only drop ends the pin").read(f)
    }
}

impl<T> Drop for Reader<'_, T> {
    fn drop(&mut self) {
        if let Some(leftover) = self.pin.take().and_then(Pin::release) {
            // The slot goes back first: dropping the leftover may run any code.
            self.slab.free.push(self.index, self.slot);
            drop(leftover);
        }
    }
}
