//! The reader accepts what jiter accepts, and reads the same from it.

use hybrid_core::message::{DecodeError, Reader};
use jiter::{Jiter, JsonValue, NumberAny, NumberInt};
use proptest::prelude::*;

fn by_reader(text: &str) -> Result<String, DecodeError> {
    let mut reader = Reader::new(text);
    let shown = shown_by_reader(&mut reader)?;
    reader.finish()?;
    Ok(shown)
}

fn shown_by_reader(reader: &mut Reader<'_>) -> Result<String, DecodeError> {
    let mut items = Vec::new();
    match reader.peek()? {
        b'"' => Ok(format!("{:?}", reader.string()?)),
        b'n' => reader.literal("null").map(|()| "null".into()),
        b't' => reader.literal("true").map(|()| "true".into()),
        b'f' => reader.literal("false").map(|()| "false".into()),
        b'[' => {
            let mut more = reader.open(b']')?;
            while more {
                items.push(shown_by_reader(reader)?);
                more = reader.more(b']')?;
            }
            Ok(format!("{items:?}"))
        }
        b'{' => {
            let mut more = reader.open(b'}')?;
            while more {
                let key = reader.key("\"known\"")?.unwrap_or("known".into());
                items.push(format!("{key:?}={}", shown_by_reader(reader)?));
                more = reader.more(b'}')?;
            }
            Ok(format!("{{{items:?}}}"))
        }
        _ => Ok(match reader.number()? {
            NumberAny::Int(NumberInt::Int(value)) => value.to_string(),
            NumberAny::Int(NumberInt::BigInt(value)) => value.to_string(),
            NumberAny::Float(value) => format!("{value:?}"),
        }),
    }
}

fn by_jiter(text: &str) -> Option<String> {
    let mut jiter = Jiter::new(text.as_bytes());
    let value = jiter.next_value().ok()?;
    jiter.finish().ok()?;
    Some(shown_by_jiter(&value))
}

fn shown_by_jiter(value: &JsonValue<'_>) -> String {
    match value {
        JsonValue::Null => "null".into(),
        JsonValue::Bool(value) => value.to_string(),
        JsonValue::Int(value) => value.to_string(),
        JsonValue::BigInt(value) => value.to_string(),
        JsonValue::Float(value) => format!("{value:?}"),
        JsonValue::Str(value) => format!("{value:?}"),
        JsonValue::Array(values) => {
            format!(
                "{:?}",
                values.iter().map(shown_by_jiter).collect::<Vec<_>>()
            )
        }
        JsonValue::Object(pairs) => {
            let shown = |(key, value): &(_, _)| format!("{key:?}={}", shown_by_jiter(value));
            format!("{{{:?}}}", pairs.iter().map(shown).collect::<Vec<_>>())
        }
    }
}

fn json() -> impl Strategy<Value = String> {
    let space = || prop::sample::select(vec!["", " ", "\t\r\n "]);
    let string = prop_oneof![
        "\"[ a-z\u{e9}]{0,20}\"",
        r#""([a-z]|\\["\\/bfnrt]|\\u00e9){0,12}""#
    ];
    let scalar = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("\"known\"".to_owned()),
        string.clone(),
        r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,5})?([eE][+-]?[0-9]{1,3})?",
    ];
    scalar.prop_recursive(4, 24, 4, move |inner| {
        let pair = (
            prop_oneof![Just("\"known\"".to_owned()), string.clone()],
            space(),
            inner.clone(),
        );
        let pair = pair.prop_map(|(key, space, value)| format!("{key}{space}:{space}{value}"));
        prop_oneof![
            (prop::collection::vec(inner, 0..4), space())
                .prop_map(|(items, s)| format!("[{s}{}{s}]", items.join(&format!("{s},{s}")))),
            (prop::collection::vec(pair, 0..4), space())
                .prop_map(|(items, s)| format!("{{{s}{}{s}}}", items.join(&format!("{s},{s}")))),
        ]
    })
}

/// JSON with some characters replaced by others that matter to a parser.
fn damaged() -> impl Strategy<Value = String> {
    let edits = prop::collection::vec(
        (
            any::<prop::sample::Index>(),
            "[\\[\\]{},:\"\\\\0-9a\u{1}.\u{e9}-]",
        ),
        0..3,
    );
    (json(), edits).prop_map(|(text, edits)| {
        let mut characters: Vec<char> = text.chars().collect();
        for (index, other) in edits {
            let index = index.index(characters.len());
            characters[index] = other.chars().next().expect("one character");
        }
        characters.into_iter().collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn it_agrees_with_jiter(text in damaged()) {
        prop_assert_eq!(by_reader(&text).ok(), by_jiter(&text));
    }

    #[test]
    fn it_agrees_with_jiter_on_the_end_of_strings(text in "\"[ab\"\\\\/n\u{1}\u{1f} \u{7f}\u{e9}\u{1f600}]{0,24}\"?") {
        prop_assert_eq!(by_reader(&text).ok(), by_jiter(&text));
    }
}
