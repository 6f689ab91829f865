//! The strings of well-known keys, shared by all messages.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyString;

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

/// Finds the string of a key, guessing that keys come in the order of [`KEYS`].
pub(crate) struct Keys<'py> {
    py: Python<'py>,
    interned: &'py [Py<PyString>; KEYS.len()],
    /// Where in `KEYS` the next key probably is.
    next: usize,
}

impl<'py> Keys<'py> {
    pub(crate) fn new(py: Python<'py>) -> Self {
        let interned = INTERNED.get_or_init(py, || {
            KEYS.map(|key| PyString::intern(py, unquoted(key)).unbind())
        });
        Self {
            py,
            interned,
            next: 0,
        }
    }

    /// The key that probably comes next, quoted.
    #[inline]
    pub(crate) fn expected(&self) -> &'static str {
        KEYS.get(self.next).copied().unwrap_or(KEYS[0])
    }

    /// The string of `key`, or of the [`expected`](Self::expected) one; `None` for a key that
    /// is not well known.
    #[inline]
    pub(crate) fn shared(&mut self, key: Option<&[u8]>) -> Option<Bound<'py, PyString>> {
        let found = match key {
            None => self.next % KEYS.len(),
            Some(key) => KEYS
                .iter()
                .position(|known| unquoted(known).as_bytes() == key)?,
        };
        self.next = found + 1;
        Some(self.interned[found].bind(self.py).clone())
    }

    /// The string of `key`, which is compared with the expected one first.
    #[inline]
    pub(crate) fn guessed(&mut self, key: &[u8]) -> Option<Bound<'py, PyString>> {
        let as_expected = unquoted(self.expected()).as_bytes() == key;
        self.shared((!as_expected).then_some(key))
    }
}

fn unquoted(key: &str) -> &str {
    &key[1..key.len() - 1]
}
