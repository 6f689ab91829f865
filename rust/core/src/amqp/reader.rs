//! Frames out of chunks of bytes, and deliveries out of frames.
//!
//! AMQP 0-9-1 section 2.3.5 and 4.2.3. Frames of different channels interleave as they like; on
//! one channel a method that carries content is followed by its header and its body.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::cursor::Cursor;
use super::delivery::{Builder, Delivery};
use super::error::{AmqpError, AmqpErrorKind};
use super::properties::HEADER_PREFIX;

/// The type, channel and length in front of a payload.
pub(super) const FRAME_PREFIX: usize = 7;
/// What surrounds a payload: the prefix, and the octet that ends a frame.
pub(super) const FRAME_OVERHEAD: usize = FRAME_PREFIX + 1;
pub(super) const FRAME_END: u8 = 0xCE;

/// A larger buffer for the frame in progress is given back when the frame is complete.
const KEPT_BUFFER: usize = 1 << 18;

pub(super) const CLASS_BASIC: u16 = 60;
const RETURN: u16 = 50;
const DELIVER: u16 = 60;
const GET_OK: u16 = 71;

/// The type of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// A method of a class, with its arguments.
    Method = 1,
    /// The size and the properties of a content.
    Header = 2,
    /// A part of a content.
    Body = 3,
    /// A sign of life.
    Heartbeat = 8,
}

impl FrameKind {
    const fn from_octet(octet: u8) -> Option<Self> {
        match octet {
            1 => Some(Self::Method),
            2 => Some(Self::Header),
            3 => Some(Self::Body),
            8 => Some(Self::Heartbeat),
            _ => None,
        }
    }
}

/// What the peer sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A message for a consumer, complete.
    Delivery(Delivery),
    /// Any other frame, in due order on its channel.
    Frame {
        /// Its type.
        kind: FrameKind,
        /// Its channel.
        channel: u16,
        /// Its payload.
        payload: Box<[u8]>,
    },
}

/// Reads the stream of one connection, in chunks of any size.
///
/// Holds the part of a frame that has come, and the contents in progress: never more than what
/// was received. An error is final, since nobody knows where the next frame would start.
#[derive(Debug)]
pub struct Reader {
    frame_max: u32,
    /// The beginning of a frame.
    pending: Vec<u8>,
    /// Contents in progress, by channel.
    contents: HashMap<u16, Content>,
    /// How many bytes of frames have been read.
    read: u64,
    failed: Option<AmqpError>,
}

/// What a channel waits for.
#[derive(Debug)]
enum Content {
    /// The header of a delivery.
    Begun(Builder),
    /// So many octets of its body, which are not zero.
    Building(Builder, u64),
    /// The header of a content that is handed on frame by frame.
    Announced,
    /// So many octets of its body.
    Passing(u64),
}

impl Reader {
    /// A reader at the start of a stream, see [`set_frame_max`](Self::set_frame_max).
    #[must_use]
    pub fn new(frame_max: u32) -> Self {
        Self {
            frame_max,
            pending: Vec::new(),
            contents: HashMap::new(),
            read: 0,
            failed: None,
        }
    }

    /// Sets how many bytes a frame has at most, its prefix and its end included; 0 for no limit.
    pub fn set_frame_max(&mut self, frame_max: u32) {
        self.frame_max = frame_max;
    }

