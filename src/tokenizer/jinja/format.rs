//! Python's two ways of putting values into text: `%` and `str.format`.

use super::{
    Fault, Out,
    interpreter::Machine,
    methods::{Arguments, single},
    print,
    value::{Key, Value},
};

/// How a number or text is laid out.
#[derive(Default)]
struct Layout {
    fill: Option<char>,
    /// `<`, `>`, `^` or `=`.
    align: Option<char>,
    /// `+` or a space before numbers that are not negative.
    sign: Option<char>,
    alternate: bool,
    grouping: Option<char>,
    width: usize,
    precision: Option<usize>,
    kind: Option<char>,
}

impl Machine<'_> {
    /// `format % values`
    pub(super) fn percent(&self, format: &str, values: &Value) -> Out<Value> {
        let positional = match values {
            Value::Tuple(items) => items.values.clone(),
            value => vec![value.clone()],
        };
        let (mut next, mut by_name) = (0, false);
        let mut take = || {
            next += 1;
            positional.get(next - 1).ok_or_else(|| Fault::new("not enough arguments for format string"))
        };
        let mut text = String::new();
        let mut rest = format;
        while let Some(start) = rest.find('%') {
            self.append(&rest[..start], &mut text)?;
            rest = &rest[start + 1..];
            let mut named = None;
            if let Some(after) = rest.strip_prefix('(') {
                let (name, after) =
                    after.split_once(')').ok_or_else(|| Fault::new("incomplete format key"))?;
                let Value::Dict(dict) = values else { return Err(Fault::new("format requires a mapping")) };
                let value = dict.get(&Key::Text(name.into()));
                named = Some(value.ok_or_else(|| Fault::new(format!("the mapping has no '{name}'")))?);
                (rest, by_name) = (after, true);
            }
            let mut layout = Layout { align: Some('>'), ..Layout::default() };
            loop {
                match rest.chars().next() {
                    Some('-') => layout.align = Some('<'),
                    Some('0') if layout.align != Some('<') => {
                        (layout.fill, layout.align) = (Some('0'), Some('='))
                    }
                    Some('0') => {}
                    Some(sign @ ('+' | ' ')) if layout.sign != Some('+') => layout.sign = Some(sign),
                    Some('+' | ' ') => {}
                    Some('#') => layout.alternate = true,
                    _ => break,
                }
                rest = &rest[1..];
            }
            let mut size = |rest: &mut &str| match rest.strip_prefix('*') {
                Some(after) => {
                    *rest = after;
                    let size = take()?.as_int().ok_or_else(|| Fault::new("* wants int"))?;
                    usize::try_from(size).map_err(|_| Fault::limit(0, "a width or precision out of range"))
                }
                None => digits(rest),
            };
            layout.width = size(&mut rest)?;
            if let Some(after) = rest.strip_prefix('.') {
                rest = after;
                layout.precision = Some(size(&mut rest)?);
            }
            rest = rest.trim_start_matches(['h', 'l', 'L']);
            let kind = rest.chars().next().ok_or_else(|| Fault::new("incomplete format"))?;
            rest = &rest[kind.len_utf8()..];
            if kind == '%' {
                self.append("%", &mut text)?;
                continue;
            }
            let value = match named {
                Some(value) => value,
                None => take()?,
            };
            if "srac".contains(kind) && layout.align == Some('=') {
                // Only numbers are filled with zeros.
                (layout.fill, layout.align) = (None, Some('>'));
            }
            let shown = match kind {
                's' => self.aligned(&self.printed(value)?, &layout)?,
                'r' | 'a' => {
                    let mut shown = String::new();
                    self.represent(value, &mut shown)?;
                    self.aligned(&shown, &layout)?
                }
                'c' => match value {
                    Value::Text(c) => self.aligned(&single(c)?.to_string(), &layout)?,
                    value => {
                        let code = value.as_int().and_then(|code| char::from_u32(u32::try_from(code).ok()?));
                        let c = code.ok_or_else(|| Fault::new("%c requires int or char"))?;
                        self.aligned(&c.to_string(), &layout)?
                    }
                },
                'd' | 'i' | 'u' | 'x' | 'X' | 'o' => {
                    let number = match value {
                        Value::Float(value) if "diu".contains(kind) => value.trunc() as i128,
                        value => value.as_int().ok_or_else(|| {
                            Fault::new(format!(
                                "%{kind} format: a real number is required, not {}",
                                value.kind()
                            ))
                        })?,
                    };
                    layout.kind = Some(if "iu".contains(kind) { 'd' } else { kind });
                    let least = layout.precision.take().unwrap_or(0);
                    self.integer(number, &layout, least)?
                }
                'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
                    let number = value
                        .as_float()
                        .ok_or_else(|| Fault::new(format!("must be real number, not {}", value.kind())))?;
                    layout.kind = Some(kind);
                    self.decimal(number, &layout)?
                }
                _ => return Err(Fault::new(format!("unsupported format character '{kind}'"))),
            };
            text.push_str(&shown);
        }
        self.append(rest, &mut text)?;
        if !by_name && next < positional.len() && !matches!(values, Value::Dict(_)) {
            return Err(Fault::new("not all arguments converted during string formatting"));
        }
        Ok(text.into())
    }

    /// `format.format(arguments)`
    pub(super) fn format(&mut self, format: &str, arguments: Arguments) -> Out<Value> {
        let mut next = 0;
        self.fields(format, &arguments, &mut next, 2).map(Value::from)
    }

    fn fields(
        &mut self,
        format: &str,
        arguments: &Arguments,
        next: &mut usize,
        levels: usize,
    ) -> Out<String> {
        let mut text = String::new();
        let mut rest = format;
        while let Some(start) = rest.find(['{', '}']) {
            self.append(&rest[..start], &mut text)?;
            let brace = &rest[start..start + 1];
            rest = &rest[start + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                self.append(brace, &mut text)?;
                rest = after;
                continue;
            }
            if brace == "}" {
                return Err(Fault::new("Single '}' encountered in format string"));
            }
            if levels == 0 {
                return Err(Fault::new("Max string recursion exceeded"));
            }
            let mut open = 1;
            let end = rest.find(|c| {
                open += i32::from(c == '{') - i32::from(c == '}');
                open == 0
            });
            let end = end.ok_or_else(|| Fault::new("expected '}' before end of string"))?;
            let field = &rest[..end];
            rest = &rest[end + 1..];
            let (field, layout) = field.split_once(':').unwrap_or((field, ""));
            let (field, conversion) = field.split_once('!').unwrap_or((field, ""));
            let value = self.field(field, arguments, next)?;
            let layout = self.fields(layout, arguments, next, levels - 1)?;
            let shown = match conversion {
                "" => self.laid_out(&value, &layout)?,
                "s" => self.laid_out(&self.printed(&value)?.into(), &layout)?,
                "r" | "a" => {
                    let mut shown = String::new();
                    self.represent(&value, &mut shown)?;
                    self.laid_out(&shown.into(), &layout)?
                }
                _ => return Err(Fault::new(format!("Unknown conversion specifier {conversion:?}"))),
            };
            self.append(&shown, &mut text)?;
        }
        self.append(rest, &mut text)?;
        Ok(text)
    }

    /// What `name.attribute[key]` of a field stands for.
    fn field(&self, field: &str, arguments: &Arguments, next: &mut usize) -> Out<Value> {
        let end = field.find(['.', '[']).unwrap_or(field.len());
        let (name, mut path) = field.split_at(end);
        let index = match name {
            "" => {
                *next += 1;
                Some(*next - 1)
            }
            name => name.parse().ok(),
        };
        let mut value = match index {
            Some(index) => arguments.positional.get(index).cloned(),
            None => arguments.named.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone()),
        }
        .ok_or_else(|| Fault::new(format!("no argument for the field '{{{name}}}'")))?;
        while !path.is_empty() {
            self.budget.spend(16)?;
            value = if let Some(rest) = path.strip_prefix('.') {
                let end = rest.find(['.', '[']).unwrap_or(rest.len());
                path = &rest[end..];
                self.attribute(&value, &rest[..end])?
            } else {
                let (key, rest) =
                    path[1..].split_once(']').ok_or_else(|| Fault::new("Missing ']' in format string"))?;
                path = rest;
                let key = key.parse().map(Value::Int).unwrap_or_else(|_| key.into());
                self.item(&value, &key)?
            };
        }
        Ok(value)
    }

    /// `[[fill]align][sign][#][0][width][grouping][.precision][type]`
    fn laid_out(&self, value: &Value, layout: &str) -> Out<String> {
        if layout.is_empty() {
            return self.printed(value);
        }
        let mut rest = layout;
        let mut parsed = Layout::default();
        let mut chars = rest.chars();
        let (first, second) = (chars.next(), chars.next());
        let is_align = |c: Option<char>| c.is_some_and(|c| "<>=^".contains(c));
        if is_align(second) {
            (parsed.fill, parsed.align) = (first, second);
            rest = &rest[first.map_or(0, char::len_utf8) + 1..];
        } else if is_align(first) {
            parsed.align = first;
            rest = &rest[1..];
        }
        let mut skip = |chars: &[char]| {
            let next = rest.chars().next().filter(|c| chars.contains(c));
            rest = &rest[usize::from(next.is_some())..];
            next
        };
        parsed.sign = skip(&['+', '-', ' ']).filter(|sign| *sign != '-');
        parsed.alternate = skip(&['#']).is_some();
        if skip(&['0']).is_some() && parsed.fill.is_none() {
            parsed.fill = Some('0');
            parsed.align = parsed.align.or(Some('='));
        }
        parsed.width = digits(&mut rest)?;
        parsed.grouping = rest.chars().next().filter(|c| matches!(c, ',' | '_'));
        rest = &rest[usize::from(parsed.grouping.is_some())..];
        if let Some(after) = rest.strip_prefix('.') {
            rest = after;
            parsed.precision = Some(digits(&mut rest)?);
        }
        parsed.kind = rest.chars().next();
        if parsed.kind.is_some_and(|kind| rest.len() > kind.len_utf8()) {
            return Err(Fault::new(format!("Invalid format specifier {layout:?}")));
        }
        let unknown = || {
            let kind = value.kind();
            Err(Fault::new(format!("Invalid format specifier {layout:?} for object of type '{kind}'")))
        };
        match (value, parsed.kind) {
            (Value::Text(text), None | Some('s')) if parsed.align != Some('=') => {
                parsed.align = parsed.align.or(Some('<'));
                self.aligned(text, &parsed)
            }
            (Value::Int(_) | Value::Bool(_), None | Some('d' | 'x' | 'X' | 'o' | 'b')) => {
                parsed.kind = parsed.kind.or(Some('d'));
                self.integer(value.as_int().unwrap_or_default(), &parsed, 0)
            }
            (
                Value::Int(_) | Value::Bool(_) | Value::Float(_),
                None | Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%'),
            ) => self.decimal(value.as_float().unwrap_or_default(), &parsed),
            _ => unknown(),
        }
    }

    fn append(&self, part: &str, text: &mut String) -> Out<()> {
        self.budget.spend(part.len() + 8)?;
        text.push_str(part);
        Ok(())
    }

    /// Text, cut to its precision and padded to its width.
    fn aligned(&self, text: &str, layout: &Layout) -> Out<String> {
        self.budget.spend(text.len())?;
        let text: String = text.chars().take(layout.precision.unwrap_or(usize::MAX)).collect();
        let missing = layout.width.saturating_sub(text.chars().count());
        let fill = layout.fill.unwrap_or(' ');
        self.budget.spend_product(fill.len_utf8(), missing)?;
        let pad = |count| std::iter::repeat_n(fill, count).collect::<String>();
        Ok(match layout.align {
            Some('<') => text + &pad(missing),
            Some('^') => pad(missing / 2) + &text + &pad(missing - missing / 2),
            _ => pad(missing) + &text,
        })
    }

    /// An integer with at least so many digits.
    fn integer(&self, value: i128, layout: &Layout, least: usize) -> Out<String> {
        let magnitude = value.unsigned_abs();
        let (digits, prefix) = match layout.kind {
            Some('x') => (format!("{magnitude:x}"), "0x"),
            Some('X') => (format!("{magnitude:X}"), "0X"),
            Some('o') => (format!("{magnitude:o}"), "0o"),
            Some('b') => (format!("{magnitude:b}"), "0b"),
            _ => (magnitude.to_string(), ""),
        };
        self.budget.spend(least)?;
        let digits = "0".repeat(least.saturating_sub(digits.len())) + &digits;
        let prefix = if layout.alternate { prefix } else { "" };
        self.signed(value < 0, prefix, &digits, "", layout)
    }

    fn decimal(&self, value: f64, layout: &Layout) -> Out<String> {
        let precision = layout.precision.unwrap_or(6);
        // Beyond this every digit is 0; Rust cannot write more than 65,535.
        if precision > 1_100 {
            return Err(Fault::limit(0, "a precision of more than 1100"));
        }
        let magnitude = value.abs();
        let kind = layout.kind.map(|kind| kind.to_ascii_lowercase());
        let text = match kind {
            _ if !value.is_finite() => print::float(magnitude),
            Some('f') => format!("{magnitude:.precision$}"),
            Some('%') => format!("{:.precision$}%", magnitude * 100.0),
            Some('e') => exponential(magnitude, precision),
            None if layout.precision.is_none() => print::float(magnitude),
            // Significant digits, without zeros at the end.
            _ => {
                let digits = precision.max(1);
                let scientific = exponential(magnitude, digits - 1);
                let (mantissa, power) = scientific.split_once('e').expect("it has an exponent");
                let power: i64 = power.parse().expect("it is a number");
                let least = -4;
                let trimmed = |text: &str| match text.contains('.') {
                    true => text.trim_end_matches('0').trim_end_matches('.').to_string(),
                    false => text.to_string(),
                };
                if power < least || power >= digits as i64 {
                    format!("{}{}", trimmed(mantissa), &scientific[mantissa.len()..])
                } else {
                    let after = usize::try_from(digits as i64 - 1 - power).unwrap_or(0);
                    trimmed(&format!("{magnitude:.after$}"))
                }
            }
        };
        let text =
            if layout.kind.is_some_and(|kind| kind.is_uppercase()) { text.to_uppercase() } else { text };
        let (whole, rest) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
        self.signed(value.is_sign_negative() && !value.is_nan(), "", whole, rest, layout)
    }

    /// Sign, prefix, digits in groups, and what follows them, padded.
    fn signed(&self, negative: bool, prefix: &str, digits: &str, rest: &str, layout: &Layout) -> Out<String> {
        let sign = if negative { "-".into() } else { layout.sign.map(String::from).unwrap_or_default() };
        let mut grouped = String::new();
        for (index, digit) in digits.chars().enumerate() {
            if let Some(mark) = layout.grouping
                && index > 0
                && (digits.len() - index).is_multiple_of(3)
            {
                grouped.push(mark);
            }
            grouped.push(digit);
        }
        let number = grouped + rest;
        if layout.align == Some('=') {
            let before = sign + prefix;
            let layout = Layout {
                fill: layout.fill,
                width: layout.width.saturating_sub(before.len()),
                ..Layout::default()
            };
            return Ok(before + &self.aligned(&number, &layout)?);
        }
        let layout =
            Layout { fill: layout.fill, align: layout.align, width: layout.width, ..Layout::default() };
        self.aligned(&(sign + prefix + &number), &layout)
    }
}

/// Digits and an exponent of at least two, as Python writes them.
fn exponential(value: f64, precision: usize) -> String {
    let text = format!("{value:.precision$e}");
    let (digits, power) = text.split_once('e').expect("this format has an exponent");
    let (sign, power) = power.strip_prefix('-').map_or(('+', power), |power| ('-', power));
    format!("{digits}e{sign}{power:0>2}")
}

/// The number at the beginning of `rest`, 0 if there is none.
fn digits(rest: &mut &str) -> Out<usize> {
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (number, after) = rest.split_at(end);
    *rest = after;
    match number {
        "" => Ok(0),
        number => number.parse().map_err(|_| Fault::limit(0, "a width or precision out of range")),
    }
}
