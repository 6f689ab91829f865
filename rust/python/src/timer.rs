//! The timer heap for Python.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use hybrid_core::timer::{Key, TimerHeap};
use pyo3::exceptions::PyValueError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::clock::{to_ns, to_seconds};

const NOT_HELD: u64 = 0;

/// One scheduled call, small because there may be a million of them.
///
/// The fields that change are atomics: entries are shared with the code that scheduled
/// them. They are only ever written together under the lock of the heap, so relaxed
/// ordering is enough.
#[pyclass(
    name = "TimerEntry",
    module = "hybrid._rust",
    frozen,
    subclass,
    weakref
)]
pub(crate) struct PyTimerEntry {
    fun: Py<PyAny>,
    args: Py<PyAny>,
    kwargs: Option<Py<PyAny>>,
    heap: OnceLock<Py<PyTimerHeap>>,
    key: AtomicU64,
    eta_bits: AtomicU64,
    priority: AtomicI32,
    canceled: AtomicBool,
}

impl PyTimerEntry {
    /// Takes this entry out of `heap`, and returns the reference that the heap held.
    fn leave(&self, heap: &mut TimerHeap<Py<PyTimerEntry>>) -> Option<Py<PyTimerEntry>> {
        match self.key.swap(NOT_HELD, Relaxed) {
            NOT_HELD => None,
            key => heap.cancel(Key::from_raw(key)),
        }
    }

    fn set_canceled(&self, py: Python<'_>, canceled: bool) {
        self.canceled.store(canceled, Relaxed);
        if canceled && let Some(heap) = self.heap.get() {
            let held = self.leave(&mut heap.bind(py).get().lock());
            drop(held); // after the lock: it may be the last reference to the entry
        }
    }
}

#[pymethods]
impl PyTimerEntry {
    #[new]
    #[pyo3(signature = (fun, args=None, kwargs=None))]
    fn new(
        py: Python<'_>,
        fun: Py<PyAny>,
        args: Option<Py<PyAny>>,
        kwargs: Option<Bound<'_, PyDict>>,
    ) -> Self {
        Self {
            fun,
            args: args.unwrap_or_else(|| PyTuple::empty(py).unbind().into_any()),
            // An empty dict per entry would double its size.
            kwargs: kwargs
                .filter(|kwargs| !kwargs.is_empty())
                .map(|kwargs| kwargs.unbind().into_any()),
            heap: OnceLock::new(),
            key: AtomicU64::new(NOT_HELD),
            eta_bits: AtomicU64::new(0),
            priority: AtomicI32::new(0),
            canceled: AtomicBool::new(false),
        }
    }

    #[getter]
    fn fun(&self, py: Python<'_>) -> Py<PyAny> {
        self.fun.clone_ref(py)
    }

    #[getter]
    fn args(&self, py: Python<'_>) -> Py<PyAny> {
        self.args.clone_ref(py)
    }

    #[getter]
    fn kwargs(&self, py: Python<'_>) -> Py<PyAny> {
        match &self.kwargs {
            Some(kwargs) => kwargs.clone_ref(py),
            None => PyDict::new(py).unbind().into_any(),
        }
    }

    #[getter]
    fn eta(&self) -> f64 {
        f64::from_bits(self.eta_bits.load(Relaxed))
    }

    #[getter]
    fn priority(&self) -> i32 {
        self.priority.load(Relaxed)
    }

