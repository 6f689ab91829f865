//! JSON strings as `json.dumps` writes them: ASCII alone, everything else escaped.

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Bytes that are looked at together, without a branch for each.
const BLOCK: usize = 32;

/// Appends `text` to `out`, quoted.
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    let mut rest = text;
    while let Some(index) = first_to_escape(rest.as_bytes()) {
        let (plain, special) = rest.split_at(index);
        out.extend_from_slice(plain.as_bytes());
        let mut characters = special.chars();
        if let Some(character) = characters.next() {
            write_escaped(out, character);
        }
        rest = characters.as_str();
    }
    out.extend_from_slice(rest.as_bytes());
    out.push(b'"');
}

fn first_to_escape(text: &[u8]) -> Option<usize> {
    let plain = text
        .chunks_exact(BLOCK)
        .take_while(|block| {
            !block
                .iter()
                .fold(false, |any, byte| any | needs_escape(*byte))
        })
        .count();
    let start = plain * BLOCK;
    let index = text[start..].iter().copied().position(needs_escape)?;
    Some(start + index)
}

/// Whether a byte of a text is not written as it is.
fn needs_escape(byte: u8) -> bool {
    !(b' '..=b'~').contains(&byte) || byte == b'"' || byte == b'\\'
}

fn write_escaped(out: &mut Vec<u8>, character: char) {
    let short = match character {
        '"' => b'"',
        '\\' => b'\\',
        '\n' => b'n',
        '\r' => b'r',
        '\t' => b't',
        '\u{8}' => b'b',
        '\u{c}' => b'f',
        other => {
            for unit in other.encode_utf16(&mut [0; 2]) {
                out.extend_from_slice(b"\\u");
                out.extend(
                    (0..4)
                        .rev()
                        .map(|nibble| HEX[usize::from(*unit >> (4 * nibble) & 15)]),
                );
            }
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> String {
        let mut out = Vec::new();
        write_string(&mut out, text);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn plain_text_is_only_quoted() {
        assert_eq!(written("feeds.crawl(42)"), "\"feeds.crawl(42)\"");
    }

    #[test]
    fn controls_have_the_short_form_where_json_knows_one() {
        assert_eq!(
            written("\u{8}\u{c}\n\r\t\"\\/\u{1}\x7f"),
            r#""\b\f\n\r\t\"\\/\u0001\u007f""#
        );
    }

    #[test]
    fn what_is_not_ascii_becomes_utf_16() {
        assert_eq!(written("é\u{2028}🦀."), r#""\u00e9\u2028\ud83e\udd80.""#);
    }
}
