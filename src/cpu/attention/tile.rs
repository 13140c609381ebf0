//! The online softmax of one task's rows over a range of keys.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::{Inputs, softmax::Softmax};
use crate::cpu::{
    math,
    product::{DotProducts, Rows, RowsProduct},
    vector,
};

/// Keys of one step of the online softmax. With 64 channels their panel takes 68 KiB and their values 64 KiB: they stay in
/// the second level of the cache while all rows of the tile meet them.
pub(super) const KEY_BLOCK: usize = 256;
/// Rows of one step: their scores (24 KiB) stay in the first level.
pub(super) const STEP_ROWS: usize = 24;
/// Keys whose values (32 KiB with 64 channels) stay there too, while they are added to a step's rows.
const VALUE_KEYS: usize = 128;
/// Floats of a panel of keys, and of a tile's queries and outputs.
const BLOCK_LEN: usize = 64 * 1024;
/// Fewer rows take dot products with the keys as they lie: a panel would cost more than it saves.
const FEW_ROWS: usize = 9;

/// Rows that a tile may have for heads of D channels.
pub(super) fn most_rows(d: usize) -> usize {
    (BLOCK_LEN / d).max(1)
}

/// Keys of one step for heads of D channels.
fn key_block(d: usize) -> usize {
    KEY_BLOCK.min(BLOCK_LEN / d).max(1)
}

/// Floats from one row of a panel or of scores to the next: no power of two, or rows would share a few cache sets.
fn stride(d: usize) -> usize {
    key_block(d) + 16
}

/// The state of every row's softmax.
pub(super) struct State<'a> {
    /// (rows, D): values by their weights relative to the largest score.
    sums: &'a mut [f32],
    /// (rows): the largest scores so far.
    largest: &'a mut [f32],
    /// (rows): sums of weights.
    total: &'a mut [f32],
    d: usize,
}

impl<'a> State<'a> {
    /// Floats that it takes.
    pub(super) fn len(rows: usize, d: usize) -> usize {
        rows * (d + 2)
    }

    /// What this memory holds.
    pub(super) fn of(memory: &'a mut [f32], rows: usize, d: usize) -> Self {
        let (sums, of_rows) = memory[..Self::len(rows, d)].split_at_mut(rows * d);
        let (largest, total) = of_rows.split_at_mut(rows);
        Self { sums, largest, total, d }
    }

    /// Before the first key.
    pub(super) fn clear(&mut self) {
        self.sums.fill(0.0);
        self.largest.fill(f32::NEG_INFINITY);
        self.total.fill(0.0);
    }

    pub(super) fn rows(&self) -> usize {
        self.total.len()
    }

    /// out (D) = the weighted mean of the values that row i has seen.
    pub(super) fn finish(&self, i: usize, out: &mut [f32]) {
        // A query that sees no key gives 0.
        let scale = if self.total[i] == 0.0 { 0.0 } else { 1.0 / self.total[i] };
        let sums = &self.sums[i * self.d..];
        out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum * scale);
    }
}

/// Adds to `whole` what later keys have left in `part`.
pub(super) struct Add<'a, 'b> {
    pub(super) whole: &'a mut State<'b>,
    pub(super) part: State<'b>,
}

impl WithSimd for Add<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { whole, part } = self;
        let d = whole.d;
        for i in 0..whole.rows() {
            let largest = [whole.largest[i], part.largest[i]];
            let best = if largest[1] > largest[0] { largest[1] } else { largest[0] };
            let base = if best == f32::NEG_INFINITY { 0.0 } else { best };
            let factors = [0, 1].map(
                #[inline(always)]
                |i| vector::power(simd, largest[i] - base),
            );
            whole.largest[i] = best;
            whole.total[i] = whole.total[i] * factors[0] + part.total[i] * factors[1];
            let sums = whole.sums[i * d..][..d].iter_mut().zip(&part.sums[i * d..][..d]);
            sums.for_each(
                #[inline(always)]
                |(sum, part)| *sum = *sum * factors[0] + part * factors[1],
            );
        }
    }
}

/// One task: rows of a key/value head of a sample over a range of keys.
pub(super) struct Tile<'a, 'b> {
    pub(super) inputs: &'a Inputs<'a>,
    pub(super) sample: usize,
    pub(super) kv_head: usize,
    pub(super) rows: Range<usize>,
    pub(super) keys: Range<usize>,
    /// Updated.
    pub(super) state: &'a mut State<'b>,
    /// Buffer for keys (D, keys of a step) and scores.
    pub(super) panel: &'a mut [f32],
    /// Buffer for queries (rows, D).
    pub(super) q: &'a mut [f32],
    /// Whether queries, keys, values and weights are rounded to bf16.
    pub(super) rounds: bool,
}

