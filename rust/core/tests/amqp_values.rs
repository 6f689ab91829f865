//! What is written is what is read, and a value that is cut short is an error.

#![cfg(not(loom))]

use hybrid_core::amqp::{
    AmqpError, AmqpErrorKind, Array, Item, MAX_DEPTH, Properties, Property, PropertyValue, Publish,
    Reader, Table, Value, Writer,
};
use proptest::prelude::*;

#[derive(Clone, Debug, PartialEq)]
enum Tree {
    Text(Vec<u8>),
    Int(i64),
    Float(u64),
    Bool(bool),
    Timestamp(u64),
    Void,
    Table(Vec<(Vec<u8>, Tree)>),
    Array(Vec<Tree>),
}

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Tree::Text),
        any::<i64>().prop_map(Tree::Int),
        any::<i32>().prop_map(|value| Tree::Int(value.into())),
        any::<f64>().prop_map(|value| Tree::Float(value.to_bits())),
        any::<bool>().prop_map(Tree::Bool),
        any::<u64>().prop_map(Tree::Timestamp),
        Just(Tree::Void),
    ];
    leaf.prop_recursive(6, 60, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Tree::Array),
            fields_of(inner).prop_map(Tree::Table),
        ]
    })
}

fn fields_of(value: impl Strategy<Value = Tree>) -> impl Strategy<Value = Vec<(Vec<u8>, Tree)>> {
    prop::collection::vec((prop::collection::vec(any::<u8>(), 0..20), value), 0..6)
}

fn write(writer: &mut Writer, value: &Tree) -> Result<(), AmqpError> {
    match value {
        Tree::Text(text) => writer.long_string(text)?,
        Tree::Int(value) => writer.int(*value),
        Tree::Float(bits) => writer.float(f64::from_bits(*bits)),
        Tree::Bool(value) => writer.bool(*value),
        Tree::Timestamp(seconds) => writer.timestamp(*seconds),
        Tree::Void => writer.void(),
        Tree::Table(fields) => {
            writer.open_table()?;
            write_fields(writer, fields)?;
            writer.close()?;
        }
        Tree::Array(values) => {
            writer.open_array()?;
            values.iter().try_for_each(|value| write(writer, value))?;
            writer.close()?;
        }
    }
    Ok(())
}

fn write_fields(writer: &mut Writer, fields: &[(Vec<u8>, Tree)]) -> Result<(), AmqpError> {
    fields.iter().try_for_each(|(name, value)| {
        writer.name(name)?;
        write(writer, value)
    })
}

fn read(value: Value<'_>) -> Result<Tree, AmqpError> {
    Ok(match value {
        Value::LongString(text) => Tree::Text(text.to_vec()),
        Value::Int(value) => Tree::Int(value),
        Value::Float(value) => Tree::Float(value.to_bits()),
        Value::Bool(value) => Tree::Bool(value),
        Value::Timestamp(seconds) => Tree::Timestamp(seconds),
        Value::Void => Tree::Void,
        Value::Table(fields) => Tree::Table(read_fields(fields)?),
        Value::Array(values) => Tree::Array(read_array(values)?),
        Value::Bytes(_) | Value::Decimal { .. } => panic!("never written"),
    })
}

fn read_fields(fields: Table<'_>) -> Result<Vec<(Vec<u8>, Tree)>, AmqpError> {
    fields
        .map(|field| field.and_then(|(name, value)| Ok((name.to_vec(), read(value)?))))
        .collect()
}

fn read_array(values: Array<'_>) -> Result<Vec<Tree>, AmqpError> {
    values.map(|value| value.and_then(read)).collect()
}

/// The frames of a message with these headers, and the payload of its content header.
fn published(headers: &[(Vec<u8>, Tree)], body: &[u8], frame_max: u32) -> (Vec<u8>, Vec<u8>) {
    let mut publish = Publish::new(5, b"ex", b"rk", true, false).unwrap();
    publish
        .short_string(Property::ContentType, b"text")
        .unwrap();
    publish
        .table(Property::Headers, |writer| write_fields(writer, headers))
        .unwrap();
    publish.octet(Property::Priority, 9).unwrap();
    publish.timestamp(Property::Timestamp, u64::MAX).unwrap();
    publish.short_string(Property::ClusterId, b"").unwrap();
    let done = publish.finish(body, frame_max).unwrap();
    let mut stream = vec![0; done.len()];
    done.write_into(&mut stream);
    let mut items = Vec::new();
    Reader::new(frame_max)
        // basic.get-ok hands its content on, whoever sends it
        .feed(&as_get_ok(&stream), &mut items)
        .unwrap();
    let Item::Frame { payload, .. } = &items[1] else {
        panic!("no header")
    };
    let bodies: Vec<u8> = items[2..]
        .iter()
        .flat_map(|item| match item {
            Item::Frame { payload, .. } => payload.to_vec(),
            Item::Delivery(_) => panic!("a delivery"),
        })
        .collect();
    assert_eq!(bodies, body);
    let header = payload.to_vec();
    (stream, header)
}

fn as_get_ok(stream: &[u8]) -> Vec<u8> {
    let mut stream = stream.to_vec();
    assert_eq!(stream[7..11], [0, 60, 0, 40]);
    stream[10] = 71;
    stream
}

fn headers_of(header: &[u8]) -> Result<Vec<(Vec<u8>, Tree)>, AmqpError> {
    let mut found = None;
    for property in Properties::new(header)? {
        if let (Property::Headers, PropertyValue::Table(fields)) = property? {
            found = Some(read_fields(fields)?);
        }
    }
    Ok(found.expect("headers"))
}

