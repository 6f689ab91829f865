//! The properties of a message: what a content header holds behind its fourteen first octets.
//!
//! AMQP 0-9-1 sections 2.3.5.2 (content header) and 4.2.6.1 (property flags), and the properties
//! of the class `basic`, section 1.8.

use super::cursor::Cursor;
use super::error::{AmqpError, AmqpErrorKind};
use super::table::Table;

/// The class, weight and body size in front of the property flags.
pub(super) const HEADER_PREFIX: usize = 12;

/// A property of the class `basic`, in the order in which they are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[allow(missing_docs)] // the names are those of the specification
pub enum Property {
    ContentType,
    ContentEncoding,
    Headers,
    DeliveryMode,
    Priority,
    CorrelationId,
    ReplyTo,
    Expiration,
    MessageId,
    Timestamp,
    Type,
    UserId,
    AppId,
    ClusterId,
}

/// How the value of a property is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A short string.
    ShortString,
    /// One octet.
    Octet,
    /// Eight octets: seconds since 1970.
    Timestamp,
    /// A field table.
    Table,
}

impl Property {
    /// All of them, in their order.
    pub const ALL: [Self; 14] = [
        Self::ContentType,
        Self::ContentEncoding,
        Self::Headers,
        Self::DeliveryMode,
        Self::Priority,
        Self::CorrelationId,
        Self::ReplyTo,
        Self::Expiration,
        Self::MessageId,
        Self::Timestamp,
        Self::Type,
        Self::UserId,
        Self::AppId,
        Self::ClusterId,
    ];

    /// The name that py-amqp gives it. `headers` of the specification is `application_headers`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ContentType => "content_type",
            Self::ContentEncoding => "content_encoding",
            Self::Headers => "application_headers",
            Self::DeliveryMode => "delivery_mode",
            Self::Priority => "priority",
            Self::CorrelationId => "correlation_id",
            Self::ReplyTo => "reply_to",
            Self::Expiration => "expiration",
            Self::MessageId => "message_id",
            Self::Timestamp => "timestamp",
            Self::Type => "type",
            Self::UserId => "user_id",
            Self::AppId => "app_id",
            Self::ClusterId => "cluster_id",
        }
    }

    /// How its value is sent.
    #[must_use]
    pub const fn shape(self) -> Shape {
        match self {
            Self::Headers => Shape::Table,
            Self::DeliveryMode | Self::Priority => Shape::Octet,
            Self::Timestamp => Shape::Timestamp,
            _ => Shape::ShortString,
        }
    }

    /// Its bit in the property flags.
    pub(super) const fn flag(self) -> u16 {
        0x8000 >> self as u8
    }
}

/// The value of a property.
#[derive(Debug, Clone)]
pub enum PropertyValue<'a> {
    /// Text in UTF-8.
    ShortString(&'a [u8]),
    /// A small number.
    Octet(u8),
    /// Seconds since 1970, in UTC.
    Timestamp(u64),
    /// Fields.
    Table(Table<'a>),
}

/// The properties of a message, in their order. Ends after the first error.
///
/// What follows the last property is ignored.
#[derive(Debug, Clone)]
pub struct Properties<'a> {
    cursor: Cursor<'a>,
    flags: u16,
}

impl<'a> Properties<'a> {
    /// The properties in the payload of a content header frame.
    ///
    /// # Errors
    ///
    /// [`AmqpErrorKind::Truncated`], and [`AmqpErrorKind::Flags`] for properties that the class
    /// `basic` does not have: nobody could tell where they end.
    pub fn new(header: &'a [u8]) -> Result<Self, AmqpError> {
        let mut cursor = Cursor::new(header, HEADER_PREFIX);
        let flags = cursor.short()?;
        if flags & 0b11 != 0 {
            return Err(AmqpErrorKind::Flags.at(HEADER_PREFIX));
        }
        Ok(Self { cursor, flags })
    }

    fn value(&mut self, property: Property) -> Result<PropertyValue<'a>, AmqpError> {
        Ok(match property.shape() {
            Shape::ShortString => PropertyValue::ShortString(self.cursor.short_string()?),
            Shape::Octet => PropertyValue::Octet(self.cursor.octet()?),
            Shape::Timestamp => PropertyValue::Timestamp(self.cursor.long_long()?),
            Shape::Table => PropertyValue::Table(Table::outermost(self.cursor.nested()?)),
        })
    }
}

impl<'a> Iterator for Properties<'a> {
    type Item = Result<(Property, PropertyValue<'a>), AmqpError>;

    fn next(&mut self) -> Option<Self::Item> {
        let property = *Property::ALL.get(self.flags.leading_zeros() as usize)?;
        self.flags &= !property.flag();
        let value = self.value(property);
        if value.is_err() {
            self.flags = 0;
        }
        Some(value.map(|value| (property, value)))
    }
}
