//! However a stream is cut, its frames and deliveries are the same; what is none ends it.

#![cfg(not(loom))]

use hybrid_core::amqp::{AmqpError, AmqpErrorKind, FrameKind, Item, Reader};
use proptest::prelude::*;

const FRAME_MAX: u32 = 4096;

fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![kind];
    out.extend_from_slice(&channel.to_be_bytes());
    out.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
    out.extend_from_slice(payload);
    out.push(0xCE);
    out
}

fn deliver(channel: u16, tag: u64) -> Vec<u8> {
    let mut payload = vec![0, 60, 0, 60, 2, b'c', b't'];
    payload.extend_from_slice(&tag.to_be_bytes());
    payload.extend_from_slice(&[u8::from(tag % 2 == 1), 2, b'e', b'x', 2, b'r', b'k']);
    frame(1, channel, &payload)
}

fn header(channel: u16, body_size: u64) -> Vec<u8> {
    let mut payload = vec![0, 60, 0, 0];
    payload.extend_from_slice(&body_size.to_be_bytes());
    payload.extend_from_slice(&[0x10, 0, 2]); // delivery_mode 2
    frame(2, channel, &payload)
}

/// What happens on one channel, as frames and as items.
#[derive(Clone, Debug)]
enum Event {
    Delivery { tag: u64, parts: Vec<Vec<u8>> },
    Returned { get_ok: bool, parts: Vec<Vec<u8>> },
    Method { arguments: Vec<u8> },
}

impl Event {
    /// Frames of one event, each with whether it is the caller's.
    fn frames(&self, channel: u16) -> Vec<(Vec<u8>, bool)> {
        match self {
            Self::Method { arguments } => {
                let payload = [&[0, 60, 0, 21][..], arguments].concat();
                vec![(frame(1, channel, &payload), true)]
            }
            Self::Delivery { tag, parts } => content(channel, deliver(channel, *tag), parts, false),
            Self::Returned { get_ok, parts } => {
                let method = if *get_ok { 71 } else { 50 };
                content(channel, frame(1, channel, &[0, 60, 0, method]), parts, true)
            }
        }
    }
}

fn content(channel: u16, method: Vec<u8>, parts: &[Vec<u8>], pass: bool) -> Vec<(Vec<u8>, bool)> {
    let size: usize = parts.iter().map(Vec::len).sum();
    let mut frames = vec![(method, pass), (header(channel, size as u64), pass)];
    if size > 0 {
        // An empty frame after the last octet would belong to no content.
        let last = parts.iter().rposition(|part| !part.is_empty()).unwrap();
        let bodies = parts[..=last].iter();
        frames.extend(bodies.map(|part| (frame(3, channel, part), pass)));
    }
    frames
}

fn event() -> impl Strategy<Value = Event> {
    let parts = || prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..5);
    prop_oneof![
        4 => (any::<u64>(), parts()).prop_map(|(tag, parts)| Event::Delivery { tag, parts }),
        1 => (any::<bool>(), parts()).prop_map(|(get_ok, parts)| Event::Returned { get_ok, parts }),
        1 => prop::collection::vec(any::<u8>(), 0..20)
            .prop_map(|arguments| Event::Method { arguments }),
    ]
}

/// Interleaves what happens on several channels, frame by frame.
fn interleaved(channels: &[Vec<Event>], order: &[usize]) -> (Vec<u8>, Vec<Expected>) {
    let mut queues: Vec<_> = (1_u16..)
        .zip(channels)
        .map(|(channel, events)| {
            let mut frames = Vec::new();
            for event in events {
                let of_event = event.frames(channel);
                let last = of_event.len() - 1;
                for (index, (bytes, pass)) in of_event.into_iter().enumerate() {
                    let done = (index == last).then(|| event.clone());
                    frames.push((channel, bytes, pass, done));
                }
            }
            frames.into_iter()
        })
        .collect();
    let (mut stream, mut items) = (Vec::new(), Vec::new());
    let mut order = order.iter();
    while !queues.is_empty() {
        let next = order.next().map_or(0, |next| next % (queues.len() + 1));
        let Some(queue) = queues.get_mut(next) else {
            stream.extend(frame(8, 0, b""));
            items.push(Expected::Frame(frame(8, 0, b"")));
            continue;
        };
        let Some((channel, bytes, pass, done)) = queue.next() else {
            drop(queues.remove(next));
            continue;
        };
        stream.extend_from_slice(&bytes);
        if pass {
            items.push(Expected::Frame(bytes));
        } else if let Some(Event::Delivery { tag, parts }) = done {
            items.push(Expected::Delivery {
                channel,
                tag,
                body: parts.concat(),
            });
        }
    }
    (stream, items)
}

