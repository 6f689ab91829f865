//! The base64 of message bodies.
//!
//! Stricter than Python's `base64.b64decode`, which skips characters outside the alphabet and
//! ignores stray bits at the end: what is accepted here decodes to the same bytes there, and
//! anything else is an error that sends the caller to Python.

use base64_simd::{AsOut, STANDARD};

use crate::message::{DecodeError, DecodeErrorKind};

/// The number of bytes that `encoded` stands for.
///
/// # Errors
///
/// [`DecodeErrorKind::Base64`] when the length or the padding is wrong.
pub fn decoded_len(encoded: &[u8]) -> Result<usize, DecodeError> {
    STANDARD.decoded_length(encoded).map_err(|_| DecodeErrorKind::Base64.at(0))
}

/// Decodes `encoded` into `out`, which is [`decoded_len`] bytes long.
///
/// # Errors
///
/// [`DecodeErrorKind::Base64`]; `out` then holds anything.
pub fn decode_into(encoded: &[u8], out: &mut [u8]) -> Result<(), DecodeError> {
    STANDARD
        .decode(encoded, out.as_out())
        .map(drop)
        .map_err(|_| DecodeErrorKind::Base64.at(0))
}
