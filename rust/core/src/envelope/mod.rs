//! kombu's virtual-transport envelope: the JSON object that sits in a Redis list.
//!
//! ```text
//! {"body": "W1tdLCB7fSwge31d", "content-encoding": "utf-8", "content-type": "application/json",
//!  "headers": {"task": "proj.add", "id": "…", …},
//!  "properties": {"body_encoding": "base64", "delivery_tag": "…", "delivery_info": {…}, …}}
//! ```
//!
//! [`Envelope::read`] goes over the bytes once. What becomes of the fields other than the body
//! is up to the caller: spans of the input, or Python objects. Whatever kombu might read
//! differently is an error, upon which the caller uses kombu's decoder.

mod body;

pub use body::{Body, BodyEncoding, encode_base64};

use crate::message::{DecodeError, DecodeErrorKind, Reader, json};

/// The fields of an envelope. The last of several fields of one name counts, as in Python.
#[derive(Debug, PartialEq)]
pub struct Envelope<'a, V> {
    /// What stands between the quotes of `body`, for [`Body::new`]; `None` when it is absent or
    /// `null`.
    pub body: Option<&'a [u8]>,
    /// `content-type`.
    pub content_type: Option<V>,
    /// `content-encoding`.
    pub content_encoding: Option<V>,
    /// `headers`.
    pub headers: Option<V>,
    /// `properties`.
    pub properties: Option<V>,
}

impl<'a, V> Envelope<'a, V> {
    /// Reads the envelope in `data`, calling `build` to consume the value of each field.
    ///
    /// `build` gets the reader in front of a value and must leave it behind; [`Reader::skip`]
    /// is one that does.
    ///
    /// # Errors
    ///
    /// Those of [`json::check`] and of `build`, and [`DecodeErrorKind::Json`] or
    /// [`DecodeErrorKind::WrongType`] where there is no object, or no string for a body.
    pub fn read(
        data: &'a [u8],
        mut build: impl FnMut(&mut Reader<'a>) -> Result<V, DecodeError>,
    ) -> Result<Self, DecodeError> {
        let mut envelope = Self {
            body: None,
            content_type: None,
            content_encoding: None,
            headers: None,
            properties: None,
        };
        let mut reader = Reader::new(json::check(data)?);
        if reader.peek()? != b'{' {
            return Err(DecodeErrorKind::WrongType.at(reader.index()));
        }
        let mut more = reader.open(b'}')?;
        while more {
            let key = reader.key(FIRST)?;
            let field = match key.as_deref() {
                None => {
                    envelope.body = read_body(&mut reader)?;
                    more = reader.more(b'}')?;
                    continue;
                }
                Some("content-type") => Some(&mut envelope.content_type),
                Some("content-encoding") => Some(&mut envelope.content_encoding),
                Some("headers") => Some(&mut envelope.headers),
                Some("properties") => Some(&mut envelope.properties),
                Some(_) => None,
            };
            match field {
                Some(field) => *field = Some(build(&mut reader)?),
                None => drop(reader.skip()?),
            }
            more = reader.more(b'}')?;
        }
        reader.finish()?;
        Ok(envelope)
    }
}

/// The key that kombu writes first.
const FIRST: &str = "\"body\"";

fn read_body<'a>(reader: &mut Reader<'a>) -> Result<Option<&'a [u8]>, DecodeError> {
    match reader.peek()? {
        b'n' => reader.literal("null").map(|()| None),
        b'"' => {
            let quoted = reader.skip()?;
            Ok(Some(&quoted.as_bytes()[1..quoted.len() - 1]))
        }
        _ => Err(DecodeErrorKind::WrongType.at(reader.index())),
    }
}
