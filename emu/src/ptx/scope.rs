//! Names inside a function body. Inline assembly opens `{ }` scopes that redeclare registers and labels, so both are
//! resolved here, once, to indices.

use std::collections::HashMap;

use super::{
    ast::{Function, RegId},
    types::Ty,
};
use crate::error::{Error, Result};

/// More registers than any kernel has; a bound so that hostile text cannot exhaust memory.
const MAX_REGS: u64 = 1 << 18;

#[derive(Default)]
struct Scope {
    single: HashMap<String, RegId>,
    /// `%r<93>`: first register and count.
    range: HashMap<String, (RegId, u32)>,
    labels: HashMap<String, u32>,
    /// Labels used but not (yet) defined in this scope: name, label index, line.
    wanted: Vec<(String, u32, u32)>,
}

/// The open scopes of a function body.
pub(super) struct Scopes {
    open: Vec<Scope>,
}

impl Scopes {
    pub(super) fn new() -> Self {
        Self { open: vec![Scope::default()] }
    }

    pub(super) fn depth(&self) -> usize {
        self.open.len()
    }

    pub(super) fn enter(&mut self) {
        self.open.push(Scope::default());
    }

    /// Closes the innermost scope; labels it wanted but did not define belong to the one around it.
    pub(super) fn leave(&mut self, f: &mut Function) -> Result<()> {
        let Some(scope) = self.open.pop() else { return Ok(()) };
        for (name, index, line) in scope.wanted {
            if let Some(&defined) = scope.labels.get(&name) {
                f.labels[index as usize] = f.labels[defined as usize];
            } else if let Some(outer) = self.open.last_mut() {
                outer.wanted.push((name, index, line));
            } else {
                return Err(Error::parse(line, format!("no label `{name}`")));
            }
        }
        Ok(())
    }

    pub(super) fn declare(
        &mut self,
        f: &mut Function,
        name: &str,
        count: Option<u64>,
        ty: Ty,
        line: u32,
    ) -> Result<()> {
        let n = count.unwrap_or(1);
        if f.regs.len() as u64 + n > MAX_REGS {
            return Err(Error::parse(line, format!("more than {MAX_REGS} registers")));
        }
        let first = f.regs.len() as u32;
        f.regs.extend(std::iter::repeat_n(ty, n as usize));
        let scope = self.open.last_mut().expect("a function body has a scope");
        match count {
            Some(n) => {
                scope.range.insert(name.to_owned(), (first, n as u32));
            }
            None => {
                scope.single.insert(name.to_owned(), first);
            }
        }
        Ok(())
    }

    pub(super) fn register(&self, name: &str) -> Option<RegId> {
        let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let number = name[stem.len()..].parse::<u32>().ok();
        self.open.iter().rev().find_map(|s| {
            s.single.get(name).copied().or_else(|| {
                let (&(first, count), number) = (s.range.get(stem)?, number?);
                (number < count).then(|| first + number)
            })
        })
    }

    pub(super) fn define_label(&mut self, f: &mut Function, name: &str, line: u32) -> Result<()> {
        let index = f.labels.len() as u32;
        f.labels.push(f.instrs.len());
        let scope = self.open.last_mut().expect("a function body has a scope");
        match scope.labels.insert(name.to_owned(), index) {
            Some(_) => Err(Error::parse(line, format!("label `{name}` is defined twice"))),
            None => Ok(()),
        }
    }

    pub(super) fn use_label(&mut self, f: &mut Function, name: &str, line: u32) -> u32 {
        let index = f.labels.len() as u32;
        f.labels.push(0);
        let scope = self.open.last_mut().expect("a function body has a scope");
        scope.wanted.push((name.to_owned(), index, line));
        index
    }
}
