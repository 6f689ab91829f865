//! AMQP properties and field tables as the Python objects that py-amqp makes of them.

use hybrid_core::amqp::{
    AmqpErrorKind, Array, Civil, Properties, Property, PropertyValue, Table, Value,
};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyBytes, PyDateTime, PyDict, PyFloat, PyInt, PyList, PyString, PyType};

use crate::amqp_error::{not_text, raised};
use crate::decode_value::text;
use crate::keys::Keys;

const PROPERTIES: usize = Property::ALL.len();

static NAMES: PyOnceLock<[Py<PyString>; PROPERTIES]> = PyOnceLock::new();

/// The name of `property`, always the same object.
pub(crate) fn name(py: Python<'_>, property: Property) -> &Bound<'_, PyString> {
    let names = NAMES.get_or_init(py, || {
        Property::ALL.map(|property| PyString::intern(py, property.name()).unbind())
    });
    names[property as usize].bind(py)
}

/// All properties, as `amqp.serialization.decode_properties_basic` returns them.
pub(crate) fn properties<'py>(py: Python<'py>, header: &[u8]) -> PyResult<Bound<'py, PyDict>> {
    let found = PyDict::new(py);
    for property in Properties::new(header).map_err(raised)? {
        let (property, value) = property.map_err(raised)?;
        let name = name(py, property);
        match value {
            PropertyValue::ShortString(bytes) => found.set_item(name, strict_text(py, bytes)?)?,
            PropertyValue::Octet(number) => found.set_item(name, number)?,
            PropertyValue::Timestamp(seconds) => found.set_item(name, seconds)?,
            PropertyValue::Table(fields) => found.set_item(name, Tables::new(py).table(fields)?)?,
        }
    }
    Ok(found)
}

/// The headers table, if there is one; what comes before it is passed over.
pub(crate) fn headers<'py>(py: Python<'py>, header: &[u8]) -> PyResult<Option<Bound<'py, PyDict>>> {
    for property in Properties::new(header).map_err(raised)? {
        match property.map_err(raised)? {
            (Property::Headers, PropertyValue::Table(fields)) => {
                return Tables::new(py).table(fields).map(Some);
            }
            (property, _) if property > Property::Headers => break,
            _ => {}
        }
    }
    Ok(None)
}

/// Text where nothing else may stand.
pub(crate) fn strict_text<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyString>> {
    match std::str::from_utf8(bytes) {
        Ok(string) => Ok(text(py, string)),
        Err(_) => with_surrogates(py, bytes).map_err(|_| not_text()),
    }
}

/// Text, or the bytes if they are none.
fn text_or_bytes<'py>(py: Python<'py>, bytes: &[u8]) -> Bound<'py, PyAny> {
    match std::str::from_utf8(bytes) {
        Ok(string) => text(py, string).into_any(),
        Err(_) => match with_surrogates(py, bytes) {
            Ok(string) => string.into_any(),
            Err(_) => PyBytes::new(py, bytes).into_any(),
        },
    }
}

/// As py-amqp reads text: lone surrogates, which are not UTF-8, are let through.
fn with_surrogates<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyString>> {
    let bytes = PyBytes::new(py, bytes);
    PyString::from_encoded_object(&bytes, Some(c"utf-8"), Some(c"surrogatepass"))
}

/// Builds dicts and lists, as `amqp.serialization.loads` does.
struct Tables<'py> {
    py: Python<'py>,
    keys: Keys<'py>,
}

impl<'py> Tables<'py> {
    fn new(py: Python<'py>) -> Self {
        Self {
            py,
            keys: Keys::new(py),
        }
    }

    fn table(&mut self, fields: Table<'_>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(self.py);
        for field in fields {
            let (name, value) = field.map_err(raised)?;
            let value = self.value(value)?;
            match self.keys.guessed(name) {
                Some(key) => dict.set_item(key, value)?,
                None => dict.set_item(text_or_bytes(self.py, name), value)?,
            }
        }
        Ok(dict)
    }

    fn array(&mut self, values: Array<'_>) -> PyResult<Bound<'py, PyList>> {
        let list = PyList::empty(self.py);
        for value in values {
            list.append(self.value(value.map_err(raised)?)?)?;
        }
        Ok(list)
    }

    fn value(&mut self, value: Value<'_>) -> PyResult<Bound<'py, PyAny>> {
        let py = self.py;
        Ok(match value {
            Value::LongString(bytes) => text_or_bytes(py, bytes),
            Value::Void => py.None().into_bound(py),
            Value::Int(number) => PyInt::new(py, number).into_any(),
            Value::Bool(value) => PyBool::new(py, value).to_owned().into_any(),
            Value::Table(fields) => self.table(fields)?.into_any(),
            Value::Array(values) => self.array(values)?.into_any(),
            Value::Bytes(bytes) => PyBytes::new(py, bytes).into_any(),
            Value::Float(number) => PyFloat::new(py, number).into_any(),
            Value::Timestamp(seconds) => datetime(py, seconds)?.into_any(),
            Value::Decimal { scale, value } => {
                decimal(py, scale, value).map_err(|_| raised(AmqpErrorKind::Range.at(0)))?
            }
        })
    }
}

/// A naive datetime in UTC.
fn datetime(py: Python<'_>, seconds: u64) -> PyResult<Bound<'_, PyDateTime>> {
    let time = Civil::from_unix(seconds).ok_or_else(|| raised(AmqpErrorKind::Range.at(0)))?;
    PyDateTime::new(
        py,
        time.year.into(),
        time.month,
        time.day,
        time.hour,
        time.minute,
        time.second,
        0,
        None,
    )
}

/// `value / 10 ** scale` in the current context, which py-amqp leaves to `decimal`, too.
///
/// That library calls nothing that could switch greenlets, and no lock is held here.
fn decimal(py: Python<'_>, scale: u8, value: i32) -> PyResult<Bound<'_, PyAny>> {
    static DECIMAL: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let class = DECIMAL.import(py, "decimal", "Decimal")?;
    let divisor = PyInt::new(py, 10).pow(scale, py.None())?;
    class.call1((value,))?.div(class.call1((divisor,))?)
}
