//! Products with bf16 weights by AMX's tile instructions: out (t, n) = x·Wᵀ for f32 activations x.
//!
//! The instructions multiply bf16, which W is, and an activation is the sum of up to three bf16 terms ([`pack`]). Products
//! of bf16 are exact in f32, and sums are f32: three terms have the accuracy of f32 arithmetic, with another order of sums.
//! They take three times as long as bf16 activations would, and still less than half as long as f32 vector instructions.
//!
//! Each output is summed over columns in ascending order, 32 at a time, the terms of these one after the other, however the
//! work is cut: its bits depend on its row of W, its token and the number of terms alone.
//!
//! Apart from rounding, two things differ from f32 arithmetic. Subnormal weights, terms and sums count as 0, so that an
//! infinite activation times a subnormal weight is NaN. And with several terms, some of which can be 0, an infinite weight
//! gives NaN.
//!
//! Weights in f16 and f32 are left to vector instructions: two bf16 make an f16, but the six products of two and three terms
//! take as long as those instructions do.
//!
//! A panel of W, 256 features × 1024 columns, has 512 KiB, and two tiles of tokens by as many columns have 192 KiB in
//! three terms. Both stay in the L2 cache, which has 2 MiB in processors with AMX. From beyond it, x is read once per 256
//! features, which takes 4 bytes per cycle, and W once per 1024 tokens. Sums of further columns wait in f32, up to 1 MiB.

mod check;
mod emulated;
#[cfg_attr(not(all(target_arch = "x86_64", target_os = "linux")), path = "elsewhere.rs")]
mod hardware;
mod pack;
mod strip;
#[cfg(test)]
mod tests;
mod tiles;

use std::{ops::Range, sync::OnceLock};

use emulated::Emulated;
use hardware::Hardware;
pub(super) use pack::{Packed, pack, tiles_of_16};
use strip::Strip;
pub(super) use tiles::TILE_ROWS;
pub(in crate::cpu) use tiles::Tile;
use tiles::{Sums, TILE_COLUMNS, Tiles, accumulate, finish, start};

use super::Factors;
use crate::{
    checkpoint::Dtype,
    cpu::{Cpu, math, matrix::Pick},
};

/// Features of a panel, for which x is read once.
const PANEL_FEATURES: usize = STRIPS * TILE_ROWS;
/// Strips of a panel.
const STRIPS: usize = 16;
/// Columns of a panel.
const PANEL_COLUMNS: usize = 1024;
/// Tokens for which a panel is used.
const TOKENS: usize = 1024;
/// Most tokens for which runs of 8 rows are read where they lie, as half tiles. These need twice as many loads of x for the
/// same work, so that with more tokens it takes less time to copy the rows once. By reckoning, not by measurement.
const HALF_TOKENS: usize = 32;

/// A thread's buffers: a panel of W, and sums on their way.
pub(in crate::cpu) struct Buffers {
    panel: Vec<Tile>,
    /// Sums (strips, tiles of tokens) of the columns so far.
    sums: Vec<Sums>,
    /// Sums of a block, (2 strips, 2 tiles of tokens).
    block: [Sums; 4],
}

impl Buffers {
    /// Without any room, for backends that do not use tiles.
    pub(in crate::cpu) fn none() -> Self {
        Self { panel: Vec::new(), sums: Vec::new(), block: bytemuck::Zeroable::zeroed() }
    }

    pub(in crate::cpu) fn new() -> Self {
        Self {
            panel: bytemuck::zeroed_vec(STRIPS * PANEL_COLUMNS / TILE_COLUMNS),
            sums: bytemuck::zeroed_vec(STRIPS * TOKENS / TILE_ROWS),
            ..Self::none()
        }
    }
}

/// What carries the tile instructions out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cpu) enum Unit {
    Processor,
    Emulated,
}

/// Whether this process can multiply with AMX.
pub(in crate::cpu) fn available() -> bool {
    hardware::exists() && refusal().is_none()
}

