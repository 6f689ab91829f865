//! A position in the payload of a frame.

use super::error::{AmqpError, AmqpErrorKind};

/// Reads the primitive types of AMQP 0-9-1, section 4.2.5.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a> {
    /// From the start of the payload, so that offsets stay what they are in nested values.
    bytes: &'a [u8],
    index: usize,
}

impl<'a> Cursor<'a> {
    pub(super) const fn new(bytes: &'a [u8], index: usize) -> Self {
        Self { bytes, index }
    }

    pub(super) const fn index(&self) -> usize {
        self.index
    }

    pub(super) const fn is_at_end(&self) -> bool {
        self.index >= self.bytes.len()
    }

    pub(super) const fn error(&self, kind: AmqpErrorKind) -> AmqpError {
        kind.at(self.index)
    }

    /// Leaves nothing to read, so that an iterator ends after an error.
    pub(super) const fn exhaust(&mut self) {
        self.index = self.bytes.len();
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], AmqpError> {
        let rest = self.bytes.get(self.index..).unwrap_or_default();
        match rest.get(..len) {
            Some(taken) => {
                self.index += len;
                Ok(taken)
            }
            None => Err(self.error(AmqpErrorKind::Truncated)),
        }
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], AmqpError> {
        let rest = self.bytes.get(self.index..).unwrap_or_default();
        match rest.first_chunk::<N>() {
            Some(taken) => {
                self.index += N;
                Ok(*taken)
            }
            None => Err(self.error(AmqpErrorKind::Truncated)),
        }
    }

    pub(super) fn octet(&mut self) -> Result<u8, AmqpError> {
        self.array::<1>().map(|[octet]| octet)
    }

    pub(super) fn short(&mut self) -> Result<u16, AmqpError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn long_long(&mut self) -> Result<u64, AmqpError> {
        self.array().map(u64::from_be_bytes)
    }

    /// The octets of a short string, whose length is one octet.
    pub(super) fn short_string(&mut self) -> Result<&'a [u8], AmqpError> {
        let len = self.octet()?;
        self.take(usize::from(len))
    }

    /// The octets behind a length of four octets: a long string, a table, an array.
    pub(super) fn long_string(&mut self) -> Result<&'a [u8], AmqpError> {
        let len = u32::from_be_bytes(self.array()?);
        // A target with a narrower `usize` cannot hold that many bytes.
        self.take(usize::try_from(len).unwrap_or(usize::MAX))
    }

    /// A cursor over the octets behind a length of four octets.
    pub(super) fn nested(&mut self) -> Result<Self, AmqpError> {
        let len = self.long_string()?.len();
        Ok(Self {
            bytes: &self.bytes[..self.index],
            index: self.index - len,
        })
    }
}
