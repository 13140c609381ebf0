//! What one rendering may use, in all.

use std::cell::Cell;

use super::{Fault, Out};

/// A step costs some tens, and what is made or read its bytes. Nothing is given back, so this bounds both time and memory;
/// a conversation of a megabyte, copied by every filter of a long template, stays far below.
const UNITS: usize = 48 << 20;
/// How deep expressions, statements and macros may be in one another while they run.
const MOST_NESTED: usize = 800;

#[derive(Debug)]
pub(super) struct Budget {
    left: Cell<usize>,
    depth: Cell<usize>,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self { left: Cell::new(UNITS), depth: Cell::new(0) }
    }

    /// Pays for work or memory, before it is done or taken.
    pub(super) fn spend(&self, units: usize) -> Out<()> {
        match self.left.get().checked_sub(units) {
            Some(left) => {
                self.left.set(left);
                Ok(())
            }
            None => {
                // Smaller work must not follow.
                self.left.set(0);
                Err(Fault::limit(0, "too much work or memory: it loops for ever, or nearly so"))
            }
        }
    }

    /// Pays for text of this many characters or bytes, each `times`.
    pub(super) fn spend_product(&self, length: usize, times: usize) -> Out<()> {
        self.spend(length.saturating_mul(times))
    }

    /// Runs what is one level deeper.
    pub(super) fn nested<T>(&self, run: impl FnOnce() -> Out<T>) -> Out<T> {
        self.enter()?;
        let result = run();
        self.leave();
        result
    }

    pub(super) fn enter(&self) -> Out<()> {
        self.depth.set(self.depth.get() + 1);
        match self.depth.get() > MOST_NESTED {
            true => Err(Fault::limit(0, format!("more than {MOST_NESTED} levels of recursion"))),
            false => Ok(()),
        }
    }

    pub(super) fn leave(&self) {
        self.depth.set(self.depth.get() - 1);
    }
}
