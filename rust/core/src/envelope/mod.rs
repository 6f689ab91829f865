//! kombu's virtual-transport envelope: the JSON object that sits in a Redis list.
//!
//! ```text
//! {"body": "W1tdLCB7fSwge31d", "content-encoding": "utf-8", "content-type": "application/json",
//!  "headers": {"task": "proj.add", "id": "…", …},
//!  "properties": {"body_encoding": "base64", "delivery_tag": "…", "delivery_info": {…}, …}}
//! ```
//!
//! [`Envelope::split`] finds the fields and copies none of them. What it returns is what
//! `kombu.transport.virtual.Message` would read from the same bytes; anything it is unsure of is
//! an error, upon which the caller uses kombu's decoder.

pub mod base64;

use std::borrow::Cow;

use jiter::{Jiter, JsonValue, Peek};

use crate::message::json;
use crate::message::{DecodeError, DecodeErrorKind};

/// The fields of an envelope, as spans of its bytes.
#[derive(Debug, PartialEq)]
pub struct Envelope<'a> {
    /// The body, still in its transfer encoding.
    pub body: Body<'a>,
    /// The JSON of `content-type`; `None` when absent.
    pub content_type: Option<&'a [u8]>,
    /// The JSON of `content-encoding`; `None` when absent.
    pub content_encoding: Option<&'a [u8]>,
    /// The JSON object `headers`; `None` when it is absent or `null`.
    pub headers: Option<&'a [u8]>,
    /// The JSON object `properties`. It has a `delivery_tag`.
    pub properties: &'a [u8],
}

/// The body of an envelope.
#[derive(Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// Absent or `null`.
    None,
    /// The characters of a base64 text: see [`base64`].
    Base64(&'a [u8]),
    /// The body itself.
    Text(Cow<'a, str>),
}

/// The JSON of a field and whether it must be looked at again.
#[derive(Clone, Copy)]
struct Field<'a> {
    json: &'a [u8],
    peek: Peek,
}

impl<'a> Field<'a> {
    /// The span, or `None` for `null`.
    fn object(self, data: &'a [u8]) -> Result<Option<&'a [u8]>, DecodeError> {
        match self.peek {
            Peek::Object => Ok(Some(self.json)),
            Peek::Null => Ok(None),
            _ => Err(self.wrong_type(data)),
        }
    }

    fn wrong_type(self, data: &'a [u8]) -> DecodeError {
        DecodeErrorKind::WrongType.at(offset_in(data, self.json))
    }
}

impl<'a> Envelope<'a> {
    /// Finds the fields of the envelope in `data`.
    ///
    /// # Errors
    ///
    /// See [`DecodeErrorKind`]: malformed JSON, a field that is missing or of another type, a
    /// compressed body, and a body encoding other than base64 and text.
    pub fn split(data: &'a [u8]) -> Result<Self, DecodeError> {
        json::check(data)?;

        let (mut body, mut content_type, mut content_encoding) = (None, None, None);
        let (mut headers, mut properties) = (None, None);
        let mut jiter = Jiter::new(data);
        // The last of several equal keys counts, as in a Python dict.
        let mut next = jiter.next_object()?;
        while let Some(key) = next {
            let slot = match key {
                "body" => &mut body,
                "content-type" => &mut content_type,
                "content-encoding" => &mut content_encoding,
                "headers" => &mut headers,
                "properties" => &mut properties,
                _ => &mut None,
            };
            *slot = Some(skip(&mut jiter)?);
            next = jiter.next_key()?;
        }
        let end = jiter.current_index();
        jiter.finish()?;

        let properties = match properties {
            Some(field) => field.object(data)?,
            None => None,
        }
        .ok_or(DecodeErrorKind::Missing.at(end))?;
        let headers = match headers {
            Some(field) => field.object(data)?,
            None => None,
        };
        if let Some(headers) = headers {
            refuse_compression(headers).map_err(|e| shifted(e, data, headers))?;
        }
        let encoding =
            body_encoding(properties).map_err(|e| shifted(e, data, properties))?;
        let body = match body {
            None => Body::None,
            Some(field) => match (field.peek, encoding) {
                (Peek::Null, _) => Body::None,
                (Peek::String, BodyEncoding::Base64) => {
                    Body::Base64(&field.json[1..field.json.len() - 1])
                }
                (Peek::String, BodyEncoding::Text) => Body::Text(text(field.json)?),
                _ => return Err(field.wrong_type(data)),
            },
        };
        Ok(Self {
            body,
            content_type: content_type.map(|f| f.json),
            content_encoding: content_encoding.map(|f| f.json),
            headers,
            properties,
        })
    }
}

/// How the body travels.
enum BodyEncoding {
    Base64,
    Text,
}

fn body_encoding(properties: &[u8]) -> Result<BodyEncoding, DecodeError> {
    let (mut encoding, mut tag) = (None, None);
    let mut jiter = Jiter::new(properties);
    let mut next = jiter.next_object()?;
    while let Some(key) = next {
        let slot = match key {
            "body_encoding" => &mut encoding,
            "delivery_tag" => &mut tag,
            _ => &mut None,
        };
        *slot = Some(skip(&mut jiter)?);
        next = jiter.next_key()?;
    }
    if tag.is_none() {
        return Err(DecodeErrorKind::Missing.at(properties.len()));
    }
    match encoding.map(|field| field.json) {
        None | Some(b"null" | b"\"\"") => Ok(BodyEncoding::Text),
        Some(b"\"base64\"") => Ok(BodyEncoding::Base64),
        Some(name) if name.eq_ignore_ascii_case(b"\"utf-8\"") => Ok(BodyEncoding::Text),
        Some(other) => Err(DecodeErrorKind::BodyEncoding.at(offset_in(properties, other))),
    }
}

fn refuse_compression(headers: &[u8]) -> Result<(), DecodeError> {
    // Nearly no message has the word in it, so nearly no message is walked.
    if memchr::memmem::find(headers, b"compression").is_none() {
        return Ok(());
    }
    let mut jiter = Jiter::new(headers);
    let mut next = jiter.next_object()?;
    while let Some(key) = next {
        let is_compression = key == "compression";
        let field = skip(&mut jiter)?;
        if is_compression && field.peek != Peek::Null {
            return Err(DecodeErrorKind::Compressed.at(offset_in(headers, field.json)));
        }
        next = jiter.next_key()?;
    }
    Ok(())
}

fn skip<'a>(jiter: &mut Jiter<'a>) -> Result<Field<'a>, DecodeError> {
    let peek = jiter.peek()?;
    let start = jiter.current_index();
    jiter.known_skip(peek)?;
    Ok(Field { json: jiter.slice_to_current(start), peek })
}

fn text(json: &[u8]) -> Result<Cow<'_, str>, DecodeError> {
    match Jiter::new(json).next_value()? {
        JsonValue::Str(text) => Ok(text),
        _ => Err(DecodeErrorKind::WrongType.at(0)),
    }
}

fn shifted(error: DecodeError, data: &[u8], part: &[u8]) -> DecodeError {
    error.kind.at(error.index + offset_in(data, part))
}

/// Where `part`, a slice of `data`, starts in it.
fn offset_in(data: &[u8], part: &[u8]) -> usize {
    part.as_ptr() as usize - data.as_ptr() as usize
}
