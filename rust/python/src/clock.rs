//! Seconds of Python's monotonic clock, as floats, to and from the nanoseconds of the core.

use pyo3::PyResult;
use pyo3::exceptions::PyValueError;

/// Converts seconds to nanoseconds. Times before the clock's zero become its zero, times past
/// the end of `u64` its end.
pub(crate) fn to_ns(seconds: f64) -> PyResult<u64> {
    if seconds.is_nan() {
        return Err(PyValueError::new_err(
            "a time must be a number of seconds, not nan",
        ));
    }
    // A float to integer cast saturates, which is what is wanted here.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Ok((seconds * 1e9) as u64)
}

/// Converts nanoseconds to seconds.
pub(crate) fn to_seconds(ns: u64) -> f64 {
    // A clock past 2^53 ns, 104 days, loses one nanosecond here, which delays nothing.
    #[allow(clippy::cast_precision_loss)]
    let ns = ns as f64;
    ns / 1e9
}
