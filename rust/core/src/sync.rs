//! Atomics and cells from `std`, or from loom when the build sets `cfg(loom)`.
//!
//! The only file that chooses. Code on top of it is the same in both builds, so what loom
//! explores is what ships.

#[cfg(loom)]
pub(crate) use self::explored::{AtomicPtr, AtomicU32, AtomicU64};
#[cfg(loom)]
pub(crate) use loom::{cell::UnsafeCell, sync::atomic::Ordering};

#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

/// [`std::cell::UnsafeCell`] with loom's interface, through which loom sees each access.
#[cfg(not(loom))]
#[derive(Debug)]
pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    #[inline]
    pub(crate) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        f(self.0.get())
    }

    #[inline]
    pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}

/// Loom's atomics, with all orders of their operations explored.
///
/// Loom 0.7 looks for a reordering only at the last access to an object. When one thread loads,
/// and another loads and then exchanges, the exchange finds its own thread's load there, and
/// the run in which it comes before the first load is never tried: a scan that starts before
/// an insert would be all that a model sees. So each operation here first takes a turn, a
/// relaxed read-modify-write of a second atomic. Any two turns conflict, and a relaxed one
/// orders no memory.
#[cfg(loom)]
mod explored {
    use loom::sync::atomic::{self, Ordering};

    macro_rules! explored {
        ($name:ident $(<$parameter:ident>)?, $value:ty) => {
            #[derive(Debug)]
            pub(crate) struct $name $(<$parameter>)? {
                inner: atomic::$name $(<$parameter>)?,
                turn: atomic::AtomicBool,
            }

            impl $(<$parameter>)? $name $(<$parameter>)? {
                pub(crate) fn new(value: $value) -> Self {
                    let turn = atomic::AtomicBool::new(false);
                    Self { inner: atomic::$name::new(value), turn }
                }

                fn take_turn(&self) -> &atomic::$name $(<$parameter>)? {
                    self.turn.swap(true, Ordering::Relaxed);
                    &self.inner
                }

                pub(crate) fn load(&self, order: Ordering) -> $value {
                    self.take_turn().load(order)
                }

                pub(crate) fn compare_exchange(
                    &self,
                    current: $value,
                    new: $value,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    self.take_turn().compare_exchange(current, new, success, failure)
                }
            }
        };
    }

    explored!(AtomicPtr<T>, *mut T);
    explored!(AtomicU32, u32);
    explored!(AtomicU64, u64);

    impl AtomicU32 {
        pub(crate) fn store(&self, value: u32, order: Ordering) {
            self.take_turn().store(value, order);
        }

        pub(crate) fn fetch_update(
            &self,
            success: Ordering,
            failure: Ordering,
            mut step: impl FnMut(u32) -> Option<u32>,
        ) -> Result<u32, u32> {
            let mut seen = self.load(failure);
            while let Some(next) = step(seen) {
                match self.compare_exchange(seen, next, success, failure) {
                    Ok(before) => return Ok(before),
                    Err(now) => seen = now,
                }
            }
            Err(seen)
        }
    }

    impl AtomicU64 {
        pub(crate) fn store(&self, value: u64, order: Ordering) {
            self.take_turn().store(value, order);
        }

        pub(crate) fn fetch_sub(&self, value: u64, order: Ordering) -> u64 {
            self.take_turn().fetch_sub(value, order)
        }

        pub(crate) fn compare_exchange_weak(
            &self,
            current: u64,
            new: u64,
            success: Ordering,
            failure: Ordering,
        ) -> Result<u64, u64> {
            self.compare_exchange(current, new, success, failure)
        }
    }
}
