//! AMQP 0-9-1: what `RabbitMQ` sends, and what a worker sends most.
//!
//! ```text
//! octet   short     long     size octets   octet
//! +------+---------+--------+-------------+------+
//! | type | channel |  size  |   payload   | 0xCE |    a frame, section 2.3.5
//! +------+---------+--------+-------------+------+
//! ```
//!
//! * [`Reader`] turns chunks of a stream into [`Delivery`]s, each put together from its frames,
//!   and into all other frames as they are, which are py-amqp's to understand.
//! * [`Properties`], [`Table`] and [`Array`] read a content header in place when somebody asks.
//!   A property list that is broken costs that message only: its delivery is there and can be
//!   rejected, while broken framing costs the connection.
//! * [`Publish`], [`ack`], [`nack`], [`reject`] and [`qos`] encode, byte for byte as py-amqp does.
//! * [`AckWindow`] says which acknowledgements settle many messages at once.
//!
//! Section numbers are those of the specification, version 0-9-1 of 13 November 2008.

mod cursor;
mod delivery;
mod encode;
mod error;
mod properties;
mod reader;
mod table;
mod time;
mod window;
mod writer;

pub use delivery::Delivery;
pub use encode::{Publish, Published, ack, nack, qos, reject};
pub use error::{AmqpError, AmqpErrorKind};
pub use properties::{Properties, Property, PropertyValue, Shape};
pub use reader::{FrameKind, Item, Reader};
pub use table::{Array, MAX_DEPTH, Table, Value};
pub use time::Civil;
pub use window::{Ack, AckWindow};
pub use writer::Writer;