#[derive(Debug, PartialEq)]
enum Expected {
    Frame(Vec<u8>),
    Delivery {
        channel: u16,
        tag: u64,
        body: Vec<u8>,
    },
}

fn seen(item: &Item) -> Expected {
    match item {
        Item::Frame {
            kind,
            channel,
            payload,
        } => Expected::Frame(frame(*kind as u8, *channel, payload)),
        Item::Delivery(delivery) => {
            assert_eq!(delivery.consumer_tag(), b"ct");
            assert_eq!(delivery.exchange(), b"ex");
            assert_eq!(delivery.routing_key(), b"rk");
            assert_eq!(delivery.redelivered(), delivery.delivery_tag() % 2 == 1);
            let whole = header(delivery.channel(), delivery.body().len() as u64);
            assert_eq!(delivery.header(), &whole[7..whole.len() - 1]);
            Expected::Delivery {
                channel: delivery.channel(),
                tag: delivery.delivery_tag(),
                body: delivery.body().to_vec(),
            }
        }
    }
}

/// Feeds `stream` in chunks of the lengths in `cuts`, over and over.
fn fed(stream: &[u8], cuts: &[usize]) -> (Vec<Item>, Result<(), AmqpError>) {
    let mut reader = Reader::new(FRAME_MAX);
    let (mut items, mut rest, mut cuts) = (Vec::new(), stream, cuts.iter().cycle());
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
        let outcome = reader.feed(chunk, &mut items);
        if outcome.is_err() {
            assert_eq!(reader.feed(after, &mut items), outcome, "an error is final");
            assert_eq!(reader.pending_bytes(), 0);
            return (items, outcome);
        }
        rest = after;
    }
    (items, Ok(()))
}

fn whole(stream: &[u8]) -> (Vec<Item>, Result<(), AmqpError>) {
    fed(stream, &[stream.len().max(1)])
}

fn refused(stream: &[u8]) -> (usize, AmqpError) {
    let (items, outcome) = whole(stream);
    assert_eq!(fed(stream, &[1]), (items.clone(), outcome));
    (items.len(), outcome.unwrap_err())
}

