//! Text to tokens. PTX words keep their dots (`ld.global.u32`, `%tid.x`) because no rule of the grammar splits them.

use crate::error::{Error, Result};

/// What a token is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Token {
    /// Identifier, register, opcode or directive, with its dots and `::`.
    Word(String),
    /// Integer, or the raw bits of a float literal.
    Number(Number),
    /// String in quotes.
    Text(String),
    /// One character of punctuation.
    Punct(u8),
    /// The comment by which a kernel declares a sub-array of shared memory (see [`crate::ptx`]).
    Carve,
}

/// A literal as written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Number {
    /// Any integer; negative ones arrive as a minus sign and a number.
    Int(u64),
    /// `0f...`: bits of an f32.
    F32(u32),
    /// `0d...` or decimal: bits of an f64.
    F64(u64),
}

/// Comment that declares a carved sub-array: `// ptx-emu.carve ADDRESS BYTES`.
pub(crate) const CARVE: &str = "ptx-emu.carve";

/// All tokens of a text, each with its line, from 1.
pub(crate) fn lex(text: &str) -> Result<Vec<(Token, u32)>> {
    let s = text.as_bytes();
    let (mut i, mut line, mut out) = (0, 1u32, Vec::new());
    while i < s.len() {
        let c = s[i];
        match c {
            b'\n' => {
                line += 1;
                i += 1;
            }
            b' ' | b'\t' | b'\r' => i += 1,
            b'/' if s.get(i + 1) == Some(&b'/') => {
                let end = find(s, i, b'\n');
                let comment = text.get(i + 2..end).unwrap_or("").trim();
                match comment.strip_prefix(CARVE) {
                    // Leave the operands to be lexed like any others, and close the statement at the line's end.
                    Some(operands) if operands.starts_with([' ', '\t']) => {
                        out.push((Token::Carve, line));
                        // A comment in the comment ends it, and keeps hostile text from recursing.
                        let operands = operands.split("//").next().unwrap_or("");
                        out.extend(lex(operands)?.into_iter().map(|(t, _)| (t, line)));
                        out.push((Token::Punct(b';'), line));
                    }
                    _ => {}
                }
                i = end;
            }
            b'/' if s.get(i + 1) == Some(&b'*') => {
                let end = (i + 2..s.len())
                    .find(|&j| s[j] == b'*' && s.get(j + 1) == Some(&b'/'))
                    .ok_or_else(|| Error::parse(line, "this comment is never closed"))?;
                line += s[i..end].iter().filter(|&&b| b == b'\n').count() as u32;
                i = end + 2;
            }
            b'"' => {
                let end = find(s, i + 1, b'"');
                if end == s.len() {
                    return Err(Error::parse(line, "this string is never closed"));
                }
                out.push((Token::Text(String::from_utf8_lossy(&s[i + 1..end]).into_owned()), line));
                line += s[i + 1..end].iter().filter(|&&b| b == b'\n').count() as u32;
                i = end + 1;
            }
            b'0'..=b'9' => {
                let end = (i..s.len())
                    .find(|&j| !(s[j].is_ascii_alphanumeric() || s[j] == b'.' || s[j] == b'_'))
                    .unwrap_or(s.len());
                let word = text.get(i..end).unwrap_or("");
                let number =
                    number(word).ok_or_else(|| Error::parse(line, format!("bad number `{word}`")))?;
                out.push((Token::Number(number), line));
                i = end;
            }
            _ if is_word(c) => {
                let mut j = i;
                while j < s.len() {
                    if is_word(s[j]) || s[j].is_ascii_digit() {
                        j += 1;
                    } else if s[j] == b':' && s.get(j + 1) == Some(&b':') {
                        j += 2;
                    } else {
                        break;
                    }
                }
                out.push((Token::Word(text.get(i..j).unwrap_or("").to_owned()), line));
                i = j;
            }
            b'{' | b'}' | b'(' | b')' | b'[' | b']' | b'<' | b'>' | b',' | b';' | b':' | b'+' | b'-'
            | b'=' | b'@' | b'!' | b'|' => {
                out.push((Token::Punct(c), line));
                i += 1;
            }
            _ => {
                let shown = text.get(i..).and_then(|t| t.chars().next()).unwrap_or('?');
                return Err(Error::parse(line, format!("unexpected character {shown:?}")));
            }
        }
    }
    Ok(out)
}

fn find(s: &[u8], from: usize, what: u8) -> usize {
    s[from..].iter().position(|&b| b == what).map_or(s.len(), |p| from + p)
}

fn is_word(c: u8) -> bool {
    c.is_ascii_alphabetic() || matches!(c, b'_' | b'$' | b'%' | b'.')
}

fn number(word: &str) -> Option<Number> {
    let hex =
        |digits: &str, n: usize| (digits.len() == n).then(|| u64::from_str_radix(digits, 16).ok()).flatten();
    let int =
        |digits: &str, radix| u64::from_str_radix(digits.trim_end_matches('U'), radix).ok().map(Number::Int);
    match word.get(..2) {
        Some("0f" | "0F") => return hex(&word[2..], 8).map(|b| Number::F32(b as u32)),
        Some("0d" | "0D") => return hex(&word[2..], 16).map(Number::F64),
        Some("0x" | "0X") => return int(&word[2..], 16),
        Some("0b" | "0B") => return int(&word[2..], 2),
        _ => {}
    }
    if word.contains('.') {
        return word.parse::<f64>().ok().map(|v| Number::F64(v.to_bits()));
    }
    let octal = word.len() > 1 && word.starts_with('0');
    int(word, if octal { 8 } else { 10 })
}
