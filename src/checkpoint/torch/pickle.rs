//! The part of Python's pickle format that `torch.save` writes for tensors, read as data.
//!
//! A pickle is a program for a stack machine, and Python's machine calls any function that it names. This one calls none: it
//! knows the names below, and builds a description of what they would make. Everything lies in one list, in which objects
//! refer to each other by place, so that neither depth nor cycles matter.

use std::collections::HashMap;

use safetensors::Dtype;

use super::Refusal;
use crate::error::printable;

/// A tensor takes about 200 bytes.
const MAX_BYTES: usize = 4 << 20;
/// A tensor takes about 20 objects.
const MAX_OBJECTS: usize = 1 << 20;

/// The names that a pickle may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(Dtype),
}

impl Global {
    fn named(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Self::RebuildParameter,
            ("torch", "FloatStorage") => Self::Storage(Dtype::F32),
            ("torch", "DoubleStorage") => Self::Storage(Dtype::F64),
            ("torch", "HalfStorage") => Self::Storage(Dtype::F16),
            ("torch", "BFloat16Storage") => Self::Storage(Dtype::BF16),
            ("torch", "LongStorage") => Self::Storage(Dtype::I64),
            ("torch", "IntStorage") => Self::Storage(Dtype::I32),
            ("torch", "ShortStorage") => Self::Storage(Dtype::I16),
            ("torch", "CharStorage") => Self::Storage(Dtype::I8),
            ("torch", "ByteStorage") => Self::Storage(Dtype::U8),
            ("torch", "BoolStorage") => Self::Storage(Dtype::BOOL),
            _ => return None,
        })
    }
}

/// An object's place in the list of all.
pub(super) type Place = usize;

#[derive(Debug)]
pub(super) enum Object<'a> {
    /// None, a truth value or a fraction: nothing that a tensor's description goes by.
    Other,
    Int(i64),
    Text(&'a str),
    Global(Global),
    Tuple(Vec<Place>),
    List,
    Dict(Vec<(Place, Place)>),
    /// A function and the tuple of its arguments.
    Call(Global, Place),
    /// What `torch.save` keeps outside the pickle, by its description.
    Persistent(Place),
}

/// A pickle's objects.
pub(super) struct Objects<'a> {
    pub(super) all: Vec<Object<'a>>,
    /// The one that was pickled.
    pub(super) root: Place,
}

/// Reads a pickle.
pub(super) fn read(bytes: &[u8]) -> Result<Objects<'_>, Refusal> {
    if bytes.len() > MAX_BYTES {
        let got = format!("{} bytes", bytes.len());
        return Err(Refusal::new("size of data.pkl", format!("at most {MAX_BYTES} bytes"), got));
    }
    let mut machine =
        Machine { rest: bytes, all: Vec::new(), stack: Vec::new(), marks: Vec::new(), memo: HashMap::new() };
    while !machine.step().map_err(|Stop { expected, got }| {
        let at = bytes.len() - machine.rest.len();
        Refusal::new(format!("data.pkl, up to byte {at}"), expected, got)
    })? {}
    let Machine { rest, all, stack, marks, .. } = machine;
    match (stack.as_slice(), rest.is_empty() && marks.is_empty()) {
        ([root], true) => Ok(Objects { all, root: *root }),
        _ => Err(Refusal::new("data.pkl", "one object", "more, or a rest")),
    }
}

struct Stop {
    expected: &'static str,
    got: String,
}

fn stop<T>(expected: &'static str, got: impl Into<String>) -> Result<T, Stop> {
    Err(Stop { expected, got: got.into() })
}

struct Machine<'a> {
    rest: &'a [u8],
    all: Vec<Object<'a>>,
    stack: Vec<Place>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Place>,
}

impl<'a> Machine<'a> {
    /// Runs one instruction; true at the end.
    fn step(&mut self) -> Result<bool, Stop> {
        let [code] = self.take()?;
        match code {
            0x80 => match self.take()? {
                [2] => {}
                [other] => return stop("protocol 2, torch.save's own", format!("protocol {other}")),
            },
            b'(' => self.marks.push(self.stack.len()),
            b'N' | 0x88 | 0x89 => self.push(Object::Other)?,
            b'G' => {
                self.take::<8>()?;
                self.push(Object::Other)?;
            }
            b'K' => {
                let [value] = self.take()?;
                self.push(Object::Int(value.into()))?;
            }
            b'M' => {
                let value = u16::from_le_bytes(self.take()?);
                self.push(Object::Int(value.into()))?;
            }
            b'J' => {
                let value = i32::from_le_bytes(self.take()?);
                self.push(Object::Int(value.into()))?;
            }
            0x8a => {
                let value = self.long()?;
                self.push(Object::Int(value))?;
            }
            b'X' => {
                let length = u32::from_le_bytes(self.take()?) as usize;
                let text = self.text(length)?;
                self.push(Object::Text(text))?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                let Some(global) = Global::named(module, name) else {
                    return stop(
                        "nothing but plain tensors",
                        format!("{}, which a pickle may run", printable(&format!("{module}.{name}"))),
                    );
                };
                self.push(Object::Global(global))?;
            }
            b')' => self.push(Object::Tuple(Vec::new()))?,
            0x85..=0x87 => {
                let height = self.height(usize::from(code - 0x84))?;
                self.tuple(height)?;
            }
            b't' => {
                let height = self.mark()?;
                self.tuple(height)?;
            }
            b']' => self.push(Object::List)?,
            b'a' => self.append(self.height(1)?)?,
            b'e' => {
                let height = self.mark()?;
                self.append(height)?;
            }
            b'}' => self.push(Object::Dict(Vec::new()))?,
            b's' => self.set_items(self.height(2)?)?,
            b'u' => {
                let height = self.mark()?;
                self.set_items(height)?;
            }
            b'q' | b'r' => {
                let number = self.number(code == b'r')?;
                let place = *self.top()?;
                self.memo.insert(number, place);
            }
            b'h' | b'j' => {
                let number = self.number(code == b'j')?;
                let Some(&place) = self.memo.get(&number) else {
                    return stop("an object that was remembered", format!("number {number}"));
                };
                self.stack.push(place);
            }
            b'Q' => {
                let place = self.pop()?;
                self.push(Object::Persistent(place))?;
            }
            b'R' => self.call()?,
            // Attributes, such as the module versions that PyTorch keeps with a state dict: read, and left out.
            b'b' => {
                self.pop()?;
                self.top()?;
            }
            b'.' => return Ok(true),
            other => return stop("an instruction that torch.save writes", format!("{other:#04x}")),
        }
        Ok(false)
    }

