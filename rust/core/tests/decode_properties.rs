//! What must hold for any bytes, and for the messages that Celery sends.

use hybrid_core::envelope::{Body, BodyEncoding, Envelope};
use hybrid_core::message::{DecodeErrorKind, Protocol, Reader, TaskMessage};
use proptest::prelude::*;

const ENVELOPE: &[u8] = br#"{"body": "W1sxXSwge30sIHt9XQ==", "content-encoding": "utf-8", "content-type": "application/json", "headers": {"task": "proj.add", "id": "1"}, "properties": {"body_encoding": "base64", "delivery_tag": "t"}, "redelivered": true}"#;

const V2_HEADERS: &[u8] = br#"{"lang": "py", "task": "proj.add", "id": "i", "eta": null}"#;
const V2_BODY: &[u8] = br#"[[1], {"a": 2}, {"chain": null}]"#;
const V1_BODY: &[u8] =
    br#"{"task": "proj.add", "id": "i", "args": [1], "kwargs": {"a": 2}, "eta": "2030"}"#;

fn decoded(span: &[u8], encoding: BodyEncoding) -> Option<Vec<u8>> {
    let body = Body::new(span, encoding).ok()?;
    let mut out = vec![0; body.len()];
    body.decode_into(&mut out).ok()?;
    Some(out)
}

