//! Matrix products x·Wᵀ on mapped weights: panels of W are converted to f32 while they are gathered, never the whole W, or W
//! is read where it lies by the tile instructions of [`amx`].
//!
//! Every output is accumulated by one thread in one order, however work is cut: the bits do not depend on the number of threads.

mod activations;
pub(super) mod amx;
mod few_rows;
mod microkernel;
pub(super) mod panel;
mod rows;
mod words;

use std::ops::Range;

use activations::Activations;
use few_rows::FewRows;
pub(super) use few_rows::MOST_ROWS;
use microkernel::{Product, Strided};
use panel::{PANEL_COLUMNS, PANEL_FEATURES};
pub(super) use rows::{DotProducts, Rows, RowsProduct};

use super::{
    Cpu, Scratch,
    matrix::{Matrix, Pick},
};
use crate::backend::{AccumulateProductOperands, LowRank};

/// Rows multiplied at a time where an intermediate product is kept (gate·up, cross-entropy).
pub(super) const ROW_CHUNK: usize = 1024;
/// Floats of the buffer for panels: of two weights, or for a row of [`few_rows`].
pub(super) const PANELS_LEN: usize = 2 * PANEL_FEATURES * PANEL_COLUMNS;
/// Rows that meet all of a panel's groups before the next rows do: few enough to stay in the second-level cache.
const GROUP_ROWS: usize = 96;

/// Output that several threads write, each its own features of some rows.
#[derive(Clone, Copy)]
struct Shared(*mut f32);
// SAFETY: the threads that share it write disjoint parts of the output it was made from, within its borrow.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// The first row from feature `first` on.
    ///
    /// # Safety
    /// The feature lies in the output.
    unsafe fn from(self, first: usize) -> *mut f32 {
        // SAFETY: the caller promises that the feature lies in the output.
        unsafe { self.0.add(first) }
    }

    /// The features `from..from+len` of row `t`.
    ///
    /// # Safety
    /// The range lies in the output and no other thread uses these features of this row.
    unsafe fn row<'a>(self, t: usize, stride: usize, from: usize, len: usize) -> &'a mut [f32] {
        // SAFETY: the caller promises that the range lies in the output and is used by this thread alone.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(t * stride + from), len) }
    }
}

/// The factors of x (t, picked columns) · W\[rows, columns\]ᵀ.
#[derive(Clone, Copy)]
pub(super) struct Factors<'a, X = &'a [f32]> {
    pub(super) x: X,
    pub(super) t: usize,
    pub(super) weight: &'a Matrix,
    pub(super) rows: Pick<'a>,
    pub(super) columns: Pick<'a>,
}

/// out (t, picked rows) = epilogue(x·Wᵀ + z·low_rank\[..rank\]). The epilogue sees a row's part: (values, row, first
/// feature).
pub(super) fn multiply(
    cpu: &Cpu,
    factors: Factors<'_>,
    low_rank: Option<LowRank<'_, Cpu>>,
    out: &mut [f32],
    epilogue: impl Fn(&mut [f32], usize, usize) + Sync,
) {
    let Factors { x, t, weight, rows, columns } = factors;
    let (n, k) = (rows.len(), columns.len());
    assert!(x.len() >= t * k && out.len() >= t * n, "buffers hold the product's operands");
    let low_rank = low_rank.filter(|low_rank| low_rank.rank > 0);
    let low_rank = low_rank.map(|LowRank { z, rank, weight }| (&z[..t * rank], rank, &weight[..rank * n]));
    let shared = Shared(out.as_mut_ptr());
    activations::by_chunks(cpu, factors, &[weight], t, |factors, at| {
        for_each_cut(cpu, factors, |factors, row, features, Scratch { panel, tiles, .. }| {
            let (at, first, len) = (at + row, features.start, features.len());
            // SAFETY: these features of these rows belong to this task; `out` holds rows of n (asserted above), `z` as many and
            // `weight` `rank` rows (their slices' lengths).
            unsafe {
                let to = shared.from(at * n + first);
                features_products(cpu, (panel, tiles), factors, [weight], features, [(to, n)], |done| {
                    if let Some((z, rank, weight)) = low_rank {
                        cpu.product(Product {
                            shape: [done.len(), len, rank],
                            x: Strided {
                                start: z[(at + done.start) * rank..].as_ptr(),
                                row: rank,
                                column: 1,
                            },
                            panel: (weight.as_ptr().add(first), n),
                            out: (to.add(done.start * n), n),
                            accumulate: true,
                        });
                    }
                    cpu.vectorized(
                        #[inline(always)]
                        || {
                            for row in at + done.start..at + done.end {
                                epilogue(shared.row(row, n, first, len), row, first);
                            }
                        },
                    );
                });
            }
        });
    });
}

