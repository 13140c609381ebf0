//! Python's methods of text, lists and dicts that change nothing, which is what transformers' sandbox allows.

use super::{
    Fault, Out,
    interpreter::Machine,
    text::{capitalized, is_space, lines, split, stripped, swapped, title},
    value::Value,
};

/// What a call passes.
#[derive(Debug, Default)]
pub(super) struct Arguments {
    pub(super) positional: Vec<Value>,
    pub(super) named: Vec<(String, Value)>,
}

impl Arguments {
    /// Takes out a named argument.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        let index = self.named.iter().position(|(other, _)| other == name)?;
        Some(self.named.swap_remove(index).1)
    }

    /// The arguments in this order, each given by place or name; `what` is called.
    pub(super) fn bind<const N: usize>(mut self, what: &str, names: [&str; N]) -> Out<[Option<Value>; N]> {
        if self.positional.len() > N {
            let got = self.positional.len();
            return Err(Fault::new(format!("{what} takes at most {N} arguments, got {got}")));
        }
        let mut positional = std::mem::take(&mut self.positional).into_iter();
        let values = names.map(|name| positional.next().or_else(|| self.take(name)));
        match self.named.first() {
            Some((name, _)) => {
                Err(Fault::new(format!("{what} has no argument '{name}', or it was given twice")))
            }
            None => Ok(values),
        }
    }
}

const TEXT: [&str; 38] = [
    "capitalize",
    "center",
    "count",
    "endswith",
    "find",
    "format",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "islower",
    "isnumeric",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "upper",
    "zfill",
];

/// Whether the value has this method.
pub(super) fn has(value: &Value, name: &str) -> bool {
    match value {
        Value::Text(_) => TEXT.contains(&name),
        Value::List(_) | Value::Tuple(_) => matches!(name, "count" | "index"),
        Value::Dict(_) => matches!(name, "get" | "items" | "keys" | "values"),
        Value::Loop(_) => matches!(name, "cycle" | "changed"),
        _ => false,
    }
}

