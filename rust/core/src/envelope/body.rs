//! How a body travels inside the envelope.

use std::borrow::Cow;

use base64_simd::{AsOut, STANDARD};
use jiter::{Jiter, JsonValue};

use crate::message::{DecodeError, DecodeErrorKind};

/// The transfer encoding of a body: `properties.body_encoding`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyEncoding {
    /// Standard base64.
    Base64,
    /// The text of the body.
    Text,
}

impl BodyEncoding {
    /// The encoding that kombu knows by `name`; no name stands for text.
    ///
    /// # Errors
    ///
    /// [`DecodeErrorKind::BodyEncoding`] for any other name.
    pub fn from_name(name: Option<&str>) -> Result<Self, DecodeError> {
        match name {
            None | Some("") => Ok(Self::Text),
            Some("base64") => Ok(Self::Base64),
            Some(name) if name.eq_ignore_ascii_case("utf-8") => Ok(Self::Text),
            Some(_) => Err(DecodeErrorKind::BodyEncoding.at(0)),
        }
    }
}

/// The base64 of `body`, as `base64.b64encode` has it.
#[must_use]
pub fn encode_base64(body: &[u8]) -> String {
    STANDARD.encode_to_string(body)
}

/// A body whose decoded length is known.
///
/// Its base64 is stricter than Python's `base64.b64decode`, which skips characters outside the
/// alphabet and ignores stray bits at the end: what is accepted here decodes to the same bytes
/// there, and anything else is an error that sends the caller to Python.
#[derive(Debug)]
pub struct Body<'a> {
    source: Source<'a>,
    len: usize,
}

#[derive(Debug)]
enum Source<'a> {
    Base64(&'a [u8]),
    Text(Cow<'a, str>),
}

impl<'a> Body<'a> {
    /// The body in `span`, which is what stands between the quotes of a JSON string.
    ///
    /// # Errors
    ///
    /// [`DecodeErrorKind::Base64`] when length or padding are wrong, [`DecodeErrorKind::Json`]
    /// or [`DecodeErrorKind::Utf8`] when `span` is no part of a JSON text.
    pub fn new(span: &'a [u8], encoding: BodyEncoding) -> Result<Self, DecodeError> {
        match encoding {
            // A backslash is not in the alphabet, so escapes are refused along with the rest.
            BodyEncoding::Base64 => {
                let len = STANDARD
                    .decoded_length(span)
                    .map_err(|_| DecodeErrorKind::Base64.at(0))?;
                Ok(Self {
                    source: Source::Base64(span),
                    len,
                })
            }
            BodyEncoding::Text => {
                let text = unescaped(span)?;
                Ok(Self {
                    len: text.len(),
                    source: Source::Text(text),
                })
            }
        }
    }

    /// The length of the decoded body in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the decoded body is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Decodes the body into `out`, which is [`len`](Self::len) bytes long.
    ///
    /// # Errors
    ///
    /// [`DecodeErrorKind::Base64`]; `out` then holds anything.
    pub fn decode_into(&self, out: &mut [u8]) -> Result<(), DecodeError> {
        match &self.source {
            Source::Text(text) => out.copy_from_slice(text.as_bytes()),
            Source::Base64(encoded) => {
                STANDARD
                    .decode(encoded, out.as_out())
                    .map_err(|_| DecodeErrorKind::Base64.at(0))?;
            }
        }
        Ok(())
    }
}

/// The text of a JSON string without its quotes.
fn unescaped(span: &[u8]) -> Result<Cow<'_, str>, DecodeError> {
    if !span.contains(&b'\\') {
        let text = std::str::from_utf8(span);
        return text
            .map(Cow::Borrowed)
            .map_err(|e| DecodeErrorKind::Utf8.at(e.valid_up_to()));
    }
    let quoted = [b"\"", span, b"\""].concat();
    match Jiter::new(&quoted).next_value()? {
        JsonValue::Str(text) => Ok(Cow::Owned(text.into_owned())),
        _ => Err(DecodeErrorKind::WrongType.at(0)),
    }
}
