//! Which channels or heads a fold keeps, by pivoted Cholesky on the weighted covariance A = D·G·D with D = diag(‖W\[:,c\]‖₂):
//! each step keeps what explains most of the output that is still unexplained.

use rayon::prelude::*;

use super::factor::{BLOCK, cholesky};
use crate::products::{View, add_product_parallel};

/// ε of the pivots, relative to the mean of A's diagonal.
const RIDGE: f64 = 1e-3;

/// `keep` of the channels of A (n, n), in the order in which they were chosen.
pub(super) fn channels(mut a: Vec<f64>, n: usize, keep: usize) -> Vec<usize> {
    let mut unexplained: Vec<f64> = (0..n).map(|i| a[i * n + i]).collect();
    let ridge = RIDGE * unexplained.iter().sum::<f64>() / n as f64;
    let mut is_chosen = vec![false; n];
    let mut chosen = Vec::with_capacity(keep);
    // Rows of the factor that are not yet subtracted from A.
    let mut panel = vec![0.0; BLOCK * n];
    while chosen.len() < keep {
        let rows = BLOCK.min(keep - chosen.len());
        for i in 0..rows {
            let pivot = largest(&unexplained, &is_chosen);
            let (done, row) = panel.split_at_mut(i * n);
            let row = &mut row[..n];
            row.copy_from_slice(&a[pivot * n..][..n]);
            for done in done.chunks_exact(n) {
                let factor = done[pivot];
                row.iter_mut().zip(done).for_each(|(x, y)| *x -= factor * y);
            }
            let scale = 1.0 / (unexplained[pivot].max(0.0) + ridge).sqrt();
            row.iter_mut().for_each(|x| *x *= scale);
            unexplained.iter_mut().zip(row).for_each(|(left, x)| *left -= *x * *x);
            is_chosen[pivot] = true;
            chosen.push(pivot);
        }
        if chosen.len() < keep {
            let panel = View::rows(&panel[..rows * n], n);
            add_product_parallel(&mut a, n, [n, n, rows], -1.0, panel.transposed(), panel);
        }
    }
    chosen
}

/// `keep` of the heads of `head_dim` channels each of A (n, n), in the order in which they were chosen: the head that
/// maximises trace((A_hh + ε·I)⁻¹·A_h:·A_:h), then A without its part.
pub(super) fn heads(mut a: Vec<f64>, n: usize, head_dim: usize, keep: usize) -> Vec<usize> {
    let count = n / head_dim;
    let ridge = RIDGE * (0..n).map(|i| a[i * n + i]).sum::<f64>() / n as f64;
    let mut is_chosen = vec![false; count];
    let mut chosen = Vec::with_capacity(keep);
    while chosen.len() < keep {
        // L⁻¹·A_h: (D, n) of every head, with L·Lᵀ = A_hh + ε·I: the square of its norm is the trace.
        let explained = |head: usize| -> (f64, Vec<f64>) {
            let first = head * head_dim;
            let mut rows = a[first * n..][..head_dim * n].to_vec();
            let mut factor = vec![0.0; head_dim * head_dim];
            for i in 0..head_dim {
                factor[i * head_dim..][..head_dim].copy_from_slice(&rows[i * n + first..][..head_dim]);
                factor[i * head_dim + i] += ridge;
            }
            cholesky(&mut factor, head_dim, f64::MIN_POSITIVE);
            for i in 0..head_dim {
                let (done, row) = rows.split_at_mut(i * n);
                for (j, done) in done.chunks_exact(n).enumerate() {
                    let known = factor[i * head_dim + j];
                    row[..n].iter_mut().zip(done).for_each(|(x, y)| *x -= known * y);
                }
                row[..n].iter_mut().for_each(|x| *x /= factor[i * head_dim + i]);
            }
            (rows.iter().map(|x| x * x).sum(), rows)
        };
        let candidates: Vec<usize> = (0..count).filter(|&head| !is_chosen[head]).collect();
        let traces: Vec<f64> = candidates.par_iter().map(|&head| explained(head).0).collect();
        let best = largest(&traces, &vec![false; traces.len()]);
        let (_, rows) = explained(candidates[best]);
        let part = View::rows(&rows, n);
        add_product_parallel(&mut a, n, [n, n, head_dim], -1.0, part.transposed(), part);
        is_chosen[candidates[best]] = true;
        chosen.push(candidates[best]);
    }
    chosen
}

