//! Changes of good files that keep enough of their structure to be read further in.

use rand::{RngExt, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};

/// A source of changes, the same for the same seed.
pub(crate) struct Change(ChaCha8Rng);

/// Bytes that one change may add.
const LARGE: usize = 1 << 18;

/// Pieces of templates.
const PIECES: [&str; 48] = [
    "{%",
    "%}",
    "{{",
    "}}",
    "{#",
    "#}",
    "{%-",
    "-%}",
    "{{-",
    "-}}",
    " if ",
    " elif x ",
    " else ",
    " endif ",
    " for m in messages ",
    " endfor ",
    " set x = x ~ x ",
    " set x = x + x ",
    " macro f(a) ",
    " endmacro ",
    "f(f)",
    "namespace(a=x)",
    " not ",
    "(",
    ")",
    "[",
    "]",
    "|join",
    "|tojson(indent=9)",
    "|replace('', 'ab')",
    "|map(attribute='role')",
    "|list",
    ".split('')",
    ".format(1)",
    "'{:>9999999}'",
    "'%99999d' % 1",
    "* 99999999",
    "range(99999)",
    "[::-1]",
    " is defined ",
    " loop.index0 ",
    "\r\n",
    "raise_exception('x')",
    "strftime_now('%Q')",
    " generation ",
    " endgeneration ",
    "\"\\u0000\"",
    "é🦀",
];

