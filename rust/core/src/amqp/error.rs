//! Why a stream, a property list or a value is no AMQP that we take.

/// What was met, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AmqpError {
    /// What was met.
    pub kind: AmqpErrorKind,
    /// The offset in bytes: from the start of the stream for what [`Reader`](super::Reader)
    /// refuses, from the start of the content header for its properties, and into what has been
    /// written so far for what cannot be encoded.
    pub index: u64,
}

/// What made the codec stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AmqpErrorKind {
    /// A frame of a type other than method, header, body and heartbeat.
    FrameType,
    /// A frame that does not end with the octet `0xCE`.
    FrameEnd,
    /// A frame longer than what was agreed upon, or a limit that leaves no room for a payload.
    FrameSize,
    /// A frame that cannot come here: a header without a method, a method amid a content.
    UnexpectedFrame,
    /// The content header of another class than that of its method.
    Class,
    /// More octets of body than the content header declares.
    BodySize,
    /// The bytes end before the value does.
    Truncated,
    /// A field value of an unknown type.
    TableType,
    /// Tables and arrays in one another, deeper than [`MAX_DEPTH`](super::MAX_DEPTH).
    Depth,
    /// Property flags that the class `basic` does not have.
    Flags,
    /// Text that is not UTF-8.
    Utf8,
    /// A number that its field cannot hold, or a time after the year 9999.
    Range,
    /// A name, text or table longer than its length field can say.
    Length,
    /// A value of a type that is not encoded here.
    Type,
    /// A property that comes before one that has been written.
    Order,
}

impl AmqpErrorKind {
    /// The name under which Python code sees this kind.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FrameType => "frame-type",
            Self::FrameEnd => "frame-end",
            Self::FrameSize => "frame-size",
            Self::UnexpectedFrame => "unexpected-frame",
            Self::Class => "class",
            Self::BodySize => "body-size",
            Self::Truncated => "truncated",
            Self::TableType => "table-type",
            Self::Depth => "depth",
            Self::Flags => "flags",
            Self::Utf8 => "utf-8",
            Self::Range => "range",
            Self::Length => "length",
            Self::Type => "type",
            Self::Order => "order",
        }
    }

    /// This kind, met at `index`.
    #[must_use]
    pub const fn at(self, index: usize) -> AmqpError {
        AmqpError {
            kind: self,
            index: index as u64,
        }
    }
}

impl AmqpError {
    /// The same, with an index that counts from `base` bytes earlier.
    #[must_use]
    pub(super) const fn after(self, base: u64) -> Self {
        Self {
            kind: self.kind,
            index: self.index.saturating_add(base),
        }
    }
}

impl std::fmt::Display for AmqpError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "not AMQP: {} at byte {}", self.kind.name(), self.index)
    }
}

impl std::error::Error for AmqpError {}
