//! A delivered message, as compact as it came.

use super::cursor::Cursor;
use super::error::AmqpError;
use super::properties::Properties;

/// A message of `basic.deliver`, with nothing decoded that was not needed to put it together.
///
/// One block of memory as long as what was received, so that hundreds of thousands of them can be
/// held until they are due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The arguments of the method, the payload of the content header, the body.
    bytes: Box<[u8]>,
    tag: u64,
    header_len: u32,
    arguments_len: u16,
    channel: u16,
    redelivered: bool,
}

/// The arguments of `basic.deliver`, AMQP 0-9-1 section 1.8.3.9.
#[derive(Debug, Clone, Copy)]
struct Arguments<'a> {
    consumer_tag: &'a [u8],
    delivery_tag: u64,
    redelivered: bool,
    exchange: &'a [u8],
    routing_key: &'a [u8],
}

impl<'a> Arguments<'a> {
    fn read(cursor: &mut Cursor<'a>) -> Result<Self, AmqpError> {
        Ok(Self {
            consumer_tag: cursor.short_string()?,
            delivery_tag: cursor.long_long()?,
            redelivered: cursor.octet()? & 1 != 0,
            exchange: cursor.short_string()?,
            routing_key: cursor.short_string()?,
        })
    }
}

impl Delivery {
    /// The channel on which it came.
    #[must_use]
    pub const fn channel(&self) -> u16 {
        self.channel
    }

    /// What acknowledges or rejects it, on its channel.
    #[must_use]
    pub const fn delivery_tag(&self) -> u64 {
        self.tag
    }

    /// Whether it was delivered before, perhaps to somebody else.
    #[must_use]
    pub const fn redelivered(&self) -> bool {
        self.redelivered
    }

    /// The consumer it is for; UTF-8 by specification.
    #[must_use]
    pub fn consumer_tag(&self) -> &[u8] {
        self.arguments().map_or(&[], |found| found.consumer_tag)
    }

    /// The exchange it was published to; UTF-8 by specification.
    #[must_use]
    pub fn exchange(&self) -> &[u8] {
        self.arguments().map_or(&[], |found| found.exchange)
    }

    /// The routing key it was published with; UTF-8 by specification.
    #[must_use]
    pub fn routing_key(&self) -> &[u8] {
        self.arguments().map_or(&[], |found| found.routing_key)
    }

    /// The payload of the content header frame: class, weight, body size, properties.
    #[must_use]
    pub fn header(&self) -> &[u8] {
        let start = usize::from(self.arguments_len);
        &self.bytes[start..start + self.header_len as usize]
    }

    /// The properties, which nobody has looked at so far.
    ///
    /// # Errors
    ///
    /// Those of [`Properties::new`].
    pub fn properties(&self) -> Result<Properties<'_>, AmqpError> {
        Properties::new(self.header())
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.bytes[usize::from(self.arguments_len) + self.header_len as usize..]
    }

    /// The memory behind this value, in bytes.
    #[must_use]
    pub const fn memory_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Cannot fail: [`Builder::new`] has read them.
    fn arguments(&self) -> Result<Arguments<'_>, AmqpError> {
        Arguments::read(&mut Cursor::new(&self.bytes, 0))
    }
}

/// How much memory a body gets on the word of its content header alone.
const TRUSTED: usize = 4096;

/// A delivery that is being received.
#[derive(Debug)]
pub(super) struct Builder {
    bytes: Vec<u8>,
    tag: u64,
    header_len: u32,
    arguments_len: u16,
    channel: u16,
    redelivered: bool,
}

impl Builder {
    /// Starts with the payload of the method frame, class and method behind it at `start`.
    pub(super) fn new(channel: u16, method: &[u8], start: usize) -> Result<Self, AmqpError> {
        let mut cursor = Cursor::new(method, start);
        let arguments = Arguments::read(&mut cursor)?;
        let read = &method[start..cursor.index()];
        Ok(Self {
            tag: arguments.delivery_tag,
            redelivered: arguments.redelivered,
            bytes: read.to_vec(),
            header_len: 0,
            // Three short strings and nine octets: 777 at most.
            arguments_len: u16::try_from(read.len()).unwrap_or(u16::MAX),
            channel,
        })
    }

    /// How many bytes it holds.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Adds the payload of the content header frame; `body_size` is what it declares.
    pub(super) fn header(&mut self, payload: &[u8], body_size: u64) {
        let body = usize::try_from(body_size).map_or(TRUSTED, |size| size.min(TRUSTED));
        self.bytes.reserve_exact(payload.len() + body);
        self.bytes.extend_from_slice(payload);
        // The length of a frame is a 32-bit number.
        self.header_len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    }

    /// Adds the payload of a body frame; `rest` octets are yet to come after it.
    pub(super) fn body(&mut self, payload: &[u8], rest: u64) {
        if rest == 0 {
            self.bytes.reserve_exact(payload.len());
        }
        // Otherwise the vector doubles, so that many frames cost no more than few.
        self.bytes.extend_from_slice(payload);
    }

    pub(super) fn finish(self) -> Delivery {
        Delivery {
            bytes: self.bytes.into_boxed_slice(),
            tag: self.tag,
            header_len: self.header_len,
            arguments_len: self.arguments_len,
            channel: self.channel,
            redelivered: self.redelivered,
        }
    }
}
