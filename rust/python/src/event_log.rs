//! The events of tasks, encoded when they happen.

use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::encode::{PyJsonText, write, write_float, write_members};

/// The JSON text of events that wait, each with the time and the clock of its worker.
#[pyclass(name = "EventLog", module = "hybrid._rust", frozen)]
pub(crate) struct PyEventLog {
    clock: Py<PyAny>,
    limit: usize,
    log: Mutex<Log>,
}

#[derive(Default)]
struct Log {
    /// The text of an object, without its closing brace.
    head: String,
    until: f64,
    /// A list's text without its closing bracket, in one piece: a text for each event costs more
    /// than to write it.
    group: Vec<u8>,
    /// How much of it is whole events: what is behind them could not be encoded.
    whole: usize,
    count: usize,
}

#[pymethods]
impl PyEventLog {
    #[new]
    fn new(clock: Py<PyAny>, limit: usize) -> Self {
        Self {
            clock,
            limit,
            log: Mutex::default(),
        }
    }

    /// Begins each event with the members of `head`, an object's text, until that time.
    fn begin(&self, head: &str, until: f64) -> PyResult<()> {
        let members = match head.strip_suffix('}') {
            Some(members) if members.len() > 1 => members,
            None if head.is_empty() => "",
            _ => {
                return Err(PyValueError::new_err(format!(
                    "{head:?} is no JSON object with members"
                )));
            }
        };
        let mut log = self.log();
        members.clone_into(&mut log.head);
        log.until = until;
        Ok(())
    }

    #[pyo3(signature = (kind, fields, /))]
    fn record(
        &self,
        py: Python<'_>,
        kind: &Bound<'_, PyString>,
        fields: &Bound<'_, PyDict>,
    ) -> PyResult<usize> {
        if self.log().head.is_empty() {
            return Ok(0);
        }
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0.0, |since| since.as_secs_f64());
        let name = intern!(py, "value");
        let clock = self.clock.bind(py);
        let Some(value) = clock.getattr(name)?.extract::<i64>()?.checked_add(1) else {
            return Ok(0);
        };
        // Nothing below this calls into Python, so the lock is not held across anything else.
        let count = self.log().write(self.limit, kind, fields, now, value);
        if count > 0 {
            clock.setattr(name, value)?;
        }
        Ok(count)
    }

    /// Takes the list of all events, if there are any.
    fn take(&self) -> PyResult<Option<PyJsonText>> {
        let mut log = self.log();
        if log.count == 0 {
            return Ok(None);
        }
        log.count = 0;
        // The next group is probably no larger.
        let next = Vec::with_capacity(log.group.len());
        let mut group = std::mem::replace(&mut log.group, next);
        group.truncate(std::mem::take(&mut log.whole));
        group.push(b']');
        Ok(Some(PyJsonText(String::from_utf8(group)?)))
    }

    fn __len__(&self) -> usize {
        self.log().count
    }
}

impl PyEventLog {
    fn log(&self) -> MutexGuard<'_, Log> {
        // What is half written is cut off before the next event.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    /// Adds an event and returns how many there are; if it cannot be added, none.
    fn write(
        &mut self,
        limit: usize,
        kind: &Bound<'_, PyString>,
        fields: &Bound<'_, PyDict>,
        now: f64,
        clock: i64,
    ) -> usize {
        if now >= self.until || self.count >= limit {
            return 0;
        }
        self.group.truncate(self.whole);
        if self.write_event(kind, fields, now, clock).is_none() {
            return 0;
        }
        self.whole = self.group.len();
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
