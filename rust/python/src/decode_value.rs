//! JSON values as Python objects.

use hybrid_core::message::{DecodeError, Reader};
use jiter::{NumberAny, NumberInt, pystring_ascii_new};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString};

/// How deep values may nest: what jiter allows, and far below any recursion limit in use.
const MAX_DEPTH: u8 = 200;

/// The keys that Celery and kombu write, quoted, in the order in which they write them.
const KEYS: [&str; 35] = [
    r#""lang""#,
    r#""task""#,
    r#""id""#,
    r#""shadow""#,
    r#""eta""#,
    r#""expires""#,
    r#""group""#,
    r#""group_index""#,
    r#""retries""#,
    r#""timelimit""#,
    r#""root_id""#,
    r#""parent_id""#,
    r#""argsrepr""#,
    r#""kwargsrepr""#,
    r#""origin""#,
    r#""ignore_result""#,
    r#""replaced_task_nesting""#,
    r#""stamped_headers""#,
    r#""stamps""#,
    r#""correlation_id""#,
    r#""reply_to""#,
    r#""delivery_mode""#,
    r#""delivery_info""#,
    r#""exchange""#,
    r#""routing_key""#,
    r#""priority""#,
    r#""body_encoding""#,
    r#""delivery_tag""#,
    r#""periodic_task_name""#,
    r#""compression""#,
    r#""callbacks""#,
    r#""errbacks""#,
    r#""chain""#,
    r#""chord""#,
    r#""redelivered""#,
];

static INTERNED: PyOnceLock<[Py<PyString>; KEYS.len()]> = PyOnceLock::new();

/// Builds Python objects from JSON, sharing the strings of the keys in [`KEYS`].
pub(crate) struct Values<'py> {
    py: Python<'py>,
    interned: &'py [Py<PyString>; KEYS.len()],
    /// Where in `KEYS` the next key probably is.
    next: usize,
    depth: u8,
}

impl<'py> Values<'py> {
    pub(crate) fn new(py: Python<'py>) -> Self {
        let interned = INTERNED.get_or_init(py, || {
            KEYS.map(|key| PyString::intern(py, unquoted(key)).unbind())
        });
        Self {
            py,
            interned,
            next: 0,
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
        let expected = KEYS.get(self.next).copied().unwrap_or(KEYS[0]);
        let found = match reader.key(expected)? {
            None => self.next % KEYS.len(),
            Some(key) => match KEYS.iter().position(|known| unquoted(known) == key) {
                Some(index) => index,
                None => return Ok(text(self.py, &key)),
            },
        };
        self.next = found + 1;
        Ok(self.interned[found].bind(self.py).clone())
    }
}

fn unquoted(key: &str) -> &str {
    &key[1..key.len() - 1]
}

fn text<'py>(py: Python<'py>, text: &str) -> Bound<'py, PyString> {
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
