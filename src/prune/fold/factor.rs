//! Cholesky factors of symmetric matrices in f64, in blocks: the large matrices of the fold take minutes otherwise.
//! All matrices are row-major.

use rayon::prelude::*;

use crate::products::{View, add_product};

/// Columns that are eliminated together.
pub(super) const BLOCK: usize = 64;
/// Rows below a block that one task updates.
const ROWS: usize = 128;

/// The lower Cholesky factor of `a` (n, n), in the lower triangle of `a`. Pivots are at least `floor`.
pub(super) fn cholesky(a: &mut [f64], n: usize, floor: f64) {
    let mut panel = Vec::new();
    for first in (0..n).step_by(BLOCK) {
        let width = BLOCK.min(n - first);
        let rest = first + width;
        let (above, below) = a.split_at_mut(rest * n);
        let diagonal = &mut above[first * n..];
        for i in 0..width {
            let (done, row) = diagonal.split_at_mut(i * n);
            let row = &mut row[first..first + width];
            substitute(row, i, |j| &done[j * n + first..]);
            let pivot = row[i] - dot(&row[..i], &row[..i]);
            row[i] = pivot.max(floor).sqrt();
        }
        let diagonal = &*diagonal;
        below.par_chunks_exact_mut(n).for_each(|row| {
            substitute(&mut row[first..rest], width, |j| &diagonal[j * n + first..]);
        });
        panel.clear();
        panel.extend(below.chunks_exact(n).flat_map(|row| &row[first..rest]));
        let panel = View::rows(&panel, width);
        below.par_chunks_mut(ROWS * n).enumerate().for_each(|(chunk, rows)| {
            let (above, count) = (chunk * ROWS, rows.len() / n);
            let right = panel.transposed();
            // Columns up to the diagonal of the chunk's last row.
            let columns = above + count;
            add_product(&mut rows[rest..], n, [count, columns, width], -1.0, panel.rows_from(above), right);
        });
    }
}

/// Solves L·x = b for the first `len` entries of b in `x`; `row(j)` is row j of L.
fn substitute<'a>(x: &mut [f64], len: usize, row: impl Fn(usize) -> &'a [f64]) {
    for j in 0..len {
        let row = row(j);
        x[j] = (x[j] - dot(&x[..j], &row[..j])) / row[j];
    }
}

pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    // In several sums, so that an addition does not wait for the one before.
    const SUMS: usize = 8;
    let (wholes, others) = (a.chunks_exact(SUMS).zip(b.chunks_exact(SUMS)), a.len() / SUMS * SUMS);
    let mut sums = [0.0; SUMS];
    for (a, b) in wholes {
        sums.iter_mut().zip(a).zip(b).for_each(|((sum, a), b)| *sum += a * b);
    }
    sums.iter().sum::<f64>() + a[others..].iter().zip(&b[others..]).map(|(a, b)| a * b).sum::<f64>()
}

/// Solves L·Lᵀ·x = b for every row b of `rows` (any number, n), in place; L (n, n) is the factor in the lower triangle.
pub(super) fn solve(factor: &[f64], n: usize, rows: &mut [f64]) {
    const TOGETHER: usize = 32;
    rows.par_chunks_mut(TOGETHER * n).for_each(|rows| {
        let count = rows.len() / n;
        let mut product = vec![0.0; count * BLOCK];
        let blocks: Vec<_> = (0..n).step_by(BLOCK).map(|first| (first, BLOCK.min(n - first))).collect();
        let mut eliminate =
            |rows: &mut [f64], [first, width]: [usize; 2], known: [usize; 2], right: View<'_, f64>| {
                product.fill(0.0);
                let shape = [count, width, known[1] - known[0]];
                add_product(&mut product, BLOCK, shape, 1.0, View::rows(&rows[known[0]..], n), right);
                for (row, product) in rows.chunks_exact_mut(n).zip(product.chunks_exact(BLOCK)) {
                    row[first..first + width].iter_mut().zip(product).for_each(|(x, y)| *x -= y);
                }
            };
        for &(first, width) in &blocks {
            let right = View::rows(&factor[first * n..], n).transposed();
            eliminate(rows, [first, width], [0, first], right);
            for row in rows.chunks_exact_mut(n) {
                substitute(&mut row[first..first + width], width, |j| &factor[(first + j) * n + first..]);
            }
        }
        for &(first, width) in blocks.iter().rev() {
            let rest = first + width;
            if rest < n {
                eliminate(rows, [first, width], [rest, n], View::rows(&factor[rest * n + first..], n));
            }
            for row in rows.chunks_exact_mut(n) {
                for j in (first..rest).rev() {
                    row[j] /= factor[j * n + j];
                    let known = row[j];
                    (first..j).for_each(|i| row[i] -= factor[j * n + i] * known);
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// X·Xᵀ + I for random X.
    fn positive(n: usize) -> Vec<f64> {
        let mut rng = ChaCha8Rng::seed_from_u64(n as u64);
        let x: Vec<f64> = (0..n * n).map(|_| rng.random_range(-1.0..1.0)).collect();
        let row = |i: usize| &x[i * n..][..n];
        (0..n * n).map(|at| dot(row(at / n), row(at % n)) + f64::from(u8::from(at / n == at % n))).collect()
    }

    /// Sizes around a block, a task's rows and the right-hand sides that are solved together.
    #[test]
    fn factors_and_solutions_satisfy_their_equations() {
        for (n, count) in [(1, 1), (5, 3), (63, 31), (64, 32), (65, 33), (128, 1), (129, 2), (200, 70)] {
            let a = positive(n);
            let mut factor = a.clone();
            cholesky(&mut factor, n, 0.0);
            for (i, j) in (0..n).flat_map(|i| (0..=i).map(move |j| (i, j))) {
                let product = dot(&factor[i * n..][..=j], &factor[j * n..][..=j]);
                assert!((product - a[i * n + j]).abs() < 1e-10 * n as f64, "{n}: {i} {j}");
            }
            let b: Vec<f64> = (0..count * n).map(|at| (at % 17) as f64 - 8.0).collect();
            let mut x = b.clone();
            solve(&factor, n, &mut x);
            for (x, b) in x.chunks_exact(n).zip(b.chunks_exact(n)) {
                for (i, b) in b.iter().enumerate() {
                    assert!((dot(x, &a[i * n..][..n]) - b).abs() < 1e-8, "{n}, {count}: {i}");
                }
            }
        }
    }

    #[test]
    fn pivots_have_a_floor() {
        // Rank 1: the second pivot would be 0.
        let mut a = vec![4.0, 2.0, 2.0, 1.0];
        cholesky(&mut a, 2, 1e-4);
        assert_eq!([a[0], a[2], a[3]], [2.0, 1.0, 1e-2]);
    }
}