    fn call(&mut self) -> Result<(), Stop> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        match (&self.all[function], &self.all[arguments]) {
            (Object::Global(Global::OrderedDict), Object::Tuple(none)) if none.is_empty() => {
                self.push(Object::Dict(Vec::new()))
            }
            (
                &Object::Global(function @ (Global::RebuildTensor | Global::RebuildParameter)),
                Object::Tuple(_),
            ) => self.push(Object::Call(function, arguments)),
            _ => stop("a tensor, parameter or empty dict to be made", "something else"),
        }
    }

    fn tuple(&mut self, height: usize) -> Result<(), Stop> {
        let parts = self.stack.split_off(height);
        self.push(Object::Tuple(parts))
    }

    fn append(&mut self, height: usize) -> Result<(), Stop> {
        self.stack.truncate(height);
        match self.all[*self.top()?] {
            Object::List => Ok(()),
            _ => stop("a list to append to", "something else"),
        }
    }

    fn set_items(&mut self, height: usize) -> Result<(), Stop> {
        let parts = self.stack.split_off(height);
        let (pairs, odd) = parts.as_chunks();
        let target = *self.top()?;
        match &mut self.all[target] {
            Object::Dict(entries) if odd.is_empty() => {
                entries.extend(pairs.iter().map(|&[key, value]| (key, value)));
                Ok(())
            }
            _ => stop("a dict, and keys with values", "something else"),
        }
    }

    fn push(&mut self, object: Object<'a>) -> Result<(), Stop> {
        if self.all.len() == MAX_OBJECTS {
            return stop("at most 1048576 objects", "more");
        }
        self.stack.push(self.all.len());
        self.all.push(object);
        Ok(())
    }

    /// The stack's height without its top `count`, which lie above the last mark.
    fn height(&self, count: usize) -> Result<usize, Stop> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len().checked_sub(count).filter(|height| *height >= floor) {
            Some(height) => Ok(height),
            None => stop("objects on the stack", "none"),
        }
    }

    fn mark(&mut self) -> Result<usize, Stop> {
        self.marks.pop().map_or_else(|| stop("a mark on the stack", "none"), Ok)
    }

    fn top(&self) -> Result<&Place, Stop> {
        Ok(&self.stack[self.height(1)?])
    }

    fn pop(&mut self) -> Result<Place, Stop> {
        let place = *self.top()?;
        self.stack.pop();
        Ok(place)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        let Some((first, rest)) = self.rest.split_first_chunk() else {
            return stop("more bytes", "the end");
        };
        self.rest = rest;
        Ok(*first)
    }

    fn number(&mut self, long: bool) -> Result<u32, Stop> {
        if long {
            return Ok(u32::from_le_bytes(self.take()?));
        }
        let [number] = self.take()?;
        Ok(number.into())
    }

    /// A whole number of up to 64 bits.
    fn long(&mut self) -> Result<i64, Stop> {
        let [length] = self.take()?;
        let length = usize::from(length);
        if length > 8 {
            return stop("a number of at most 64 bits", format!("{length} bytes"));
        }
        let Some((digits, rest)) = self.rest.split_at_checked(length) else {
            return stop("more bytes", "the end");
        };
        self.rest = rest;
        let negative = digits.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut word = [if negative { 0xff } else { 0 }; 8];
        word[..length].copy_from_slice(digits);
        Ok(i64::from_le_bytes(word))
    }

    fn text(&mut self, length: usize) -> Result<&'a str, Stop> {
        let Some((text, rest)) = self.rest.split_at_checked(length) else {
            return stop("a text inside the file", format!("one of {length} bytes"));
        };
        self.rest = rest;
        std::str::from_utf8(text).or_else(|_| stop("UTF-8 text", "another"))
    }

    fn line(&mut self) -> Result<&'a str, Stop> {
        let Some(length) = self.rest.iter().position(|&byte| byte == b'\n') else {
            return stop("a line", "the end");
        };
        let line = self.text(length)?;
        self.rest = &self.rest[1..];
        Ok(line)
    }
}
