//! The events of tasks, encoded when they happen.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString};

use crate::encode::{PyJsonText, write, write_members};

/// Where the JSON texts of events go, each with the time and the clock of its worker.
#[pyclass(name = "EventLog", module = "hybrid._rust")]
pub(crate) struct PyEventLog {
    events: Py<PyList>,
    clock: Py<PyAny>,
    /// The text of an object, without its closing brace.
    head: String,
    until: f64,
}

#[pymethods]
impl PyEventLog {
    #[new]
    fn new(events: Py<PyList>, clock: Py<PyAny>) -> Self {
        Self {
            events,
            clock,
            head: String::new(),
            until: 0.0,
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

    #[pyo3(signature = (kind, uuid, fields=None, /))]
    fn record(
        &self,
        py: Python<'_>,
        kind: &Bound<'_, PyString>,
        uuid: &Bound<'_, PyAny>,
        fields: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<bool> {
        let events = self.events.bind(py);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0.0, |since| since.as_secs_f64());
        if events.is_empty() || self.head.is_empty() || now >= self.until {
            return Ok(false);
        }
        let clock = self.clock.bind(py);
        let value = clock.getattr(intern!(py, "value"))?.extract::<i64>()? + 1;
        let Some(text) = self.encode(kind, uuid, fields, now, value) else {
            return Ok(false);
        };
        clock.setattr(intern!(py, "value"), value)?;
        events.append(Bound::new(py, PyJsonText(text))?)?;
        Ok(true)
    }
}

impl PyEventLog {
    fn encode(
        &self,
        kind: &Bound<'_, PyString>,
        uuid: &Bound<'_, PyAny>,
        fields: Option<&Bound<'_, PyDict>>,
        now: f64,
        clock: i64,
    ) -> Option<String> {
        let mut out = Vec::with_capacity(512);
        out.extend_from_slice(self.head.as_bytes());
        write!(
            out,
            ", \"clock\": {clock}, \"timestamp\": {now:?}, \"type\": "
        )
        .ok()?;
        write(&mut out, kind, 1)?;
        out.extend_from_slice(b", \"uuid\": ");
        write(&mut out, uuid, 1)?;
        if let Some(fields) = fields.filter(|fields| !fields.is_empty()) {
            out.extend_from_slice(b", ");
            write_members(&mut out, fields, 1)?;
        }
        out.push(b'}');
        String::from_utf8(out).ok()
    }
}
