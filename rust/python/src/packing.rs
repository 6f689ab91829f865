//! Packed bytes for Python: [`hybrid_core::packing`].

use hybrid_core::packing::Packing;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// Byte strings that are much like one of them, kept small.
///
/// Converts types and errors for [`Packing`], and decides nothing.
#[pyclass(name = "Packing", module = "hybrid._rust", frozen)]
pub(crate) struct PyPacking {
    inner: Packing,
}

#[pymethods]
impl PyPacking {
    #[new]
    #[pyo3(signature = (reference, /))]
    fn new(reference: &[u8]) -> Self {
        Self {
            inner: Packing::new(reference),
        }
    }

    #[pyo3(signature = (data, /))]
    fn pack<'py>(&self, py: Python<'py>, data: &[u8]) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.inner.pack(data))
    }

    #[pyo3(signature = (packed, /))]
    fn unpack<'py>(&self, py: Python<'py>, packed: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        match self.inner.unpack(packed) {
            Ok(data) => Ok(PyBytes::new(py, &data)),
            Err(error) => Err(PyValueError::new_err(error.to_string())),
        }
    }
}
