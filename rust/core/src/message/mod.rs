//! Celery's task messages: protocol 1, protocol 2, and the hybrid of both.
pub mod json;
mod error;
pub use error::{DecodeError, DecodeErrorKind};
