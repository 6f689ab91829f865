//! No bytes make the AMQP reader panic, and how they are cut makes no difference. The input is
//! the length of a chunk, then a stream; what is delivered in it is decoded.
#![no_main]

use hybrid_core::amqp::{Array, Item, PropertyValue, Reader, Table, Value};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((chunk, stream)) = data.split_first() else { return };
    let (mut whole, mut parts) = (Vec::new(), Vec::new());
    let outcome = Reader::new(4096).feed(stream, &mut whole);
    let mut reader = Reader::new(4096);
    let in_parts = stream
        .chunks(usize::from(*chunk).max(1))
        .try_for_each(|part| reader.feed(part, &mut parts));
    assert_eq!((outcome, &whole), (in_parts, &parts));
    assert!(reader.pending_bytes() <= stream.len());

    for item in &whole {
        let Item::Delivery(delivery) = item else { continue };
        let _ = (delivery.consumer_tag(), delivery.exchange(), delivery.routing_key());
        assert!(delivery.header().len() + delivery.body().len() < stream.len());
        for (_, value) in delivery.properties().into_iter().flatten().flatten() {
            if let PropertyValue::Table(fields) = value {
                table(fields);
            }
        }
    }
});

fn table(fields: Table<'_>) {
    fields.flatten().for_each(|(_, value)| walk(value));
}

fn array(values: Array<'_>) {
    values.flatten().for_each(walk);
}

fn walk(value: Value<'_>) {
    match value {
        Value::Table(fields) => table(fields),
        Value::Array(values) => array(values),
        _ => {}
    }
}
