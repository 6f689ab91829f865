//! The function of a task, which says when it begins and ends.

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

/// Calls the function of a task, and keeps what part of its target the job is in.
///
/// The only one here that calls Python code which may switch greenlets: written in Python, it would
/// be a line in the traceback of every error. What is on its stack meanwhile are references of its
/// own, as with any caller in C.
#[pyclass(name = "TaskFunction", module = "hybrid._rust", frozen)]
pub(crate) struct PyTaskFunction {
    function: Py<PyAny>,
    /// Returns the greenlet that runs.
    getcurrent: Py<PyAny>,
    before: Py<PyAny>,
    inside: Py<PyAny>,
    after: Py<PyAny>,
}

impl PyTaskFunction {
    /// Returns the job whose target has just come to its function.
    fn job<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let greenlet = self.getcurrent.bind(py).call0()?;
        let fields = greenlet.getattr(intern!(py, "__dict__"))?;
        let Some(slot) = fields.cast::<PyDict>()?.get_item(intern!(py, "_slot"))? else {
            return Ok(None);
        };
        let job = slot.getattr(intern!(py, "job"))?;
        if job.is_none() || !job.getattr(intern!(py, "part"))?.is(&self.before) {
            return Ok(None); // a task that another calls, as a tracer
        }
        Ok(Some(job))
    }
}

/// Returns what is to be raised in `job`, if something is.
fn owed<'py>(job: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let owed = job.getattr(intern!(job.py(), "owed"))?;
    Ok((!owed.is_none()).then_some(owed))
}

#[pymethods]
impl PyTaskFunction {
    #[new]
    fn new(
        function: Py<PyAny>,
        getcurrent: Py<PyAny>,
        before: Py<PyAny>,
        inside: Py<PyAny>,
        after: Py<PyAny>,
    ) -> Self {
        Self {
            function,
            getcurrent,
            before,
            inside,
            after,
        }
    }

    #[pyo3(signature = (*args, **kwargs))]
    fn __call__<'py>(
        &self,
        py: Python<'py>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let function = self.function.bind(py);
        let Some(job) = self.job(py)? else {
            return function.call(args, kwargs);
        };
        let part = intern!(py, "part");
        if let Some(exc) = owed(&job)? {
            job.setattr(part, &self.after)?;
            return Err(PyErr::from_value(exc.call0()?));
        }
        job.setattr(part, &self.inside)?;
        let outcome = function.call(args, kwargs);
        job.setattr(part, &self.after)?;
        match owed(&job)? {
            // It was to be ended, and has gone on, or has ended before that reached it.
            Some(exc) if !matches!(&outcome, Err(raised) if raised.matches(py, &exc)?) => {
                Err(PyErr::from_value(exc.call0()?))
            }
            _ => outcome,
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.function)
    }
}
