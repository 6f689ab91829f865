//! Field tables and arrays, written in place.
//!
//! Of the types that mean the same, those that py-amqp chooses, so that what is sent does not
//! depend on who encodes it: `I` or `L` for a number, `d` for a float, `S` for text and bytes.

use super::error::{AmqpError, AmqpErrorKind};
use super::table::MAX_DEPTH;

/// Appends values to a frame.
///
/// A table is [`open_table`](Self::open_table), then [`name`](Self::name) and a value for each
/// field, then [`close`](Self::close); an array is values between [`open_array`](Self::open_array)
/// and `close`. An error leaves something useless behind.
#[derive(Debug, Default)]
pub struct Writer {
    out: Vec<u8>,
    /// Where the length of each open table and array is.
    open: Vec<usize>,
}

impl Writer {
    pub(super) const fn new(out: Vec<u8>) -> Self {
        Self {
            out,
            open: Vec::new(),
        }
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.out
    }

    pub(super) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// The error `kind`, met here.
    #[must_use]
    pub fn error(&self, kind: AmqpErrorKind) -> AmqpError {
        kind.at(self.out.len())
    }

    /// Opens a table as a value.
    ///
    /// # Errors
    ///
    /// [`AmqpErrorKind::Depth`].
    pub fn open_table(&mut self) -> Result<(), AmqpError> {
        self.out.push(b'F');
        self.open()
    }

    /// Opens an array as a value.
    ///
    /// # Errors
    ///
    /// [`AmqpErrorKind::Depth`].
    pub fn open_array(&mut self) -> Result<(), AmqpError> {
        self.out.push(b'A');
        self.open()
    }

    /// Opens a table or array without the octet that says which.
    pub(super) fn open(&mut self) -> Result<(), AmqpError> {
        if self.open.len() >= usize::from(MAX_DEPTH) {
            return Err(self.error(AmqpErrorKind::Depth));
        }
        self.open.push(self.out.len());
        self.out.extend_from_slice(&[0; 4]);
        Ok(())
    }

    /// Closes the innermost open table or array.
    ///
    /// # Errors
    ///
    /// [`AmqpErrorKind::Length`] when it is too long, [`AmqpErrorKind::Order`] when none is open.
    pub fn close(&mut self) -> Result<(), AmqpError> {
        let order = self.error(AmqpErrorKind::Order);
        let start = self.open.pop().ok_or(order)?;
        let len = u32::try_from(self.out.len() - start - 4)
            .map_err(|_| self.error(AmqpErrorKind::Length))?;
        self.out[start..start + 4].copy_from_slice(&len.to_be_bytes());
        Ok(())
    }

    /// The name of a field.
    ///
    /// # Errors
    ///
    /// [`AmqpErrorKind::Length`] past 255 octets.
    pub fn name(&mut self, name: &[u8]) -> Result<(), AmqpError> {
        self.short_string(name)
    }

    /// Octets behind their number.
    pub(super) fn short_string(&mut self, text: &[u8]) -> Result<(), AmqpError> {
        let len = u8::try_from(text.len()).map_err(|_| self.error(AmqpErrorKind::Length))?;
        self.out.push(len);
        self.out.extend_from_slice(text);
        Ok(())
    }

    /// Text, or bytes: py-amqp does not tell them apart.
    ///
    /// # Errors
    ///
    /// [`AmqpErrorKind::Length`] past 4 GiB.
    pub fn long_string(&mut self, text: &[u8]) -> Result<(), AmqpError> {
        let len = u32::try_from(text.len()).map_err(|_| self.error(AmqpErrorKind::Length))?;
        self.out.push(b'S');
        self.out.extend_from_slice(&len.to_be_bytes());
        self.out.extend_from_slice(text);
        Ok(())
    }

    /// A number: `I`, or `L` where that is too narrow. py-amqp's `I` does not hold its minimum.
    pub fn int(&mut self, value: i64) {
        match i32::try_from(value) {
            Ok(short) if short != i32::MIN => {
                self.out.push(b'I');
                self.out.extend_from_slice(&short.to_be_bytes());
            }
            _ => {
                self.out.push(b'L');
                self.out.extend_from_slice(&value.to_be_bytes());
            }
        }
    }

    /// A floating-point number.
    pub fn float(&mut self, value: f64) {
        self.out.push(b'd');
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    /// A boolean.
    pub fn bool(&mut self, value: bool) {
        self.out.extend_from_slice(&[b't', u8::from(value)]);
    }

    /// Seconds since 1970.
    pub fn timestamp(&mut self, seconds: u64) {
        self.out.push(b'T');
        self.out.extend_from_slice(&seconds.to_be_bytes());
    }

    /// Nothing.
    pub fn void(&mut self) {
        self.out.push(b'V');
    }
}
