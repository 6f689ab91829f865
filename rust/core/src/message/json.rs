//! The JSON that jiter and `CPython` read alike.
//!
//! jiter refuses most of what it would read differently. The rest is refused here, before
//! anything is parsed: an input that passes [`check`] and that jiter accepts has the value
//! that `kombu.utils.json.loads` gives it.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use super::error::{DecodeError, DecodeErrorKind};

/// The shortest limit that `sys.set_int_max_str_digits` accepts.
///
/// The limit is the interpreter's, and it may change at any time, so anything that could
/// exceed the strictest one is left to Python.
const SAFE_INTEGER_DIGITS: usize = 640;

static EXTENSION_KEY: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(b"\"__type__\""));
static ESCAPED_LATIN: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(b"\\u00"));

/// Returns the text of `data` if nothing in it has a meaning that only Python knows.
///
/// # Errors
///
/// [`DecodeErrorKind::Utf8`] for bytes that are no text, [`DecodeErrorKind::Extension`] where
/// an object may have the key `__type__`, and [`DecodeErrorKind::LongInteger`] for 640
/// digits in a row. The last two also strike strings that merely look so: they are rare, and
/// being wrong costs time, not correctness.
pub fn check(data: &[u8]) -> Result<&str, DecodeError> {
    let text = std::str::from_utf8(data).map_err(|e| DecodeErrorKind::Utf8.at(e.valid_up_to()))?;
    match extension(data).map(|index| DecodeErrorKind::Extension.at(index)) {
        Some(error) => Err(error),
        None => match long_digit_run(data) {
            Some(index) => Err(DecodeErrorKind::LongInteger.at(index)),
            None => Ok(text),
        },
    }
}

/// Where an object may have the key `__type__`: spelt out, or with escaped ASCII letters.
///
/// Encoders escape control characters and what is not ASCII; nobody but an attacker spells
/// a letter as `\u00XX`, so no key is ever decoded in order to tell.
fn extension(data: &[u8]) -> Option<usize> {
    let escaped_letter = |index: &usize| matches!(data.get(index + 4), Some(b'4'..=b'7'));
    EXTENSION_KEY
        .find(data)
        .or_else(|| ESCAPED_LATIN.find_iter(data).find(escaped_letter))
}

/// Where a run of [`SAFE_INTEGER_DIGITS`] digits or more starts.
fn long_digit_run(data: &[u8]) -> Option<usize> {
    // Such a run covers at least one of the bytes that are that far apart, so the others
    // need no look.
    let mut index = SAFE_INTEGER_DIGITS - 1;
    while index < data.len() {
        if data[index].is_ascii_digit() {
            let before = data[..index]
                .iter()
                .rev()
                .take_while(|b| b.is_ascii_digit())
                .count();
            let after = data[index..]
                .iter()
                .take_while(|b| b.is_ascii_digit())
                .count();
            if before + after >= SAFE_INTEGER_DIGITS {
                return Some(index - before);
            }
        }
        index += SAFE_INTEGER_DIGITS;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(text: &str) -> Option<DecodeErrorKind> {
        check(text.as_bytes()).err().map(|e| e.kind)
    }

    #[test]
    fn an_extension_is_found_however_it_is_spelt() {
        for text in [
            r#"{"__type__": "date", "__value__": ""}"#,
            r#"{"\u005f_type__": "date", "__value__": ""}"#,
            r#"{"__\u0074ype__": 1}"#,
            r#"{"__ty\u0070\u0065__": 1}"#,
            r#"{"__t\u0079pe_\u005F": 1}"#,
        ] {
            assert_eq!(kind(text), Some(DecodeErrorKind::Extension), "{text}");
        }
    }

    #[test]
    fn text_that_no_extension_hides_in_passes() {
        for text in [
            r#"{"caf\u00e9": "\u0001"}"#,
            r#"["__type__x"]"#,
            r#""{\"__type__\": 1}""#,
        ] {
            assert_eq!(kind(text), None, "{text}");
        }
    }

    #[test]
    fn a_long_integer_is_found_at_every_offset() {
        for offset in 0..700 {
            let padding = " ".repeat(offset);
            let short = format!("{padding}{}", "7".repeat(SAFE_INTEGER_DIGITS - 1));
            let long = format!("{short}7 ");
            assert_eq!(kind(&short), None);
            assert_eq!(
                check(long.as_bytes()),
                Err(DecodeErrorKind::LongInteger.at(offset))
            );
        }
    }
}
