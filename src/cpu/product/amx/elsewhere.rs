//! In place of `hardware` where there is no AMX to be had.

use super::tiles::Tiles;

/// Whether the processor has AMX, and this build knows how to use it.
pub(super) fn exists() -> bool {
    false
}

/// Why this process may not use it: it does not exist.
pub(super) fn refusal() -> Option<&'static str> {
    None
}

/// Tile registers: there are none.
pub(super) enum Hardware {}

impl Hardware {
    pub(super) fn new() -> Self {
        unreachable!("the tier was checked")
    }
}

impl Tiles for Hardware {
    fn configure(&mut self, _: usize) {
        match *self {}
    }

    fn zero<const D: usize>(&mut self) {
        match *self {}
    }

    unsafe fn load<const D: usize>(&mut self, _: *const u8, _: usize) {
        match *self {}
    }

    unsafe fn store<const S: usize>(&mut self, _: *mut u8, _: usize) {
        match *self {}
    }

    fn multiply_add<const D: usize, const A: usize, const B: usize>(&mut self) {
        match *self {}
    }
}
