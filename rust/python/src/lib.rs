//! `hybrid._rust`: [`hybrid_core`] for Python.
//!
//! Converts types and errors, and decides nothing. Nothing here calls a Python callable:
//! a callback could switch greenlets under a Rust frame.

#[pyo3::pymodule(gil_used = false)]
mod _rust {}
