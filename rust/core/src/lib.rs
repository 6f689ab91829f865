//! The parts of celery-hybrid that know neither Python, nor sockets, nor a clock.
//!
//! Bytes and the current time are arguments; everything here can be tested, fuzzed and
//! model-checked without a Python interpreter.

pub mod amqp;
pub mod envelope;
pub mod message;
pub mod packing;
pub mod slab;
mod sync;
pub mod timer;