    /// How many bytes are held of frames and contents that are not complete.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        let contents = self.contents.values().map(|content| match content {
            Content::Begun(builder) | Content::Building(builder, _) => builder.len(),
            Content::Announced | Content::Passing(_) => 0,
        });
        self.pending.len() + contents.sum::<usize>()
    }

    /// Reads `data`, which follows what was read before, and adds what is complete to `items`.
    ///
    /// # Errors
    ///
    /// [`AmqpErrorKind::FrameType`], [`FrameEnd`](AmqpErrorKind::FrameEnd),
    /// [`FrameSize`](AmqpErrorKind::FrameSize),
    /// [`UnexpectedFrame`](AmqpErrorKind::UnexpectedFrame), [`Class`](AmqpErrorKind::Class),
    /// [`BodySize`](AmqpErrorKind::BodySize), and [`Truncated`](AmqpErrorKind::Truncated) for
    /// a method or a header that is too short. The connection is lost: any later call fails
    /// with the same error. What came before it is in `items`.
    pub fn feed(&mut self, data: &[u8], items: &mut Vec<Item>) -> Result<(), AmqpError> {
        match self.failed {
            Some(error) => Err(error),
            None => self.chunk(data, items).inspect_err(|error| {
                self.failed = Some(*error);
                self.pending = Vec::new();
                self.contents = HashMap::new();
            }),
        }
    }

    fn chunk(&mut self, mut data: &[u8], items: &mut Vec<Item>) -> Result<(), AmqpError> {
        let mut pending = std::mem::take(&mut self.pending);
        while !pending.is_empty() {
            match self.frame_len(&pending)? {
                Ok(len) => {
                    self.frame(&pending[..len], items)?;
                    pending.clear();
                }
                Err(needed) => {
                    let (more, rest) = data.split_at(data.len().min(needed - pending.len()));
                    if more.is_empty() {
                        break;
                    }
                    pending.extend_from_slice(more);
                    data = rest;
                }
            }
        }
        while !data.is_empty() {
            let Ok(len) = self.frame_len(data)? else {
                pending.extend_from_slice(data);
                break;
            };
            let (frame, rest) = data.split_at(len);
            self.frame(frame, items)?;
            data = rest;
        }
        if !pending.is_empty() || pending.capacity() <= KEPT_BUFFER {
            self.pending = pending;
        }
        Ok(())
    }

    /// The length of the frame in front of `bytes`, or else how many bytes are needed next.
    fn frame_len(&self, bytes: &[u8]) -> Result<Result<usize, usize>, AmqpError> {
        let Some(&[octet, _, _, a, b, c, d]) = bytes.first_chunk::<FRAME_PREFIX>() else {
            return Ok(Err(FRAME_PREFIX));
        };
        if FrameKind::from_octet(octet).is_none() {
            return Err(AmqpErrorKind::FrameType.at(0).after(self.read));
        }
        let size = u32::from_be_bytes([a, b, c, d]);
        let len = u64::from(size) + FRAME_OVERHEAD as u64;
        let too_long = AmqpErrorKind::FrameSize.at(3).after(self.read);
        if self.frame_max != 0 && len > u64::from(self.frame_max) {
            return Err(too_long);
        }
        let len = usize::try_from(len).map_err(|_| too_long)?;
        Ok(if bytes.len() < len { Err(len) } else { Ok(len) })
    }

    /// Reads a whole frame.
    fn frame(&mut self, frame: &[u8], items: &mut Vec<Item>) -> Result<(), AmqpError> {
        let end = frame.len() - 1;
        if frame[end] != FRAME_END {
            return Err(AmqpErrorKind::FrameEnd.at(end).after(self.read));
        }
        let kind = FrameKind::from_octet(frame[0]).ok_or(AmqpErrorKind::FrameType.at(0))?;
        let channel = u16::from_be_bytes([frame[1], frame[2]]);
        let payload = &frame[FRAME_PREFIX..end];
        let item = self
            .payload(kind, channel, payload)
            .map_err(|error| error.after(self.read + FRAME_PREFIX as u64))?;
        items.extend(item);
        self.read += frame.len() as u64;
        Ok(())
    }

    fn payload(
        &mut self,
        kind: FrameKind,
        channel: u16,
        payload: &[u8],
    ) -> Result<Option<Item>, AmqpError> {
        let delivery = match kind {
            FrameKind::Method => self.method(channel, payload)?,
            FrameKind::Header => self.header(channel, payload)?,
            FrameKind::Body => self.body(channel, payload)?,
            // py-amqp takes them on any channel and at any time, too.
            FrameKind::Heartbeat => Step::Pass,
        };
        Ok(match delivery {
            Step::Kept => None,
            Step::Done(builder) => Some(Item::Delivery(builder.finish())),
            Step::Pass => Some(Item::Frame {
                kind,
                channel,
                payload: payload.into(),
            }),
        })
    }

    fn method(&mut self, channel: u16, payload: &[u8]) -> Result<Step, AmqpError> {
        let Entry::Vacant(entry) = self.contents.entry(channel) else {
            return Err(AmqpErrorKind::UnexpectedFrame.at(0));
        };
        let mut cursor = Cursor::new(payload, 0);
        let method = (cursor.short()?, cursor.short()?);
        match method {
            (CLASS_BASIC, DELIVER) => {
                let builder = Builder::new(channel, payload, cursor.index())?;
                entry.insert(Content::Begun(builder));
                Ok(Step::Kept)
            }
            (CLASS_BASIC, RETURN | GET_OK) => {
                entry.insert(Content::Announced);
                Ok(Step::Pass)
            }
            _ => Ok(Step::Pass),
        }
    }

    fn header(&mut self, channel: u16, payload: &[u8]) -> Result<Step, AmqpError> {
        let unexpected = AmqpErrorKind::UnexpectedFrame.at(0);
        let content = self.contents.remove(&channel).ok_or(unexpected)?;
        let mut cursor = Cursor::new(payload, 0);
        let (class, _weight) = (cursor.short()?, cursor.short()?);
        let size = cursor.long_long()?;
        debug_assert_eq!(cursor.index(), HEADER_PREFIX);
        if class != CLASS_BASIC {
            return Err(AmqpErrorKind::Class.at(0));
        }
        match content {
            Content::Begun(mut builder) => {
                builder.header(payload, size);
                if size == 0 {
                    return Ok(Step::Done(builder));
                }
                self.contents
                    .insert(channel, Content::Building(builder, size));
                Ok(Step::Kept)
            }
            Content::Announced => {
                if size > 0 {
                    self.contents.insert(channel, Content::Passing(size));
                }
                Ok(Step::Pass)
            }
            Content::Building(..) | Content::Passing(_) => Err(unexpected),
        }
    }

    fn body(&mut self, channel: u16, payload: &[u8]) -> Result<Step, AmqpError> {
        let unexpected = AmqpErrorKind::UnexpectedFrame.at(0);
        let Entry::Occupied(mut entry) = self.contents.entry(channel) else {
            return Err(unexpected);
        };
        let (Content::Building(_, rest) | Content::Passing(rest)) = entry.get_mut() else {
            return Err(unexpected);
        };
        let after = rest
            .checked_sub(payload.len() as u64)
            .ok_or(AmqpErrorKind::BodySize.at(0))?;
        *rest = after;
        if let Content::Building(builder, _) = entry.get_mut() {
            builder.body(payload, after);
        }
        if after > 0 {
            return Ok(match entry.get() {
                Content::Building(..) => Step::Kept,
                _ => Step::Pass,
            });
        }
        Ok(match entry.remove() {
            Content::Building(builder, _) => Step::Done(builder),
            _ => Step::Pass,
        })
    }
}

/// What becomes of a frame.
enum Step {
    /// It is part of a delivery that is not complete.
    Kept,
    /// It completes a delivery.
    Done(Builder),
    /// It is the caller's.
    Pass,
}
