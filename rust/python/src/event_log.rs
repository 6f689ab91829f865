//! The events of tasks, encoded when they happen.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::encode::{PyJsonText, write, write_float, write_members};

/// The JSON text of events that wait, each with the time and the clock of its worker.
#[pyclass(name = "EventLog", module = "hybrid._rust")]
pub(crate) struct PyEventLog {
    clock: Py<PyAny>,
    wake: Py<PyAny>,
    limit: usize,
    /// The text of an object, without its closing brace.
    head: String,
    until: f64,
    /// A list's text without its closing bracket, in one piece: a text for each event costs more
    /// than to write it.
    group: Vec<u8>,
    count: usize,
}

#[pymethods]
impl PyEventLog {
    #[new]
    fn new(clock: Py<PyAny>, wake: Py<PyAny>, limit: usize) -> Self {
        Self {
            clock,
            wake,
            limit,
            head: String::new(),
            until: 0.0,
            group: Vec::new(),
            count: 0,
        }
    }

    /// Begins each event with the members of `head`, an object's text, until that time.
    fn begin(&mut self, head: &str, until: f64) -> PyResult<()> {
        let members = match head.strip_suffix('}') {
            Some(members) if members.len() > 1 => members,
            None if head.is_empty() => "",
            _ => {
                return Err(PyValueError::new_err(format!(
                    "{head:?} is no JSON object with members"
                )));
            }
        };
        members.clone_into(&mut self.head);
        self.until = until;
        Ok(())
    }

    #[pyo3(signature = (kind, fields, /))]
    fn record(
        slf: &Bound<'_, Self>,
        kind: &Bound<'_, PyString>,
        fields: &Bound<'_, PyDict>,
    ) -> PyResult<bool> {
        let py = slf.py();
        if slf.borrow().head.is_empty() {
            return Ok(false);
        }
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0.0, |since| since.as_secs_f64());
        let name = intern!(py, "value");
        let clock = slf.borrow().clock.clone_ref(py).into_bound(py);
        let value = clock.getattr(name)?.extract::<i64>()? + 1;
        let count = slf.borrow_mut().write(kind, fields, now, value);
        if count > 0 {
            clock.setattr(name, value)?;
        }
        if count == 1 {
            let wake = slf.borrow().wake.clone_ref(py);
            wake.call0(py)?;
        }
        Ok(count > 0)
    }

    /// Takes the list of all events, if there are any.
    fn take(&mut self) -> PyResult<Option<PyJsonText>> {
        if self.count == 0 {
            return Ok(None);
        }
        self.count = 0;
        // The next group is probably no larger.
        let next = Vec::with_capacity(self.group.len());
        let mut group = std::mem::replace(&mut self.group, next);
        group.push(b']');
        Ok(Some(PyJsonText(String::from_utf8(group)?)))
    }

    fn __len__(&self) -> usize {
        self.count
    }
}

impl PyEventLog {
    /// Adds an event and returns how many there are; if it cannot be added, none.
    fn write(
        &mut self,
        kind: &Bound<'_, PyString>,
        fields: &Bound<'_, PyDict>,
        now: f64,
        clock: i64,
    ) -> usize {
        if now >= self.until || self.count >= self.limit {
            return 0;
        }
        let written = self.group.len();
        if self.write_event(kind, fields, now, clock).is_none() {
            self.group.truncate(written);
            return 0;
        }
        self.count += 1;
        self.count
    }

    fn write_event(
        &mut self,
        kind: &Bound<'_, PyString>,
        fields: &Bound<'_, PyDict>,
        now: f64,
        clock: i64,
    ) -> Option<()> {
        let out = &mut self.group;
        out.extend_from_slice(if self.count == 0 { b"[" } else { b", " });
        out.extend_from_slice(self.head.as_bytes());
        write!(out, ", \"clock\": {clock}, \"timestamp\": ").ok()?;
        write_float(out, now);
        out.extend_from_slice(b", \"type\": ");
        write(out, kind, 1)?;
        if !fields.is_empty() {
            out.extend_from_slice(b", ");
            write_members(out, fields, 1)?;
        }
        out.push(b'}');
        Some(())
    }
}