/// Index of the largest value that is not excluded; the first of equal ones.
fn largest(values: &[f64], excluded: &[bool]) -> usize {
    let candidates = values.iter().zip(excluded).enumerate().filter(|(_, (_, excluded))| !**excluded);
    let best = candidates.reduce(|best, next| if next.1.0.total_cmp(best.1.0).is_gt() { next } else { best });
    best.map_or(0, |(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A after the least-squares part of `kept` (regularised) was taken out, one channel after another.
    fn without(a: &[f64], n: usize, kept: &[usize], ridge: f64) -> Vec<f64> {
        let mut a = a.to_vec();
        for &p in kept {
            let row = a[p * n..][..n].to_vec();
            for (at, x) in a.iter_mut().enumerate() {
                *x -= row[at / n] * row[at % n] / (row[p] + ridge);
            }
        }
        a
    }

    fn covariance(n: usize, seed: u64) -> Vec<f64> {
        use rand::{RngExt, SeedableRng};
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let x: Vec<Vec<f64>> = (0..n)
            .map(|i| (0..n + 3).map(|_| rng.random_range(-1.0..1.0) / (1.0 + i as f64 / 9.0)).collect())
            .collect();
        (0..n * n).map(|at| super::super::factor::dot(&x[at / n], &x[at % n])).collect()
    }

    /// More than two panels, and a part of one.
    #[test]
    fn each_channel_is_the_one_least_explained_by_those_before() {
        let n = 150;
        let a = covariance(n, 1);
        let ridge = RIDGE * (0..n).map(|i| a[i * n + i]).sum::<f64>() / n as f64;
        let chosen = channels(a.clone(), n, 140);
        for (i, &pivot) in chosen.iter().enumerate() {
            let left = without(&a, n, &chosen[..i], ridge);
            let others = (0..n).filter(|c| !chosen[..i].contains(c));
            let best = others.map(|c| left[c * n + c]).fold(0.0, f64::max);
            assert!(left[pivot * n + pivot] >= best - 1e-9, "step {i}");
        }
    }

    #[test]
    fn each_head_explains_most_of_what_is_left() {
        let (n, head_dim) = (24, 4);
        let a = covariance(n, 2);
        let ridge = RIDGE * (0..n).map(|i| a[i * n + i]).sum::<f64>() / n as f64;
        let trace = |a: &[f64]| (0..n).map(|i| a[i * n + i]).sum::<f64>();
        let mut left = a.clone();
        for &head in &heads(a, n, head_dim, 5) {
            // A minus A_:h·(A_hh + ε·I)⁻¹·A_h:, by elimination in (A_hh + ε·I, A_h:).
            let after = |head: usize| {
                let first = head * head_dim;
                let mut rows: Vec<Vec<f64>> = (first..first + head_dim)
                    .map(|i| {
                        let mut row = left[i * n + first..][..head_dim].to_vec();
                        row[i - first] += ridge;
                        row.extend(&left[i * n..][..n]);
                        row
                    })
                    .collect();
                for i in 0..head_dim {
                    let pivot = rows[i][i];
                    rows[i].iter_mut().for_each(|x| *x /= pivot);
                    for j in (0..head_dim).filter(|&j| j != i) {
                        let factor = rows[j][i];
                        let row = rows[i].clone();
                        rows[j].iter_mut().zip(row).for_each(|(x, y)| *x -= factor * y);
                    }
                }
                let mut after = left.clone();
                for (at, x) in after.iter_mut().enumerate() {
                    *x -= (0..head_dim)
                        .map(|i| left[(first + i) * n + at / n] * rows[i][head_dim + at % n])
                        .sum::<f64>();
                }
                after
            };
            let best = (0..n / head_dim).map(|head| trace(&after(head))).fold(f64::MAX, f64::min);
            assert!(trace(&after(head)) <= best + 1e-9, "{head}");
            left = after(head);
        }
    }

    #[test]
    fn equal_ones_are_taken_in_order() {
        assert_eq!(channels(vec![1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0], 3, 2), [0, 1]);
        assert_eq!(largest(&[1.0, 3.0, 3.0, 5.0], &[false, false, false, true]), 1);
    }
}