proptest! {
    #[test]
    fn headers_are_read_as_written(headers in fields_of(tree())) {
        let (_, header) = published(&headers, b"", 0);
        prop_assert_eq!(headers_of(&header), Ok(headers));
    }

    #[test]
    fn properties_that_are_cut_short_are_refused(headers in fields_of(tree())) {
        let (_, header) = published(&headers, b"", 0);
        for len in 0..header.len() {
            let error = headers_of(&header[..len]).unwrap_err();
            prop_assert_eq!(error.kind, AmqpErrorKind::Truncated);
            prop_assert!(error.index <= header.len() as u64);
        }
    }

    #[test]
    fn no_header_panics(header in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(properties) = Properties::new(&header) {
            for (_, value) in properties.flatten() {
                if let PropertyValue::Table(fields) = value {
                    let _ = fields.count();
                }
            }
        }
    }

    #[test]
    fn a_body_is_cut_into_frames(
        body in prop::collection::vec(any::<u8>(), 0..2000),
        frame_max in 200_u32..1000,
    ) {
        let (stream, _) = published(&[], &body, frame_max);
        let frames = body.len().div_ceil(frame_max as usize - 8);
        let (unlimited, _) = published(&[], &body, 0);
        let usual = usize::from(!body.is_empty());
        prop_assert_eq!(stream.len() - frames * 8, unlimited.len() - usual * 8);
    }
}

#[test]
fn tables_nest_to_a_limit() {
    let nested = |depth| (1..depth).fold(vec![], |inner, _| vec![(vec![b'a'], Tree::Table(inner))]);
    let deepest = nested(usize::from(MAX_DEPTH));
    let (_, header) = published(&deepest, b"", 0);
    assert_eq!(headers_of(&header), Ok(deepest));
    let mut publish = Publish::new(1, b"", b"", false, false).unwrap();
    let outcome = publish.table(Property::Headers, |writer| {
        write_fields(writer, &nested(usize::from(MAX_DEPTH) + 1))
    });
    assert_eq!(outcome.unwrap_err().kind, AmqpErrorKind::Depth);
    let by_hand = (0..300).fold(vec![], |inner: Vec<u8>, _| {
        let len = u32::try_from(inner.len()).unwrap().to_be_bytes();
        [&[b'A'][..], &len, &inner].concat()
    });
    let table = [&[1, b'a'][..], &by_hand].concat();
    let len = u32::try_from(table.len()).unwrap().to_be_bytes();
    let header = [&[0; 12][..], &[0x20, 0], &len, &table].concat();
    assert_eq!(headers_of(&header).unwrap_err().kind, AmqpErrorKind::Depth);
}

#[test]
fn a_table_does_not_read_past_its_end() {
    // The name reaches into the octets behind the table.
    let header = [
        &[0; 12][..],
        &[0x20, 0],
        &[0, 0, 0, 2],
        &[3, b'a', b'b', b'c', b'V'],
    ]
    .concat();
    assert_eq!(
        headers_of(&header).unwrap_err().kind,
        AmqpErrorKind::Truncated
    );
}

#[test]
fn unknown_types_and_flags_are_refused() {
    for octet in (0..=255_u8).filter(|octet| !b"SxtbBsUuIilLfdDTVFA".contains(octet)) {
        let header = [&[0; 12][..], &[0x20, 0], &[0, 0, 0, 3], &[1, b'a', octet]].concat();
        assert_eq!(
            headers_of(&header),
            Err(AmqpErrorKind::TableType.at(20)),
            "{octet}"
        );
    }
    for flags in [1, 2, 3] {
        let header = [&[0; 12][..], &[0x20, flags]].concat();
        assert_eq!(headers_of(&header), Err(AmqpErrorKind::Flags.at(12)));
    }
}

#[test]
fn properties_have_an_order_and_a_shape() {
    let mut publish = Publish::new(1, b"", b"", false, false).unwrap();
    publish.octet(Property::Priority, 1).unwrap();
    for outcome in [
        publish.octet(Property::Priority, 1),
        publish.octet(Property::DeliveryMode, 1),
        publish.short_string(Property::ContentType, b""),
        publish.short_string(Property::Timestamp, b""),
        publish.octet(Property::UserId, 1),
        publish.table(Property::UserId, |_| Ok(())),
        publish.timestamp(Property::UserId, 1),
    ] {
        assert_eq!(outcome.unwrap_err().kind, AmqpErrorKind::Order);
    }
    publish.short_string(Property::ReplyTo, b"q").unwrap();
}

#[test]
fn what_does_not_fit_is_refused() {
    let long = [b'x'; 256];
    let length = AmqpErrorKind::Length;
    let publish = |exchange, key| Publish::new(1, exchange, key, false, false);
    assert_eq!(publish(&long, b"").unwrap_err().kind, length);
    assert_eq!(publish(b"", &long).unwrap_err().kind, length);
    let mut begun = publish(&long[..255], &long[..255]).unwrap();
    let outcome = begun.short_string(Property::ContentType, &long);
    assert_eq!(outcome.unwrap_err().kind, length);
    for frame_max in [1, 8, 9, 100, 526] {
        let begun = publish(&long[..255], &long[..255]).unwrap();
        let outcome = begun.finish(b"body", frame_max);
        assert_eq!(outcome.unwrap_err().kind, AmqpErrorKind::FrameSize);
    }
}
