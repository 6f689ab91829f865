//! What a worker sends, encoded as py-amqp does.
//!
//! Only exact types are taken, since a subclass may encode itself in its own way; so nothing here
//! runs Python code while it walks over somebody's containers.

use hybrid_core::amqp::{self, AmqpError, AmqpErrorKind, Civil, Property, Publish, Shape, Writer};
use pyo3::prelude::*;
use pyo3::types::{
    PyBool, PyBytes, PyDateAccess, PyDateTime, PyDict, PyFloat, PyInt, PyList, PyString,
    PyTimeAccess, PyTuple, PyTzInfoAccess,
};

use crate::amqp_error::raised;
use crate::amqp_value::name;

/// Encodes a `basic.publish` with its content.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // those of the method
pub(crate) fn encode_publish<'py>(
    py: Python<'py>,
    channel: u16,
    exchange: &Bound<'py, PyAny>,
    routing_key: &Bound<'py, PyAny>,
    mandatory: bool,
    immediate: bool,
    properties: &Bound<'py, PyDict>,
    body: &Bound<'py, PyAny>,
    frame_max: u32,
) -> PyResult<Bound<'py, PyBytes>> {
    let is_text = body.is_exact_instance_of::<PyString>();
    let published = argument(exchange)
        .and_then(|exchange| {
            let routing_key = argument(routing_key)?;
            let mut publish = Publish::new(channel, exchange, routing_key, mandatory, immediate)?;
            encode_properties(&mut publish, properties, is_text)?;
            publish.finish(octets(body)?, frame_max)
        })
        .map_err(raised)?;
    PyBytes::new_with(py, published.len(), |out| {
        published.write_into(out);
        Ok(())
    })
}

/// Encodes a `basic.ack`.
#[pyfunction]
#[pyo3(signature = (channel, delivery_tag, multiple=false))]
pub(crate) fn encode_ack(
    py: Python<'_>,
    channel: u16,
    delivery_tag: u64,
    multiple: bool,
) -> Bound<'_, PyBytes> {
    let mut out = Vec::new();
    amqp::ack(&mut out, channel, delivery_tag, multiple);
    PyBytes::new(py, &out)
}

/// Encodes a `basic.ack` for each pair of a delivery tag and `multiple`.
#[pyfunction]
#[allow(clippy::needless_pass_by_value)] // how an argument comes
pub(crate) fn encode_acks(
    py: Python<'_>,
    channel: u16,
    acks: Vec<(u64, bool)>,
) -> Bound<'_, PyBytes> {
    let mut out = Vec::new();
    for (delivery_tag, multiple) in acks {
        amqp::ack(&mut out, channel, delivery_tag, multiple);
    }
    PyBytes::new(py, &out)
}

/// Encodes a `basic.nack`.
#[pyfunction]
pub(crate) fn encode_nack(
    py: Python<'_>,
    channel: u16,
    delivery_tag: u64,
    multiple: bool,
    requeue: bool,
) -> Bound<'_, PyBytes> {
    let mut out = Vec::new();
    amqp::nack(&mut out, channel, delivery_tag, multiple, requeue);
    PyBytes::new(py, &out)
}

/// Encodes a `basic.reject`.
#[pyfunction]
pub(crate) fn encode_reject(
    py: Python<'_>,
    channel: u16,
    delivery_tag: u64,
    requeue: bool,
) -> Bound<'_, PyBytes> {
    let mut out = Vec::new();
    amqp::reject(&mut out, channel, delivery_tag, requeue);
    PyBytes::new(py, &out)
}

/// Encodes a `basic.qos`.
#[pyfunction]
pub(crate) fn encode_qos(
    py: Python<'_>,
    channel: u16,
    prefetch_size: u32,
    prefetch_count: u16,
    a_global: bool,
) -> Bound<'_, PyBytes> {
    let mut out = Vec::new();
    amqp::qos(&mut out, channel, prefetch_size, prefetch_count, a_global);
    PyBytes::new(py, &out)
}

/// The name in an argument of the method; `None` stands for no name.
fn argument<'a>(value: &'a Bound<'_, PyAny>) -> Result<&'a [u8], AmqpError> {
    if value.is_none() {
        return Ok(b"");
    }
    octets(value)
}

