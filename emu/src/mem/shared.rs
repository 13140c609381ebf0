//! The shared memory of one block.

use super::space::SHARED_START;
use crate::{check::shadow::Shadow, isa::kernel::SharedLayout};

/// State of a byte of shared memory.
pub(crate) const OUTSIDE: u8 = 0;
/// Addressable, never written.
pub(crate) const FRESH: u8 = 1;
/// Written.
pub(crate) const WRITTEN: u8 = 2;

/// Bytes, their states, and who touched them.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub data: Vec<u8>,
    /// One of the states above, per byte.
    pub state: Vec<u8>,
    pub shadow: Shadow,
    /// Swizzle mode plus 1 with which a bulk tensor copy wrote each 16-byte chunk; 0 if something else did.
    pub swizzle: Vec<u8>,
    /// Sub-arrays declared by the carving comment.
    carved: Vec<(usize, usize)>,
    dynamic: (usize, usize),
}

impl Shared {
    /// Memory for one block: variables, then dynamic memory.
    pub(crate) fn new(vars: &[(usize, usize)], layout: SharedLayout, dynamic: usize) -> Self {
        let end = (layout.dynamic + dynamic).max(layout.static_end);
        let mut state = vec![OUTSIDE; end];
        for &(lo, hi) in vars {
            state[lo..hi].fill(FRESH);
        }
        state[layout.dynamic.min(end)..end].fill(FRESH);
        Self {
            // NaN in every floating-point type, so that stale reads also spoil results.
            data: vec![0xff; end],
            state,
            shadow: Shadow::default(),
            swizzle: vec![0; end / 16 + 1],
            carved: Vec::new(),
            dynamic: (layout.dynamic, layout.dynamic + dynamic),
        }
    }

    /// Whether all bytes of a range are addressable, and all written.
    #[inline]
    pub(crate) fn probe(&self, at: usize, len: usize) -> (bool, bool) {
        match at.checked_add(len).and_then(|end| self.state.get(at..end)) {
            None => (false, false),
            Some(s) => s.iter().fold((true, true), |(a, w), &b| (a & (b != OUTSIDE), w & (b == WRITTEN))),
        }
    }

    /// Notes a write by ordinary instructions.
    #[inline]
    pub(crate) fn mark(&mut self, at: usize, len: usize, swizzle: u8) {
        self.state[at..at + len].fill(WRITTEN);
        self.swizzle[at / 16..(at + len).div_ceil(16)].fill(swizzle);
    }

    /// Declares a sub-array. The first declaration takes the rest of dynamic memory out of bounds.
    pub(crate) fn carve(&mut self, at: usize, len: usize) -> Result<(), String> {
        let range = (at, at.saturating_add(len));
        if self.carved.contains(&range) {
            return Ok(());
        }
        if at < self.dynamic.0 || range.1 > self.dynamic.1 {
            return Err(format!(
                "a sub-array of {len} bytes at offset {} of dynamic shared memory, of which the launch gives {} bytes",
                at as i64 - self.dynamic.0 as i64,
                self.dynamic.1 - self.dynamic.0
            ));
        }
        if let Some(c) = self.carved.iter().find(|c| c.0 < range.1 && range.0 < c.1) {
            return Err(format!("a sub-array of {len} bytes at {at} that overlaps one at {}..{}", c.0, c.1));
        }
        if self.carved.is_empty() {
            self.state[self.dynamic.0..self.dynamic.1].fill(OUTSIDE);
        }
        self.carved.push(range);
        self.state[at..at + len].fill(FRESH);
        Ok(())
    }

    /// In words, what an address outside every sub-array is near to.
    pub(crate) fn describe(&self, at: usize) -> String {
        let near = self.carved.iter().filter(|c| c.1 <= at).max_by_key(|c| c.1);
        match near {
            _ if at < SHARED_START => format!("shared address {at}, below all shared memory"),
            Some(c) => format!("byte {} of a sub-array of {} bytes", at - c.0, c.1 - c.0),
            None => format!("shared address {at} of {}", self.data.len()),
        }
    }
}
