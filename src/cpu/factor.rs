//! The inverse of a Cholesky factor, as corrections of folds need it (docs/method.md, section 13).

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::Cpu;

/// Rows that are eliminated one after the other, once all before them have been.
const BLOCK: usize = 32;
/// Rows that are subtracted from another one together.
const TOGETHER: usize = 4;
/// Entries of a row that are computed together: a row is a whole number of them, so that no loop has a remainder.
const WIDTH: usize = 8;
type Lanes = [f64; WIDTH];

/// A matrix (t, t).
pub(super) struct Square {
    t: usize,
    /// Lanes of a row; what they hold beyond t entries says nothing.
    width: usize,
    lanes: Vec<Lanes>,
}

impl Square {
    fn new(t: usize) -> Self {
        let width = t.div_ceil(WIDTH);
        Self { t, width, lanes: vec![[0.0; WIDTH]; t * width] }
    }

    fn row(&self, i: usize) -> &[f64] {
        self.lanes[i * self.width..][..self.width].as_flattened()
    }

    /// Its rows (t).
    pub(super) fn rows(&self) -> impl Iterator<Item = &[f64]> {
        (0..self.t).map(|i| &self.row(i)[..self.t])
    }

    /// Row by row: row i −= Σ `scale(row k, k, i)` · row k over all k < i, in the lanes `at(k, i)`, which those of a greater k
    /// contain; then `finish(row i, i)`.
    fn eliminate(
        &mut self,
        cpu: &Cpu,
        scale: impl Fn(&[f64], usize, usize) -> f64 + Sync,
        at: impl Fn(usize, usize) -> Range<usize> + Sync,
        finish: impl Fn(&mut [f64], usize),
    ) {
        let (width, scale, at) = (self.width, &scale, &at);
        let subtract = |row: &mut [Lanes], i: usize, above: &[Lanes], first: usize| {
            cpu.arch.dispatch(Subtract { from: row, i, above, first, scale, at });
        };
        for first in (0..self.t).step_by(BLOCK) {
            let (above, rest) = self.lanes.split_at_mut(first * width);
            let block = &mut rest[..BLOCK.min(self.t - first) * width];
            let rows = block.par_chunks_exact_mut(width).enumerate();
            rows.for_each(|(i, row)| subtract(row, first + i, above, 0));
            for i in 0..block.len() / width {
                let (above, row) = block.split_at_mut(i * width);
                let row = &mut row[..width];
                subtract(row, first + i, above, first);
                finish(row.as_flattened_mut(), first + i);
            }
        }
    }
}

/// Row i less the multiples of the rows `above`, of which the first has the number `first`; see [`Square::eliminate`].
struct Subtract<'a, F, G> {
    from: &'a mut [Lanes],
    i: usize,
    above: &'a [Lanes],
    first: usize,
    scale: F,
    at: G,
}

impl<F, G> WithSimd for Subtract<'_, F, G>
where
    F: Fn(&[f64], usize, usize) -> f64,
    G: Fn(usize, usize) -> Range<usize>,
{
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { from, i, above, first, scale, at } = self;
        let width = from.len();
        let count = above.len() / width;
        for k in (0..count).step_by(TOGETHER) {
            let lanes = at(first + (k + TOGETHER).min(count) - 1, i);
            let from = S::as_mut_simd_f64s(from[lanes.clone()].as_flattened_mut()).0;
            let (mut scales, mut rows) = ([simd.splat_f64s(0.0); TOGETHER], [&[][..]; TOGETHER]);
            for j in 0..TOGETHER {
                // A row that is not there is the last one, times 0.
                let there = (k + j).min(count - 1);
                let row = &above[there * width..][..width];
                rows[j] = &S::as_simd_f64s(row[lanes.clone()].as_flattened()).0[..from.len()];
                if k + j == there {
                    scales[j] = simd.splat_f64s(-scale(row.as_flattened(), first + there, i));
                }
            }
            for v in 0..from.len() {
                let mut left = from[v];
                for j in 0..TOGETHER {
                    left = simd.mul_add_e_f64s(scales[j], rows[j][v], left);
                }
                from[v] = left;
            }
        }
    }
}