proptest! {
    #[test]
    fn frames_of_many_channels_are_put_together_however_they_are_cut(
        channels in prop::collection::vec(prop::collection::vec(event(), 0..6), 1..5),
        order in prop::collection::vec(any::<usize>(), 0..60),
        cuts in prop::collection::vec(1_usize..300, 1..20),
    ) {
        let (stream, expected) = interleaved(&channels, &order);
        let (items, outcome) = fed(&stream, &cuts);
        prop_assert_eq!(outcome, Ok(()));
        prop_assert_eq!(items.iter().map(seen).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_damaged_stream_ends_at_the_same_place_however_it_is_cut(
        channels in prop::collection::vec(prop::collection::vec(event(), 0..4), 1..3),
        order in prop::collection::vec(any::<usize>(), 0..60),
        cuts in prop::collection::vec(1_usize..100, 1..20),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let (mut stream, _) = interleaved(&channels, &order);
        for (at, octet) in damage {
            if !stream.is_empty() {
                let at = at.index(stream.len());
                stream[at] = octet;
            }
        }
        prop_assert_eq!(fed(&stream, &cuts), whole(&stream));
    }

    #[test]
    fn no_bytes_panic(stream in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert_eq!(fed(&stream, &[1]), whole(&stream));
    }
}

#[test]
fn an_unknown_type_is_refused_before_its_payload_comes() {
    for octet in (0..=255).filter(|octet| ![1, 2, 3, 8].contains(octet)) {
        let stream = [frame(8, 0, b""), vec![octet, 0, 0, 0, 0, 16, 0]].concat();
        assert_eq!(refused(&stream), (1, error(AmqpErrorKind::FrameType, 8)));
    }
    // What RabbitMQ says to a client of another protocol.
    assert_eq!(
        refused(b"AMQP\0\0\x09\x01").1.kind,
        AmqpErrorKind::FrameType
    );
}

fn error(kind: AmqpErrorKind, index: usize) -> AmqpError {
    kind.at(index)
}

#[test]
fn a_frame_has_to_end_with_its_octet() {
    let mut stream = frame(8, 0, b"");
    stream[7] = 0xCD;
    assert_eq!(refused(&stream), (0, error(AmqpErrorKind::FrameEnd, 7)));
}

#[test]
fn a_frame_longer_than_agreed_is_refused_by_its_length() {
    let longest = frame(1, 1, &vec![0; FRAME_MAX as usize - 8]);
    assert_eq!(whole(&longest).1, Ok(()));
    let longer = frame(1, 1, &vec![0; FRAME_MAX as usize - 7]);
    assert_eq!(
        refused(&longer[..7]),
        (0, error(AmqpErrorKind::FrameSize, 3))
    );
    let mut unlimited = Reader::new(0);
    assert_eq!(unlimited.feed(&longer, &mut Vec::new()), Ok(()));
    unlimited.set_frame_max(FRAME_MAX);
    let outcome = unlimited.feed(&longer, &mut Vec::new());
    assert_eq!(outcome.unwrap_err().kind, AmqpErrorKind::FrameSize);
}

#[test]
fn frames_that_cannot_come_are_refused() {
    let cases = [
        vec![header(1, 3)],
        vec![frame(3, 1, b"abc")],
        vec![deliver(1, 1), deliver(1, 2)],
        vec![deliver(1, 1), frame(3, 1, b"abc")],
        vec![deliver(1, 1), header(1, 3), header(1, 3)],
        vec![deliver(1, 1), header(1, 3), frame(1, 1, &[0, 60, 0, 80])],
        vec![deliver(1, 1), header(2, 3)],
        vec![
            deliver(1, 1),
            header(1, 3),
            frame(3, 1, b"abc"),
            frame(3, 1, b""),
        ],
        vec![frame(1, 1, &[0, 60, 0, 50]), frame(1, 1, &[0, 60, 0, 80])],
        vec![frame(1, 1, &[0, 60, 0, 71]), frame(3, 1, b"abc")],
    ];
    for frames in cases {
        assert_eq!(
            refused(&frames.concat()).1.kind,
            AmqpErrorKind::UnexpectedFrame
        );
    }
}

#[test]
fn a_body_longer_than_declared_is_refused() {
    for method in [deliver(1, 1), frame(1, 1, &[0, 60, 0, 50])] {
        let stream = [method, header(1, 3), frame(3, 1, b"ab"), frame(3, 1, b"cd")].concat();
        let start = stream.len() - 10 + 7;
        assert_eq!(refused(&stream).1, error(AmqpErrorKind::BodySize, start));
    }
}

#[test]
fn a_method_or_header_that_is_too_short_is_refused() {
    let method = deliver(1, 1);
    for len in 0..method.len() - 8 {
        let stream = frame(1, 1, &method[7..7 + len]);
        assert_eq!(refused(&stream).1.kind, AmqpErrorKind::Truncated);
    }
    for len in 0..12 {
        let stream = [method.clone(), frame(2, 1, &header(1, 3)[7..7 + len])].concat();
        assert_eq!(refused(&stream).1.kind, AmqpErrorKind::Truncated);
    }
    let other_class = frame(2, 1, &[0, 61, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let stream = [method, other_class].concat();
    assert_eq!(refused(&stream).1.kind, AmqpErrorKind::Class);
}

#[test]
fn a_delivery_without_readable_properties_is_delivered() {
    let no_flags = frame(2, 1, &header(1, 0)[7..19]);
    let (items, outcome) = whole(&[deliver(1, 7), no_flags, deliver(1, 8), header(1, 0)].concat());
    assert_eq!((items.len(), outcome), (2, Ok(())));
    let Item::Delivery(broken) = &items[0] else {
        panic!("no delivery")
    };
    assert_eq!(broken.delivery_tag(), 7);
    assert_eq!(
        broken.properties().unwrap_err().kind,
        AmqpErrorKind::Truncated
    );
}

#[test]
fn a_declared_size_costs_no_memory() {
    let mut reader = Reader::new(0);
    let stream: Vec<u8> = (1..=2000)
        .flat_map(|channel| [deliver(channel, 1), header(channel, u64::MAX)].concat())
        .collect();
    reader.feed(&stream, &mut Vec::new()).unwrap();
    assert!(reader.pending_bytes() < stream.len());
    let huge = [3, 0, 1, 0xFF, 0xFF, 0xFF, 0xFF];
    reader.feed(&huge, &mut Vec::new()).unwrap();
    assert!(reader.pending_bytes() < stream.len());
}

#[test]
fn a_body_of_very_many_frames_takes_linear_time() {
    // 4 MB in frames of one octet and chunks of eleven: minutes, if each step copied the rest.
    const SIZE: usize = 400_000;
    let mut stream = [deliver(1, 1), header(1, SIZE as u64)].concat();
    (0..SIZE).for_each(|_| stream.extend(frame(3, 1, b"x")));
    let (items, outcome) = fed(&stream, &[11]);
    assert_eq!((items.len(), outcome), (1, Ok(())));
    let (items, _) = fed(&frame(1, 1, &vec![0; 4088]), &[1]);
    assert!(matches!(
        &items[0],
        Item::Frame {
            kind: FrameKind::Method,
            ..
        }
    ));
}
