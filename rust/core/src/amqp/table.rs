//! Field tables and arrays, read in place.
//!
//! The types are those that `RabbitMQ` sends, which are not those of the specification: AMQP
//! 0-9-1 section 4.2.1 against <https://www.rabbitmq.com/amqp-0-9-1-errata> (section 3, "Field
//! types"). Where the two give a letter two meanings, `RabbitMQ`'s counts: `s` is a signed 16-bit
//! number and no short string, `l` a signed 64-bit number, `x` an array of bytes. `U` and `L`,
//! which only the specification has, are read as py-amqp does.

use super::cursor::Cursor;
use super::error::{AmqpError, AmqpErrorKind};

/// How deep tables and arrays may nest, the outermost one included.
///
/// As deep as JSON may in [`message`](crate::message), and far below any recursion limit in use.
pub const MAX_DEPTH: u8 = 200;

/// The value of a field.
#[derive(Debug, Clone)]
pub enum Value<'a> {
    /// `S`: text in UTF-8 by convention, and octets by specification.
    LongString(&'a [u8]),
    /// `x`: bytes.
    Bytes(&'a [u8]),
    /// `b`, `B`, `s`, `U`, `u`, `I`, `i`, `l`, `L`: a number.
    Int(i64),
    /// `f`, `d`: a floating-point number.
    Float(f64),
    /// `D`: `value / 10 ** scale`.
    Decimal {
        /// How many decimal places there are.
        scale: u8,
        /// All digits.
        value: i32,
    },
    /// `t`: a boolean; any octet but zero is true.
    Bool(bool),
    /// `T`: seconds since 1970, in UTC.
    Timestamp(u64),
    /// `V`: nothing.
    Void,
    /// `F`: a table.
    Table(Table<'a>),
    /// `A`: an array.
    Array(Array<'a>),
}

/// The fields of a table, in the order in which they were sent; a name may come twice.
///
/// Ends after the first error.
#[derive(Debug, Clone)]
pub struct Table<'a> {
    cursor: Cursor<'a>,
    depth: u8,
}

/// The values of an array. Ends after the first error.
#[derive(Debug, Clone)]
pub struct Array<'a> {
    cursor: Cursor<'a>,
    depth: u8,
}

impl<'a> Table<'a> {
    /// The outermost table, in what is behind its length.
    pub(super) const fn outermost(cursor: Cursor<'a>) -> Self {
        Self { cursor, depth: 1 }
    }

    fn field(&mut self) -> Result<(&'a [u8], Value<'a>), AmqpError> {
        let name = self.cursor.short_string()?;
        let value = value(&mut self.cursor, self.depth)?;
        Ok((name, value))
    }
}

impl<'a> Iterator for Table<'a> {
    type Item = Result<(&'a [u8], Value<'a>), AmqpError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.cursor.is_at_end() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.cursor.exhaust();
        }
        Some(field)
    }
}

impl<'a> Iterator for Array<'a> {
    type Item = Result<Value<'a>, AmqpError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.cursor.is_at_end() {
            return None;
        }
        let value = value(&mut self.cursor, self.depth);
        if value.is_err() {
            self.cursor.exhaust();
        }
        Some(value)
    }
}

fn value<'a>(cursor: &mut Cursor<'a>, depth: u8) -> Result<Value<'a>, AmqpError> {
    let start = cursor.index();
    Ok(match cursor.octet()? {
        b'S' => Value::LongString(cursor.long_string()?),
        b'x' => Value::Bytes(cursor.long_string()?),
        b't' => Value::Bool(cursor.octet()? != 0),
        b'b' => Value::Int(i8::from_be_bytes(cursor.array()?).into()),
        b'B' => Value::Int(cursor.octet()?.into()),
        b's' | b'U' => Value::Int(i16::from_be_bytes(cursor.array()?).into()),
        b'u' => Value::Int(cursor.short()?.into()),
        b'I' => Value::Int(i32::from_be_bytes(cursor.array()?).into()),
        b'i' => Value::Int(u32::from_be_bytes(cursor.array()?).into()),
        b'l' | b'L' => Value::Int(i64::from_be_bytes(cursor.array()?)),
        b'f' => Value::Float(f32::from_be_bytes(cursor.array()?).into()),
        b'd' => Value::Float(f64::from_be_bytes(cursor.array()?)),
        b'D' => Value::Decimal {
            scale: cursor.octet()?,
            value: i32::from_be_bytes(cursor.array()?),
        },
        b'T' => Value::Timestamp(cursor.long_long()?),
        b'V' => Value::Void,
        b'F' => Value::Table(Table {
            depth: deeper(depth, start)?,
            cursor: cursor.nested()?,
        }),
        b'A' => Value::Array(Array {
            depth: deeper(depth, start)?,
            cursor: cursor.nested()?,
        }),
        _ => return Err(AmqpErrorKind::TableType.at(start)),
    })
}

const fn deeper(depth: u8, index: usize) -> Result<u8, AmqpError> {
    if depth >= MAX_DEPTH {
        return Err(AmqpErrorKind::Depth.at(index));
    }
    Ok(depth + 1)
}
