//! Messages for Python: [`hybrid_core::envelope`] and [`hybrid_core::message`].

use hybrid_core::envelope::{Body, Envelope, base64};
use hybrid_core::message::{DecodeError, DecodeErrorKind, json};
use jiter::{PythonParse, StringCacheMode};
use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};

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

fn raised(error: DecodeError) -> PyErr {
    PyErr::new::<PyDecodeError, _>((error.kind.name(), error.index))
}

/// A decoded envelope: what `kombu.transport.virtual.Message` takes from one.
#[pyclass(name = "Delivery", module = "hybrid._rust", frozen)]
pub(crate) struct PyDelivery {
    /// The envelope as it was passed in.
    #[pyo3(get)]
    raw: Py<PyAny>,
    #[pyo3(get)]
    body: Py<PyAny>,
    #[pyo3(get)]
    content_type: Py<PyAny>,
    #[pyo3(get)]
    content_encoding: Py<PyAny>,
    #[pyo3(get)]
    headers: Py<PyAny>,
    #[pyo3(get)]
    properties: Py<PyDict>,
    #[pyo3(get)]
    delivery_tag: Py<PyAny>,
    #[pyo3(get)]
    delivery_info: Py<PyAny>,
}

/// Decodes one envelope.
///
/// Raises `DecodeError` for anything that kombu might read differently.
#[pyfunction]
#[pyo3(signature = (data, /))]
pub(crate) fn decode_envelope(data: &Bound<'_, PyAny>) -> PyResult<PyDelivery> {
    let py = data.py();
    let bytes = text_or_bytes(data).map_err(raised)?;
    let envelope = Envelope::split(bytes).map_err(raised)?;
    let properties = parse(py, envelope.properties).map_err(raised)?.cast_into::<PyDict>()?;
    let field = |json: Option<&[u8]>| match json {
        Some(json) => parse(py, json).map(Bound::unbind).map_err(raised),
        None => Ok(py.None()),
    };
    let from_properties = |name: &Bound<'_, PyString>| -> PyResult<Py<PyAny>> {
        Ok(properties.get_item(name)?.map_or_else(|| py.None(), Bound::unbind))
    };
    Ok(PyDelivery {
        raw: data.clone().unbind(),
        body: body(py, &envelope.body)?,
        content_type: field(envelope.content_type)?,
        content_encoding: field(envelope.content_encoding)?,
        headers: field(envelope.headers)?,
        delivery_tag: from_properties(intern!(py, "delivery_tag"))?,
        delivery_info: from_properties(intern!(py, "delivery_info"))?,
        properties: properties.unbind(),
    })
}

/// Decodes one JSON text, as `kombu.utils.json.loads` does.
///
/// Raises `DecodeError` for anything that kombu might read differently.
#[pyfunction]
#[pyo3(signature = (data, /))]
pub(crate) fn loads<'py>(data: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let bytes = text_or_bytes(data).map_err(raised)?;
    json::check(bytes).map_err(raised)?;
    parse(data.py(), bytes).map_err(raised)
}

fn text_or_bytes<'a>(data: &'a Bound<'_, PyAny>) -> Result<&'a [u8], DecodeError> {
    if let Ok(text) = data.cast_exact::<PyString>() {
        // Fails for lone surrogates.
        return text.to_str().map(str::as_bytes).map_err(|_| DecodeErrorKind::Input.at(0));
    }
    match data.cast_exact::<PyBytes>() {
        Ok(bytes) => Ok(bytes.as_bytes()),
        Err(_) => Err(DecodeErrorKind::Input.at(0)),
    }
}

fn parse<'py>(py: Python<'py>, json: &[u8]) -> Result<Bound<'py, PyAny>, DecodeError> {
    let parser = PythonParse { cache_mode: StringCacheMode::Keys, ..PythonParse::default() };
    parser.python_parse(py, json).map_err(|e| DecodeErrorKind::Json.at(e.index))
}

fn body(py: Python<'_>, body: &Body<'_>) -> PyResult<Py<PyAny>> {
    match body {
        Body::None => Ok(py.None()),
        Body::Text(text) => Ok(PyBytes::new(py, text.as_bytes()).into_any().unbind()),
        Body::Base64(encoded) => {
            let len = base64::decoded_len(encoded).map_err(raised)?;
            PyBytes::new_with(py, len, |out| base64::decode_into(encoded, out).map_err(raised))
                .map(|bytes| bytes.into_any().unbind())
        }
    }
}