impl Change {
    pub(crate) fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    pub(crate) fn one<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        list.choose(&mut self.0).expect("some")
    }

    fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }

    fn below(&mut self, end: usize) -> usize {
        self.0.random_range(0..end.max(1))
    }

    /// A JSON file with some values changed, and seldom some bytes.
    pub(crate) fn json(&mut self, mut value: Value) -> Vec<u8> {
        for _ in 0..self.below(4) {
            self.value_in(&mut value);
        }
        let mut text = value.to_string();
        if self.chance(8) {
            let constant = *self.one(&["NaN", "-Infinity", "1e999", "\"\\ud800\"", "[[[[", "// x"]);
            text = text.replacen(*self.one(&["null", "true", "1", "2"]), constant, 1);
        }
        let mut bytes = text.into_bytes();
        if self.chance(8) {
            self.bytes(&mut bytes);
        }
        bytes
    }

    /// Changes one value somewhere in `root`.
    fn value_in(&mut self, root: &mut Value) {
        let other = {
            let at = self.below(count(root));
            nth(root, at).expect("counted").clone()
        };
        let at = self.below(count(root));
        let target = nth(root, at).expect("counted");
        match self.below(8) {
            0 => *target = other,
            1 => *target = self.interesting(),
            2 => {
                let (depth, inner) = (self.below(200), target.take());
                *target = (0..depth).fold(inner, |inner, _| json!([inner]));
            }
            3 => {
                let times = self.below(3000);
                match target {
                    Value::Array(list) => {
                        if let Some(last) = list.last().cloned() {
                            let times = times.min(LARGE / last.to_string().len());
                            list.extend(vec![last; times]);
                        }
                    }
                    Value::String(text) if text.len() < 100 => *text = text.repeat(times),
                    _ => *target = self.interesting(),
                }
            }
            4 => self.entry(target),
            _ => match target {
                Value::Number(number) => {
                    let number = number.as_f64().unwrap_or(0.0);
                    let to = [number + 1.0, number - 1.0, -number, number * 1e9, number / 2.0];
                    *target = json!(*self.one(&to));
                    if let Some(whole) = target.as_f64().filter(|x| x.fract() == 0.0 && x.abs() < 9e15) {
                        *target = json!(whole as i64);
                    }
                }
                Value::Bool(truth) => *truth = !*truth,
                Value::Array(_) | Value::Object(_) => self.entry(target),
                Value::String(_) | Value::Null => *target = self.interesting(),
            },
        }
    }

    /// Takes an entry of a list or object away, or gives it a new one.
    fn entry(&mut self, target: &mut Value) {
        let new = self.interesting();
        match target {
            Value::Array(list) if self.chance(2) && !list.is_empty() => {
                drop(list.remove(self.below(list.len())))
            }
            Value::Array(list) => list.push(new),
            Value::Object(map) if self.chance(2) && !map.is_empty() => {
                let key = map.keys().nth(self.below(map.len())).expect("counted").clone();
                let value = map.remove(&key).expect("a key of it");
                // Under another key, at times.
                if self.chance(2) {
                    map.insert(key.to_uppercase(), value);
                }
            }
            Value::Object(map) => drop(map.insert("type".into(), new)),
            other => *other = new,
        }
    }

    fn interesting(&mut self) -> Value {
        let values = [
            json!(null),
            json!(true),
            json!(0),
            json!(-1),
            json!(1),
            json!(2),
            json!(7),
            json!(255),
            json!(65_536),
            json!(2_147_483_647),
            json!(2_147_483_648_u64),
            json!(u64::MAX),
            json!(i64::MIN),
            json!(0.5),
            json!(1e300),
            json!(1e-300),
            json!(""),
            json!("x"),
            json!("\u{0}"),
            json!("é🦀"),
            json!("(a+)+$"),
            json!("(?i)[^a]{1000}{1000}"),
            json!("a".repeat(5000)),
            json!([]),
            json!({}),
            json!([[]]),
            json!("full_attention"),
            json!("ByteLevel"),
            json!("Sequence"),
            json!({ "String": "a" }),
            json!({ "Regex": "(a|aa)*b" }),
            json!("F64"),
            json!("I64"),
        ];
        self.one(&values).clone()
    }

    /// A template made of pieces of good ones.
    pub(crate) fn template(&mut self, good: &[String]) -> Vec<u8> {
        let mut pieces: Vec<String> = split(&good[self.below(good.len())]);
        for _ in 0..self.below(6) {
            let at = self.below(pieces.len());
            let length = 1 + self.below(8).min(pieces.len() - at - 1);
            match self.below(5) {
                0 => drop(pieces.drain(at..at + length)),
                1 => pieces.insert(at, self.one(&PIECES).to_string()),
                2 => {
                    let run = pieces[at..at + length].concat();
                    let times = self.below(2000).min(LARGE / run.len().max(1));
                    pieces.insert(at, run.repeat(times));
                }
                3 => {
                    let other = split(&good[self.below(good.len())]);
                    let from = self.below(other.len());
                    pieces.splice(at..at, other[from..].iter().take(12).cloned());
                }
                _ => {
                    let with = self.below(pieces.len());
                    pieces.swap(at, with);
                }
            }
            if pieces.is_empty() {
                break;
            }
        }
        pieces.concat().into_bytes()
    }

    /// A safetensors file with a changed header of the right length, or changed bytes.
    pub(crate) fn safetensors(&mut self, good: &[u8]) -> Vec<u8> {
        if self.chance(4) {
            let mut bytes = good.to_vec();
            self.bytes(&mut bytes);
            return bytes;
        }
        let length = u64::from_le_bytes(good[..8].try_into().expect("eight bytes")) as usize;
        let (header, data) = good[8..].split_at(length);
        let header: Map<String, Value> = serde_json::from_slice(header).expect("a good header");
        let header = self.json(header.into());
        let mut bytes = [&(header.len() as u64).to_le_bytes(), &header[..], data].concat();
        if self.chance(8) {
            let end = bytes.len() - self.below(data.len());
            bytes.truncate(end);
        }
        bytes
    }

    /// A zip container in whose files bytes are changed; most of them in the pickle.
    pub(crate) fn torch(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        let start = bytes
            .windows(3)
            .position(|bytes| bytes == [0x80, 2, b'}'])
            .or_else(|| bytes.windows(4).position(|bytes| bytes == [0x80, 2, b'c', b'c']));
        for _ in 0..self.below(4) {
            match start {
                Some(start) if start < bytes.len() && !self.chance(4) => {
                    let opcodes = b"(tRQ}]uesa.hjqrKMJXcb\x85\x86\x87\x88\x8aN";
                    let at = start + self.below(400.min(bytes.len() - start));
                    bytes[at] = if self.chance(2) { *self.one(opcodes) } else { self.0.random() };
                }
                _ => self.bytes(&mut bytes),
            }
        }
        bytes
    }

    /// Changes, removes or repeats some bytes.
    fn bytes(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len());
        let end = bytes.len().min(at + 1 + self.below(20));
        match self.below(4) {
            _ if bytes.is_empty() => bytes.push(b'{'),
            0 => bytes[at] = self.0.random(),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => bytes.truncate(at),
        }
    }
}

/// A template's words and delimiters.
fn split(template: &str) -> Vec<String> {
    let mut pieces = vec![String::new()];
    let mut last = ' ';
    for c in template.chars() {
        if c.is_alphanumeric() != last.is_alphanumeric() {
            pieces.push(String::new());
        }
        pieces.last_mut().expect("one at least").push(c);
        last = c;
    }
    pieces
}

/// Values in `value`, itself among them.
fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(count).sum::<usize>(),
        Value::Object(map) => map.values().map(count).sum(),
        _ => 0,
    }
}

/// The value that comes after `at` others.
fn nth(value: &mut Value, mut at: usize) -> Option<&mut Value> {
    if at == 0 {
        return Some(value);
    }
    at -= 1;
    let inside: Box<dyn Iterator<Item = &mut Value>> = match value {
        Value::Array(list) => Box::new(list.iter_mut()),
        Value::Object(map) => Box::new(map.values_mut()),
        _ => return None,
    };
    for value in inside {
        let values = count(value);
        if at < values {
            return nth(value, at);
        }
        at -= values;
    }
    None
}