impl Machine<'_> {
    pub(super) fn method(&mut self, this: &Value, name: &str, arguments: Arguments) -> Out<Value> {
        match this {
            Value::Text(text) => self.text_method(text, name, arguments),
            Value::Dict(dict) => {
                let entries = dict.entries();
                let values = match name {
                    "get" => {
                        let [key, default] = arguments.bind(name, ["key", "default"])?;
                        let key = key.ok_or_else(|| Fault::new("get needs a key"))?.key(&self.budget)?;
                        return Ok(dict.get(&key).cloned().or(default).unwrap_or(Value::None));
                    }
                    "keys" => entries.iter().map(|(key, _)| key.clone()).collect(),
                    "values" => entries.iter().map(|(_, value)| value.clone()).collect(),
                    _ => self.pairs(entries)?,
                };
                let [] = arguments.bind(name, [])?;
                Value::list(values, &self.budget)
            }
            Value::List(items) | Value::Tuple(items) => {
                let [value] = arguments.bind(name, ["value"])?;
                let value = value.ok_or_else(|| Fault::new(format!("{name} needs a value")))?;
                let mut count = 0usize;
                for (index, item) in items.values.iter().enumerate() {
                    if item.equals(&value, &self.budget)? {
                        if name == "index" {
                            return Ok(index.into());
                        }
                        count += 1;
                    }
                }
                if name == "index" { Err(Fault::new("the value is not in list")) } else { Ok(count.into()) }
            }
            Value::Loop(number) if name == "cycle" => {
                let index = self.loops[*number].index;
                match arguments.positional.len() {
                    0 => Err(Fault::new("no items for cycling given")),
                    length => Ok(arguments.positional[index % length].clone()),
                }
            }
            Value::Loop(number) => {
                let values = Value::tuple(arguments.positional, &self.budget)?;
                let changed = match &self.loops[*number].last_changed {
                    Some(last) => !last.equals(&values, &self.budget)?,
                    None => true,
                };
                self.loops[*number].last_changed = Some(values);
                Ok(changed.into())
            }
            _ => Err(Fault::new(format!("'{}' object has no method '{name}'", this.kind()))),
        }
    }

    pub(super) fn pairs(&self, entries: &[(Value, Value)]) -> Out<Vec<Value>> {
        let pair =
            |(key, value): &(Value, Value)| Value::tuple(vec![key.clone(), value.clone()], &self.budget);
        entries.iter().map(pair).collect()
    }

    fn text_method(&mut self, this: &str, name: &str, arguments: Arguments) -> Out<Value> {
        self.budget.spend(this.len() / 4)?;
        let all = |is: fn(char) -> bool| !this.is_empty() && this.chars().all(is);
        let simple = match name {
            "upper" => Some(this.to_uppercase()),
            "lower" => Some(this.to_lowercase()),
            "capitalize" => Some(capitalized(this)),
            "title" => Some(title(this)),
            "swapcase" => Some(this.chars().map(swapped).collect()),
            _ => None,
        };
        if let Some(text) = simple {
            let [] = arguments.bind(name, [])?;
            return Value::text(text, &self.budget);
        }
        let is = match name {
            "isalnum" => Some(all(char::is_alphanumeric)),
            "isalpha" => Some(all(char::is_alphabetic)),
            "isascii" => Some(this.is_ascii()),
            "isdecimal" | "isdigit" | "isnumeric" => Some(all(char::is_numeric)),
            "isspace" => Some(all(is_space)),
            "islower" => Some(this.chars().any(char::is_lowercase) && !this.chars().any(char::is_uppercase)),
            "isupper" => Some(this.chars().any(char::is_uppercase) && !this.chars().any(char::is_lowercase)),
            "istitle" => Some(this.chars().any(char::is_alphabetic) && title(this) == this),
            _ => None,
        };
        if let Some(is) = is {
            let [] = arguments.bind(name, [])?;
            return Ok(is.into());
        }
        match name {
            "strip" | "lstrip" | "rstrip" => {
                let [chars] = arguments.bind(name, ["chars"])?;
                let chars = optional_text(name, &chars)?;
                Value::text(stripped(this, chars, name != "rstrip", name != "lstrip").into(), &self.budget)
            }
            "removeprefix" | "removesuffix" => {
                let [part] = arguments.bind(name, ["part"])?;
                let part = text(name, &part)?;
                let rest =
                    if name == "removeprefix" { this.strip_prefix(part) } else { this.strip_suffix(part) };
                Value::text(rest.unwrap_or(this).into(), &self.budget)
            }
            "startswith" | "endswith" => {
                let [parts, start, end] = arguments.bind(name, ["parts", "start", "end"])?;
                let this = window(this, [&start, &end])?.1;
                let parts = match parts {
                    Some(Value::Tuple(items)) => items.values.clone(),
                    part => vec![text(name, &part)?.into()],
                };
                for part in &parts {
                    self.budget.spend(16)?;
                    let Value::Text(part) = part else {
                        return Err(Fault::new(format!("{name} needs texts")));
                    };
                    if if name == "startswith" { this.starts_with(&**part) } else { this.ends_with(&**part) }
                    {
                        return Ok(true.into());
                    }
                }
                Ok(false.into())
            }
            "find" | "rfind" | "index" | "count" => {
                let [part, start, end] = arguments.bind(name, ["part", "start", "end"])?;
                let part = text(name, &part)?;
                let (before, this) = window(this, [&start, &end])?;
                if name == "count" {
                    return Ok(this.matches(part).count().into());
                }
                let at = if name == "rfind" { this.rfind(part) } else { this.find(part) };
                match at {
                    Some(at) => Ok((before + this[..at].chars().count()).into()),
                    None if name == "index" => Err(Fault::new("substring not found")),
                    None => Ok(Value::Int(-1)),
                }
            }
            "replace" => {
                let [old, new, count] = arguments.bind(name, ["old", "new", "count"])?;
                let count = optional_count(name, &count)?;
                self.replaced(this, text(name, &old)?, text(name, &new)?, count).map(Value::from)
            }
            "split" | "rsplit" => {
                let [separator, most] = arguments.bind(name, ["sep", "maxsplit"])?;
                let most = optional_count(name, &most)?.unwrap_or(usize::MAX);
                let parts = split(this, optional_text(name, &separator)?, most, name == "rsplit");
                self.texts(parts?)
            }
            "splitlines" => {
                let [keep] = arguments.bind(name, ["keepends"])?;
                self.texts(lines(this, keep.is_some_and(|keep| keep.is_true())))
            }
            "partition" | "rpartition" => {
                let [separator] = arguments.bind(name, ["sep"])?;
                let separator = text(name, &separator)?;
                let found = if name == "partition" {
                    this.split_once(separator)
                } else {
                    this.rsplit_once(separator)
                };
                let parts = match found {
                    Some((before, after)) => [before, separator, after],
                    None if name == "partition" => [this, "", ""],
                    None => ["", "", this],
                };
                let parts = parts.map(|part| Value::text(part.into(), &self.budget));
                Value::tuple(parts.into_iter().collect::<Out<_>>()?, &self.budget)
            }
            "join" => {
                let [values] = arguments.bind(name, ["iterable"])?;
                let values = values.as_ref().unwrap_or(&Value::None).values(&self.budget)?;
                let mut joined = String::new();
                for (index, value) in values.iter().enumerate() {
                    let Value::Text(part) = value else {
                        let kind = value.kind();
                        return Err(Fault::new(format!(
                            "sequence item {index}: expected str instance, {kind} found"
                        )));
                    };
                    self.budget.spend(this.len() + part.len())?;
                    joined.push_str(if index > 0 { this } else { "" });
                    joined.push_str(part);
                }
                Ok(joined.into())
            }
            "center" | "ljust" | "rjust" | "zfill" => {
                let [width, fill] = arguments.bind(name, ["width", "fillchar"])?;
                let width = width
                    .and_then(|width| width.as_int())
                    .ok_or_else(|| Fault::new("a width is an integer"))?;
                let fill = match (name, optional_text(name, &fill)?) {
                    ("zfill", _) => '0',
                    (_, fill) => single(fill.unwrap_or(" "))?,
                };
                if name == "zfill" && this.starts_with(['-', '+']) {
                    let rest = self.padded(&this[1..], width.saturating_sub(1), '0', name)?;
                    return Ok(format!("{}{rest}", &this[..1]).into());
                }
                self.padded(this, width, fill, name).map(Value::from)
            }
            "format" => self.format(this, arguments),
            _ => Err(Fault::new(format!("'str' object has no method '{name}'"))),
        }
    }

    pub(super) fn texts(&self, parts: Vec<&str>) -> Out<Value> {
        let parts =
            parts.into_iter().map(|part| Value::text(part.into(), &self.budget)).collect::<Out<_>>()?;
        Value::list(parts, &self.budget)
    }

    pub(super) fn replaced(&self, this: &str, old: &str, new: &str, count: Option<usize>) -> Out<String> {
        let most = this.len() / old.len().max(1) + 1;
        let found = if old.is_empty() { most } else { this.matches(old).count() };
        let found = found.min(count.unwrap_or(usize::MAX));
        self.budget.spend(this.len())?;
        self.budget.spend_product(new.len(), found)?;
        Ok(this.replacen(old, new, found))
    }

    /// Padded to a width in characters: on the left for `rjust` and `zfill`, on both sides for `center`.
    pub(super) fn padded(&self, this: &str, width: i128, fill: char, name: &str) -> Out<String> {
        let width = usize::try_from(width.max(0)).unwrap_or(usize::MAX);
        let missing = width.saturating_sub(this.chars().count());
        self.budget.spend(this.len())?;
        self.budget.spend_product(fill.len_utf8(), missing)?;
        let left = match name {
            "ljust" => 0,
            // As Python does: the odd one goes left where the width is odd.
            "center" => missing / 2 + (missing & width & 1),
            _ => missing,
        };
        let pad = |count| std::iter::repeat_n(fill, count);
        Ok(pad(left).chain(this.chars()).chain(pad(missing - left)).collect())
    }
}

