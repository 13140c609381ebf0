//! Products of a single row (decoding), where reading W once is all that matters: weights are converted in registers.

use pulp::{Simd, WithSimd};

use super::{Factors, microkernel::multiply_add};
use crate::{
    checkpoint::Dtype,
    cpu::{math, matrix::Pick},
};

/// Rows of W that are read side by side.
const ROWS: usize = 8;

/// Whether [`OneRow`] can do it with this room, for x and a row of W.
pub(super) fn fits(factors: &Factors<'_>, room: usize) -> bool {
    let Factors { t, weight, .. } = factors;
    *t == 1 && weight.tensor.dtype() == Dtype::BF16 && 2 * weight.columns <= room
}

/// x for [`OneRow`]: over all columns of W, with 0 for those that are not picked, even columns first.
pub(super) fn spread(Factors { x, weight, columns, .. }: Factors<'_>, to: &mut [f32]) {
    let (even, odd) = to[..weight.columns].split_at_mut(weight.columns.div_ceil(2));
    let x = &x[..columns.len()];
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

/// out = the features `first..first+out.len()` of x·Wᵀ for x as [`spread`] leaves it; skipped rows give 0.
pub(super) struct OneRow<'a> {
    pub(super) factors: Factors<'a>,
    pub(super) x: &'a [f32],
    pub(super) first: usize,
    pub(super) out: &'a mut [f32],
    /// Room for a row of W.
    pub(super) row: &'a mut [f32],
}

impl WithSimd for OneRow<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { factors: Factors { weight, rows, columns, .. }, x, first, out, row: spare } = self;
        let spare: &mut [u16] = bytemuck::cast_slice_mut(spare);
        let k = weight.columns;
        let weights: &[u16] = bytemuck::cast_slice(weight.tensor.bytes());
        let row = |i: usize| rows.index(first + i).map(|index| &weights[index * k..][..k]);
        for at in (0..out.len()).step_by(ROWS) {
            let many = ROWS.min(out.len() - at);
            let mut some = [&weights[..k]; ROWS];
            for i in 0..many {
                some[i] = row(at + i).unwrap_or(some[i]);
            }
            let sums = dots(simd, some, x);
            for i in 0..many {
                out[at + i] = match row(at + i) {
                    None => 0.0,
                    // 0 times a weight that is not finite is NaN, but a column that is not picked has no say.
                    Some(row) if sums[i].is_nan() => {
                        let picked = &mut spare[..k];
                        picked.fill(0);
                        columns.runs(0, columns.len(), |_, column, length| {
                            picked[column..column + length].copy_from_slice(&row[column..column + length]);
                        });
                        dots(simd, [&*picked; ROWS], x)[0]
                    }
                    Some(_) => sums[i],
                };
            }
        }
    }
}

/// The dot products of x, even columns first, with these rows.
#[inline(always)]
fn dots<S: Simd>(simd: S, rows: [&[u16]; ROWS], x: &[f32]) -> [f32; ROWS] {
    let (even, odd) = x.split_at(x.len().div_ceil(2));
    let (even_vectors, odd_vectors) = (S::as_simd_f32s(even).0, S::as_simd_f32s(odd).0);
    let (sixteen, high) = (simd.splat_u32s(16), simd.splat_u32s(0xffff_0000));
    let mut sums = [simd.splat_f32s(0.0); ROWS];
    for (i, (even, odd)) in even_vectors.iter().zip(odd_vectors).enumerate() {
        for r in 0..ROWS {
            let pairs = &rows[r][2 * i * S::F32_LANES..][..2 * S::F32_LANES];
            // SAFETY: a vector of words is as many pairs of weights, and the read needs no alignment.
            let pairs = unsafe { pairs.as_ptr().cast::<S::u32s>().read_unaligned() };
            let first = simd.transmute_f32s_u32s(simd.wrapping_dyn_shl_u32s(pairs, sixteen));
            let second = simd.transmute_f32s_u32s(simd.and_u32s(pairs, high));
            sums[r] = multiply_add(simd, first, *even, sums[r]);
            sums[r] = multiply_add(simd, second, *odd, sums[r]);
        }
    }
    let whole = 2 * S::F32_LANES * odd_vectors.len();
    let mut out = [0.0; ROWS];
    for r in 0..ROWS {
        let rest = rows[r][whole..].iter().enumerate();
        let rest = rest.map(|(i, &weight)| {
            let column = whole + i;
            math::bf16(weight) * if column % 2 == 0 { even[column / 2] } else { odd[column / 2] }
        });
        out[r] = simd.reduce_sum_f32s(sums[r]) + rest.sum::<f32>();
    }
    out
}
