//! The AMQP stream for Python: [`hybrid_core::amqp`].

use std::sync::{Mutex, MutexGuard, PoisonError};

use hybrid_core::amqp::{Delivery, Item, Reader};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString};

use crate::amqp_error::PyAmqpError;
use crate::amqp_value::{self, strict_text};

/// Reads the stream of one connection.
///
/// Converts types and errors for [`hybrid_core::amqp::Reader`], and decides nothing.
#[pyclass(name = "AmqpReader", module = "hybrid._rust", frozen)]
pub(crate) struct PyAmqpReader {
    inner: Mutex<Reader>,
}

impl PyAmqpReader {
    fn lock(&self) -> MutexGuard<'_, Reader> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl PyAmqpReader {
    #[new]
    #[pyo3(signature = (frame_max=0))]
    fn new(frame_max: u32) -> Self {
        Self {
            inner: Mutex::new(Reader::new(frame_max)),
        }
    }

    fn set_frame_max(&self, frame_max: u32) {
        self.lock().set_frame_max(frame_max);
    }

    #[getter]
    fn pending_bytes(&self) -> usize {
        self.lock().pending_bytes()
    }

    #[pyo3(signature = (data, /))]
    fn feed<'py>(
        &self,
        py: Python<'py>,
        data: &Bound<'py, PyBytes>,
    ) -> PyResult<Bound<'py, PyList>> {
        let mut items = Vec::new();
        let result = self.lock().feed(data.as_bytes(), &mut items);
        // From here on without the lock: to make an object may run the collector, and so
        // anybody's finalizers.
        let list = PyList::empty(py);
        for item in items {
            match item {
                Item::Delivery(inner) => list.append(Bound::new(py, PyAmqpDelivery { inner })?)?,
                Item::Frame {
                    kind,
                    channel,
                    payload,
                } => list.append((kind as u8, channel, PyBytes::new(py, &payload)))?,
            }
        }
        match result {
            Ok(()) => Ok(list),
            Err(error) => Err(PyErr::new::<PyAmqpError, _>((
                error.kind.name(),
                error.index,
                list.unbind(),
            ))),
        }
    }
}

/// A message of `basic.deliver`, in the bytes in which it came.
#[pyclass(name = "AmqpDelivery", module = "hybrid._rust", frozen)]
pub(crate) struct PyAmqpDelivery {
    inner: Delivery,
}

#[pymethods]
impl PyAmqpDelivery {
    #[getter]
    fn channel(&self) -> u16 {
        self.inner.channel()
    }

    #[getter]
    fn delivery_tag(&self) -> u64 {
        self.inner.delivery_tag()
    }

    #[getter]
    fn redelivered(&self) -> bool {
        self.inner.redelivered()
    }

    #[getter]
    fn consumer_tag<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyString>> {
        strict_text(py, self.inner.consumer_tag())
    }

    #[getter]
    fn exchange<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyString>> {
        strict_text(py, self.inner.exchange())
    }

    #[getter]
    fn routing_key<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyString>> {
        strict_text(py, self.inner.routing_key())
    }

    #[getter]
    fn header<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.inner.header())
    }

    #[getter]
    fn body<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.inner.body())
    }

    #[getter]
    fn body_size(&self) -> usize {
        self.inner.body().len()
    }

    fn properties<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        amqp_value::properties(py, self.inner.header())
    }

    fn headers<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        amqp_value::headers(py, self.inner.header())
    }

    fn __sizeof__(&self) -> usize {
        size_of::<PyAmqpDelivery>() + PYOBJECT + self.inner.memory_bytes()
    }

    fn __repr__(&self) -> String {
        format!(
            "AmqpDelivery(channel={}, delivery_tag={}, routing_key={:?}, body_size={})",
            self.inner.channel(),
            self.inner.delivery_tag(),
            String::from_utf8_lossy(self.inner.routing_key()),
            self.inner.body().len(),
        )
    }
}

/// What every Python object starts with.
const PYOBJECT: usize = size_of::<pyo3::ffi::PyObject>();

/// Decodes the properties in the payload of a content header frame.
#[pyfunction]
#[pyo3(signature = (header, /))]
pub(crate) fn decode_properties<'py>(
    py: Python<'py>,
    header: &Bound<'py, PyBytes>,
) -> PyResult<Bound<'py, PyDict>> {
    amqp_value::properties(py, header.as_bytes())
}
