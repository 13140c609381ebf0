//! Matrix products x·Wᵀ on mapped weights: panels of W are converted to f32 while they are gathered, never the whole W.
//!
//! Few rows (decoding) take dot products instead, where reading W once is all that matters. How work is cut
//! depends on shapes alone, and every output is accumulated by one thread in one order: the bits do not depend on the
//! number of threads.

use std::ops::Range;

use rayon::prelude::*;

use super::{
    Cpu, Scratch, math,
    matrix::{Matrix, Pick},
    panel::{PANEL_COLUMNS, PANEL_FEATURES, PANEL_LEN, fill_panel, panel_features},
};
use crate::backend::{AccumulateProductOperands, LowRank};

/// Rows multiplied at a time where an intermediate product is kept (gate·up, cross-entropy).
pub(super) const ROW_CHUNK: usize = 1024;
/// Products of at most this many rows are made of dot products.
const DOT_ROWS: usize = 16;

/// Output that several threads write, each its own features.
#[derive(Clone, Copy)]
struct Shared(*mut f32);
// SAFETY: every user of `Shared` writes disjoint features of the output it was made from, within its borrow.
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
    /// The range lies in the output and no other thread uses these features.
    unsafe fn row<'a>(self, t: usize, stride: usize, from: usize, len: usize) -> &'a mut [f32] {
        // SAFETY: the caller promises that the range lies in the output and is used by this thread alone.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(t * stride + from), len) }
    }
}

/// The factors of x (t, picked columns) · W\[rows, columns\]ᵀ.
#[derive(Clone, Copy)]
pub(super) struct Factors<'a> {
    pub(super) x: &'a [f32],
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
    if t == 0 || n == 0 {
        return;
    }
    assert!(x.len() >= t * k && out.len() >= t * n, "buffers hold the product's operands");
    let low_rank = low_rank.filter(|low_rank| low_rank.rank > 0);
    let low_rank = low_rank.map(|LowRank { z, rank, weight }| (&z[..t * rank], rank, &weight[..rank * n]));
    let shared = Shared(out.as_mut_ptr());
    if t <= DOT_ROWS && t * weight.columns <= PANEL_LEN && weight.columns <= PANEL_LEN {
        return dot_products(
            cpu,
            Factors { x: &x[..t * k], ..factors },
            shared,
            #[inline(always)]
            |values, row, first| {
                if let Some((z, rank, weight)) = low_rank {
                    for (z, weight) in z[row * rank..][..rank].iter().zip(weight.chunks_exact(n)) {
                        values
                            .iter_mut()
                            .zip(&weight[first..])
                            .for_each(|(value, weight)| *value += z * weight);
                    }
                }
                epilogue(values, row, first);
            },
        );
    }
    let width = panel_features(n);
    cpu.tasks(n.div_ceil(width), |task, scratch| {
        let first = task * width;
        let len = width.min(n - first);
        let Scratch { panel, tile, .. } = scratch;
        // SAFETY: features first..first+len belong to this task; `out` holds t rows of n (asserted above), `z` t rows and
        // `weight` `rank` rows (their slices' lengths).
        unsafe {
            let to = shared.from(first);
            panel_product(cpu, [panel, tile], factors, first..first + len, to, n);
            if let Some((z, rank, weight)) = low_rank {
                let operands = [weight.as_ptr().add(first), z.as_ptr()];
                product([len, t, rank], to, n, true, operands, [[n, 1], [1, rank]]);
            }
        };
        cpu.vectorized(
            #[inline(always)]
            || {
                for row in 0..t {
                    // SAFETY: as above.
                    epilogue(unsafe { shared.row(row, n, first, len) }, row, first);
                }
            },
        );
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
    let width = panel_features(n);
    let columns = Pick::All(k);
    cpu.tasks(n.div_ceil(width), |task, scratch| {
        let first = task * width;
        let len = width.min(n - first);
        let Scratch { panel, values, tile } = scratch;
        for at in (0..t).step_by(ROW_CHUNK) {
            let chunk = ROW_CHUNK.min(t - at);
            let factors =
                |weight| Factors { x: &x[at * k..(at + chunk) * k], t: chunk, weight, rows, columns };
            // SAFETY: features first..first+len belong to this task; `values` holds ROW_CHUNK rows of 64.
            unsafe {
                let gate = shared.from(at * n + first);
                let up = values.as_mut_ptr();
                for (weight, to, stride) in [(weights[0], gate, n), (weights[1], up, len)] {
                    let (factors, features) = (factors(weight), first..first + len);
                    if t <= DOT_ROWS && k <= PANEL_LEN {
                        dot_rows(cpu, panel, factors, features, Shared(to), stride);
                    } else {
                        panel_product(cpu, [panel, tile], factors, features, to, stride);
                    }
                }
            }
            cpu.vectorized(
                #[inline(always)]
                || {
                    for (row, up) in values.chunks_exact_mut(len).take(chunk).enumerate() {
                        // SAFETY: as above.
                        finish(unsafe { shared.row(at + row, n, first, len) }, up, first);
                    }
                },
            );
        }
    });
}

/// Calls `f(first feature, values (t, features))` for every panel of x·Wᵀ, for x of at most [`ROW_CHUNK`] rows.
pub(super) fn for_each_panel<R: Send>(
    cpu: &Cpu,
    x: &[f32],
    t: usize,
    weight: &Matrix,
    f: impl Fn(usize, usize, &mut [f32]) -> R + Sync,
) -> Vec<R> {
    let n = weight.rows;
    let panels = n.div_ceil(PANEL_FEATURES);
    let factors = Factors { x, t, weight, rows: Pick::All(n), columns: Pick::All(weight.columns) };
    cpu.map_tasks(panels, |task, scratch| {
        let first = task * PANEL_FEATURES;
        let len = PANEL_FEATURES.min(n - first);
        let Scratch { panel, values, tile } = scratch;
        // SAFETY: `values` belongs to this task and holds ROW_CHUNK rows of 64.
        unsafe {
            panel_product(cpu, [panel, tile], factors, first..first + len, values.as_mut_ptr(), len);
        };
        f(first, len, &mut values[..t * len])
    })
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
        let operands = [b[first..].as_ptr(), a.as_ptr()];
        // SAFETY: columns first..first+len of `out` belong to this task, and the assertion covers the rest.
        unsafe { product([len, m, t], shared.from(first), n, true, operands, [[n, 1], [m, 1]]) };
    });
}

