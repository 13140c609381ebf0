//! Products of up to [`MOST_ROWS`] rows with bf16 weights (decoding), where reading W once is what matters: weights are
//! converted in registers and never stored.
//!
//! An output is a dot product, summed in an order that depends on W's columns alone: whatever rows come with it, its bits are
//! the same.

use pulp::{Simd, WithSimd};

use super::{
    Factors,
    microkernel::{multiply_add, prefetch},
};
use crate::cpu::{math, matrix::Pick};

/// More take less time by panels.
pub(in crate::cpu) const MOST_ROWS: usize = 16;
/// Rows of x that meet a row of W at a time.
const PASS_ROWS: usize = 4;
/// Features of a task.
pub(super) const FEATURES: usize = 48;
/// Columns between a weight that is used and the one that is fetched.
const AHEAD: usize = 1024;

/// A row of x for [`FewRows`]: over all columns of W, with 0 for those that are not picked, even columns first.
#[inline(always)]
pub(super) fn spread(x: &[f32], columns: Pick<'_>, to: &mut [f32]) {
    let (even, odd) = to.split_at_mut(to.len().div_ceil(2));
    if let Pick::All(_) = columns {
        for (i, pair) in x.chunks_exact(2).enumerate() {
            (even[i], odd[i]) = (pair[0], pair[1]);
        }
        if let [last] = *x.chunks_exact(2).remainder() {
            even[x.len() / 2] = last;
        }
        return;
    }
    even.fill(0.0);
    odd.fill(0.0);
    columns.runs(
        0,
        columns.len(),
        #[inline(always)]
        |picked, column, length| {
            for (x, column) in x[picked..picked + length].iter().zip(column..) {
                let half = if column % 2 == 0 { &mut *even } else { &mut *odd };
                half[column / 2] = *x;
            }
        },
    );
}

/// out (t, features) = the `features` from `first` on of x·Wᵀ for x (t, columns of W) as [`spread`] leaves it; skipped rows of W
/// give 0.
pub(super) struct FewRows<'a> {
    pub(super) factors: Factors<'a>,
    pub(super) first: usize,
    pub(super) features: usize,
    /// The first entry, and the distance between rows.
    pub(super) out: (*mut f32, usize),
    /// Room for a row of W.
    pub(super) row: &'a mut [f32],
}

impl FewRows<'_> {
    /// Computes the product.
    ///
    /// # Safety
    /// `out` is valid for t rows of these features, which no other thread uses.
    pub(super) unsafe fn run(self, arch: pulp::Arch) {
        arch.dispatch(Checked(self));
    }
}

/// A product whose caller has promised what [`FewRows::run`] asks for.
struct Checked<'a>(FewRows<'a>);

impl WithSimd for Checked<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // As many rows of W as there are registers for their sums, beside 2·T for x.
        match (self.0.factors.t, S::REGISTER_COUNT >= 32) {
            (1, _) | (2, true) => self.0.blocks::<S, 8>(simd),
            (3, true) => self.0.blocks::<S, 6>(simd),
            (_, true) => self.0.blocks::<S, 4>(simd),
            (2, false) => self.0.blocks::<S, 3>(simd),
            (_, false) => self.0.blocks::<S, 2>(simd),
        }
    }
}

impl FewRows<'_> {
    /// R rows of W at a time meet all of x.
    #[inline(always)]
    fn blocks<S: Simd, const R: usize>(self, simd: S) {
        let Self { factors: Factors { x, t, weight, rows, columns }, first, features, out, row: spare } =
            self;
        let spare: &mut [u16] = bytemuck::cast_slice_mut(spare);
        let k = weight.columns;
        let weights: &[u16] = bytemuck::cast_slice(weight.tensor.bytes());
        let row = |i: usize| rows.index(first + i).map(|index| &weights[index * k..][..k]);
        for at in (0..features).step_by(R) {
            let many = R.min(features - at);
            let mut some = [&weights[..k]; R];
            for i in 0..many {
                some[i] = row(at + i).unwrap_or(some[i]);
            }
            let passes = t.div_ceil(PASS_ROWS);
            for pass in 0..passes {
                let token = pass * PASS_ROWS;
                // What is read next: soon where these rows come from memory, else the following ones, some in each pass.
                let mut next = Next { rows: some, distance: if passes == 1 { AHEAD.min(k) } else { k } };
                for i in pass * R / passes..((pass + 1) * R / passes).min(features.saturating_sub(at + R)) {
                    next.rows[i] = row(at + R + i).unwrap_or(next.rows[i]);
                }
                let of = |i: usize| &x[(token + i).min(t - 1) * k..][..k];
                let mut sums = [[0.0; R]; PASS_ROWS];
                match t - token {
                    1 => [sums[0]] = dots(simd, some, [of(0)], next),
                    2 => [sums[0], sums[1]] = dots(simd, some, [of(0), of(1)], next),
                    3 => [sums[0], sums[1], sums[2]] = dots(simd, some, [of(0), of(1), of(2)], next),
                    _ => sums = dots(simd, some, [of(0), of(1), of(2), of(3)], next),
                }
                for token in token..t.min(token + PASS_ROWS) {
                    for i in 0..many {
                        let sum = match row(at + i) {
                            None => 0.0,
                            // 0 times a weight that is not finite is NaN, but a column that is not picked has no say.
                            Some(row) if sums[token % PASS_ROWS][i].is_nan() => {
                                let picked = &mut spare[..k];
                                picked.fill(0);
                                columns.runs(0, columns.len(), |_, column, length| {
                                    picked[column..column + length]
                                        .copy_from_slice(&row[column..column + length]);
                                });
                                dots(
                                    simd,
                                    [&*picked],
                                    [&x[token * k..][..k]],
                                    Next { rows: [&*picked], distance: k },
                                )[0][0]
                            }
                            Some(_) => sums[token % PASS_ROWS][i],
                        };
                        // SAFETY: `run`'s caller promised these rows and features.
                        unsafe { *out.0.add(token * out.1 + at + i) = sum };
                    }
                }
            }
        }
    }
}