/// Why this process does not, although the processor could. Asked once; the answer holds for all threads.
pub(in crate::cpu) fn refusal() -> Option<&'static str> {
    static ANSWER: OnceLock<Option<&'static str>> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        if !hardware::exists() {
            return None;
        }
        hardware::refusal().or_else(|| {
            let agree = check::agree(&mut Hardware::new(), &mut Emulated::new());
            (!agree).then_some("its results are not those that its manual specifies")
        })
    })
}

/// Features, of n, that a task computes: about an eighth of them in whole pairs of strips, at most a panel.
pub(super) fn task_features(n: usize) -> usize {
    n.div_ceil(8).next_multiple_of(2 * TILE_ROWS).min(PANEL_FEATURES)
}

/// out (t, features) = these features of the product; `out` is its first entry and the distance between its rows.
///
/// # Safety
/// `out` is valid for t rows of these features, which no other thread uses.
pub(super) unsafe fn multiply(
    cpu: &Cpu,
    unit: Unit,
    buffers: &mut Buffers,
    factors: Factors<'_, Packed<'_>>,
    features: Range<usize>,
    (out, stride): (*mut f32, usize),
) {
    match unit {
        Unit::Processor => {
            let mut tiles = Hardware::new();
            cpu.vectorized(
                #[inline(always)]
                // SAFETY: the caller's promise.
                || unsafe { product(&mut tiles, buffers, factors, features.clone(), out, stride) },
            );
        }
        // SAFETY: the caller's promise.
        Unit::Emulated => unsafe { product(&mut Emulated::new(), buffers, factors, features, out, stride) },
    }
}

/// out (t, features; row stride `stride`) = these features of the product; skipped rows give 0.
///
/// # Safety
/// `out` is valid for t rows of these features, which no other thread uses.
#[inline(always)]
unsafe fn product(
    tiles: &mut impl Tiles,
    buffers: &mut Buffers,
    factors: Factors<'_, Packed<'_>>,
    features: Range<usize>,
    out: *mut f32,
    stride: usize,
) {
    let Factors { x, t, weight, rows, columns } = factors;
    assert!(x.t == t && x.k == columns.len() && weight.tensor.dtype() == Dtype::BF16, "the factors fit");
    let elements: &[u16] = bytemuck::cast_slice(weight.tensor.bytes());
    let height = match (rows, columns) {
        (Pick::Blocks { block_width, .. }, Pick::All(_)) if block_width % 16 == 8 && x.t <= HALF_TOKENS => 8,
        _ => TILE_ROWS,
    };
    tiles.configure(height);
    let Buffers { panel, sums, block } = buffers;
    for first in features.clone().step_by(STRIPS * height) {
        let part = first..features.end.min(first + STRIPS * height);
        for token in (0..x.t).step_by(TOKENS) {
            let tokens = token..x.t.min(token + TOKENS);
            for from in (0..x.k.max(1)).step_by(PANEL_COLUMNS) {
                let inputs = from..x.k.min(from + PANEL_COLUMNS);
                let panels = panel.chunks_exact_mut(PANEL_COLUMNS / TILE_COLUMNS);
                let strips = part.clone().step_by(height).zip(panels).map(|(first, panel)| {
                    let features = first..part.end.min(first + height);
                    Strip::new(panel, elements, factors, (features, height), inputs.clone())
                });
                let strips = strips.collect();
                // SAFETY: the part's features lie in `features`, whose place `out` is; the rest is the caller's promise.
                unsafe {
                    let out = out.add(first - features.start);
                    let panel = Panel { strips, height, x, tokens: tokens.clone(), inputs, out, stride };
                    panel.multiply(tiles, sums, block);
                }
            }
        }
    }
}

/// A panel's part of a product.
struct Panel<'a> {
    /// At most [`STRIPS`].
    strips: Vec<Strip>,
    height: usize,
    x: Packed<'a>,
    /// From a multiple of [`TOKENS`] on.
    tokens: Range<usize>,
    /// From a multiple of [`PANEL_COLUMNS`] on.
    inputs: Range<usize>,
    /// The place of the panel's first feature and token 0.
    out: *mut f32,
    stride: usize,
}

