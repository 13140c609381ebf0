//! Evaluates expressions.

use std::rc::Rc;

use super::{
    Fault, Out,
    ast::{self, Expr},
    interpreter::Machine,
    methods::{self, Arguments},
    value::{Dict, Value},
};
use crate::tokenizer::date;

/// Jinja's sandbox has no longer ranges.
const LONGEST_RANGE: i128 = 100_000;

impl<'t> Machine<'t> {
    pub(super) fn evaluate(&mut self, expr: &'t Expr) -> Out<Value> {
        self.budget.enter()?;
        self.budget.spend(16)?;
        let value = self.evaluate_kind(expr)?;
        self.budget.leave();
        Ok(value)
    }

    fn evaluate_kind(&mut self, expr: &'t Expr) -> Out<Value> {
        Ok(match expr {
            Expr::Const(value) => value.clone(),
            Expr::Name(name) => self.variable(name)?,
            Expr::List(items) => {
                let items = self.evaluate_all(items)?;
                Value::list(items, &self.budget)?
            }
            Expr::Tuple(items) => {
                let items = self.evaluate_all(items)?;
                Value::tuple(items, &self.budget)?
            }
            Expr::Dict(entries) => {
                let mut dict = Dict::default();
                for (key, value) in entries {
                    let (key, value) = (self.evaluate(key)?, self.evaluate(value)?);
                    dict.insert(key, value, &self.budget)?;
                }
                Value::Dict(dict.into())
            }
            Expr::Attribute(value, name) => {
                let value = self.evaluate(value)?;
                self.attribute(&value, name)?
            }
            Expr::Item(value, key) => {
                let (value, key) = (self.evaluate(value)?, self.evaluate(key)?);
                self.item(&value, &key)?
            }
            Expr::Slice(value, parts) => self.slice(value, parts)?,
            Expr::Call(called, arguments) => {
                let called = self.evaluate(called)?;
                let arguments = self.arguments(arguments)?;
                self.call(&called, arguments)?
            }
            Expr::Filter(value, name, arguments) => {
                let value = self.evaluate(value)?;
                let arguments = self.arguments(arguments)?;
                self.filter(name, value, arguments)?
            }
            Expr::Test(value, name, arguments) => {
                let value = self.evaluate(value)?;
                let arguments = self.arguments(arguments)?;
                self.test(name, &value, arguments)?.into()
            }
            Expr::Not(value) => (!self.evaluate(value)?.is_true()).into(),
            Expr::Negative(value) => match self.evaluate(value)?.defined()? {
                Value::Float(value) => Value::Float(-value),
                value => match number(value, "unary -")?.checked_neg() {
                    Some(value) => Value::Int(value),
                    None => return Err(Fault::limit(0, "an integer of more than 128 bits")),
                },
            },
            Expr::Positive(value) => match self.evaluate(value)?.defined()? {
                Value::Float(value) => Value::Float(*value),
                value => Value::Int(number(value, "unary +")?),
            },
            Expr::Binary(operator, left, right) => {
                let (left, right) = (self.evaluate(left)?, self.evaluate(right)?);
                self.binary(*operator, &left, &right)?
            }
            Expr::Concat(parts) => {
                let mut text = String::new();
                for part in parts {
                    let part = self.evaluate(part)?;
                    self.print(&part, &mut text)?;
                }
                Value::text(text, &self.budget)?
            }
            Expr::Compare(first, others) => {
                let mut left = self.evaluate(first)?;
                for (comparison, right) in others {
                    let right = self.evaluate(right)?;
                    if !self.compare(*comparison, &left, &right)? {
                        return Ok(false.into());
                    }
                    left = right;
                }
                true.into()
            }
            Expr::And(left, right) => {
                let left = self.evaluate(left)?;
                if left.is_true() { self.evaluate(right)? } else { left }
            }
            Expr::Or(left, right) => {
                let left = self.evaluate(left)?;
                if left.is_true() { left } else { self.evaluate(right)? }
            }
            Expr::If { condition, then, otherwise } => {
                match (self.evaluate(condition)?.is_true(), otherwise) {
                    (true, _) => self.evaluate(then)?,
                    (false, Some(otherwise)) => self.evaluate(otherwise)?,
                    (false, None) => Value::Undefined("the condition was false and there is no else".into()),
                }
            }
        })
    }

    fn evaluate_all(&mut self, exprs: &'t [Expr]) -> Out<Vec<Value>> {
        exprs.iter().map(|expr| self.evaluate(expr)).collect()
    }