/// dst (t, len; row stride `stride`) = the `len` features of the product, by way of the buffers for a panel and a tile.
///
/// # Safety
/// `dst` is valid for t rows of `len` floats, which no other thread uses.
unsafe fn panel_product(
    cpu: &Cpu,
    [panel, tile]: [&mut [f32]; 2],
    factors: Factors<'_>,
    features: Range<usize>,
    dst: *mut f32,
    stride: usize,
) {
    let Factors { x, t, columns, .. } = factors;
    let (k, len) = (columns.len(), features.len());
    for from in (0..k.max(1)).step_by(PANEL_COLUMNS) {
        let depth = PANEL_COLUMNS.min(k - from);
        cpu.vectorized(
            #[inline(always)]
            || fill_panel(panel, tile, factors, features.clone(), from..from + depth),
        );
        // SAFETY: the panel holds depth × len floats, x holds t × k, dst is the caller's promise.
        unsafe {
            let x = x.as_ptr().add(from);
            product([len, t, depth], dst, stride, from > 0, [panel.as_ptr(), x], [[len, 1], [1, k]]);
        }
    }
}

/// dst\[j·stride + i\] = Σ_l a\[l·a_step_l + i·a_step_i\] · b\[l·b_step_l + j·b_step_j\] for i < m, j < n, l < k, added to
/// the values of `dst` if `accumulate`; `steps` = \[\[a_step_l, a_step_i\], \[b_step_l, b_step_j\]\].
///
/// # Safety
/// Every element that the steps reach is valid, and no other thread uses those of `dst`.
pub(super) unsafe fn product(
    [m, n, k]: [usize; 3],
    dst: *mut f32,
    stride: usize,
    accumulate: bool,
    [a, b]: [*const f32; 2],
    steps: [[usize; 2]; 2],
) {
    let [[a_l, a_i], [b_l, b_j]] = steps.map(|steps| steps.map(|step| step as isize));
    let none = gemm::Parallelism::None;
    // SAFETY: the caller promises that every element reached by the steps is valid, and that those of `dst` are used by
    // this thread alone.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst,
            stride as isize,
            1,
            accumulate,
            a,
            a_l,
            a_i,
            b,
            b_j,
            b_l,
            1.0,
            1.0,
            false,
            false,
            false,
            none,
        );
    }
}