fn multiply_row(cpu: &Cpu, row: &mut [f64], by: f64) {
    cpu.vectorized(
        #[inline(always)]
        || row.iter_mut().for_each(|x| *x *= by),
    );
}

/// L⁻¹ (t, t), 0 above its diagonal, for S = L·Lᵀ given by the upper triangle of `s` (t, t). Pivots are at least `floor`.
///
/// In f64, since errors of a factor grow with the condition of S.
pub(super) fn inverse_factor(cpu: &Cpu, s: &[f32], t: usize, floor: f64) -> Square {
    // Lᵀ: its rows, which lie whole, are all that the factorisation reads.
    let mut upper = Square::new(t);
    for (row, s) in upper.lanes.chunks_exact_mut(upper.width).zip(s.chunks_exact(t)) {
        row.as_flattened_mut().iter_mut().zip(s).for_each(|(x, &s)| *x = s.into());
    }
    let width = upper.width;
    upper.eliminate(
        cpu,
        |row, _, i| row[i],
        |_, i| i / WIDTH..width,
        |row, i| {
            let pivot = row[i].max(floor).sqrt();
            row[i] = pivot;
            multiply_row(cpu, &mut row[i + 1..], 1.0 / pivot);
        },
    );
    // Row i: (the unit vector − Σ L[i, k] · row k) / L[i, i].
    let mut inverse = Square::new(t);
    inverse.eliminate(
        cpu,
        |_, k, i| upper.row(k)[i],
        |k, _| 0..k / WIDTH + 1,
        |row, i| {
            row[i] = 1.0;
            multiply_row(cpu, &mut row[..=i], 1.0 / upper.row(i)[i]);
        },
    );
    inverse
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Sizes around a block of rows.
    #[test]
    fn the_inverse_turns_s_into_the_identity() {
        let cpu = Cpu::new(2).unwrap();
        for t in [1, 2, 7, 8, 31, 32, 33, 64, 100] {
            let mut rng = ChaCha8Rng::seed_from_u64(t as u64);
            let x: Vec<f64> = (0..t * t).map(|_| rng.random_range(-1.0..1.0)).collect();
            let product = |i: usize, j: usize| (0..t).map(|k| x[i * t + k] * x[j * t + k]).sum::<f64>();
            let mut s = vec![f32::NAN; t * t];
            for (i, j) in (0..t).flat_map(|i| (i..t).map(move |j| (i, j))) {
                s[i * t + j] = (product(i, j) + f64::from(u8::from(i == j))) as f32;
            }
            let square = inverse_factor(&cpu, &s, t, 1.0);
            let inverse: Vec<f64> = square.rows().flat_map(|row| &row[..t]).copied().collect();
            let of_s = |i: usize, j: usize| f64::from(s[i.min(j) * t + i.max(j)]);
            for (i, j) in (0..t).flat_map(|i| (0..t).map(move |j| (i, j))) {
                // L⁻¹ · S · L⁻ᵀ.
                let row = |k: usize| (0..t).map(|l| inverse[i * t + l] * of_s(l, k)).sum::<f64>();
                let entry: f64 = (0..t).map(|k| row(k) * inverse[j * t + k]).sum();
                assert!((entry - f64::from(u8::from(i == j))).abs() < 1e-10, "{t}: {i} {j} {entry}");
                assert!(j <= i || inverse[i * t + j] == 0.0, "{t}: {i} {j}");
            }
        }
    }

    #[test]
    fn pivots_have_a_floor() {
        // Rank 1: the second pivot would be 0.
        let inverse = inverse_factor(&Cpu::new(1).unwrap(), &[4.0, 2.0, f32::NAN, 1.0], 2, 0.25);
        let entries: Vec<&[f64]> = inverse.rows().collect();
        assert_eq!(entries, [[0.5, 0.0], [-1.0, 2.0]]);
    }
}