#[test]
fn an_envelope_is_split_into_its_fields() {
    let envelope = Envelope::read(ENVELOPE, Reader::skip).unwrap();
    assert_eq!(envelope.content_type, Some(r#""application/json""#));
    assert_eq!(envelope.content_encoding, Some(r#""utf-8""#));
    assert_eq!(envelope.headers, Some(r#"{"task": "proj.add", "id": "1"}"#));
    let body = decoded(envelope.body.unwrap(), BodyEncoding::Base64);
    assert_eq!(body.as_deref(), Some(&b"[[1], {}, {}]"[..]));
}

#[test]
fn the_last_of_several_equal_fields_counts() {
    let envelope = Envelope::read(
        br#"{"body": "a", "headers": 1, "body": null, "headers": 2}"#,
        Reader::skip,
    );
    let envelope = envelope.unwrap();
    assert_eq!((envelope.body, envelope.headers), (None, Some("2")));
}

#[test]
fn an_escaped_name_is_the_name() {
    // `\u00e9` is no ASCII letter, so the envelope is read and the field is another one.
    let envelope = Envelope::read(br#"{"bod\u00e9": "x", "bo\/dy": "y"}"#, Reader::skip).unwrap();
    assert_eq!(envelope.body, None);
    let error = Envelope::read(br#"{"bod\u0079": "x"}"#, Reader::skip).unwrap_err();
    assert_eq!(error.kind, DecodeErrorKind::Extension);
}

#[test]
fn an_error_says_what_and_where() {
    for (data, kind, index) in [
        (&b""[..], DecodeErrorKind::Json, 0),
        (b"[]", DecodeErrorKind::WrongType, 0),
        (b"{}x", DecodeErrorKind::Json, 2),
        (b"{\"a\": \"\xff\"}", DecodeErrorKind::Utf8, 7),
        (b"{\"body\": 5}", DecodeErrorKind::WrongType, 9),
        (b"{\"a\": {\"__type__\": 1}}", DecodeErrorKind::Extension, 7),
    ] {
        let error = Envelope::read(data, Reader::skip).unwrap_err();
        assert_eq!(
            (error.kind, error.index),
            (kind, index),
            "{}",
            data.escape_ascii()
        );
    }
}

#[test]
fn body_encodings_are_those_of_kombu() {
    for (name, encoding) in [
        (None, Some(BodyEncoding::Text)),
        (Some(""), Some(BodyEncoding::Text)),
        (Some("UTF-8"), Some(BodyEncoding::Text)),
        (Some("base64"), Some(BodyEncoding::Base64)),
        (Some("BASE64"), None),
        (Some("rot13"), None),
    ] {
        assert_eq!(BodyEncoding::from_name(name).ok(), encoding, "{name:?}");
    }
}

#[test]
fn a_text_body_is_unescaped() {
    let text = decoded(br#"[\"a\u00e9\\n\"]"#, BodyEncoding::Text);
    assert_eq!(text, Some("[\"a\u{e9}\\n\"]".into()));
}

#[test]
fn protocol_2_is_split() {
    let message = TaskMessage::split(V2_HEADERS, V2_BODY).unwrap();
    assert_eq!(message.protocol, Protocol::Two);
    assert_eq!(message.task, br#""proj.add""#);
    assert_eq!(message.eta, Some(&b"null"[..]));
    assert_eq!(message.args, Some(&b"[1]"[..]));
    assert_eq!(message.kwargs, Some(&br#"{"a": 2}"#[..]));
    assert_eq!(message.embed, Some(&br#"{"chain": null}"#[..]));
}

#[test]
fn protocol_1_is_split() {
    let message = TaskMessage::split(b"{}", V1_BODY).unwrap();
    assert_eq!(message.protocol, Protocol::One);
    assert_eq!(message.task, br#""proj.add""#);
    assert_eq!(message.id, Some(&br#""i""#[..]));
    assert_eq!(message.eta, Some(&br#""2030""#[..]));
    assert_eq!((message.args, message.embed), (Some(&b"[1]"[..]), None));
}

#[test]
fn the_hybrid_takes_the_task_from_headers_and_the_arguments_from_the_body() {
    let message = TaskMessage::split(V2_HEADERS, V1_BODY).unwrap();
    assert_eq!(message.protocol, Protocol::Hybrid);
    assert_eq!(message.eta, Some(&b"null"[..]));
    assert_eq!(message.kwargs, Some(&br#"{"a": 2}"#[..]));
}

#[test]
fn what_is_no_task_message_is_an_error() {
    for (headers, body, kind) in [
        (V2_HEADERS, &b"null"[..], DecodeErrorKind::WrongType),
        (V2_HEADERS, b"[]", DecodeErrorKind::Missing),
        (V2_HEADERS, b"[[], {}]", DecodeErrorKind::Missing),
        (V2_HEADERS, b"[[], {}, {}, {}]", DecodeErrorKind::WrongType),
        (
            V2_HEADERS,
            br#"["args", {}, {}]"#,
            DecodeErrorKind::WrongType,
        ),
        (V2_HEADERS, br#"{"kwargs": {}}"#, DecodeErrorKind::Missing),
        (b"{}", V2_BODY, DecodeErrorKind::WrongType),
        (b"{}", b"{}", DecodeErrorKind::Missing),
        (b"[]", V2_BODY, DecodeErrorKind::WrongType),
        (b"{}x", V2_BODY, DecodeErrorKind::Json),
        (V2_HEADERS, b"[[], {}, {}]x", DecodeErrorKind::Json),
    ] {
        let error = TaskMessage::split(headers, body).unwrap_err();
        assert_eq!(error.kind, kind, "{}", body.escape_ascii());
    }
}

#[test]
fn deep_nesting_is_an_error() {
    let deep = [b"[".repeat(10_000), b"]".repeat(10_000)].concat();
    let data = [b"{\"headers\": ", &deep[..], b"}"].concat();
    assert_eq!(
        Envelope::read(&data, Reader::skip).unwrap_err().kind,
        DecodeErrorKind::Json
    );
}

fn damaged(data: &'static [u8]) -> impl Strategy<Value = Vec<u8>> {
    let edits = prop::collection::vec((0..data.len(), any::<u8>()), 0..4);
    (edits, 0..=data.len()).prop_map(|(edits, cut)| {
        let mut damaged = data.to_vec();
        for (index, byte) in edits {
            damaged[index] = byte;
        }
        damaged.truncate(cut);
        damaged
    })
}

proptest! {
    #[test]
    fn no_bytes_make_the_envelope_panic(data in prop_oneof![
        prop::collection::vec(any::<u8>(), 0..64),
        "[\\[\\]{}\",:\\\\u0-9a-f_ ]{0,40}".prop_map(String::into_bytes),
        damaged(ENVELOPE),
    ]) {
        if let Ok(envelope) = Envelope::read(&data, Reader::skip) && let Some(body) = envelope.body {
            decoded(body, BodyEncoding::Base64);
            decoded(body, BodyEncoding::Text).expect("a JSON string has a text");
        }
    }

    #[test]
    fn no_bytes_make_the_message_panic(
        headers in prop_oneof![Just(b"{}".to_vec()), damaged(V2_HEADERS)],
        body in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..64), damaged(V1_BODY), damaged(V2_BODY),
        ],
    ) {
        if let Ok(message) = TaskMessage::split(&headers, &body) {
            // A span is a value of its own.
            for span in [message.id, message.eta, message.args, message.kwargs, message.embed] {
                let Some(span) = span else { continue };
                let mut jiter = jiter::Jiter::new(span);
                prop_assert!(jiter.next_skip().is_ok() && jiter.finish().is_ok());
            }
        }
    }

    #[test]
    fn base64_gives_back_what_was_encoded(data in prop::collection::vec(any::<u8>(), 0..200)) {
        let encoded = base64_simd::STANDARD.encode_to_string(&data);
        prop_assert_eq!(decoded(encoded.as_bytes(), BodyEncoding::Base64), Some(data));
    }
}