/// As [`multiply`], for few rows: every feature is a dot product with a converted row of W. Picked columns are not
/// gathered from W, which would be slower than reading all of it: x is spread out over them instead.
fn dot_products(
    cpu: &Cpu,
    factors: Factors<'_>,
    out: Shared,
    epilogue: impl Fn(&mut [f32], usize, usize) + Sync,
) {
    let Factors { x, t, weight, rows, columns } = factors;
    assert!(t <= DOT_ROWS, "few rows");
    let (n, k) = (rows.len(), columns.len());
    cpu.tasks(n.div_ceil(PANEL_FEATURES), |task, scratch| {
        let first = task * PANEL_FEATURES;
        let len = PANEL_FEATURES.min(n - first);
        let Scratch { panel, values: products, tile: spread } = scratch;
        let mut x = x;
        if let Pick::Blocks { .. } = columns {
            let spread = &mut spread[..t * weight.columns];
            spread.fill(0.0);
            // Without picked columns there is nothing to spread.
            for (to, from) in spread.chunks_exact_mut(weight.columns).zip(x.chunks_exact(k.max(1))) {
                columns.runs(
                    0,
                    k,
                    #[inline(always)]
                    |picked, column, length| {
                        to[column..column + length].copy_from_slice(&from[picked..picked + length]);
                    },
                );
            }
            x = spread;
        }
        let to = Shared(products.as_mut_ptr());
        // SAFETY: `products` is this task's and holds at least DOT_ROWS × 64; there are no more rows (asserted above).
        unsafe { dot_rows(cpu, panel, Factors { x, ..factors }, first..first + len, to, len) };
        for (row, values) in products.chunks_exact(len).take(t).enumerate() {
            // SAFETY: features first..first+len belong to this task.
            let to = unsafe { out.row(row, n, first, len) };
            to.copy_from_slice(values);
            epilogue(to, row, first);
        }
    });
}

/// to (t, features) = x (t, all columns; 0 where not picked) · W\[features\]ᵀ by dot products; skipped rows give 0.
///
/// # Safety
/// `to` is valid for t rows of these features at `stride`, which no other thread uses.
unsafe fn dot_rows(
    cpu: &Cpu,
    row: &mut [f32],
    Factors { x, t, weight, rows, columns }: Factors<'_>,
    features: Range<usize>,
    to: Shared,
    stride: usize,
) {
    let k = weight.columns;
    let row = &mut row[..k];
    for (i, feature) in features.enumerate() {
        let Some(index) = rows.index(feature) else {
            for sample in 0..t {
                // SAFETY: the caller promises t rows of these features, used by this thread alone.
                unsafe { to.row(sample, stride, i, 1) }.fill(0.0);
            }
            continue;
        };
        cpu.vectorized(
            #[inline(always)]
            || {
                weight.row_to_f32(index, row);
                for (sample, x) in x.chunks_exact(k).take(t).enumerate() {
                    let mut product = math::dot(row, x);
                    if product.is_nan() {
                        // 0 times a weight that is not finite is NaN, but a column that is not picked has no say.
                        clear_others(row, columns);
                        product = math::dot(row, x);
                    }
                    // SAFETY: the caller promises t rows of these features, used by this thread alone.
                    unsafe { to.row(sample, stride, i, 1) }.fill(product);
                }
            },
        );
    }
}

/// Puts 0 into the columns that are not picked; picked ones ascend.
fn clear_others(row: &mut [f32], columns: Pick<'_>) {
    let mut end = 0;
    columns.runs(0, columns.len(), |_, column, length| {
        row[end..column].fill(0.0);
        end = column + length;
    });
    row[end..].fill(0.0);
}

impl Cpu {
    /// Runs `count` tasks, each with its thread's scratch.
    pub(super) fn tasks(&self, count: usize, task: impl Fn(usize, &mut Scratch) + Sync + Send) {
        self.pool.install(|| {
            (0..count).into_par_iter().for_each(|i| self.with_scratch(|scratch| task(i, scratch)))
        });
    }

    /// As [`Self::tasks`], collecting results in order.
    pub(super) fn map_tasks<R: Send>(
        &self,
        count: usize,
        task: impl Fn(usize, &mut Scratch) -> R + Sync + Send,
    ) -> Vec<R> {
        self.pool.install(|| {
            (0..count).into_par_iter().map(|i| self.with_scratch(|scratch| task(i, scratch))).collect()
        })
    }
}