/// Which weights to fetch while others are used.
#[derive(Clone, Copy)]
struct Next<'a, const R: usize> {
    /// Rows that follow, and in place of those that another pass fetches, the current ones, which are there.
    rows: [&'a [u16]; R],
    /// Columns between a weight that is used and the one that is fetched, in these rows or, past their end, in the next.
    distance: usize,
}

/// The dot products of T rows of x, even columns first, with R rows of W.
#[inline(always)]
fn dots<S: Simd, const R: usize, const T: usize>(
    simd: S,
    rows: [&[u16]; R],
    x: [&[f32]; T],
    next: Next<'_, R>,
) -> [[f32; R]; T] {
    let k = rows[0].len();
    let (half, steps) = (k.div_ceil(2), k / 2 / S::F32_LANES);
    let (mut row_at, mut even_at, mut odd_at) =
        ([rows[0].as_ptr(); R], [x[0].as_ptr(); T], [x[0].as_ptr(); T]);
    for r in 0..R {
        assert!(rows[r].len() == k, "rows of W are equally long");
        row_at[r] = rows[r].as_ptr();
    }
    for t in 0..T {
        assert!(x[t].len() == k, "a row of x has all columns of W");
        (even_at[t], odd_at[t]) = (x[t].as_ptr(), x[t][half..].as_ptr());
    }
    let (sixteen, high) = (simd.splat_u32s(16), simd.splat_u32s(0xffff_0000));
    let mut sums = [[simd.splat_f32s(0.0); R]; T];
    for i in 0..steps {
        let at = i * S::F32_LANES;
        let ahead = 2 * at + next.distance;
        let (ahead_rows, ahead) = if ahead < k { (&rows, ahead) } else { (&next.rows, ahead - k) };
        // SAFETY: `steps` times as many pairs of weights as a vector has lanes lie in a row of k, and as many even and odd columns
        // in one of x. None of the reads needs alignment; a slice would be checked at each of them.
        unsafe {
            let (mut even, mut odd) = ([simd.splat_f32s(0.0); T], [simd.splat_f32s(0.0); T]);
            for t in 0..T {
                even[t] = even_at[t].add(at).cast::<S::f32s>().read_unaligned();
                odd[t] = odd_at[t].add(at).cast::<S::f32s>().read_unaligned();
            }
            for r in 0..R {
                prefetch::<true>(ahead_rows[r].as_ptr().wrapping_add(ahead).cast());
                let pairs = row_at[r].add(2 * at).cast::<S::u32s>().read_unaligned();
                let first = simd.transmute_f32s_u32s(simd.wrapping_dyn_shl_u32s(pairs, sixteen));
                let second = simd.transmute_f32s_u32s(simd.and_u32s(pairs, high));
                for t in 0..T {
                    sums[t][r] = multiply_add(simd, first, even[t], sums[t][r]);
                    sums[t][r] = multiply_add(simd, second, odd[t], sums[t][r]);
                }
            }
        }
    }
    let mut out = [[0.0; R]; T];
    for t in 0..T {
        let (even, odd) = x[t].split_at(half);
        for r in 0..R {
            let mut rest = 0.0;
            for column in 2 * S::F32_LANES * steps..k {
                let x = if column % 2 == 0 { even[column / 2] } else { odd[column / 2] };
                rest += math::bf16(rows[r][column]) * x;
            }
            out[t][r] = simd.reduce_sum_f32s(sums[t][r]) + rest;
        }
    }
    out
}
