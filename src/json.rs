//! JSON as Python writes it: with `NaN`, `Infinity` and `-Infinity`.

use std::borrow::Cow;

/// `text` with these numbers, which JSON has not, as strings: a key that nobody reads may have them, and one that is read as a
/// number is refused with its value.
pub(crate) fn with_quoted_constants(text: &str) -> Cow<'_, str> {
    const CONSTANTS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];
    let mut quoted = String::new();
    let (mut copied, mut at, mut in_string) = (0, 0, false);
    let bytes = text.as_bytes();
    while at < bytes.len() {
        at += match bytes[at] {
            b'\\' if in_string => 2,
            b'"' => {
                in_string = !in_string;
                1
            }
            b'-' | b'I' | b'N' if !in_string => {
                match CONSTANTS.into_iter().find(|constant| bytes[at..].starts_with(constant.as_bytes())) {
                    Some(constant) => {
                        quoted.extend([&text[copied..at], "\"", constant, "\""]);
                        copied = at + constant.len();
                        constant.len()
                    }
                    None => 1,
                }
            }
            _ => 1,
        };
    }
    match copied {
        0 => text.into(),
        _ => (quoted + &text[copied..]).into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::with_quoted_constants;

    #[test]
    fn constants_become_strings() {
        let text = r#"{"a": NaN, "b": [-Infinity,Infinity, -1], "c": "NaN \" Infinity", "d\\": Infinity}"#;
        let value: Value = serde_json::from_str(&with_quoted_constants(text)).unwrap();
        let expected = json!({
            "a": "NaN", "b": ["-Infinity", "Infinity", -1], "c": "NaN \" Infinity", "d\\": "Infinity"
        });
        assert_eq!(value, expected);
        for text in ["", "\"", "\"\\", "{\"é\": 1}", "N", "-", "nan"] {
            assert_eq!(with_quoted_constants(text), text);
        }
    }
}