/// out (t, picked rows) = activation(x·gateᵀ) · (x·upᵀ), `finish(gate part, up part, first feature)` doing the last
/// step on each row.
pub(super) fn multiply_pair(
    cpu: &Cpu,
    x: &[f32],
    t: usize,
    weights: [&Matrix; 2],
    rows: Pick<'_>,
    out: &mut [f32],
    finish: impl Fn(&mut [f32], &mut [f32], usize) + Sync,
) {
    let (n, k) = (rows.len(), weights[0].columns);
    assert!(x.len() >= t * k && out.len() >= t * n, "buffers hold the product's operands");
    let shared = Shared(out.as_mut_ptr());
    let factors = Factors { x, t, weight: weights[0], rows, columns: Pick::All(k) };
    activations::by_chunks(cpu, factors, &weights, ROW_CHUNK, |factors, at| {
        for_each_cut(cpu, factors, |factors, row, features, Scratch { panel, values, tiles, .. }| {
            let (at, first, len) = (at + row, features.start, features.len());
            // SAFETY: these features of these rows belong to this task; `values` holds ROW_CHUNK rows of them.
            unsafe {
                let of_up = Shared(values.as_mut_ptr());
                let to = [(shared.from(at * n + first), n), (of_up.from(0), len)];
                features_products(cpu, (panel, tiles), factors, weights, features, to, |done| {
                    cpu.vectorized(
                        #[inline(always)]
                        || {
                            for row in done.clone() {
                                let gate = shared.row(at + row, n, first, len);
                                finish(gate, of_up.row(row, len, 0, len), first);
                            }
                        },
                    );
                });
            }
        });
    });
}

/// Calls `f(first feature, features, values (t, features))` for parts of x·Wᵀ that make up the whole, for x of at most
/// [`ROW_CHUNK`] rows.
pub(super) fn for_each_part<R: Send>(
    cpu: &Cpu,
    x: &[f32],
    t: usize,
    weight: &Matrix,
    f: impl Fn(usize, usize, &mut [f32]) -> R + Sync,
) -> Vec<R> {
    let n = weight.rows;
    let factors = Factors { x, t, weight, rows: Pick::All(n), columns: Pick::All(weight.columns) };
    let mut results = Vec::new();
    activations::by_chunks(cpu, factors, &[weight], ROW_CHUNK, |factors, _| {
        let width = factors.features();
        results = cpu.map_tasks(n.div_ceil(width), |task, scratch| {
            let first = task * width;
            let len = width.min(n - first);
            let Scratch { panel, values, tiles, .. } = scratch;
            // SAFETY: `values` belongs to this task and holds ROW_CHUNK rows of these features.
            unsafe {
                let to = (values.as_mut_ptr(), len);
                features_products(cpu, (panel, tiles), factors, [weight], first..first + len, [to], |_| ());
            }
            f(first, len, &mut values[..t * len])
        });
    });
    results
}

/// out (m, n) += aᵀ·b for a (t, m) and b (t, n).
pub(super) fn accumulate_product(cpu: &Cpu, operands: AccumulateProductOperands<'_, Cpu>) {
    let AccumulateProductOperands { a, b, rows: t, columns: [m, n], out } = operands;
    assert!(
        a.len() >= t * m && b.len() >= t * n && out.len() >= m * n,
        "buffers hold the product's operands"
    );
    let shared = Shared(out.as_mut_ptr());
    cpu.tasks(n.div_ceil(PANEL_FEATURES), |task, _| {
        let first = task * PANEL_FEATURES;
        let len = PANEL_FEATURES.min(n - first);
        let product = Product {
            shape: [m, len, t],
            x: Strided { start: a.as_ptr(), row: 1, column: m },
            panel: (b[first..].as_ptr(), n),
            // SAFETY: the assertion says that the output has these columns.
            out: (unsafe { shared.from(first) }, n),
            accumulate: true,
        };
        // SAFETY: columns first..first+len of `out` belong to this task, and the assertion covers the rest.
        unsafe { cpu.product(product) };
    });
}

