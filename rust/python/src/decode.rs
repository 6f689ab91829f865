//! Messages for Python: [`hybrid_core::envelope`] and [`hybrid_core::message`].

use hybrid_core::envelope::{Body, BodyEncoding, Envelope};
use hybrid_core::message::{DecodeError, DecodeErrorKind, json};
use jiter::{PythonParse, StringCacheMode};
use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};

use crate::decode_value::Values;

/// The input has to be decoded in Python, which may accept or refuse it.
#[pyclass(name = "DecodeError", module = "hybrid._rust", extends = PyValueError, frozen)]
pub(crate) struct PyDecodeError {
    #[pyo3(get)]
    kind: String,
    #[pyo3(get)]
    index: usize,
}

#[pymethods]
impl PyDecodeError {
    #[new]
    fn new(kind: String, index: usize) -> Self {
        Self { kind, index }
    }

    fn __str__(&self) -> String {
        format!("not decoded: {} at byte {}", self.kind, self.index)
    }
}

/// A decoded envelope: what `kombu.transport.virtual.Message` takes from one.
#[pyclass(name = "Delivery", module = "hybrid._rust", frozen)]
pub(crate) struct PyDelivery {
    #[pyo3(get)]
    raw: Py<PyAny>,
    #[pyo3(get)]
    body: Option<Py<PyBytes>>,
    #[pyo3(get)]
    content_type: Option<Py<PyAny>>,
    #[pyo3(get)]
    content_encoding: Option<Py<PyAny>>,
    #[pyo3(get)]
    headers: Option<Py<PyDict>>,
    #[pyo3(get)]
    properties: Py<PyDict>,
    #[pyo3(get)]
    delivery_tag: Py<PyAny>,
    #[pyo3(get)]
    delivery_info: Option<Py<PyAny>>,
}

/// Decodes one envelope.
///
/// Raises `DecodeError` for anything that kombu might read differently.
#[pyfunction]
#[pyo3(signature = (data, /))]
pub(crate) fn decode_envelope(data: &Bound<'_, PyAny>) -> PyResult<PyDelivery> {
    delivery(data).map_err(raised)
}

/// Decodes one JSON text, as `kombu.utils.json.loads` does.
///
/// Raises `DecodeError` for anything that kombu might read differently.
#[pyfunction]
#[pyo3(signature = (data, /))]
pub(crate) fn loads<'py>(data: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let parse = |data: &Bound<'py, PyAny>| {
        let bytes = contents(data)?;
        json::check(bytes)?;
        // Keys repeat from message to message, arguments do not.
        PythonParse {
            cache_mode: StringCacheMode::Keys,
            ..PythonParse::default()
        }
        .python_parse(data.py(), bytes)
        .map_err(|e| DecodeErrorKind::Json.at(e.index))
    };
    parse(data).map_err(raised)
}

fn raised(error: DecodeError) -> PyErr {
    PyErr::new::<PyDecodeError, _>((error.kind.name(), error.index))
}

fn contents<'a>(data: &'a Bound<'_, PyAny>) -> Result<&'a [u8], DecodeError> {
    let refused = DecodeErrorKind::Input.at(0);
    if let Ok(text) = data.cast_exact::<PyString>() {
        return text.to_str().map(str::as_bytes).map_err(|_| refused);
    }
    data.cast_exact::<PyBytes>()
        .map(PyBytesMethods::as_bytes)
        .map_err(|_| refused)
}

fn delivery(data: &Bound<'_, PyAny>) -> Result<PyDelivery, DecodeError> {
    let py = data.py();
    let bytes = contents(data)?;
    let mut values = Values::new(py);
    let envelope = Envelope::read(bytes, |reader| values.take(reader))?;

    let end = bytes.len();
    let properties = object(envelope.properties, end)?.ok_or(DecodeErrorKind::Missing.at(end))?;
    let delivery_tag = item(&properties, intern!(py, "delivery_tag"))?;
    let headers = object(envelope.headers, end)?;
    if let Some(headers) = &headers
        && item(headers, intern!(py, "compression"))?.is_some()
    {
        return Err(DecodeErrorKind::Compressed.at(end));
    }
    let encoding = body_encoding(&properties, end)?;
    let body = envelope
        .body
        .map(|span| body(py, span, encoding))
        .transpose()?;
    Ok(PyDelivery {
        raw: data.clone().unbind(),
        body,
        content_type: envelope.content_type.map(Bound::unbind),
        content_encoding: envelope.content_encoding.map(Bound::unbind),
        headers: headers.map(Bound::unbind),
        delivery_tag: delivery_tag
            .ok_or(DecodeErrorKind::Missing.at(end))?
            .unbind(),
        delivery_info: item(&properties, intern!(py, "delivery_info"))?.map(Bound::unbind),
        properties: properties.unbind(),
    })
}

/// `value` as a dict; `None` when it is absent or `None`.
fn object(
    value: Option<Bound<'_, PyAny>>,
    end: usize,
) -> Result<Option<Bound<'_, PyDict>>, DecodeError> {
    match value {
        Some(value) if !value.is_none() => match value.cast_into() {
            Ok(dict) => Ok(Some(dict)),
            Err(_) => Err(DecodeErrorKind::WrongType.at(end)),
        },
        _ => Ok(None),
    }
}

/// The entry of a dict whose keys are strings, so that nothing but memory can be missing.
fn item<'py>(
    dict: &Bound<'py, PyDict>,
    name: &Bound<'py, PyString>,
) -> Result<Option<Bound<'py, PyAny>>, DecodeError> {
    dict.get_item(name)
        .map_err(|_| DecodeErrorKind::Missing.at(0))
}

fn body_encoding(properties: &Bound<'_, PyDict>, end: usize) -> Result<BodyEncoding, DecodeError> {
    let name = item(properties, intern!(properties.py(), "body_encoding"))?;
    match name.filter(|name| !name.is_none()) {
        None => BodyEncoding::from_name(None),
        Some(name) => match name
            .cast::<PyString>()
            .ok()
            .and_then(|name| name.to_str().ok())
        {
            Some(name) => BodyEncoding::from_name(Some(name)),
            None => Err(DecodeErrorKind::WrongType.at(end)),
        },
    }
}

fn body(py: Python<'_>, span: &[u8], encoding: BodyEncoding) -> Result<Py<PyBytes>, DecodeError> {
    let body = Body::new(span, encoding)?;
    let mut result = Ok(());
    PyBytes::new_with(py, body.len(), |out| {
        result = body.decode_into(out);
        Ok(())
    })
    .map_err(|_| DecodeErrorKind::Base64.at(0))
    .and_then(|bytes| result.map(|()| bytes.unbind()))
}
