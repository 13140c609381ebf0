//! Values as text: Python's `str` and `repr`.

use super::{Out, interpreter::Machine, value::Value};

impl Machine<'_> {
    /// Python's `str(value)`, as Jinja prints it.
    pub(super) fn print(&self, value: &Value, text: &mut String) -> Out<()> {
        match value {
            Value::Undefined(_) => Ok(()),
            Value::Text(part) => {
                self.budget.spend(part.len())?;
                text.push_str(part);
                Ok(())
            }
            _ => self.represent(value, text),
        }
    }

    pub(super) fn printed(&self, value: &Value) -> Out<String> {
        let mut text = String::new();
        self.print(value, &mut text)?;
        Ok(text)
    }

    /// Python's `repr(value)`.
    pub(super) fn represent(&self, value: &Value, text: &mut String) -> Out<()> {
        self.budget.spend(16)?;
        match value {
            Value::Undefined(_) => text.push_str("Undefined"),
            Value::None => text.push_str("None"),
            Value::Bool(value) => text.push_str(if *value { "True" } else { "False" }),
            Value::Int(value) => text.push_str(&value.to_string()),
            Value::Float(value) => text.push_str(&float(*value)),
            Value::Text(part) => {
                let start = text.len();
                quote(part, text);
                self.budget.spend(text.len() - start)?;
            }
            Value::List(items) => self.sequence(&items.values, "[", "]", text)?,
            Value::Tuple(items) => {
                self.sequence(&items.values, "(", if items.values.len() == 1 { ",)" } else { ")" }, text)?;
            }
            Value::Dict(dict) => self.mapping(dict.entries(), text)?,
            Value::Namespace(number) => {
                text.push_str("<Namespace ");
                self.budget.nested(|| self.mapping(self.namespaces[*number].entries(), text))?;
                text.push('>');
            }
            _ => {
                text.push('<');
                text.push_str(value.kind());
                text.push('>');
            }
        }
        Ok(())
    }

    fn sequence(&self, values: &[Value], open: &str, close: &str, text: &mut String) -> Out<()> {
        text.push_str(open);
        for (index, value) in values.iter().enumerate() {
            text.push_str(if index > 0 { ", " } else { "" });
            self.represent(value, text)?;
        }
        text.push_str(close);
        Ok(())
    }

    fn mapping(&self, entries: &[(Value, Value)], text: &mut String) -> Out<()> {
        text.push('{');
        for (index, (key, value)) in entries.iter().enumerate() {
            text.push_str(if index > 0 { ", " } else { "" });
            self.represent(key, text)?;
            text.push_str(": ");
            self.represent(value, text)?;
        }
        text.push('}');
        Ok(())
    }
}

/// A float as Python writes it: the shortest digits that read back the same, with an exponent where it is long.
pub(super) fn float(value: f64) -> String {
    if !value.is_finite() {
        return if value.is_nan() { "nan".into() } else { format!("{value}") };
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').expect("this format has an exponent");
    let exponent: i32 = exponent.parse().expect("it is a number");
    if (-4..16).contains(&exponent) {
        let plain = value.to_string();
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

/// Text between quotes, with Python's escapes.
fn quote(part: &str, text: &mut String) {
    let mark = if part.contains('\'') && !part.contains('"') { '"' } else { '\'' };
    text.push(mark);
    for c in part.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            _ if c == mark => text.extend(['\\', c]),
            _ if is_printable(c) => text.push(c),
            _ => text.push_str(&match u32::from(c) {
                code @ ..=0xff => format!("\\x{code:02x}"),
                code @ ..=0xffff => format!("\\u{code:04x}"),
                code => format!("\\U{code:08x}"),
            }),
        }
    }
    text.push(mark);
}

/// Python's `str.isprintable` of one character: no control or format character, no space but the usual one.
fn is_printable(c: char) -> bool {
    c == ' '
        || !(c.is_control()
            || c.is_whitespace()
            || matches!(c, '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{180e}'
                | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{e000}'..='\u{f8ff}'
                | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}' | '\u{f0000}'..='\u{10ffff}'))
}
