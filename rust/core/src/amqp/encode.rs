//! The methods that a worker sends most, as whole frames.

use super::error::{AmqpError, AmqpErrorKind};
use super::properties::{Property, Shape};
use super::reader::{CLASS_BASIC, FRAME_END, FRAME_OVERHEAD, FRAME_PREFIX, FrameKind};
use super::writer::Writer;

const QOS: u16 = 10;
const PUBLISH: u16 = 40;
const ACK: u16 = 80;
const REJECT: u16 = 90;
const NACK: u16 = 120;

/// What most method and header frames of a task message fit into.
const USUAL_HEAD: usize = 1024;

/// Appends a `basic.ack`, AMQP 0-9-1 section 1.8.3.13.
pub fn ack(out: &mut Vec<u8>, channel: u16, delivery_tag: u64, multiple: bool) {
    method(out, channel, ACK, |out| {
        out.extend_from_slice(&delivery_tag.to_be_bytes());
        out.push(u8::from(multiple));
    });
}

/// Appends a `basic.nack`, <https://www.rabbitmq.com/nack.html>.
pub fn nack(out: &mut Vec<u8>, channel: u16, delivery_tag: u64, multiple: bool, requeue: bool) {
    method(out, channel, NACK, |out| {
        out.extend_from_slice(&delivery_tag.to_be_bytes());
        out.push(bits(multiple, requeue));
    });
}

/// Appends a `basic.reject`, AMQP 0-9-1 section 1.8.3.14.
pub fn reject(out: &mut Vec<u8>, channel: u16, delivery_tag: u64, requeue: bool) {
    method(out, channel, REJECT, |out| {
        out.extend_from_slice(&delivery_tag.to_be_bytes());
        out.push(u8::from(requeue));
    });
}

/// Appends a `basic.qos`, AMQP 0-9-1 section 1.8.3.1.
pub fn qos(out: &mut Vec<u8>, channel: u16, size: u32, count: u16, global: bool) {
    method(out, channel, QOS, |out| {
        out.extend_from_slice(&size.to_be_bytes());
        out.extend_from_slice(&count.to_be_bytes());
        out.push(u8::from(global));
    });
}

/// Two bits, which share an octet: the first is the lowest, section 4.2.5.2.
fn bits(first: bool, second: bool) -> u8 {
    u8::from(first) | u8::from(second) << 1
}

/// A method frame whose arguments are shorter than any frame may be.
fn method(out: &mut Vec<u8>, channel: u16, method: u16, arguments: impl FnOnce(&mut Vec<u8>)) {
    let start = begin(out, FrameKind::Method, channel);
    out.extend_from_slice(&CLASS_BASIC.to_be_bytes());
    out.extend_from_slice(&method.to_be_bytes());
    arguments(out);
    let len = out.len() - start;
    // Saturates where a `u32` does not hold it, which nothing encoded here comes near.
    patch_len(out, start, u32::try_from(len).unwrap_or(u32::MAX));
    out.push(FRAME_END);
}

/// Starts a frame and returns where its payload starts.
fn begin(out: &mut Vec<u8>, kind: FrameKind, channel: u16) -> usize {
    let [high, low] = channel.to_be_bytes();
    out.extend_from_slice(&[kind as u8, high, low, 0, 0, 0, 0]);
    out.len()
}

fn patch_len(out: &mut [u8], start: usize, len: u32) {
    out[start - 4..start].copy_from_slice(&len.to_be_bytes());
}

/// A `basic.publish` in the making, AMQP 0-9-1 section 1.8.3.7.
///
/// Properties are added in the order of [`Property::ALL`].
#[derive(Debug)]
pub struct Publish {
    writer: Writer,
    channel: u16,
    /// Where the payload of the content header starts.
    header: usize,
    flags: u16,
}

impl Publish {
    /// Starts with the arguments of the method; texts are in UTF-8.
    ///
    /// # Errors
    ///
    /// [`AmqpErrorKind::Length`] for a name past 255 octets.
    pub fn new(
        channel: u16,
        exchange: &[u8],
        routing_key: &[u8],
        mandatory: bool,
        immediate: bool,
    ) -> Result<Self, AmqpError> {
        let too_long = AmqpErrorKind::Length.at(0);
        let mut out = Vec::with_capacity(USUAL_HEAD);
        let lens = (
            u8::try_from(exchange.len()).map_err(|_| too_long)?,
            u8::try_from(routing_key.len()).map_err(|_| too_long)?,
        );
        method(&mut out, channel, PUBLISH, |out| {
            out.extend_from_slice(&[0, 0]); // reserved, once the access ticket
            out.push(lens.0);
            out.extend_from_slice(exchange);
            out.push(lens.1);
            out.extend_from_slice(routing_key);
            out.push(bits(mandatory, immediate));
        });
        let header = begin(&mut out, FrameKind::Header, channel);
        out.extend_from_slice(&CLASS_BASIC.to_be_bytes());
        out.extend_from_slice(&[0; 12]); // weight, body size and flags: the last two come later
        Ok(Self {
            writer: Writer::new(out),
            channel,
            header,
            flags: 0,
        })
    }

