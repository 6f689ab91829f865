//! The codec's error as a Python exception.

use hybrid_core::amqp::{AmqpError, AmqpErrorKind};
use pyo3::exceptions::PyValueError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyList;

/// Bytes that are no AMQP, or a value that has to be encoded in Python.
#[pyclass(name = "AmqpError", module = "hybrid._rust", extends = PyValueError, frozen)]
pub(crate) struct PyAmqpError {
    #[pyo3(get)]
    kind: String,
    #[pyo3(get)]
    index: u64,
    #[pyo3(get)]
    items: Py<PyList>,
}

#[pymethods]
impl PyAmqpError {
    #[new]
    #[pyo3(signature = (kind, index, items=None))]
    fn new(py: Python<'_>, kind: String, index: u64, items: Option<Py<PyList>>) -> Self {
        Self {
            kind,
            index,
            items: items.unwrap_or_else(|| PyList::empty(py).unbind()),
        }
    }

    fn __str__(&self) -> String {
        format!("not AMQP: {} at byte {}", self.kind, self.index)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.items)
    }
}

/// The only place where an error of the codec becomes an exception.
pub(crate) fn raised(error: AmqpError) -> PyErr {
    PyErr::new::<PyAmqpError, _>((error.kind.name(), error.index))
}

/// The error for text that is none, wherever it stands.
pub(crate) fn not_text() -> PyErr {
    raised(AmqpErrorKind::Utf8.at(0))
}
