//! Values of a template, which behave and print as Python's.

use std::{cmp::Ordering, collections::HashMap, rc::Rc};

use super::{Fault, Out, budget::Budget};

/// How deep lists, tuples and dicts may lie in one another.
const MOST_NESTED: usize = 100;
/// What a value takes in a list, in bytes with some room.
const SLOT: usize = 48;

#[derive(Debug, Clone)]
pub(super) enum Value {
    /// What is not there, and the error when it is used all the same.
    Undefined(Rc<str>),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(Rc<str>),
    List(Rc<Items>),
    Tuple(Rc<Items>),
    Dict(Rc<Dict>),
    /// The number of a namespace, macro or loop of the run.
    Namespace(usize),
    Macro(usize),
    Loop(usize),
    Function(&'static str),
    /// A method of a value.
    Method(Rc<(Value, String)>),
}

/// The values of a list or tuple.
#[derive(Debug)]
pub(super) struct Items {
    pub(super) values: Vec<Value>,
    depth: usize,
}

/// A dict, in the order that its keys came in.
#[derive(Debug, Default)]
pub(super) struct Dict {
    entries: Vec<(Value, Value)>,
    places: HashMap<Key, usize>,
    depth: usize,
}

/// A value as the key of a dict: equal ones are one key, whatever their type.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    None,
    Int(i128),
    Float(u64),
    Text(Rc<str>),
    Tuple(Vec<Key>),
    Other(u8, usize),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Self::Int(value as i128)
    }
}

impl Dict {
    pub(super) fn get(&self, key: &Key) -> Option<&Value> {
        self.places.get(key).map(|place| &self.entries[*place].1)
    }

    pub(super) fn get_text(&self, key: &str) -> Option<&Value> {
        self.get(&Key::Text(key.into()))
    }

    pub(super) fn insert(&mut self, key: Value, value: Value, budget: &Budget) -> Out<()> {
        budget.spend(4 * SLOT)?;
        self.depth = self.depth.max(below([&key, &value])?);
        let place = key.key(budget)?;
        match self.places.get(&place) {
            Some(index) => self.entries[*index].1 = value,
            None => {
                self.places.insert(place, self.entries.len());
                self.entries.push((key, value));
            }
        }
        Ok(())
    }

    pub(super) fn entries(&self) -> &[(Value, Value)] {
        &self.entries
    }
}

/// The depth of what holds these values.
fn below<'a>(values: impl IntoIterator<Item = &'a Value>) -> Out<usize> {
    let depth = 1 + values.into_iter().map(Value::depth).max().unwrap_or(0);
    match depth > MOST_NESTED {
        true => Err(Fault::limit(0, format!("lists or dicts in one another, more than {MOST_NESTED} deep"))),
        false => Ok(depth),
    }
}

impl Value {
    pub(super) fn constant(name: &str) -> Option<Self> {
        match name {
            "true" | "True" => Some(Self::Bool(true)),
            "false" | "False" => Some(Self::Bool(false)),
            "none" | "None" => Some(Self::None),
            _ => None,
        }
    }

    pub(super) fn list(values: Vec<Value>, budget: &Budget) -> Out<Self> {
        budget.spend(SLOT * (1 + values.len()))?;
        let depth = below(&values)?;
        Ok(Self::List(Rc::new(Items { values, depth })))
    }

    pub(super) fn tuple(values: Vec<Value>, budget: &Budget) -> Out<Self> {
        budget.spend(SLOT * (1 + values.len()))?;
        let depth = below(&values)?;
        Ok(Self::Tuple(Rc::new(Items { values, depth })))
    }

    /// A dict of text keys.
    pub(super) fn dict(entries: Vec<(String, Value)>, budget: &Budget) -> Out<Self> {
        let mut dict = Dict::default();
        for (key, value) in entries {
            dict.insert(key.into(), value, budget)?;
        }
        Ok(Self::Dict(dict.into()))
    }

    /// Text that a template made.
    pub(super) fn text(text: String, budget: &Budget) -> Out<Self> {
        budget.spend(text.len())?;
        Ok(text.into())
    }

    fn depth(&self) -> usize {
        match self {
            Self::List(items) | Self::Tuple(items) => items.depth,
            Self::Dict(dict) => dict.depth,
            Self::Method(method) => 1 + method.0.depth(),
            _ => 0,
        }
    }