    /// Adds a property that is text in UTF-8.
    ///
    /// # Errors
    ///
    /// [`AmqpErrorKind::Length`] past 255 octets, [`AmqpErrorKind::Order`] for a property that is
    /// no text or comes too late.
    pub fn short_string(&mut self, property: Property, text: &[u8]) -> Result<(), AmqpError> {
        self.flag(property, Shape::ShortString)?;
        self.writer.short_string(text)
    }

    /// Adds a property that is a small number.
    ///
    /// # Errors
    ///
    /// [`AmqpErrorKind::Order`] for a property that is no octet or comes too late.
    pub fn octet(&mut self, property: Property, value: u8) -> Result<(), AmqpError> {
        self.flag(property, Shape::Octet)?;
        self.writer.out().push(value);
        Ok(())
    }

    /// Adds a property that is a time, in seconds since 1970.
    ///
    /// # Errors
    ///
    /// [`AmqpErrorKind::Order`] for a property that is no time or comes too late.
    pub fn timestamp(&mut self, property: Property, seconds: u64) -> Result<(), AmqpError> {
        self.flag(property, Shape::Timestamp)?;
        self.writer.out().extend_from_slice(&seconds.to_be_bytes());
        Ok(())
    }

    /// Adds a property that is a table, whose fields `fill` writes.
    ///
    /// # Errors
    ///
    /// Those of `fill`, and [`AmqpErrorKind::Order`] for a property that is no table or comes too
    /// late.
    pub fn table(
        &mut self,
        property: Property,
        fill: impl FnOnce(&mut Writer) -> Result<(), AmqpError>,
    ) -> Result<(), AmqpError> {
        self.flag(property, Shape::Table)?;
        self.writer.open()?;
        fill(&mut self.writer)?;
        self.writer.close()
    }

    fn flag(&mut self, property: Property, shape: Shape) -> Result<(), AmqpError> {
        // This flag and those below it are those of this property and of the ones after it.
        let late = self.flags & (property.flag() | (property.flag() - 1)) != 0;
        if late || property.shape() != shape {
            return Err(self.writer.error(AmqpErrorKind::Order));
        }
        self.flags |= property.flag();
        Ok(())
    }

    /// Adds the body, cut into frames of at most `frame_max` bytes; 0 for no limit.
    ///
    /// # Errors
    ///
    /// [`AmqpErrorKind::FrameSize`] when method or properties need a longer frame.
    pub fn finish(self, body: &[u8], frame_max: u32) -> Result<Published<'_>, AmqpError> {
        let too_long = self.writer.error(AmqpErrorKind::FrameSize);
        let longest = match usize::try_from(frame_max) {
            Ok(0) | Err(_) => usize::try_from(u32::MAX).unwrap_or(usize::MAX),
            Ok(most) => most.saturating_sub(FRAME_OVERHEAD),
        };
        let mut head = self.writer.into_bytes();
        let method = self.header - FRAME_PREFIX - FRAME_OVERHEAD;
        let header = head.len() - self.header;
        if method.max(header) > longest {
            return Err(too_long);
        }
        let header = u32::try_from(header).map_err(|_| too_long)?;
        patch_len(&mut head, self.header, header);
        let size = self.header + 4;
        head[size..size + 8].copy_from_slice(&(body.len() as u64).to_be_bytes());
        head[size + 8..size + 10].copy_from_slice(&self.flags.to_be_bytes());
        head.push(FRAME_END);
        Ok(Published {
            head,
            body,
            channel: self.channel,
            longest,
        })
    }
}

/// The frames of a `basic.publish`, ready to be written where they are wanted.
#[derive(Debug)]
pub struct Published<'a> {
    head: Vec<u8>,
    body: &'a [u8],
    channel: u16,
    longest: usize,
}

impl Published<'_> {
    /// How many bytes the frames have.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // it never is
    pub fn len(&self) -> usize {
        let frames = self.body.len().div_ceil(self.longest);
        self.head.len() + self.body.len() + frames * FRAME_OVERHEAD
    }

    /// Writes the frames into `out`, which is [`len`](Self::len) bytes long.
    pub fn write_into(&self, out: &mut [u8]) {
        let (head, mut rest) = out.split_at_mut(self.head.len());
        head.copy_from_slice(&self.head);
        for part in self.body.chunks(self.longest) {
            let frame;
            (frame, rest) = rest.split_at_mut(part.len() + FRAME_OVERHEAD);
            let (prefix, payload) = frame.split_at_mut(FRAME_PREFIX);
            prefix[0] = FrameKind::Body as u8;
            prefix[1..3].copy_from_slice(&self.channel.to_be_bytes());
            // `longest` came from a `u32`.
            let len = u32::try_from(part.len()).unwrap_or(u32::MAX);
            prefix[3..].copy_from_slice(&len.to_be_bytes());
            payload[..part.len()].copy_from_slice(part);
            payload[part.len()] = FRAME_END;
        }
    }
}