    #[getter]
    fn entry(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[getter]
    fn tref(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[getter]
    fn get_canceled(&self) -> bool {
        self.canceled.load(Relaxed)
    }

    #[setter(canceled)]
    fn assign_canceled(&self, py: Python<'_>, canceled: bool) {
        self.set_canceled(py, canceled);
    }

    #[getter]
    fn get_cancelled(&self) -> bool {
        self.canceled.load(Relaxed)
    }

    #[setter(cancelled)]
    fn assign_cancelled(&self, py: Python<'_>, canceled: bool) {
        self.set_canceled(py, canceled);
    }

    fn cancel(&self, py: Python<'_>) {
        self.set_canceled(py, true);
    }

    // No `__clear__`: what the entry refers to never changes, and every cycle through it
    // also goes through the heap or through an object of Python's that can be cleared.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.fun)?;
        visit.call(&self.args)?;
        visit.call(&self.kwargs)?;
        match self.heap.get() {
            Some(heap) => visit.call(heap),
            None => Ok(()),
        }
    }
}

/// Entries in order of their time, then of their insertion.
///
/// Converts types and errors for [`hybrid_core::timer::TimerHeap`], and decides nothing.
#[pyclass(name = "TimerHeap", module = "hybrid._rust", frozen)]
pub(crate) struct PyTimerHeap {
    inner: Mutex<TimerHeap<Py<PyTimerEntry>>>,
}

impl PyTimerHeap {
    /// The lock is never held across a call into Python, so it is never waited for long.
    fn lock(&self) -> MutexGuard<'_, TimerHeap<Py<PyTimerEntry>>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl PyTimerHeap {
    #[new]
    fn new() -> Self {
        Self {
            inner: Mutex::new(TimerHeap::new()),
        }
    }

    #[pyo3(signature = (entry, eta, priority=0))]
    fn push(
        slf: &Bound<'_, Self>,
        entry: Py<PyTimerEntry>,
        eta: f64,
        priority: i32,
    ) -> PyResult<bool> {
        let deadline_ns = to_ns(eta)?;
        let fields = entry.clone_ref(slf.py());
        let fields = fields.bind(slf.py()).get();
        if !fields.heap.get_or_init(|| slf.clone().unbind()).is(slf) {
            return Err(PyValueError::new_err(
                "this entry belongs to another timer; make a new one with Timer.Entry(fun, args)",
            ));
        }
        let mut heap = slf.get().lock();
        let earlier = fields.leave(&mut heap);
        let is_earliest = heap.next_deadline().is_none_or(|first| deadline_ns < first);
        let key = heap.insert(deadline_ns, entry);
        fields.key.store(key.to_raw(), Relaxed);
        fields.eta_bits.store(eta.to_bits(), Relaxed);
        fields.priority.store(priority, Relaxed);
        fields.canceled.store(false, Relaxed);
        drop(heap);
        drop(earlier);
        Ok(is_earliest)
    }

    fn expire(&self, py: Python<'_>, now: f64, limit: usize) -> PyResult<Vec<Py<PyTimerEntry>>> {
        let now_ns = to_ns(now)?;
        let mut heap = self.lock();
        let due = heap.expire(now_ns, limit);
        for (_, entry) in &due {
            entry.bind(py).get().key.store(NOT_HELD, Relaxed);
        }
        drop(heap);
        Ok(due.into_iter().map(|(_, entry)| entry).collect())
    }

    fn next_eta(&self) -> Option<f64> {
        self.lock().next_deadline().map(to_seconds)
    }

    fn entries(&self, py: Python<'_>) -> Vec<Py<PyTimerEntry>> {
        self.lock()
            .iter()
            .map(|(_, entry)| entry.clone_ref(py))
            .collect()
    }

    fn clear(&self, py: Python<'_>) {
        let mut heap = self.lock();
        let entries = heap.clear();
        for entry in &entries {
            entry.bind(py).get().key.store(NOT_HELD, Relaxed);
        }
        drop(heap);
        drop(entries); // after the lock: this may run finalizers
    }

    fn memory_bytes(&self) -> usize {
        self.lock().memory_bytes()
    }

    fn __len__(&self) -> usize {
        self.lock().len()
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // The collector may run while this very thread holds the lock: whatever is held
        // then counts as reachable, which is true.
        let Ok(heap) = self.inner.try_lock() else {
            return Ok(());
        };
        for (_, entry) in heap.iter() {
            visit.call(entry)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        let entries = self.lock().clear();
        drop(entries);
    }
}
