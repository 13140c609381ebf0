//! Panels of a weight: up to 64 output features, converted to f32 and transposed to (k, features), the layout that the `gemm`
//! crate multiplies fastest.

use std::ops::Range;

use super::{gemm::Factors, math};

/// Columns of W converted at a time: with 64 features a panel of 1 MiB.
pub(super) const PANEL_COLUMNS: usize = 4096;
/// Widest panel, in output features.
pub(super) const PANEL_FEATURES: usize = 64;
/// Floats of one panel buffer.
pub(super) const PANEL_LEN: usize = PANEL_COLUMNS * PANEL_FEATURES;
const TILE_ROWS: usize = 16;
const TILE_COLUMNS: usize = 1024;
/// Floats from one tile row to the next: not a power of two, or the rows would share a few cache sets.
const TILE_STRIDE: usize = TILE_COLUMNS + 16;

/// Panel width for `n` features: the one of 64, 48, 32 that divides the work over 2 or 4 threads most evenly.
pub(super) fn panel_features(n: usize) -> usize {
    let cost = |width: usize| n.div_ceil(width).next_multiple_of(4) * width;
    [64, 48, 32].into_iter().min_by_key(|&width| cost(width)).expect("not empty")
}

/// panel (inputs, features) = W\[features, inputs\]ᵀ of the picked rows and columns in f32; skipped rows give 0.
#[inline(always)]
pub(super) fn fill_panel(
    panel: &mut [f32],
    tile: &mut [f32],
    Factors { weight, rows, columns, .. }: Factors<'_>,
    features: Range<usize>,
    inputs: Range<usize>,
) {
    let (first, len) = (features.start, features.len());
    let (from, depth) = (inputs.start, inputs.len());
    // Converted rows are collected in a tile that stays in cache, and transposed from there.
    let tile = &mut tile[..TILE_ROWS * TILE_STRIDE];
    for at in (0..depth).step_by(TILE_COLUMNS) {
        let width = TILE_COLUMNS.min(depth - at);
        for top in (0..len).step_by(TILE_ROWS) {
            let height = TILE_ROWS.min(len - top);
            for (i, to) in tile.chunks_exact_mut(TILE_STRIDE).enumerate().take(height) {
                match rows.index(first + top + i) {
                    Some(row) => weight.picked_to_f32(row, columns, from + at, &mut to[..width]),
                    None => to[..width].fill(0.0),
                }
            }
            math::transpose(tile, TILE_STRIDE, [height, width], &mut panel[at * len + top..], len);
        }
    }
}
