//! The pool map for Python.

use hybrid_core::slab::{Record, Slab, Ticket};
use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::clock::{to_ns, to_seconds};

create_exception!(
    hybrid._rust,
    SlabFullError,
    PyException,
    "The slab holds as many jobs as its limit allows."
);

/// A running job as [`PySlab::scan`] reports it: ticket, start, soft and hard deadline.
type Scanned = (u64, f64, Option<f64>, Option<f64>);

/// Jobs in flight, addressed by ticket.
///
/// Converts types and errors for [`hybrid_core::slab::Slab`], and decides nothing.
#[pyclass(name = "Slab", module = "hybrid._rust", frozen)]
pub(crate) struct PySlab {
    inner: Slab<Py<PyAny>>,
}

#[pymethods]
impl PySlab {
    #[new]
    fn new(limit: u32) -> Self {
        Self {
            inner: Slab::new(limit),
        }
    }

    #[getter]
    fn limit(&self) -> u32 {
        self.inner.limit()
    }

    fn set_limit(&self, limit: u32) {
        self.inner.set_limit(limit);
    }

    #[pyo3(signature = (job, started, soft_deadline=None, hard_deadline=None))]
    fn insert(
        &self,
        job: Py<PyAny>,
        started: f64,
        soft_deadline: Option<f64>,
        hard_deadline: Option<f64>,
    ) -> PyResult<u64> {
        let record = Record {
            started_ns: to_ns(started)?,
            soft_deadline_ns: soft_deadline.map_or(Ok(Record::NEVER), to_ns)?,
            hard_deadline_ns: hard_deadline.map_or(Ok(Record::NEVER), to_ns)?,
        };
        match self.inner.insert(job, record) {
            Ok(ticket) => Ok(ticket.to_raw()),
            Err(full) => Err(SlabFullError::new_err(full.to_string())),
        }
    }

    fn get(&self, py: Python<'_>, ticket: u64) -> Option<Py<PyAny>> {
        self.inner
            .get_with(Ticket::from_raw(ticket), |job| job.clone_ref(py))
    }

    fn take(&self, py: Python<'_>, ticket: u64) -> Option<Py<PyAny>> {
        self.inner
            .take_with(Ticket::from_raw(ticket), |job| job.clone_ref(py))
    }

    fn scan(&self) -> Vec<Scanned> {
        let deadline = |ns| (ns != Record::NEVER).then(|| to_seconds(ns));
        let mut jobs = Vec::with_capacity(self.inner.len() as usize);
        self.inner.scan(|ticket, record| {
            jobs.push((
                ticket.to_raw(),
                to_seconds(record.started_ns),
                deadline(record.soft_deadline_ns),
                deadline(record.hard_deadline_ns),
            ));
        });
        jobs
    }

    fn __len__(&self) -> usize {
        self.inner.len() as usize
    }

    fn __repr__(&self) -> String {
        format!(
            "Slab(limit={}, len={})",
            self.inner.limit(),
            self.inner.len()
        )
    }

    // Nobody takes a job while the collector runs, since that needs Python: a read finds the
    // job in place and is never the last one, which would drop it.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let mut outcome = Ok(());
        self.inner.scan(|ticket, _| {
            if outcome.is_ok() {
                let visited = self.inner.get_with(ticket, |job| visit.call(job));
                outcome = visited.unwrap_or(Ok(()));
            }
        });
        outcome
    }

    fn __clear__(&self, py: Python<'_>) {
        let mut jobs = Vec::new();
        self.inner
            .scan(|ticket, _| jobs.extend(self.take(py, ticket.to_raw())));
        drop(jobs);
    }
}