/// The octets of bytes or of text.
fn octets<'a>(value: &'a Bound<'_, PyAny>) -> Result<&'a [u8], AmqpError> {
    if let Ok(text) = value.cast_exact::<PyString>() {
        // Lone surrogates are py-amqp's to encode.
        let text = text.to_str().map_err(|_| AmqpErrorKind::Utf8.at(0))?;
        return Ok(text.as_bytes());
    }
    match value.cast_exact::<PyBytes>() {
        Ok(bytes) => Ok(bytes.as_bytes()),
        Err(_) => Err(AmqpErrorKind::Type.at(0)),
    }
}

fn encode_properties(
    publish: &mut Publish,
    properties: &Bound<'_, PyDict>,
    text_body: bool,
) -> Result<(), AmqpError> {
    let refused = AmqpErrorKind::Type.at(0);
    for property in Property::ALL {
        let found = properties
            .get_item(name(properties.py(), property))
            .map_err(|_| refused)?;
        if text_body && property == Property::ContentEncoding {
            // py-amqp encodes a text with this encoding, and adds the usual one if it is missing.
            let encoding = found.as_ref().map_or(Ok(&b"utf-8"[..]), octets)?;
            if !encoding.eq_ignore_ascii_case(b"utf-8") {
                return Err(refused);
            }
            publish.short_string(property, encoding)?;
            continue;
        }
        let Some(value) = found.filter(|value| !value.is_none()) else {
            continue;
        };
        match property.shape() {
            Shape::ShortString => publish.short_string(property, octets(&value)?)?,
            Shape::Octet => publish.octet(property, number(&value)?)?,
            Shape::Timestamp => publish.timestamp(property, number(&value)?)?,
            Shape::Table => {
                let fields = value.cast_exact::<PyDict>().map_err(|_| refused)?;
                publish.table(property, |writer| write_fields(writer, fields))?;
            }
        }
    }
    Ok(())
}

fn number<'py, T: FromPyObjectOwned<'py>>(value: &Bound<'py, PyAny>) -> Result<T, AmqpError> {
    if !value.is_exact_instance_of::<PyInt>() {
        return Err(AmqpErrorKind::Type.at(0));
    }
    value.extract().map_err(|_| AmqpErrorKind::Range.at(0))
}

fn write_fields(writer: &mut Writer, fields: &Bound<'_, PyDict>) -> Result<(), AmqpError> {
    // A dict that changes while one goes over it is a panic, and without the GIL another thread
    // may change it at any time. A copy is nobody else's, and made at once.
    let fields = fields
        .copy()
        .map_err(|_| writer.error(AmqpErrorKind::Type))?;
    for (name, value) in &fields {
        writer.name(octets(&name).map_err(|error| writer.error(error.kind))?)?;
        write_value(writer, &value)?;
    }
    Ok(())
}

fn write_value(writer: &mut Writer, value: &Bound<'_, PyAny>) -> Result<(), AmqpError> {
    if value.is_none() {
        writer.void();
    } else if let Ok(text) = octets(value) {
        writer.long_string(text)?;
    } else if let Ok(value) = value.cast_exact::<PyBool>() {
        writer.bool(value.is_true());
    } else if value.is_exact_instance_of::<PyInt>() {
        writer.int(number(value).map_err(|error| writer.error(error.kind))?);
    } else if let Ok(fields) = value.cast_exact::<PyDict>() {
        writer.open_table()?;
        write_fields(writer, fields)?;
        writer.close()?;
    } else if let Ok(values) = value.cast_exact::<PyList>() {
        writer.open_array()?;
        values
            .iter()
            .try_for_each(|value| write_value(writer, &value))?;
        writer.close()?;
    } else if let Ok(values) = value.cast_exact::<PyTuple>() {
        writer.open_array()?;
        values
            .iter()
            .try_for_each(|value| write_value(writer, &value))?;
        writer.close()?;
    } else if let Ok(value) = value.cast_exact::<PyFloat>() {
        writer.float(value.value());
    } else if let Ok(time) = value.cast_exact::<PyDateTime>() {
        let seconds = unix(time).ok_or_else(|| writer.error(AmqpErrorKind::Range))?;
        writer.timestamp(seconds);
    } else {
        return Err(writer.error(AmqpErrorKind::Type));
    }
    Ok(())
}

/// Seconds since 1970 of a naive datetime; one with a time zone needs that zone's Python code.
fn unix(time: &Bound<'_, PyDateTime>) -> Option<u64> {
    if time.get_tzinfo().is_some() {
        return None;
    }
    Civil {
        year: u16::try_from(time.get_year()).ok()?,
        month: time.get_month(),
        day: time.get_day(),
        hour: time.get_hour(),
        minute: time.get_minute(),
        second: time.get_second(),
    }
    .to_unix()
}
