//! A pull reader of JSON for short messages full of well-known keys.
//!
//! jiter reads everything; this reads what Celery writes in nearly every message, and hands the
//! rest to jiter: strings with escapes, numbers other than small integers, values to be skipped.
//! It accepts and means exactly what jiter does. What it gains is [`Reader::key`], which compares
//! a key with the one that is probably there instead of searching for its end.

use std::borrow::Cow;

use jiter::{Jiter, JsonValue, NumberAny, NumberInt};

use super::error::{DecodeError, DecodeErrorKind};

/// A position in a JSON text.
#[derive(Debug)]
pub struct Reader<'a> {
    text: &'a str,
    index: usize,
}

impl<'a> Reader<'a> {
    /// Stands at the start of `text`.
    #[must_use]
    pub fn new(text: &'a str) -> Self {
        Self { text, index: 0 }
    }

    /// The offset in bytes from the start of the text.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// The first byte of what comes next, whitespace skipped.
    ///
    /// # Errors
    ///
    /// [`DecodeErrorKind::Json`] at the end of the text.
    #[inline]
    pub fn peek(&mut self) -> Result<u8, DecodeError> {
        let bytes = self.text.as_bytes();
        while let Some(&byte) = bytes.get(self.index) {
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Ok(byte);
            }
            self.index += 1;
        }
        Err(self.error())
    }

    /// Consumes the opening `{` or `[` and tells whether there is anything before `close`.
    ///
    /// # Errors
    ///
    /// [`DecodeErrorKind::Json`] at the end of the text.
    #[inline]
    pub fn open(&mut self, close: u8) -> Result<bool, DecodeError> {
        self.index += 1;
        let empty = self.peek()? == close;
        self.index += usize::from(empty);
        Ok(!empty)
    }

    /// Consumes the `,` or `close` after an element and tells whether another one follows.
    ///
    /// # Errors
    ///
    /// [`DecodeErrorKind::Json`] for anything else.
    #[inline]
    pub fn more(&mut self, close: u8) -> Result<bool, DecodeError> {
        let byte = self.peek()?;
        if byte != b',' && byte != close {
            return Err(self.error());
        }
        self.index += 1;
        Ok(byte == b',')
    }

    /// Consumes a key and the colon after it; `None` if it is `expected`, which is quoted.
    ///
    /// # Errors
    ///
    /// [`DecodeErrorKind::Json`] where there is no key.
    #[inline]
    pub fn key(&mut self, expected: &str) -> Result<Option<Cow<'a, str>>, DecodeError> {
        if self.peek()? != b'"' {
            return Err(self.error());
        }
        let key = if self.text.as_bytes()[self.index..].starts_with(expected.as_bytes()) {
            self.index += expected.len();
            None
        } else {
            Some(self.string()?)
        };
        if self.peek()? != b':' {
            return Err(self.error());
        }
        self.index += 1;
        Ok(key)
    }

    /// Consumes the string in front, which starts with the quote that was peeked.
    ///
    /// # Errors
    ///
    /// [`DecodeErrorKind::Json`] for bad escapes, control characters and a missing end.
    #[inline]
    pub fn string(&mut self) -> Result<Cow<'a, str>, DecodeError> {
        let start = self.index + 1;
        let end = plain_end(self.text.as_bytes(), start);
        if self.text.as_bytes().get(end) == Some(&b'"') {
            self.index = end + 1;
            return Ok(Cow::Borrowed(&self.text[start..end]));
        }
        self.by_jiter(|jiter| match jiter.next_value()? {
            JsonValue::Str(text) => Ok(Cow::Owned(text.into_owned())),
            _ => Err(DecodeErrorKind::WrongType.at(0)),
        })
    }

    /// Consumes `literal`: `null`, `true` or `false`.
    ///
    /// # Errors
    ///
    /// [`DecodeErrorKind::Json`] for anything else.
    #[inline]
    pub fn literal(&mut self, literal: &str) -> Result<(), DecodeError> {
        if !self.text.as_bytes()[self.index..].starts_with(literal.as_bytes()) {
            return Err(self.error());
        }
        self.index += literal.len();
        Ok(())
    }

    /// Consumes a number.
    ///
    /// # Errors
    ///
    /// [`DecodeErrorKind::Json`] for anything else, `NaN` and infinities included.
    #[inline]
    pub fn number(&mut self) -> Result<NumberAny, DecodeError> {
        let digits = &self.text.as_bytes()[self.index..];
        match digits {
            [digit @ b'0'..=b'9', b',' | b'}' | b']', ..] => {
                self.index += 1;
                Ok(NumberAny::Int(NumberInt::Int(i64::from(digit - b'0'))))
            }
            _ => self.by_jiter(|jiter| Ok(jiter.next_number()?)),
        }
    }

    /// Consumes a value of any kind and returns its span.
    ///
    /// # Errors
    ///
    /// [`DecodeErrorKind::Json`] where there is no value.
    pub fn skip(&mut self) -> Result<&'a str, DecodeError> {
        self.peek()?;
        let start = self.index;
        self.by_jiter(|jiter| Ok(jiter.next_skip()?))?;
        Ok(&self.text[start..self.index])
    }

    /// Makes sure that nothing but whitespace follows.
    ///
    /// # Errors
    ///
    /// [`DecodeErrorKind::Json`] at what follows.
    pub fn finish(&mut self) -> Result<(), DecodeError> {
        match self.peek() {
            Ok(_) => Err(self.error()),
            Err(_) => Ok(()),
        }
    }

    /// The error that stops here.
    #[must_use]
    pub fn error(&self) -> DecodeError {
        DecodeErrorKind::Json.at(self.index)
    }

    fn by_jiter<T>(
        &mut self,
        read: impl FnOnce(&mut Jiter<'a>) -> Result<T, DecodeError>,
    ) -> Result<T, DecodeError> {
        let mut jiter = Jiter::new(&self.text.as_bytes()[self.index..]);
        let value = read(&mut jiter).map_err(|e| e.kind.at(self.index + e.index))?;
        self.index += jiter.current_index();
        Ok(value)
    }
}

/// The first byte from `start` on that a plain string cannot contain: quote, backslash, control.
#[inline]
fn plain_end(bytes: &[u8], start: usize) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    // Marks bytes below `limit`, and perhaps bytes above the lowest of them: subtraction carries.
    let below = |word: u64, limit: u8| word.wrapping_sub(ONES * u64::from(limit)) & !word & HIGH;

    let mut index = start;
    while let Some(chunk) = bytes.get(index..).and_then(<[u8]>::first_chunk::<8>) {
        let word = u64::from_le_bytes(*chunk);
        let quotes = below(word ^ (ONES * u64::from(b'"')), 1);
        let backslashes = below(word ^ (ONES * u64::from(b'\\')), 1);
        let found = quotes | backslashes | below(word, b' ');
        if found != 0 {
            return index + found.trailing_zeros() as usize / 8;
        }
        index += 8;
    }
    while let Some(byte) = bytes.get(index) {
        if matches!(byte, b'"' | b'\\' | 0..b' ') {
            break;
        }
        index += 1;
    }
    index
}
