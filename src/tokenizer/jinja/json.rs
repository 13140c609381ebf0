//! `tojson`: what Python's `json.dumps` writes.

use super::{Fault, Out, interpreter::Machine, methods::Arguments, print, value::Value};

struct Style {
    ascii: bool,
    /// What one level is indented by.
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
}

impl Machine<'_> {
    pub(super) fn to_json(&self, value: &Value, arguments: Arguments) -> Out<String> {
        let [ascii, indent, separators, sort_keys] =
            arguments.bind("tojson", ["ensure_ascii", "indent", "separators", "sort_keys"])?;
        let indent = match indent {
            None | Some(Value::None) => None,
            Some(Value::Text(text)) => Some(text.to_string()),
            Some(value) => match value.as_int() {
                Some(width) => {
                    let width = usize::try_from(width.max(0)).unwrap_or(usize::MAX);
                    self.budget.spend(width)?;
                    Some(" ".repeat(width))
                }
                None => return Err(Fault::new("tojson: indent must be an integer or a string")),
            },
        };
        let usual = if indent.is_some() { "," } else { ", " };
        let (item_separator, key_separator) = match separators {
            None | Some(Value::None) => (usual.to_string(), ": ".to_string()),
            Some(Value::List(pair) | Value::Tuple(pair)) => match &pair.values[..] {
                [Value::Text(item), Value::Text(key)] => (item.to_string(), key.to_string()),
                _ => return Err(Fault::new("tojson: separators must be two strings")),
            },
            Some(_) => return Err(Fault::new("tojson: separators must be two strings")),
        };
        let is_true = |value: Option<Value>| value.is_some_and(|value| value.is_true());
        let style = Style {
            ascii: is_true(ascii),
            indent,
            item_separator,
            key_separator,
            sort_keys: is_true(sort_keys),
        };
        let mut text = String::new();
        self.write(value, &style, 0, &mut text)?;
        Ok(text)
    }

    fn write(&self, value: &Value, style: &Style, level: usize, text: &mut String) -> Out<()> {
        self.budget.spend(16)?;
        match value {
            Value::None => text.push_str("null"),
            Value::Bool(value) => text.push_str(if *value { "true" } else { "false" }),
            Value::Int(value) => text.push_str(&value.to_string()),
            Value::Float(value) => text.push_str(&float(*value)),
            Value::Text(part) => self.quote(part, style, text)?,
            Value::List(items) | Value::Tuple(items) => {
                text.push('[');
                for (index, item) in items.values.iter().enumerate() {
                    self.separate(index, style, level + 1, text)?;
                    self.write(item, style, level + 1, text)?;
                }
                self.close(items.values.is_empty(), style, level, text)?;
                text.push(']');
            }
            Value::Dict(dict) => {
                text.push('{');
                let mut entries: Vec<_> = dict.entries().iter().collect();
                if style.sort_keys {
                    super::operators::sort(&mut entries, |a, b| a.0.order(&b.0, "<", &self.budget))?;
                }
                for (index, (key, value)) in entries.iter().enumerate() {
                    self.separate(index, style, level + 1, text)?;
                    let key = match key {
                        Value::Text(key) => key.to_string(),
                        Value::None => "null".into(),
                        Value::Bool(key) => if *key { "true" } else { "false" }.into(),
                        Value::Int(key) => key.to_string(),
                        Value::Float(key) => float(*key),
                        _ => {
                            return Err(Fault::new(format!(
                                "keys must be str, int, float, bool or None, not {}",
                                key.kind()
                            )));
                        }
                    };
                    self.quote(&key, style, text)?;
                    text.push_str(&style.key_separator);
                    self.budget.spend(style.key_separator.len())?;
                    self.write(value, style, level + 1, text)?;
                }
                self.close(dict.entries().is_empty(), style, level, text)?;
                text.push('}');
            }
            _ => return Err(Fault::new(format!("Object of type {} is not JSON serializable", value.kind()))),
        }
        Ok(())
    }

    fn separate(&self, index: usize, style: &Style, level: usize, text: &mut String) -> Out<()> {
        if index > 0 {
            self.budget.spend(style.item_separator.len())?;
            text.push_str(&style.item_separator);
        }
        self.line(style, level, text)
    }

    fn close(&self, is_empty: bool, style: &Style, level: usize, text: &mut String) -> Out<()> {
        if is_empty { Ok(()) } else { self.line(style, level, text) }
    }

    fn line(&self, style: &Style, level: usize, text: &mut String) -> Out<()> {
        if let Some(indent) = &style.indent {
            self.budget.spend_product(indent.len(), level)?;
            text.push('\n');
            text.push_str(&indent.repeat(level));
        }
        Ok(())
    }

    fn quote(&self, part: &str, style: &Style, text: &mut String) -> Out<()> {
        self.budget.spend_product(part.len(), if style.ascii { 6 } else { 2 })?;
        text.push('"');
        for c in part.chars() {
            match c {
                '"' => text.push_str("\\\""),
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                '\x08' => text.push_str("\\b"),
                '\x0c' => text.push_str("\\f"),
                _ if c < ' ' || style.ascii && !(' '..='~').contains(&c) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        text.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                _ => text.push(c),
            }
        }
        text.push('"');
        Ok(())
    }
}

fn float(value: f64) -> String {
    match value.is_finite() {
        true => print::float(value),
        false if value.is_nan() => "NaN".into(),
        false => if value < 0.0 { "-Infinity" } else { "Infinity" }.into(),
    }
}