    pub(super) fn arguments(&mut self, arguments: &'t ast::Arguments) -> Out<Arguments> {
        let mut positional = self.evaluate_all(&arguments.positional)?;
        let mut named = Vec::new();
        for (name, value) in &arguments.named {
            named.push((name.clone(), self.evaluate(value)?));
        }
        if let Some(list) = &arguments.list {
            positional.extend(self.evaluate(list)?.values(&self.budget)?);
        }
        if let Some(dict) = &arguments.dict {
            let Value::Dict(dict) = self.evaluate(dict)? else {
                return Err(Fault::new("the argument after ** must be a mapping"));
            };
            for (key, value) in dict.entries() {
                let name = key.as_text().ok_or_else(|| Fault::new("keywords must be strings"))?;
                self.budget.spend(64 + name.len())?;
                named.push((name.to_string(), value.clone()));
            }
        }
        Ok(Arguments { positional, named })
    }

    pub(super) fn attribute(&self, value: &Value, name: &str) -> Out<Value> {
        if methods::has(value, name) {
            return Ok(Value::Method(Rc::new((value.clone(), name.to_string()))));
        }
        let found = match value.defined()? {
            Value::Dict(dict) => dict.get_text(name).cloned(),
            Value::Namespace(number) => self.namespaces[*number].get_text(name).cloned(),
            Value::Loop(number) => self.loop_attribute(*number, name),
            _ => None,
        };
        Ok(found.unwrap_or_else(|| Value::Undefined(missing(value, name))))
    }

    fn loop_attribute(&self, number: usize, name: &str) -> Option<Value> {
        let this = &self.loops[number];
        let (index, length) = (this.index, this.items.len());
        let beside = |index: Option<usize>, which: &str| {
            let item = index.and_then(|index| this.items.get(index)).cloned();
            item.unwrap_or_else(|| Value::Undefined(format!("there is no {which} item").into()))
        };
        Some(match name {
            "index" => (index + 1).into(),
            "index0" => index.into(),
            "revindex" => (length - index).into(),
            "revindex0" => (length - index - 1).into(),
            "first" => (index == 0).into(),
            "last" => (index + 1 == length).into(),
            "length" => length.into(),
            "depth" => (this.depth + 1).into(),
            "depth0" => this.depth.into(),
            "previtem" => beside(index.checked_sub(1), "previous"),
            "nextitem" => beside(Some(index + 1), "next"),
            _ => return None,
        })
    }

    pub(super) fn item(&self, value: &Value, key: &Value) -> Out<Value> {
        let at = |length: usize, index: i128| {
            let index = if index < 0 { index + length as i128 } else { index };
            usize::try_from(index).ok().filter(|index| *index < length)
        };
        let found = match (value.defined()?, key) {
            (Value::Dict(_), Value::List(_) | Value::Dict(_)) => None,
            (Value::Dict(dict), key) => dict.get(&key.key(&self.budget)?).cloned(),
            (Value::List(items) | Value::Tuple(items), key) => key
                .as_int()
                .and_then(|index| at(items.values.len(), index))
                .map(|index| items.values[index].clone()),
            (Value::Text(text), key) if key.as_int().is_some() => {
                let length = value.length(&self.budget)?;
                let index = key.as_int().and_then(|index| at(length, index));
                index.and_then(|index| text.chars().nth(index)).map(|c| c.to_string().into())
            }
            _ => None,
        };
        match (found, key) {
            (Some(found), _) => Ok(found),
            (None, Value::Text(name)) => self.attribute(value, name),
            (None, _) => Ok(Value::Undefined(missing(value, "that"))),
        }
    }

    fn slice(&mut self, value: &'t Expr, parts: &'t [Option<Box<Expr>>; 3]) -> Out<Value> {
        let value = self.evaluate(value)?;
        let mut bounds = [None; 3];
        for (bound, part) in bounds.iter_mut().zip(parts) {
            let Some(part) = part else { continue };
            *bound = match self.evaluate(part)? {
                Value::None => None,
                part => {
                    Some(part.as_int().ok_or_else(|| Fault::new("slice indices must be integers or None"))?)
                }
            };
        }
        let places = |length: usize| slice_places(length, bounds);
        match value.defined()? {
            Value::List(items) => {
                let places = places(items.values.len())?;
                Value::list(places.map(|place| items.values[place].clone()).collect(), &self.budget)
            }
            Value::Tuple(items) => {
                let places = places(items.values.len())?;
                Value::tuple(places.map(|place| items.values[place].clone()).collect(), &self.budget)
            }
            Value::Text(text) => {
                self.budget.spend_product(text.len(), 4)?;
                let chars: Vec<char> = text.chars().collect();
                Value::text(places(chars.len())?.map(|place| chars[place]).collect(), &self.budget)
            }
            _ => Ok(Value::Undefined(missing(&value, "slices"))),
        }
    }

