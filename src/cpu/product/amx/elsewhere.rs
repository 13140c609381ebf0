//! In place of `hardware` where there is no AMX to be had.

use super::tiles::Tiles;

/// Whether this process can multiply with AMX.
pub(in crate::cpu) fn available() -> bool {
    false
}

/// Why this process can't, although the processor could: never so.
pub(in crate::cpu) fn refusal() -> Option<&'static str> {
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
