//! Python objects as JSON.

use std::io::Write;

use hybrid_core::envelope;
use hybrid_core::message::text::write_string;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};

/// How deep values may nest: below any recursion limit in use.
const MAX_DEPTH: u8 = 200;

/// A JSON text that becomes part of others as it is.
#[pyclass(name = "JsonText", module = "hybrid._rust", frozen)]
pub(crate) struct PyJsonText(pub(crate) String);

#[pymethods]
impl PyJsonText {
    /// The value, for kombu's own encoder.
    fn __json__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        crate::decode::loads(PyString::new(py, &self.0).as_any())
    }

    fn __str__(&self) -> &str {
        &self.0
    }
}

/// Encodes a body as `kombu.transport.virtual.Base64` does.
///
/// Returns `None` for what is neither text nor bytes, and for lone surrogates.
#[pyfunction]
#[pyo3(signature = (body, /))]
pub(crate) fn encode_base64(body: &Bound<'_, PyAny>) -> Option<String> {
    if let Ok(text) = body.cast_exact::<PyString>() {
        return Some(envelope::encode_base64(text.to_str().ok()?.as_bytes()));
    }
    let bytes = body.cast_exact::<PyBytes>().ok()?;
    Some(envelope::encode_base64(bytes.as_bytes()))
}

/// Encodes `value` as `json.dumps` does, if it consists of nothing but plain values.
///
/// Returns `None` for anything whose encoding only Python knows.
#[pyfunction]
#[pyo3(signature = (value, /))]
pub(crate) fn dumps<'py>(value: &Bound<'py, PyAny>) -> Option<Bound<'py, PyString>> {
    let mut out = Vec::with_capacity(256);
    write(&mut out, value, 0)?;
    let text = std::str::from_utf8(&out).ok()?;
    Some(PyString::new(value.py(), text))
}

/// Appends `value`, in the exact types that have no methods of a user's own.
pub(crate) fn write(out: &mut Vec<u8>, value: &Bound<'_, PyAny>, depth: u8) -> Option<()> {
    if let Ok(text) = value.cast_exact::<PyString>() {
        write_string(out, text.to_str().ok()?);
    } else if value.is_none() {
        out.extend_from_slice(b"null");
    } else if let Ok(dict) = value.cast_exact::<PyDict>() {
        write_object(out, dict, deeper(depth)?)?;
    } else if let Ok(list) = value.cast_exact::<PyList>() {
        write_array(out, list.iter(), deeper(depth)?)?;
    } else if let Ok(tuple) = value.cast_exact::<PyTuple>() {
        write_array(out, tuple.iter(), deeper(depth)?)?;
    } else if let Ok(flag) = value.cast_exact::<PyBool>() {
        out.extend_from_slice(if flag.is_true() { b"true" } else { b"false" });
    } else if let Ok(number) = value.cast_exact::<PyInt>() {
        // A longer one may exceed the interpreter's limit, which says so in its own words.
        let number: i64 = number.extract().ok()?;
        write!(out, "{number}").ok()?;
    } else if let Ok(number) = value.cast_exact::<PyFloat>() {
        let value = number.value();
        // Python has names for the others that JSON does not have.
        value.is_finite().then_some(())?;
        write_float(out, value);
    } else if let Ok(text) = value.cast_exact::<PyJsonText>() {
        out.extend_from_slice(text.get().0.as_bytes());
    } else {
        return None;
    }
    Some(())
}

/// Writes what `float.__repr__` returns.
pub(crate) fn write_float(out: &mut Vec<u8>, value: f64) {
    if value.is_sign_negative() {
        out.push(b'-');
    }
    let mut buffer = ryu::Buffer::new();
    let text = buffer.format_finite(value.abs());
    // Python has exponents from -5 on, and they have a sign and two digits at least.
    if let Some(digits) = text.strip_prefix("0.0000") {
        let (first, rest) = digits.split_at(1);
        let point = if rest.is_empty() { "" } else { "." };
        extend(out, &[first, point, rest, "e-05"]);
    } else if let Some((digits, exponent)) = text.split_once('e') {
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(exponent) => ("e-", exponent),
            None => ("e+", exponent),
        };
        let zero = if exponent.len() < 2 { "0" } else { "" };
        extend(out, &[digits, sign, zero, exponent]);
    } else {
        out.extend_from_slice(text.as_bytes());
    }
}

fn extend(out: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
}

fn deeper(depth: u8) -> Option<u8> {
    (depth < MAX_DEPTH).then_some(depth + 1)
}

fn write_object(out: &mut Vec<u8>, dict: &Bound<'_, PyDict>, depth: u8) -> Option<()> {
    out.push(b'{');
    write_members(out, dict, depth)?;
    out.push(b'}');
    Some(())
}

pub(crate) fn write_members(out: &mut Vec<u8>, dict: &Bound<'_, PyDict>, depth: u8) -> Option<()> {
    for (index, (key, value)) in dict.iter().enumerate() {
        if index > 0 {
            out.extend_from_slice(b", ");
        }
        write_string(out, key.cast_exact::<PyString>().ok()?.to_str().ok()?);
        out.extend_from_slice(b": ");
        write(out, &value, depth)?;
    }
    Some(())
}

fn write_array<'py>(
    out: &mut Vec<u8>,
    items: impl Iterator<Item = Bound<'py, PyAny>>,
    depth: u8,
) -> Option<()> {
    out.push(b'[');
    for (index, item) in items.enumerate() {
        if index > 0 {
            out.extend_from_slice(b", ");
        }
        write(out, &item, depth)?;
    }
    out.push(b']');
    Some(())
}
