//! JSON values as Python objects.

use hybrid_core::message::{DecodeError, Reader};
use jiter::{NumberAny, NumberInt, pystring_ascii_new};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString};

use crate::keys::Keys;

/// How deep values may nest: what jiter allows, and far below any recursion limit in use.
const MAX_DEPTH: u8 = 200;

/// Builds Python objects from JSON, sharing the strings of well-known [`Keys`].
pub(crate) struct Values<'py> {
    py: Python<'py>,
    keys: Keys<'py>,
    depth: u8,
}

impl<'py> Values<'py> {
    pub(crate) fn new(py: Python<'py>) -> Self {
        Self {
            py,
            keys: Keys::new(py),
            depth: 0,
        }
    }

    /// Consumes the value in front of `reader`.
    pub(crate) fn take(
        &mut self,
        reader: &mut Reader<'_>,
    ) -> Result<Bound<'py, PyAny>, DecodeError> {
        let py = self.py;
        match reader.peek()? {
            b'"' => Ok(text(py, &reader.string()?).into_any()),
            b'n' => reader.literal("null").map(|()| py.None().into_bound(py)),
            b't' => reader
                .literal("true")
                .map(|()| PyBool::new(py, true).to_owned().into_any()),
            b'f' => reader
                .literal("false")
                .map(|()| PyBool::new(py, false).to_owned().into_any()),
            b'{' => self.nested(reader, Self::object),
            b'[' => self.nested(reader, Self::array),
            _ => number(py, reader),
        }
    }

    fn nested(
        &mut self,
        reader: &mut Reader<'_>,
        take: fn(&mut Self, &mut Reader<'_>) -> Result<Bound<'py, PyAny>, DecodeError>,
    ) -> Result<Bound<'py, PyAny>, DecodeError> {
        if self.depth == MAX_DEPTH {
            return Err(reader.error());
        }
        self.depth += 1;
        let value = take(self, reader);
        self.depth -= 1;
        value
    }

    fn object(&mut self, reader: &mut Reader<'_>) -> Result<Bound<'py, PyAny>, DecodeError> {
        let dict = PyDict::new(self.py);
        let mut more = reader.open(b'}')?;
        while more {
            let key = self.key(reader)?;
            let value = self.take(reader)?;
            dict.set_item(key, value).map_err(|_| reader.error())?;
            more = reader.more(b'}')?;
        }
        Ok(dict.into_any())
    }

    fn array(&mut self, reader: &mut Reader<'_>) -> Result<Bound<'py, PyAny>, DecodeError> {
        let mut items = Vec::new();
        let mut more = reader.open(b']')?;
        while more {
            items.push(self.take(reader)?);
            more = reader.more(b']')?;
        }
        PyList::new(self.py, items)
            .map(Bound::into_any)
            .map_err(|_| reader.error())
    }

    fn key(&mut self, reader: &mut Reader<'_>) -> Result<Bound<'py, PyString>, DecodeError> {
        let key = reader.key(self.keys.expected())?;
        Ok(self
            .keys
            .shared(key.as_deref().map(str::as_bytes))
            .unwrap_or_else(|| text(self.py, key.as_deref().unwrap_or_default())))
    }
}

/// A string, made fast when it is ASCII.
pub(crate) fn text<'py>(py: Python<'py>, text: &str) -> Bound<'py, PyString> {
    if text.is_ascii() {
        // SAFETY: the text is ASCII.
        unsafe { pystring_ascii_new(py, text) }
    } else {
        PyString::new(py, text)
    }
}

fn number<'py>(py: Python<'py>, reader: &mut Reader<'_>) -> Result<Bound<'py, PyAny>, DecodeError> {
    Ok(match reader.number()? {
        NumberAny::Float(value) => PyFloat::new(py, value).into_any(),
        NumberAny::Int(NumberInt::Int(value)) => PyInt::new(py, value).into_any(),
        NumberAny::Int(NumberInt::BigInt(value)) => value
            .into_pyobject(py)
            .map_err(|_| reader.error())?
            .into_any(),
    })
}
