//! The tile instructions in plain Rust, by the pseudo-code of Intel's manual: for tests where there is no AMX, and
//! to compare the processor's with.

use std::ops::Range;

use super::tiles::{ROW_BYTES, TILE_ROWS, Tiles};

/// Eight tiles of words: an f32 each, or two bf16.
pub(super) struct Emulated {
    rows: usize,
    tiles: [[[u32; 16]; TILE_ROWS]; 8],
    /// The addresses that may be read; anything if there are none.
    pub(super) readable: Vec<Range<usize>>,
}

impl Emulated {
    pub(super) fn new() -> Self {
        Self { rows: TILE_ROWS, tiles: [[[0; 16]; TILE_ROWS]; 8], readable: Vec::new() }
    }

    fn rows(&self, tile: usize) -> usize {
        if tile < 6 { self.rows } else { TILE_ROWS }
    }
}

/// 0 of the same sign in place of a subnormal, as the instruction has it for what it reads and for every result.
fn flushed(x: f32) -> f32 {
    if x.is_subnormal() { 0.0f32.copysign(x) } else { x }
}

/// a·b + c, rounded once and then flushed. A result that only a subnormal's fewer bits would round up to the smallest normal
/// number is 0 as well; VDPBF16PS, of which that can be seen more widely, does the same.
fn fused(a: f32, b: f32, c: f32) -> f32 {
    const ROUNDS_TO_NORMAL: f64 = f32::MIN_POSITIVE as f64 * (1.0 - 1.0 / (1 << 25) as f64);
    let sum = a.mul_add(b, c);
    if sum.abs() == f32::MIN_POSITIVE && (f64::from(a) * f64::from(b) + f64::from(c)).abs() < ROUNDS_TO_NORMAL
    {
        return 0.0f32.copysign(sum);
    }
    flushed(sum)
}

/// The bf16 of a word as f32.
fn pair(word: u32) -> [f32; 2] {
    [word << 16, word & 0xffff_0000].map(|bits| flushed(f32::from_bits(bits)))
}

impl Tiles for Emulated {
    fn configure(&mut self, rows: usize) {
        assert!(rows == 8 || rows == 16);
        *self = Self { rows, readable: std::mem::take(&mut self.readable), ..Self::new() };
    }

    fn zero<const D: usize>(&mut self) {
        self.tiles[D] = [[0; 16]; TILE_ROWS];
    }

    unsafe fn load<const D: usize>(&mut self, from: *const u8, stride: usize) {
        self.zero::<D>();
        for row in 0..self.rows(D) {
            let start = from.wrapping_add(row * stride);
            let bytes = start.addr()..start.addr() + ROW_BYTES;
            let within = |readable: &Range<usize>| readable.start <= bytes.start && bytes.end <= readable.end;
            assert!(self.readable.is_empty() || self.readable.iter().any(within), "a row from nowhere");
            // SAFETY: the caller promises that the row is readable; it need not be aligned.
            self.tiles[D][row] = unsafe { start.cast::<[u32; 16]>().read_unaligned() };
        }
    }

    unsafe fn store<const S: usize>(&mut self, to: *mut u8, stride: usize) {
        for row in 0..self.rows(S) {
            // SAFETY: the caller promises that the row is writable; it need not be aligned.
            unsafe { to.add(row * stride).cast::<[u32; 16]>().write_unaligned(self.tiles[S][row]) };
        }
    }

    /// Even and odd columns are summed apart, each product fused with its sum, and meet before they are added to the tile.
    fn multiply_add<const D: usize, const A: usize, const B: usize>(&mut self) {
        let b = self.tiles[B].map(|row| row.map(pair));
        for row in 0..self.rows(D) {
            let mut sums = [[0.0f32; 2]; 16];
            for (a, b) in self.tiles[A][row].map(pair).into_iter().zip(&b) {
                for (sums, b) in sums.iter_mut().zip(b) {
                    for i in 0..2 {
                        sums[i] = fused(a[i], b[i], sums[i]);
                    }
                }
            }
            for (to, [even, odd]) in self.tiles[D][row].iter_mut().zip(sums) {
                let sum = flushed(f32::from_bits(*to)) + flushed(even + odd);
                *to = flushed(sum).to_bits();
            }
        }
    }
}
