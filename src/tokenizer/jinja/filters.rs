//! Jinja's filters: `value | name(arguments)`.

use super::{
    Fault, Out,
    ast::Operator,
    interpreter::Machine,
    methods::{Arguments, optional_count, optional_text},
    text::{capitalized, lines, stripped},
    value::Value,
};

/// `defined` or the default, as text.
fn text_or(value: Option<Value>, default: &str) -> Value {
    value.unwrap_or_else(|| default.into())
}

pub(super) fn flag(value: &Option<Value>) -> bool {
    value.as_ref().is_some_and(Value::is_true)
}

impl Machine<'_> {
    pub(super) fn filter(&mut self, name: &str, value: Value, arguments: Arguments) -> Out<Value> {
        self.budget.spend(32)?;
        match name {
            "upper" | "lower" | "title" | "capitalize" | "string" | "trim" | "center" | "replace"
            | "indent" | "escape" | "e" | "forceescape" | "truncate" | "wordcount" | "format" => {
                self.text_filter(name, &value, arguments)
            }
            "length" | "count" => {
                let [] = arguments.bind(name, [])?;
                Ok(value.length(&self.budget)?.into())
            }
            "list" => {
                let [] = arguments.bind(name, [])?;
                Value::list(value.values(&self.budget)?, &self.budget)
            }
            "first" | "last" => {
                let [] = arguments.bind(name, [])?;
                let values = value.values(&self.budget)?;
                let found = if name == "last" { values.last() } else { values.first() };
                let none = || Value::Undefined(format!("No {name} item, sequence was empty.").into());
                Ok(found.cloned().unwrap_or_else(none))
            }
            "default" | "d" => {
                let [default, boolean] = arguments.bind(name, ["default_value", "boolean"])?;
                let missing = matches!(value, Value::Undefined(_)) || flag(&boolean) && !value.is_true();
                Ok(if missing { text_or(default, "") } else { value })
            }
            "safe" => Ok(value),
            "tojson" => {
                let text = self.to_json(&value, arguments)?;
                Ok(text.into())
            }
            "int" | "float" | "abs" | "round" => self.number_filter(name, &value, arguments),
            "attr" => {
                let [name] = arguments.bind(name, ["name"])?;
                match (optional_text("attr", &name)?, &value) {
                    // Attributes only: no keys of dicts.
                    (Some(name), Value::Dict(_)) if !super::methods::has(&value, name) => {
                        Ok(Value::Undefined(format!("'dict object' has no attribute '{name}'").into()))
                    }
                    (Some(name), _) => self.attribute(&value, name),
                    (None, _) => Err(Fault::new("attr needs a name")),
                }
            }
            "reverse" => {
                let [] = arguments.bind(name, [])?;
                if let Value::Text(text) = &value {
                    return Value::text(text.chars().rev().collect(), &self.budget);
                }
                let mut values = value.values(&self.budget)?;
                values.reverse();
                Value::list(values, &self.budget)
            }
            "join" => {
                let [separator, attribute] = arguments.bind(name, ["d", "attribute"])?;
                let separator = self.printed(&text_or(separator, ""))?;
                let mut joined = String::new();
                for (index, value) in value.values(&self.budget)?.iter().enumerate() {
                    if index > 0 {
                        self.budget.spend(separator.len())?;
                        joined.push_str(&separator);
                    }
                    let value = self.path(value, &attribute)?;
                    self.print(&value, &mut joined)?;
                }
                Ok(joined.into())
            }
            "items" => {
                let [] = arguments.bind(name, [])?;
                match &value {
                    Value::Undefined(_) => Value::list(Vec::new(), &self.budget),
                    Value::Dict(dict) => Value::list(self.pairs(dict.entries())?, &self.budget),
                    _ => Err(Fault::new("Can only get item pairs from a mapping.")),
                }
            }
            "map" => self.map(&value, arguments),
            "select" | "reject" | "selectattr" | "rejectattr" => self.select(name, &value, arguments),
            "sort" | "dictsort" | "unique" | "min" | "max" | "groupby" => {
                self.order_filter(name, &value, arguments)
            }
            "sum" => {
                let [attribute, start] = arguments.bind(name, ["attribute", "start"])?;
                let mut sum = start.unwrap_or(Value::Int(0));
                for value in value.values(&self.budget)? {
                    let value = self.path(&value, &attribute)?;
                    sum = self.binary(Operator::Add, &sum, &value)?;
                }
                Ok(sum)
            }
            "batch" | "slice" => {
                let [count, fill] = arguments.bind(name, ["count", "fill_with"])?;
                let count = optional_count(name, &count)?.filter(|count| *count > 0);
                let count = count.ok_or_else(|| Fault::new(format!("{name} needs a number above 0")))?;
                self.parts(name, value.values(&self.budget)?, count, fill)
            }
            _ => Err(Fault::new(format!("no filter named '{name}'"))),
        }
    }

    fn text_filter(&mut self, name: &str, value: &Value, mut arguments: Arguments) -> Out<Value> {
        if name == "format" {
            let format = self.printed(value)?;
            let values = match arguments.named.is_empty() {
                true => Value::tuple(arguments.positional, &self.budget)?,
                false => Value::dict(std::mem::take(&mut arguments.named), &self.budget)?,
            };
            return self.percent(&format, &values);
        }
        let text = self.printed(value)?;
        let text = match name {
            "trim" => {
                let [chars] = arguments.bind(name, ["chars"])?;
                stripped(&text, optional_text(name, &chars)?, true, true).to_string()
            }
            "center" => {
                let [width] = arguments.bind(name, ["width"])?;
                self.padded(&text, width.map_or(Some(80), |width| width.as_int()).unwrap_or(0), ' ', name)?
            }
            "replace" => {
                let [old, new, count] = arguments.bind(name, ["old", "new", "count"])?;
                let (Some(old), Some(new)) = (old, new) else {
                    return Err(Fault::new("replace needs two texts"));
                };
                let (old, new) = (self.printed(&old)?, self.printed(&new)?);
                self.replaced(&text, &old, &new, optional_count(name, &count)?)?
            }
            "indent" => self.indented(text, arguments)?,
            "truncate" => self.truncated(text, arguments)?,
            _ => {
                let [] = arguments.bind(name, [])?;
                match name {
                    "upper" => text.to_uppercase(),
                    "lower" => text.to_lowercase(),
                    "capitalize" => capitalized(&text),
                    "title" => title(&text),
                    "wordcount" => {
                        let is_word = |c: char| c.is_alphanumeric() || c == '_';
                        return Ok(text
                            .split(|c| !is_word(c))
                            .filter(|word| !word.is_empty())
                            .count()
                            .into());
                    }
                    "string" => text,
                    _ => {
                        self.budget.spend_product(text.len(), 5)?;
                        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
                        text.replace('\'', "&#39;").replace('"', "&#34;")
                    }
                }
            }
        };
        Value::text(text, &self.budget)
    }

    fn indented(&self, text: String, arguments: Arguments) -> Out<String> {
        let [width, first, blank] = arguments.bind("indent", ["width", "first", "blank"])?;
        let indent = match &width {
            Some(Value::Text(text)) => text.to_string(),
            width => {
                let width = optional_count("indent", width)?.unwrap_or(4);
                self.budget.spend(width)?;
                " ".repeat(width)
            }
        };
        let mut indented = String::new();
        let text = text + "\n";
        for (index, line) in lines(&text, false).into_iter().enumerate() {
            let goes = if index == 0 { flag(&first) } else { flag(&blank) || !line.is_empty() };
            self.budget.spend(line.len() + indent.len() + 1)?;
            indented.push_str(if index > 0 { "\n" } else { "" });
            indented.push_str(if goes { &indent } else { "" });
            indented.push_str(line);
        }
        Ok(indented)
    }

    fn truncated(&self, text: String, arguments: Arguments) -> Out<String> {
        let [length, kill, end, leeway] =
            arguments.bind("truncate", ["length", "killwords", "end", "leeway"])?;
        let length = optional_count("truncate", &length)?.unwrap_or(255);
        let leeway = optional_count("truncate", &leeway)?.unwrap_or(5);
        let end = self.printed(&text_or(end, "..."))?;
        if text.chars().count() <= length.saturating_add(leeway) {
            return Ok(text);
        }
        let kept: String = text.chars().take(length.saturating_sub(end.chars().count())).collect();
        Ok(match flag(&kill) {
            true => kept + &end,
            false => kept.rsplit_once(' ').map_or(&*kept, |(before, _)| before).to_string() + &end,
        })
    }

    fn number_filter(&self, name: &str, value: &Value, arguments: Arguments) -> Out<Value> {
        let text =
            |value: &Value| value.as_text().map(|text| stripped(text, None, true, true).replace('_', ""));
        if let Some(text) = value.as_text() {
            self.budget.spend(text.len())?;
        }
        let as_float = || match text(value) {
            Some(text) => text.parse::<f64>().ok(),
            None => value.as_float(),
        };
        match name {
            "int" => {
                let [default, base] = arguments.bind(name, ["default", "base"])?;
                let base = base.and_then(|base| base.as_int()).unwrap_or(10);
                let base = u32::try_from(base).ok().filter(|base| (2..=36).contains(base));
                let base = base.ok_or_else(|| Fault::new("a base is 2 to 36"))?;
                let parsed = match text(value) {
                    Some(text) => {
                        let prefix = match base {
                            16 => ["0x", "0X"],
                            8 => ["0o", "0O"],
                            2 => ["0b", "0B"],
                            _ => ["", ""],
                        };
                        let digits =
                            prefix.iter().find_map(|prefix| text.strip_prefix(prefix)).unwrap_or(&text);
                        i128::from_str_radix(digits, base).ok()
                    }
                    None => value.as_int(),
                };
                let whole = parsed
                    .or_else(|| as_float().filter(|float| float.is_finite()).map(|float| float as i128));
                Ok(whole.map(Value::Int).or(default).unwrap_or(Value::Int(0)))
            }
            "float" => {
                let [default] = arguments.bind(name, ["default"])?;
                Ok(as_float().map(Value::Float).or(default).unwrap_or(Value::Float(0.0)))
            }
            "abs" => match value.defined()? {
                Value::Float(value) => Ok(Value::Float(value.abs())),
                value => match value.as_int().and_then(i128::checked_abs) {
                    Some(value) => Ok(Value::Int(value)),
                    None => Err(Fault::new(format!("bad operand type for abs(): '{}'", value.kind()))),
                },
            },
            _ => {
                let [precision, method] = arguments.bind(name, ["precision", "method"])?;
                let precision = precision.and_then(|precision| precision.as_int()).unwrap_or(0);
                let method = optional_text(name, &method)?.unwrap_or("common");
                let number = value.defined()?.as_float();
                let number = number.ok_or_else(|| Fault::new(format!("cannot round '{}'", value.kind())))?;
                if method == "common"
                    && let Some(whole) = value.as_int()
                {
                    let unit = u32::try_from(precision.saturating_neg())
                        .ok()
                        .and_then(|digits| 10i128.checked_pow(digits));
                    return Ok(match unit {
                        _ if precision >= 0 => value.clone(),
                        Some(unit) => {
                            let tens = (whole as f64 / unit as f64).round_ties_even() as i128;
                            Value::Int(tens.saturating_mul(unit))
                        }
                        None => Value::Int(0),
                    });
                }
                let scale = 10f64.powi(precision.clamp(-400, 400) as i32);
                Ok(Value::Float(match method {
                    "ceil" => (number * scale).ceil() / scale,
                    "floor" => (number * scale).floor() / scale,
                    // Written out, so that digits are exact and ties go to even, as Python's do.
                    "common" if (0..=300).contains(&precision) => {
                        format!("{number:.*}", precision as usize).parse().unwrap_or(number)
                    }
                    "common" if precision > 300 => number,
                    "common" => (number * scale).round_ties_even() / scale,
                    _ => return Err(Fault::new("method must be common, ceil or floor")),
                }))
            }
        }
    }
}

/// Jinja's `title`: the first letter of every part after a space, dash or opening bracket.
fn title(text: &str) -> String {
    let mut titled = String::new();
    let mut first = true;
    for c in text.chars() {
        let is_break = super::text::is_space(c) || "-({[<".contains(c);
        match first && !is_break {
            true => titled.extend(c.to_uppercase()),
            false => titled.extend(c.to_lowercase()),
        }
        first = is_break;
    }
    titled
}
