//! A template's text as tokens, with Jinja's rules for the whitespace around tags (`trim_blocks` and `lstrip_blocks` on).

use super::{Fault, Out};

/// One token and the line that it starts on.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) line: usize,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    /// Text between tags, as it is put out.
    Data(String),
    OutputBegin,
    OutputEnd,
    BlockBegin,
    BlockEnd,
    Name(String),
    Text(String),
    Int(i128),
    Float(f64),
    Operator(&'static str),
    End,
}

/// Longest first, so that `//` is not read as two of `/`.
const OPERATORS: [&str; 25] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "*", "/", "%", "~", "<", ">", "=", ".", ":", "|", ",", "(",
    ")", "[", "]", "{", "}",
];

/// The tokens of `source`, with [`Kind::End`] as the last one.
pub(super) fn tokens(source: &str) -> Out<Vec<Token>> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let source = source.strip_suffix('\n').unwrap_or(&source);
    let mut lexer = Lexer { source, at: 0, line: 1, line_start: true, tokens: Vec::new() };
    while lexer.at < source.len() {
        lexer.data()?;
    }
    lexer.push(Kind::End);
    Ok(lexer.tokens)
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    line: usize,
    /// Whether the text at `at` starts a line.
    line_start: bool,
    tokens: Vec<Token>,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn push(&mut self, kind: Kind) {
        self.tokens.push(Token { line: self.line, kind });
    }

    fn skip(&mut self, bytes: usize) {
        let skipped = &self.source[self.at..self.at + bytes];
        self.line += skipped.bytes().filter(|byte| *byte == b'\n').count();
        if bytes > 0 {
            self.line_start = skipped.ends_with('\n');
        }
        self.at += bytes;
    }

    fn fault<T>(&self, reason: impl Into<String>) -> Out<T> {
        Err(Fault::at(self.line, reason))
    }

    /// Text up to the next tag or the end, and that tag.
    fn data(&mut self) -> Out<()> {
        let rest = self.rest();
        let tag = rest.as_bytes().windows(2).position(|pair| matches!(pair, b"{{" | b"{%" | b"{#"));
        let Some(tag) = tag else {
            self.text(rest);
            self.skip(rest.len());
            return Ok(());
        };
        let opening = &rest[tag..];
        let sign = opening.as_bytes().get(2).copied().filter(|sign| matches!(sign, b'-' | b'+'));
        self.text(before(&rest[..tag], sign, !opening.starts_with("{{"), self.line_start));
        self.skip(tag + 2 + usize::from(sign.is_some()));
        match &opening[..2] {
            "{#" => match self.rest().find("#}") {
                Some(end) => {
                    let sign = self.rest()[..end].bytes().last();
                    self.skip(end + 2);
                    self.after(sign, true);
                    Ok(())
                }
                None => self.fault("a comment that does not end: `#}` is missing"),
            },
            "{%" if self.raw()? => Ok(()),
            "{%" => {
                self.push(Kind::BlockBegin);
                self.tag("%}", Kind::BlockEnd)
            }
            _ => {
                self.push(Kind::OutputBegin);
                self.tag("}}", Kind::OutputEnd)
            }
        }
    }

    fn text(&mut self, text: &str) {
        if !text.is_empty() {
            self.push(Kind::Data(text.to_string()));
        }
    }

    /// Whitespace after a tag: all of it after `-`, and one line break where `trims`.
    fn after(&mut self, sign: Option<u8>, trims: bool) {
        let rest = self.rest();
        match sign {
            Some(b'-') => self.skip(rest.len() - rest.trim_start().len()),
            Some(b'+') => {}
            _ if trims && rest.starts_with('\n') => self.skip(1),
            _ => {}
        }
    }

    /// `raw %}…{% endraw %}`, if that is what follows.
    fn raw(&mut self) -> Out<bool> {
        let Some((sign, length)) = closing(self.rest(), "raw") else { return Ok(false) };
        self.skip(length);
        self.after(sign.filter(|sign| *sign == b'-'), false);
        let body = self.rest();
        let mut from = 0;
        while let Some(found) = body[from..].find("{%") {
            let tag = from + found;
            let sign = body.as_bytes().get(tag + 2).copied().filter(|sign| matches!(sign, b'-' | b'+'));
            let name = tag + 2 + usize::from(sign.is_some());
            if let Some((end, length)) = closing(&body[name..], "endraw") {
                self.text(before(&body[..tag], sign, true, self.line_start));
                self.skip(name + length);
                self.after(end, true);
                return Ok(true);
            }
            from = tag + 2;
        }
        self.fault("a raw block that does not end: `{% endraw %}` is missing")
    }

    /// The tokens up to the delimiter `end`, and it.
    fn tag(&mut self, end: &str, kind: Kind) -> Out<()> {
        let mut open = Vec::new();
        loop {
            let rest = self.rest();
            self.skip(rest.len() - rest.trim_start().len());
            let rest = self.rest();
            let Some(first) = rest.chars().next() else {
                return self.fault(format!("a tag that does not end: `{end}` is missing"));
            };
            if open.is_empty() {
                let sign = rest.bytes().next().filter(|sign| *sign == b'-' || *sign == b'+' && end == "%}");
                let signed = usize::from(sign.is_some());
                if rest[signed..].starts_with(end) {
                    self.push(kind);
                    self.skip(signed + end.len());
                    self.after(sign, end == "%}");
                    return Ok(());
                }
            }
            if first.is_ascii_digit() {
                self.number()?;
            } else if first.is_alphabetic() || first == '_' {
                let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                self.push(Kind::Name(rest[..length].to_string()));
                self.skip(length);
            } else if first == '"' || first == '\'' {
                self.string(first)?;
            } else if let Some(operator) = OPERATORS.into_iter().find(|operator| rest.starts_with(operator)) {
                match operator {
                    "(" => open.push(")"),
                    "[" => open.push("]"),
                    "{" => open.push("}"),
                    ")" | "]" | "}" if open.pop() != Some(operator) => {
                        return self.fault(format!("an unexpected `{operator}`"));
                    }
                    _ => {}
                }
                self.push(Kind::Operator(operator));
                self.skip(operator.len());
            } else {
                return self.fault(format!("an unexpected character {first:?}"));
            }
        }
    }

    fn number(&mut self) -> Out<()> {
        let rest = self.rest();
        let digits = |text: &str, radix: u32| {
            text.find(|c: char| !c.is_digit(radix) && c != '_').unwrap_or(text.len())
        };
        let radix = match rest.get(..2) {
            Some("0x" | "0X") => 16,
            Some("0o" | "0O") => 8,
            Some("0b" | "0B") => 2,
            _ => 10,
        };
        if radix != 10 {
            let length = 2 + digits(&rest[2..], radix);
            return self.integer(&rest[2..length], radix, length);
        }
        let mut length = digits(rest, 10);
        let whole = length;
        // After a dot, `1.2` would be two keys; the digits of a float need one on either side of theirs.
        let is_key = matches!(self.tokens.last(), Some(Token { kind: Kind::Operator("."), .. }));
        if !is_key && rest[length..].starts_with('.') && digits(&rest[length + 1..], 10) > 0 {
            length += 1 + digits(&rest[length + 1..], 10);
        }
        if !is_key && let Some(power) = rest[length..].strip_prefix(['e', 'E']) {
            let signed = usize::from(power.starts_with(['+', '-']));
            let power = digits(&power[signed..], 10);
            length += if power > 0 { 1 + signed + power } else { 0 };
        }
        if length == whole {
            return self.integer(&rest[..length], 10, length);
        }
        match rest[..length].replace('_', "").parse() {
            Ok(value) => self.push(Kind::Float(value)),
            Err(_) => return self.fault("a malformed number"),
        }
        self.skip(length);
        Ok(())
    }

    fn integer(&mut self, digits: &str, radix: u32, length: usize) -> Out<()> {
        match i128::from_str_radix(&digits.replace('_', ""), radix) {
            Ok(value) => self.push(Kind::Int(value)),
            Err(_) => return self.fault("an integer with too many digits, or none"),
        }
        self.skip(length);
        Ok(())
    }

    fn string(&mut self, quote: char) -> Out<()> {
        let text = &self.rest()[1..];
        let mut escaped = false;
        let end = text.find(|c: char| {
            let ends = c == quote && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let Some(end) = end else { return self.fault("a string that does not end") };
        let value = unescaped(&text[..end]).or_else(|reason| self.fault(reason))?;
        self.push(Kind::Text(value));
        self.skip(end + 2);
        Ok(())
    }
}

/// The text before a tag, without the whitespace that the tag's sign, or being alone on its line, takes away.
fn before(text: &str, sign: Option<u8>, is_block: bool, line_start: bool) -> &str {
    match sign {
        Some(b'-') => text.trim_end(),
        None if is_block => {
            let line = text.rfind('\n').map_or(0, |end| end + 1);
            let alone = (line > 0 || line_start) && text[line..].trim().is_empty();
            if alone { &text[..line] } else { text }
        }
        _ => text,
    }
}

/// The sign and length of `NAME %}` at the beginning of `text`, if it is there.
fn closing(text: &str, name: &str) -> Option<(Option<u8>, usize)> {
    let rest = text.trim_start().strip_prefix(name)?.trim_start();
    let sign = rest.bytes().next().filter(|sign| matches!(sign, b'-' | b'+'));
    let rest = rest[usize::from(sign.is_some())..].strip_prefix("%}")?;
    Some((sign, text.len() - rest.len()))
}

/// `text` with Python's escapes replaced.
fn unescaped(text: &str) -> Result<String, &'static str> {
    let mut value = String::new();
    let mut rest = text;
    while let Some(slash) = rest.find('\\') {
        value.push_str(&rest[..slash]);
        rest = &rest[slash + 1..];
        let Some(kind) = rest.chars().next() else { break };
        rest = &rest[kind.len_utf8()..];
        let code = |rest: &str, length: usize, radix: u32| {
            let digits = rest.get(..length).ok_or("an escape with too few digits")?;
            let code = u32::from_str_radix(digits, radix).map_err(|_| "an escape with other digits")?;
            char::from_u32(code).ok_or("an escape that is no character")
        };
        let length = match kind {
            '\n' => continue,
            'x' => 2,
            'u' => 4,
            'U' => 8,
            '0'..='7' => {
                let digits = rest.bytes().take(2).take_while(|byte| matches!(byte, b'0'..=b'7')).count();
                value.push(code(&format!("{kind}{}", &rest[..digits]), digits + 1, 8)?);
                rest = &rest[digits..];
                continue;
            }
            _ => {
                match "\\'\"abfnrtv".find(kind) {
                    Some(index) => {
                        value.push(['\\', '\'', '"', '\x07', '\x08', '\x0c', '\n', '\r', '\t', '\x0b'][index])
                    }
                    None => value.extend(['\\', kind]),
                }
                continue;
            }
        };
        value.push(code(rest, length, 16)?);
        rest = &rest[length..];
    }
    value.push_str(rest);
    Ok(value)
}