impl WithSimd for Tile<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let (inputs, d) = (self.inputs, self.inputs.shape.head_dim);
        // Scores in units of log₂.
        let scale = inputs.shape.scale * std::f32::consts::LOG2_E;
        let rows = inputs.rows(self.kv_head, self.rows.clone());
        for (to, (query, head)) in self.q.chunks_exact_mut(d).zip(rows) {
            let q = &inputs.q[inputs.at(self.sample, query, head)..][..d];
            to.copy_from_slice(q);
            if self.rounds {
                math::round_to_bf16(to);
            }
            to.iter_mut().for_each(
                #[inline(always)]
                |q| *q *= scale,
            );
        }
        let group = inputs.heads(self.kv_head).count();
        let first = self.keys.start.max(inputs.first_key(self.rows.start / group));
        let end = self.keys.end.min(inputs.slot_of((self.rows.end - 1) / group) + 1);
        let most = key_block(d);
        for from in (first..end).step_by(most) {
            self.block(simd, group, from..end.min(from + most));
        }
    }
}

impl Tile<'_, '_> {
    /// All rows meet one block of keys.
    #[inline(always)]
    fn block<S: Simd>(&mut self, simd: S, group: usize, keys: Range<usize>) {
        let inputs = self.inputs;
        let (shape, d) = (inputs.shape, inputs.shape.head_dim);
        let (from, len) = (keys.start, keys.len());
        let at = self.sample * shape.key_capacity + from;
        let mask = inputs.mask.map(|mask| &mask[at..at + len]).filter(|mask| mask.contains(&0));
        if mask.is_some_and(|mask| mask.iter().all(|&real| real == 0)) {
            return;
        }
        let stride = stride(d);
        let (panel, rest) = self.panel.split_at_mut(d * stride);
        let (scores, spare) = rest.split_at_mut(STEP_ROWS * stride);
        let [mut k, mut v] = [inputs.k, inputs.v].map(|x| Rows {
            values: &x[(at * shape.kv_heads + self.kv_head) * d..],
            stride: shape.kv_heads * d,
        });
        if self.rounds {
            v = v.rounded([len, d], spare);
        }
        let few = self.rows.len() < FEW_ROWS;
        let panel: &[f32] = if few {
            if self.rounds {
                k = k.rounded([len, d], panel);
            }
            &[]
        } else {
            math::transpose(k.values, k.stride, [len, d], &mut panel[..(d - 1) * stride + len], stride);
            if self.rounds {
                math::round_to_bf16(panel);
            }
            panel
        };
        let query = |i: usize| (self.rows.start + i) / group;
        for first in (0..self.rows.len()).step_by(STEP_ROWS) {
            let rows = STEP_ROWS.min(self.rows.len() - first);
            // Keys in the window of the first of these rows up to the last row's query.
            let low = inputs.first_key(query(first)).saturating_sub(from);
            let high = (inputs.slot_of(query(first + rows - 1)) + 1).saturating_sub(from).min(len);
            if low >= high {
                continue;
            }
            let n = high - low;
            let scores = &mut scores[..rows * stride];
            let x = Rows { values: &self.q[first * d..], stride: d };
            let size = [rows, n, d];
            if few {
                let y = Rows { values: &k.values[low * k.stride..], stride: k.stride };
                simd.vectorize(DotProducts { size, x, y, out: scores, stride });
            } else {
                let panel = Rows { values: &panel[low..], stride };
                simd.vectorize(RowsProduct { size, x, panel, out: scores, stride, accumulate: false });
            }
            let sums = &mut self.state.sums[first * d..][..rows * d];
            for (i, (scores, sums)) in
                scores.chunks_exact_mut(stride).zip(sums.chunks_exact_mut(d)).enumerate()
            {
                let scores = &mut scores[..n];
                let last = inputs.slot_of(query(first + i));
                let high = (last + 1).saturating_sub(from + low).min(n);
                let start = inputs.first_key(query(first + i)).saturating_sub(from + low).min(high);
                scores[..start].fill(0.0);
                scores[high..].fill(0.0);
                let mask = mask.map(|mask| &mask[low + start..low + high]);
                let (largest, total) = (&mut self.state.largest[first + i], &mut self.state.total[first + i]);
                let shrink = Softmax { largest, total }.step(simd, &mut scores[start..high], mask);
                if self.rounds {
                    math::round_to_bf16(&mut scores[start..high]);
                }
                if shrink != 1.0 {
                    sums.iter_mut().for_each(
                        #[inline(always)]
                        |sum| *sum *= shrink,
                    );
                }
            }
            for at in (0..n).step_by(VALUE_KEYS) {
                let keys = VALUE_KEYS.min(n - at);
                simd.vectorize(RowsProduct {
                    size: [rows, d, keys],
                    x: Rows { values: &scores[at..], stride },
                    panel: Rows { values: &v.values[(low + at) * v.stride..], stride: v.stride },
                    out: sums,
                    stride: d,
                    accumulate: true,
                });
            }
        }
    }
}