    /// Python's name of the type.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "Undefined",
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Text(_) => "str",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Dict(_) => "dict",
            Self::Namespace(_) => "Namespace",
            Self::Macro(_) => "Macro",
            Self::Loop(_) => "LoopContext",
            Self::Function(_) => "function",
            Self::Method(_) => "method",
        }
    }

    pub(super) fn is_true(&self) -> bool {
        match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(value) => *value,
            Self::Int(value) => *value != 0,
            Self::Float(value) => *value != 0.0,
            Self::Text(text) => !text.is_empty(),
            Self::List(items) | Self::Tuple(items) => !items.values.is_empty(),
            Self::Dict(dict) => !dict.entries.is_empty(),
            _ => true,
        }
    }

    /// The value itself, or the error of an undefined one.
    pub(super) fn defined(&self) -> Out<&Self> {
        match self {
            Self::Undefined(reason) => Err(Fault::new(&**reason)),
            _ => Ok(self),
        }
    }

    pub(super) fn as_text(&self) -> Option<&Rc<str>> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn as_int(&self) -> Option<i128> {
        match self {
            Self::Int(value) => Some(*value),
            Self::Bool(value) => Some((*value).into()),
            _ => None,
        }
    }

    pub(super) fn as_float(&self) -> Option<f64> {
        match self {
            Self::Float(value) => Some(*value),
            _ => self.as_int().map(|value| value as f64),
        }
    }

    pub(super) fn key(&self, budget: &Budget) -> Out<Key> {
        budget.spend(SLOT)?;
        Ok(match self {
            Self::None => Key::None,
            Self::Bool(value) => Key::Int((*value).into()),
            Self::Int(value) => Key::Int(*value),
            Self::Float(value) if value.fract() == 0.0 && value.abs() < 1e18 => Key::Int(*value as i128),
            Self::Float(value) => Key::Float(value.to_bits()),
            Self::Text(text) => {
                budget.spend(text.len() / 4)?;
                Key::Text(text.clone())
            }
            Self::Tuple(items) => {
                Key::Tuple(items.values.iter().map(|value| value.key(budget)).collect::<Out<_>>()?)
            }
            Self::Namespace(number) => Key::Other(0, *number),
            Self::Macro(number) => Key::Other(1, *number),
            Self::Loop(number) => Key::Other(2, *number),
            Self::Undefined(_) => Key::Other(3, 0),
            _ => return Err(Fault::new(format!("unhashable type: '{}'", self.kind()))),
        })
    }

    /// Python's `==`.
    pub(super) fn equals(&self, other: &Self, budget: &Budget) -> Out<bool> {
        budget.spend(16)?;
        Ok(match (self, other) {
            (Self::Undefined(_), Self::Undefined(_)) | (Self::None, Self::None) => true,
            (Self::Text(a), Self::Text(b)) => {
                budget.spend(a.len().min(b.len()) / 4)?;
                a == b
            }
            (Self::List(a), Self::List(b)) | (Self::Tuple(a), Self::Tuple(b)) => {
                if a.values.len() != b.values.len() {
                    return Ok(false);
                }
                for (a, b) in a.values.iter().zip(&b.values) {
                    if !a.equals(b, budget)? {
                        return Ok(false);
                    }
                }
                true
            }
            (Self::Dict(a), Self::Dict(b)) => {
                if a.entries.len() != b.entries.len() {
                    return Ok(false);
                }
                for (key, value) in &a.entries {
                    match b.get(&key.key(budget)?) {
                        Some(other) if value.equals(other, budget)? => {}
                        _ => return Ok(false),
                    }
                }
                true
            }
            (Self::Namespace(a), Self::Namespace(b))
            | (Self::Macro(a), Self::Macro(b))
            | (Self::Loop(a), Self::Loop(b)) => a == b,
            (Self::Function(a), Self::Function(b)) => a == b,
            _ => match (self.as_int(), other.as_int()) {
                (Some(a), Some(b)) => a == b,
                _ => matches!((self.as_float(), other.as_float()), (Some(a), Some(b)) if a == b),
            },
        })
    }

    /// Python's order, of numbers, text, and lists or tuples of them; `operator` is for the message.
    pub(super) fn order(&self, other: &Self, operator: &str, budget: &Budget) -> Out<Option<Ordering>> {
        budget.spend(16)?;
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => {
                budget.spend(a.len().min(b.len()) / 4)?;
                return Ok(Some(a.cmp(b)));
            }
            (Self::List(a), Self::List(b)) | (Self::Tuple(a), Self::Tuple(b)) => {
                for (a, b) in a.values.iter().zip(&b.values) {
                    if !a.equals(b, budget)? {
                        return a.order(b, operator, budget);
                    }
                }
                return Ok(Some(a.values.len().cmp(&b.values.len())));
            }
            _ => {}
        }
        if let (Some(a), Some(b)) = (self.as_int(), other.as_int()) {
            return Ok(Some(a.cmp(&b)));
        }
        match (self.defined()?.as_float(), other.defined()?.as_float()) {
            (Some(a), Some(b)) => Ok(a.partial_cmp(&b)),
            _ => Err(Fault::new(format!(
                "'{operator}' not supported between instances of '{}' and '{}'",
                self.kind(),
                other.kind()
            ))),
        }
    }

    /// The values that a loop over this goes through.
    pub(super) fn values(&self, budget: &Budget) -> Out<Vec<Value>> {
        let values = match self {
            Self::Undefined(_) => Vec::new(),
            Self::List(items) | Self::Tuple(items) => {
                budget.spend(SLOT * items.values.len())?;
                items.values.clone()
            }
            Self::Dict(dict) => {
                budget.spend(SLOT * dict.entries.len())?;
                dict.entries.iter().map(|(key, _)| key.clone()).collect()
            }
            Self::Text(text) => {
                budget.spend(SLOT * text.len())?;
                text.chars().map(|c| Self::from(c.to_string())).collect()
            }
            _ => return Err(Fault::new(format!("'{}' object is not iterable", self.kind()))),
        };
        Ok(values)
    }

    /// Python's `len`.
    pub(super) fn length(&self, budget: &Budget) -> Out<usize> {
        Ok(match self {
            Self::Undefined(_) => 0,
            Self::List(items) | Self::Tuple(items) => items.values.len(),
            Self::Dict(dict) => dict.entries.len(),
            Self::Text(text) => {
                budget.spend(text.len() / 4)?;
                text.chars().count()
            }
            _ => return Err(Fault::new(format!("object of type '{}' has no len()", self.kind()))),
        })
    }
}