/// Calls `task(factors of some rows, the first of these rows, some features, the thread's buffers)` for all rows and features.
fn for_each_cut(
    cpu: &Cpu,
    factors: Factors<'_, Activations<'_>>,
    task: impl Fn(Factors<'_, Activations<'_>>, usize, Range<usize>, &mut Scratch) + Sync + Send,
) {
    let (t, n) = (factors.t, factors.rows.len());
    if t == 0 || n == 0 {
        return;
    }
    let [features, rows] = factors.cut(cpu.threads());
    let across = n.div_ceil(features);
    cpu.tasks(across * t.div_ceil(rows), |i, scratch| {
        let (row, first) = (i / across * rows, i % across * features);
        let factors = factors.of_rows(row..t.min(row + rows));
        task(factors, row, first..n.min(first + features), scratch);
    });
}

/// out (t, len) = the `len` features of the products with each of these weights in place of the factors'; `out` are their
/// first entries and the distances between their rows. Calls `done` for rows that are ready, while they are in the cache.
///
/// # Safety
/// Each `out` is valid for t rows of `len` floats, which no other thread uses.
unsafe fn features_products<const W: usize>(
    cpu: &Cpu,
    (panels, tiles): (&mut [f32], &mut amx::Buffers),
    factors: Factors<'_, Activations<'_>>,
    weights: [&Matrix; W],
    features: Range<usize>,
    out: [(*mut f32, usize); W],
    mut done: impl FnMut(Range<usize>),
) {
    let Factors { x, t, rows, columns, .. } = factors;
    match x {
        Activations::Floats(x) => {
            let factors = weights.map(|weight| Factors { x, t, weight, rows, columns });
            // SAFETY: the caller's promise.
            unsafe { panel_products(cpu, panels, factors, features, out, done) };
        }
        Activations::Spread(x) => {
            for (weight, out) in weights.into_iter().zip(out) {
                let factors = Factors { x, t, weight, rows, columns };
                let (first, features) = (features.start, features.len());
                // SAFETY: the caller's promise.
                unsafe { FewRows { factors, first, features, out, row: &mut *panels }.run(cpu.arch) };
            }
            done(0..t);
        }
        Activations::Tiles(x, unit) => {
            for (weight, out) in weights.into_iter().zip(out) {
                let factors = Factors { x, t, weight, rows, columns };
                // SAFETY: the caller's promise.
                unsafe { amx::multiply(cpu, unit, tiles, factors, features.clone(), out) };
            }
            done(0..t);
        }
    }
}

/// As [`features_products`], for at most [`PANEL_FEATURES`] of factors that differ in the weight alone, by way of the buffer for
/// panels.
///
/// # Safety
/// As there.
unsafe fn panel_products<const W: usize>(
    cpu: &Cpu,
    panels: &mut [f32],
    factors: [Factors<'_>; W],
    features: Range<usize>,
    out: [(*mut f32, usize); W],
    mut done: impl FnMut(Range<usize>),
) {
    let Factors { x, t, columns, .. } = factors[0];
    let (k, len) = (columns.len(), features.len());
    let group = cpu.panel_group();
    let [_, most] = panel::shape(t);
    for from in (0..k.max(1)).step_by(most) {
        let depth = most.min(k - from);
        let room = len.next_multiple_of(group) * depth;
        for (i, factors) in factors.into_iter().enumerate() {
            panel::fill(cpu, &mut panels[i * room..], group, factors, features.clone(), from..from + depth);
        }
        for row in (0..t).step_by(GROUP_ROWS) {
            let rows = row..t.min(row + GROUP_ROWS);
            let x = Strided { start: x[row * k + from..].as_ptr(), row: k, column: 1 };
            for (i, (out, out_row)) in out.into_iter().enumerate() {
                for first in (0..len).step_by(group) {
                    // SAFETY: the panel holds depth × group floats from first × depth on, `x` holds these rows and columns
                    // (its length was asserted), and `out` is the caller's promise.
                    unsafe {
                        cpu.product(Product {
                            shape: [rows.len(), group.min(len - first), depth],
                            x,
                            panel: (panels[i * room + first * depth..].as_ptr(), group),
                            out: (out.add(row * out_row + first), out_row),
                            accumulate: from > 0,
                        });
                    }
                }
            }
            if from + depth == k {
                done(rows);
            }
        }
    }
}