impl Panel<'_> {
    /// Adds this panel's part to `sums`; after the last columns writes them to the output.
    ///
    /// # Safety
    /// The output is valid for these tokens and the features of `strips`, which no other thread uses, and what the strips
    /// were made of is still there.
    #[inline(always)]
    unsafe fn multiply(&self, tiles: &mut impl Tiles, sums: &mut [Sums], block: &mut [Sums; 4]) {
        let end = self.tokens.end.div_ceil(TILE_ROWS);
        // The two tiles of tokens stay in cache for all strips.
        for tile in (self.tokens.start / TILE_ROWS..end).step_by(2) {
            for strip in (0..self.strips.len()).step_by(2) {
                // SAFETY: the caller's promise; there are so many strips and tiles.
                unsafe {
                    match (strip + 1 < self.strips.len(), tile + 1 < end) {
                        (true, true) => self.block::<_, 2, 2>(tiles, sums, block, strip, tile),
                        (true, false) => self.block::<_, 2, 1>(tiles, sums, block, strip, tile),
                        (false, true) => self.block::<_, 1, 2>(tiles, sums, block, strip, tile),
                        (false, false) => self.block::<_, 1, 1>(tiles, sums, block, strip, tile),
                    }
                }
            }
        }
    }

    /// F strips × N tiles of tokens from `strip` and `tile` on.
    ///
    /// # Safety
    /// As [`Self::multiply`]; there are so many strips and tiles.
    #[inline(always)]
    unsafe fn block<T: Tiles, const F: usize, const N: usize>(
        &self,
        tiles: &mut T,
        sums: &mut [Sums],
        block: &mut [Sums; 4],
        strip: usize,
        tile: usize,
    ) {
        const PITCH: usize = TOKENS / TILE_ROWS;
        let Self { x, inputs, .. } = self;
        let strips: [Strip; F] = std::array::from_fn(|i| self.strips[strip + i]);
        let columns = |from: usize| std::array::from_fn::<_, N, _>(|i| x.from(tile + i, from));
        let whole = inputs.len() / TILE_COLUMNS;
        let tail = inputs.len().div_ceil(TILE_COLUMNS) - whole;
        let sums = &mut sums[strip * PITCH + tile % PITCH..][..(F - 1) * PITCH + N];
        // SAFETY: sums has F rows of N tiles, the block 2 rows of 2; strips and x hold these columns.
        unsafe {
            start::<T, F, N>(tiles, (inputs.start > 0).then_some(sums.as_ptr()), PITCH);
            if !strips.iter().all(Strip::is_idle) {
                accumulate(tiles, strips.map(|strip| strip.whole), columns(inputs.start), whole, x.terms);
                let from = inputs.start + whole * TILE_COLUMNS;
                accumulate(tiles, strips.map(|strip| strip.tail), columns(from), tail, x.terms);
            }
            if inputs.end < x.k {
                return finish::<T, F, N>(tiles, sums.as_mut_ptr(), PITCH);
            }
            finish::<T, F, N>(tiles, block.as_mut_ptr(), 2);
        }
        for i in 0..F {
            for j in 0..N {
                let Sums(sums) = &mut block[i * 2 + j];
                strips[i].clear_skipped(sums);
                // SAFETY: the caller's promise.
                unsafe { self.write(sums, strips[i].len, strip + i, tile + j) };
            }
        }
    }

    /// Writes the sums (features, tokens) of a strip's `len` features and a tile of tokens.
    ///
    /// # Safety
    /// As [`Self::block`].
    #[inline(always)]
    unsafe fn write(&self, sums: &[f32; 256], len: usize, strip: usize, tile: usize) {
        let mut rows = [[0.0f32; 16]; 16];
        math::transpose(sums, 16, [16, 16], rows.as_flattened_mut(), 16);
        let first = tile * TILE_ROWS;
        for (token, row) in (first..self.tokens.end).zip(&rows) {
            // SAFETY: the token and the strip's features lie in the output, by the caller's promise.
            unsafe {
                let to = self.out.add(token * self.stride + strip * self.height);
                if len == row.len() {
                    // By a known length: a call of memcpy would take longer than the copy.
                    to.cast::<[f32; 16]>().write(*row);
                } else {
                    to.copy_from_nonoverlapping(row.as_ptr(), len);
                }
            }
        }
    }
}
