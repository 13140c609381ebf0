//! Python's functions of text.

use super::{Fault, Out};

/// Python's `str.isspace` of one character.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\x1c'..='\x1f')
}

pub(super) fn stripped<'a>(text: &'a str, chars: Option<&str>, left: bool, right: bool) -> &'a str {
    let goes = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if left { text.trim_start_matches(goes) } else { text };
    if right { text.trim_end_matches(goes) } else { text }
}

pub(super) fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|first| first.to_uppercase().collect::<String>());
    first.unwrap_or_default() + &chars.as_str().to_lowercase()
}

/// Python's `str.title`: a letter is upper case after what is no letter.
pub(super) fn title(text: &str) -> String {
    let mut titled = String::new();
    let mut in_word = false;
    for c in text.chars() {
        match in_word {
            true => titled.extend(c.to_lowercase()),
            false => titled.extend(c.to_uppercase()),
        }
        in_word = c.is_alphabetic();
    }
    titled
}

pub(super) fn swapped(c: char) -> char {
    let other = if c.is_uppercase() { c.to_lowercase().next() } else { c.to_uppercase().next() };
    other.unwrap_or(c)
}

/// Python's `str.split` and `rsplit`.
pub(super) fn split<'a>(
    text: &'a str,
    separator: Option<&str>,
    most: usize,
    right: bool,
) -> Out<Vec<&'a str>> {
    let mut parts = Vec::new();
    let mut rest = text;
    match separator {
        Some("") => return Err(Fault::new("empty separator")),
        Some(separator) => {
            while parts.len() < most {
                let Some((before, after)) =
                    (if right { rest.rsplit_once(separator) } else { rest.split_once(separator) })
                else {
                    break;
                };
                parts.push(if right { after } else { before });
                rest = if right { before } else { after };
            }
            parts.push(rest);
        }
        None => loop {
            rest = stripped(rest, None, !right, right);
            if rest.is_empty() {
                break;
            }
            let end = if right { rest.rfind(is_space) } else { rest.find(is_space) };
            let Some(end) = end.filter(|_| parts.len() < most) else {
                parts.push(rest);
                break;
            };
            let space = rest[end..].chars().next().map_or(0, char::len_utf8);
            let (before, after) = (&rest[..end], &rest[end + space..]);
            parts.push(if right { after } else { before });
            rest = if right { before } else { after };
        },
    }
    if right {
        parts.reverse();
    }
    Ok(parts)
}

/// Python's `str.splitlines`.
pub(super) fn lines(text: &str, keep: bool) -> Vec<&str> {
    let ends = ['\n', '\r', '\x0b', '\x0c', '\x1c', '\x1d', '\x1e', '\u{85}', '\u{2028}', '\u{2029}'];
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(end) = rest.find(ends) {
        let width = match rest[end..].starts_with("\r\n") {
            true => 2,
            false => rest[end..].chars().next().map_or(0, char::len_utf8),
        };
        lines.push(&rest[..if keep { end + width } else { end }]);
        rest = &rest[end + width..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}