/// The part of a text from one character to before another, and how many characters are before it.
fn window<'a>(text: &'a str, bounds: [&Option<Value>; 2]) -> Out<(usize, &'a str)> {
    if bounds.iter().all(|bound| bound.is_none()) {
        return Ok((0, text));
    }
    let length = text.chars().count();
    let mut places = [0, length];
    for (place, bound) in places.iter_mut().zip(bounds) {
        match bound {
            None | Some(Value::None) => {}
            Some(bound) => {
                let bound = bound.as_int().ok_or_else(|| Fault::new("a place in a text is an integer"))?;
                let from_start = if bound < 0 { bound.saturating_add(length as i128) } else { bound };
                *place = from_start.clamp(0, length as i128) as usize;
            }
        }
    }
    let byte = |place: usize| text.char_indices().nth(place).map_or(text.len(), |(byte, _)| byte);
    let [start, end] = [places[0], places[1].max(places[0])];
    Ok((start, &text[byte(start)..byte(end)]))
}

fn text<'a>(what: &str, value: &'a Option<Value>) -> Out<&'a str> {
    optional_text(what, value)?.ok_or_else(|| Fault::new(format!("{what} needs a text")))
}

pub(super) fn optional_text<'a>(what: &str, value: &'a Option<Value>) -> Out<Option<&'a str>> {
    match value {
        None | Some(Value::None) => Ok(None),
        Some(Value::Text(text)) => Ok(Some(text)),
        Some(other) => Err(Fault::new(format!("{what} needs a text, got '{}'", other.kind()))),
    }
}

/// How often; `None` is without limit, as is a negative number.
pub(super) fn optional_count(what: &str, value: &Option<Value>) -> Out<Option<usize>> {
    match value {
        None | Some(Value::None) => Ok(None),
        Some(value) => match value.as_int() {
            Some(count) => Ok(usize::try_from(count).ok()),
            None => Err(Fault::new(format!("{what} needs an integer, got '{}'", value.kind()))),
        },
    }
}

pub(super) fn single(text: &str) -> Out<char> {
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(c), None) => Ok(c),
        _ => Err(Fault::new("the fill character must be exactly one character long")),
    }
}
