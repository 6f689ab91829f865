//! Which acknowledgements settle many messages at once.

use std::collections::BTreeSet;

/// A `basic.ack`, AMQP 0-9-1 section 1.8.3.13.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// The delivery that is acknowledged.
    pub delivery_tag: u64,
    /// Whether all outstanding deliveries before it are, too.
    pub multiple: bool,
}

/// The deliveries of one channel that the broker waits for.
///
/// Acknowledgements are gathered, and [`flush`](Self::flush) says how to send them. It uses
/// `multiple` only when every outstanding delivery before is acknowledged by then, so the window
/// must know *each* delivery of the channel that is to be acknowledged. Memory is proportional to
/// the number of outstanding deliveries, however long one of them is held.
#[derive(Debug, Default)]
pub struct AckWindow {
    outstanding: BTreeSet<u64>,
    acked: Vec<u64>,
}

impl AckWindow {
    /// A window for a channel that has just been opened.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes a delivery that is to be acknowledged or rejected.
    ///
    /// False for a tag that is outstanding already, and for 0, which stands for all messages.
    pub fn delivered(&mut self, delivery_tag: u64) -> bool {
        delivery_tag != 0 && self.outstanding.insert(delivery_tag)
    }

    /// Acknowledges a delivery with the next flush.
    ///
    /// False when it is not outstanding.
    pub fn settle(&mut self, delivery_tag: u64) -> bool {
        let known = self.outstanding.remove(&delivery_tag);
        if known {
            self.acked.push(delivery_tag);
        }
        known
    }

    /// Notes that a delivery was settled on its own: rejected, or acknowledged by somebody else.
    ///
    /// That has to reach the broker before the acknowledgements of the next flush, which
    /// otherwise settle it first. False when it is not outstanding.
    pub fn forget(&mut self, delivery_tag: u64) -> bool {
        self.outstanding.remove(&delivery_tag)
    }

    /// The fewest acknowledgements for all that was settled since the last flush, in order.
    pub fn flush(&mut self) -> Vec<Ack> {
        let mut acked = std::mem::take(&mut self.acked);
        acked.sort_unstable();
        let oldest = self.outstanding.first().copied().unwrap_or(u64::MAX);
        let (together, alone) = acked.split_at(acked.partition_point(|tag| *tag < oldest));
        let together = together.last().map(|&delivery_tag| Ack {
            delivery_tag,
            multiple: together.len() > 1,
        });
        let alone = alone.iter().map(|&delivery_tag| Ack {
            delivery_tag,
            multiple: false,
        });
        together.into_iter().chain(alone).collect()
    }

    /// How many deliveries are outstanding, those that the next flush settles not included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.outstanding.len()
    }

    /// Whether no delivery is outstanding.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.outstanding.is_empty()
    }
}