    pub(super) fn call(&mut self, called: &Value, arguments: Arguments) -> Out<Value> {
        self.budget.spend(32)?;
        match called.defined()? {
            Value::Macro(number) => self.call_macro(*number, arguments),
            Value::Loop(number) => self.call_loop(*number, arguments),
            Value::Method(method) => self.method(&method.0, &method.1, arguments),
            Value::Function(name) => self.function(name, arguments),
            _ => Err(Fault::new(format!("'{}' object is not callable", called.kind()))),
        }
    }

    fn function(&mut self, name: &'static str, arguments: Arguments) -> Out<Value> {
        match name {
            "range" => {
                let bounds: Option<Vec<i128>> = arguments.positional.iter().map(Value::as_int).collect();
                let (start, stop, step) = match bounds.as_deref() {
                    Some([stop]) => (0, *stop, 1),
                    Some([start, stop]) => (*start, *stop, 1),
                    Some([start, stop, step]) if *step != 0 => (*start, *stop, *step),
                    _ => return Err(Fault::new("range needs one to three integers, the last not 0")),
                };
                let (span, each) = match step > 0 {
                    true => (stop.saturating_sub(start), step),
                    false => (start.saturating_sub(stop), step.saturating_neg()),
                };
                let length = span.max(0).saturating_add(each - 1) / each;
                if length > LONGEST_RANGE {
                    return Err(Fault::limit(0, format!("a range longer than {LONGEST_RANGE}")));
                }
                self.budget.spend_product(length as usize, 48)?;
                Value::list((0..length).map(|index| Value::Int(start + index * step)).collect(), &self.budget)
            }
            "dict" | "namespace" => {
                let mut dict = Dict::default();
                let mut positional = arguments.positional.into_iter();
                if let Some(first) = positional.next() {
                    let entries = match &first {
                        Value::Dict(first) => self.pairs(first.entries())?,
                        pairs => pairs.values(&self.budget)?,
                    };
                    for pair in entries {
                        let [key, value] = <[Value; 2]>::try_from(pair.values(&self.budget)?)
                            .map_err(|_| Fault::new(format!("{name} needs a mapping or pairs")))?;
                        dict.insert(key, value, &self.budget)?;
                    }
                }
                for (key, value) in arguments.named {
                    dict.insert(key.into(), value, &self.budget)?;
                }
                if positional.next().is_some() {
                    return Err(Fault::new(format!("{name} takes one mapping at most")));
                }
                if name == "dict" {
                    return Ok(Value::Dict(dict.into()));
                }
                self.budget.spend(128)?;
                self.namespaces.push(dict);
                Ok(Value::Namespace(self.namespaces.len() - 1))
            }
            "raise_exception" => {
                let [message] = arguments.bind(name, ["message"])?;
                let message = self.printed(&message.unwrap_or(Value::None))?;
                Err(Fault::new(message))
            }
            _ => {
                let [format] = arguments.bind(name, ["format"])?;
                let Some(Value::Text(format)) = format else {
                    return Err(Fault::new(format!("{name} needs a text")));
                };
                // No conversion is longer than this.
                self.budget.spend_product(format.len(), 64)?;
                let text = date::now(&format);
                Value::text(text, &self.budget)
            }
        }
    }
}

fn number(value: &Value, operator: &str) -> Out<i128> {
    value.as_int().ok_or_else(|| Fault::new(format!("bad operand type for {operator}: '{}'", value.kind())))
}

fn missing(value: &Value, name: &str) -> Rc<str> {
    match value {
        Value::None => format!("None has no attribute '{name}'").into(),
        _ => format!("'{} object' has no attribute '{name}'", value.kind()).into(),
    }
}

/// The places that Python's `[start:stop:step]` takes of this many.
fn slice_places(length: usize, [start, stop, step]: [Option<i128>; 3]) -> Out<impl Iterator<Item = usize>> {
    let (length, step) = (length as i128, step.unwrap_or(1));
    if step == 0 {
        return Err(Fault::new("slice step cannot be zero"));
    }
    let (lowest, highest) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let clamped = |bound: Option<i128>, default: i128| match bound {
        None => default,
        Some(bound) if bound < 0 => bound.saturating_add(length).max(lowest),
        Some(bound) => bound.min(highest),
    };
    let (first, last) = if step > 0 { (lowest, highest) } else { (highest, lowest) };
    let (start, stop) = (clamped(start, first), clamped(stop, last));
    let more = move |place: &i128| if step > 0 { *place < stop } else { *place > stop };
    let places = std::iter::successors(Some(start), move |place| place.checked_add(step)).take_while(more);
    Ok(places.map(|place| place as usize))
}
