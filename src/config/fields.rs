//! Typed reading of one JSON object: every wrong value is an error that names the key.

use std::{cell::RefCell, collections::HashSet, path::Path, rc::Rc};

use serde_json::{Map, Value};

use crate::{
    error::{Error, Result, printable},
    json::with_quoted_constants,
};

/// No size of a real model comes near; products of two such sizes still fit 64 bits.
pub(super) const MAX_SIZE: usize = i32::MAX as usize;

const HELP: &str = "Put back the model's own file, or correct this key.";

/// One JSON object of the file at `path`; `prefix` ("rope_scaling.", or nothing) goes before its keys in messages.
pub(super) struct Fields<'a> {
    path: &'a Path,
    prefix: &'static str,
    map: &'a Map<String, Value>,
    /// The keys that were asked for, with their prefixes; shared with the objects inside.
    read: Rc<RefCell<HashSet<String>>>,
}

/// The whole file as a JSON object.
pub(super) fn parse_object(path: &Path, text: &str) -> Result<Map<String, Value>> {
    match serde_json::from_str::<Value>(&with_quoted_constants(text)) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err(Error::file(path, "content", "a JSON object", shown(&other), HELP)),
        Err(error) => {
            let near = text.lines().nth(error.line().saturating_sub(1)).unwrap_or("").trim();
            let got = format!("{error}, in {}", printable(near));
            Err(Error::file(path, "content", "valid JSON (no comments, not cut off)", got, HELP))
        }
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => printable(text),
        Value::Array(_) => "a list".to_string(),
        Value::Object(_) => "an object".to_string(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

impl<'a> Fields<'a> {
    pub(super) fn new(path: &'a Path, prefix: &'static str, map: &'a Map<String, Value>) -> Self {
        Self { path, prefix, map, read: Rc::default() }
    }

    /// The value of `key`, `null` included.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.read.borrow_mut().insert(format!("{}{key}", self.prefix));
        self.map.get(key)
    }

    /// The keys that nothing has asked for, and those of objects in which something was read; with their prefixes.
    pub(super) fn unread(&self) -> Vec<(String, &'a Value)> {
        let read = self.read.borrow();
        let mut unread = Vec::new();
        for (key, value) in self.map {
            let inside = format!("{key}.");
            match value {
                Value::Object(map) if read.iter().any(|read| read.starts_with(&inside)) => {
                    unread.extend(map.iter().map(|(key, value)| (format!("{inside}{key}"), value)));
                }
                _ => unread.push((key.clone(), value)),
            }
        }
        unread.retain(|(key, _)| !read.contains(key));
        unread
    }

    pub(super) fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Whether `key` is there with a value other than `null`.
    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| !value.is_null())
    }

    /// The error for `key`, with its value as what was got.
    pub(super) fn wrong(&self, key: &str, expected: impl std::fmt::Display) -> Error {
        self.wrong_with_help(key, expected, HELP)
    }

    pub(super) fn wrong_with_help(&self, key: &str, expected: impl std::fmt::Display, help: &str) -> Error {
        let got = self.get(key).map_or_else(|| "no such key".to_string(), shown);
        Error::file(self.path, format!("{}{key}", self.prefix), expected, got, help)
    }

    /// The error for a `key` whose value is a default or follows from other keys.
    pub(super) fn computed(&self, key: &str, expected: &str, got: String) -> Error {
        Error::file(self.path, format!("{}{key}", self.prefix), expected, got, HELP)
    }

    pub(super) fn path(&self) -> &'a Path {
        self.path
    }

    /// A whole number from `least` to `most`; `default` when the key is absent.
    pub(super) fn whole(&self, key: &str, default: usize, least: usize, most: usize) -> Result<usize> {
        let value = match self.get(key) {
            None => Some(default),
            Some(value) => value.as_u64().and_then(|number| usize::try_from(number).ok()),
        };
        value
            .filter(|number| (least..=most).contains(number))
            .ok_or_else(|| self.wrong(key, format!("a whole number from {least} to {most}")))
    }

    /// A size: a whole number from 1 to [`MAX_SIZE`].
    pub(super) fn size(&self, key: &str, default: usize) -> Result<usize> {
        self.whole(key, default, 1, MAX_SIZE)
    }

    /// A size that must be there.
    pub(super) fn required_size(&self, key: &str) -> Result<usize> {
        if self.has(key) { self.size(key, 1) } else { Err(self.wrong(key, "a whole number")) }
    }

    /// A size for which absent and `null` mean the same.
    pub(super) fn optional_size(&self, key: &str) -> Result<Option<usize>> {
        if self.has(key) { self.size(key, 1).map(Some) } else { Ok(None) }
    }

    /// A number that f32, in which it will be used, can hold, and for which `accept` holds; `expected` says that in words.
    pub(super) fn number(
        &self,
        key: &str,
        default: Option<f64>,
        expected: &str,
        accept: impl Fn(f64) -> bool,
    ) -> Result<f64> {
        let value = self.get(key).map_or(default, Value::as_f64);
        let fits = |number: f64| (number as f32).is_finite();
        match value {
            Some(number) if fits(number) && accept(number) => Ok(number),
            Some(number) if !fits(number) => {
                Err(self.wrong(key, format!("{expected}, up to {:e}", f32::MAX)))
            }
            _ => Err(self.wrong(key, expected)),
        }
    }

    /// A number for which absent and `null` mean the same.
    pub(super) fn optional_number(
        &self,
        key: &str,
        expected: &str,
        accept: impl Fn(f64) -> bool,
    ) -> Result<Option<f64>> {
        if self.has(key) { self.number(key, None, expected, accept).map(Some) } else { Ok(None) }
    }

    pub(super) fn boolean(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Bool(value)) => Ok(*value),
            Some(_) => Err(self.wrong(key, "true or false")),
        }
    }

    /// A string; absent and `null` mean the same.
    pub(super) fn string(&self, key: &str) -> Result<Option<&'a str>> {
        match self.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(key, "a string")),
        }
    }

    /// An object; absent and `null` mean the same.
    pub(super) fn object(&self, key: &str, prefix: &'static str) -> Result<Option<Fields<'a>>> {
        match self.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(map)) => {
                Ok(Some(Fields { path: self.path, prefix, map, read: Rc::clone(&self.read) }))
            }
            Some(_) => Err(self.wrong(key, "an object or null")),
        }
    }

    /// Token ids: absent gives `default`, `null` none, and otherwise one id or a list of ids. Old LLaMA conversions write -1 for
    /// "none".
    pub(super) fn token_ids(&self, key: &str, default: Option<u32>) -> Result<Vec<u32>> {
        let id = |value: &Value| match value.as_i64() {
            Some(-1) => Some(None),
            Some(id) => u32::try_from(id).ok().map(Some),
            None => None,
        };
        let ids: Option<Vec<Option<u32>>> = match self.get(key) {
            None => Some(vec![default]),
            Some(Value::Null) => Some(Vec::new()),
            Some(Value::Array(values)) => values.iter().map(id).collect(),
            Some(value) => id(value).map(|id| vec![id]),
        };
        let ids = ids.map(|ids| ids.into_iter().flatten().collect());
        ids.ok_or_else(|| self.wrong(key, "a token id (a whole number from 0), a list of them, or null"))
    }

    /// One token id.
    pub(super) fn token_id(&self, key: &str, default: Option<u32>) -> Result<Option<u32>> {
        match self.token_ids(key, default)?.as_slice() {
            [] => Ok(None),
            [id] => Ok(Some(*id)),
            _ => Err(self.wrong(key, "one token id or null")),
        }
    }
}
