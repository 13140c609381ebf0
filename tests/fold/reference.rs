//! Folds in plain f64, from the states of a plain decoder.

use std::collections::HashMap;

use probeprune::prune::{Block, settings::FoldChoice};

use crate::{
    SAMPLES, SEQ_LEN,
    common::{plain::Plain, small::random_tokens},
};

/// λ of the refit and ε of the choice.
const RIDGE: f64 = 0.01;
const PIVOT_RIDGE: f64 = 1e-3;

/// Mean (C) and covariance (C, C) of states (T, C).
#[derive(Clone)]
pub(crate) struct Moments {
    pub(crate) means: Vec<f64>,
    pub(crate) covariance: Vec<f64>,
}

impl Moments {
    pub(crate) fn of(a: &[f64], width: usize) -> Self {
        let rows = (a.len() / width) as f64;
        let means: Vec<f64> =
            (0..width).map(|c| a.iter().skip(c).step_by(width).sum::<f64>() / rows).collect();
        let centred = |row: &[f64], c: usize| row[c] - means[c];
        let entry = |at: usize| {
            let products =
                a.chunks_exact(width).map(|row| centred(row, at / width) * centred(row, at % width));
            products.sum::<f64>() / rows
        };
        let covariance = (0..width * width).map(entry).collect();
        Self { means, covariance }
    }
}

/// a (T, C) of every block of calibration's samples.
pub(crate) fn moments(plain: &Plain) -> HashMap<(usize, Block), Moments> {
    let (tokens, frequencies) = (random_tokens(1, SAMPLES * SEQ_LEN), plain.frequencies(10_000.0));
    let mut moments = HashMap::new();
    plain.logits(&tokens, SEQ_LEN, &|_| frequencies.clone(), &mut |layer, block, _, a| {
        moments.insert((layer, block), Moments::of(a, block.channels(&plain.config)));
    });
    moments
}

/// X with A·X = B for symmetric A (n, n) and B (n, m), by Gauss and Jordan with pivoting.
pub(crate) fn solve(a: &[f64], b: &[f64], n: usize) -> Vec<f64> {
    let m = b.len() / n;
    let mut rows: Vec<Vec<f64>> = (0..n).map(|i| [&a[i * n..][..n], &b[i * m..][..m]].concat()).collect();
    for i in 0..n {
        let pivot = (i..n).max_by(|&p, &q| rows[p][i].abs().total_cmp(&rows[q][i].abs())).unwrap();
        rows.swap(i, pivot);
        let scale = rows[i][i];
        rows[i].iter_mut().for_each(|x| *x /= scale);
        for j in (0..n).filter(|&j| j != i) {
            let (factor, row) = (rows[j][i], rows[i].clone());
            rows[j].iter_mut().zip(row).for_each(|(x, y)| *x -= factor * y);
        }
    }
    rows.into_iter().flat_map(|row| row[n..].to_vec()).collect()
}

/// left (m, k) · right (k, n).
pub(crate) fn product(left: &[f64], right: &[f64], k: usize) -> Vec<f64> {
    let (m, n) = (left.len() / k, right.len() / k);
    let entry = |at: usize| (0..k).map(|l| left[at / n * k + l] * right[l * n + at % n]).sum();
    (0..m * n).map(entry).collect()
}

pub(crate) fn transposed(values: &[f64], columns: usize) -> Vec<f64> {
    (0..columns).flat_map(|c| values.iter().skip(c).step_by(columns).copied()).collect()
}

pub(crate) fn entries(matrix: &[f64], width: usize, rows: &[usize], columns: &[usize]) -> Vec<f64> {
    rows.iter().flat_map(|r| columns.iter().map(move |c| matrix[r * width + c])).collect()
}

/// A fold of one block in f64.
pub(crate) struct Reference {
    pub(crate) kept: Vec<usize>,
    pub(crate) pruned: Vec<usize>,
    pub(crate) means: Vec<f64>,
    /// M (C − n, n).
    pub(crate) map: Vec<f64>,
    /// G_KK + λ·mean(diag G_KK)·I.
    pub(crate) regularised: Vec<f64>,
}

impl Reference {
    pub(crate) fn new(moments: &Moments, kept: Vec<usize>) -> Self {
        let width = moments.means.len();
        let n = kept.len();
        let pruned: Vec<usize> = (0..width).filter(|c| !kept.contains(c)).collect();
        let mut regularised = entries(&moments.covariance, width, &kept, &kept);
        let ridge = RIDGE * (0..n).map(|i| regularised[i * n + i]).sum::<f64>() / n as f64;
        (0..n).for_each(|i| regularised[i * n + i] += ridge);
        let solved = solve(&regularised, &entries(&moments.covariance, width, &kept, &pruned), n);
        let map = transposed(&solved, pruned.len());
        Self { kept, pruned, means: moments.means.clone(), map, regularised }
    }

    /// Puts the estimates of the pruned channels into a (T, C).
    pub(crate) fn fill(&self, a: &mut [f64]) {
        let n = self.kept.len();
        for row in a.chunks_exact_mut(self.means.len()) {
            let known: Vec<f64> = self.kept.iter().map(|&c| row[c] - self.means[c]).collect();
            for (&c, map) in self.pruned.iter().zip(self.map.chunks_exact(n)) {
                row[c] = self.means[c] + map.iter().zip(&known).map(|(m, x)| m * x).sum::<f64>();
            }
        }
    }
}

/// Channels of units.
pub(crate) fn channels_of(units: &[u32], width: usize) -> Vec<usize> {
    units.iter().flat_map(|&unit| unit as usize * width..(unit as usize + 1) * width).collect()
}

/// The units that a fold has to keep: greedily what explains most of D·G·D, or the largest scores.
pub(crate) fn chosen(
    moments: &Moments,
    weight: &[f64],
    unit: usize,
    keep: usize,
    choice: FoldChoice,
) -> Vec<u32> {
    let width = moments.means.len();
    let column = |c: usize| weight.iter().skip(c).step_by(width);
    let mut kept: Vec<u32> = Vec::new();
    if choice == FoldChoice::Score {
        let score =
            |c: usize| moments.covariance[c * width + c] * column(c).map(|w| w.powi(4)).sum::<f64>().sqrt();
        let of_unit = |u: &u32| channels_of(&[*u], unit).into_iter().map(|c| score(c).powi(2)).sum::<f64>();
        kept = (0..(width / unit) as u32).collect();
        kept.sort_by(|a, b| of_unit(b).total_cmp(&of_unit(a)));
        kept.truncate(keep);
    } else {
        let norm = |c: usize| column(c).map(|w| w * w).sum::<f64>().sqrt();
        let norms: Vec<f64> = (0..width).map(norm).collect();
        let weighted = moments.covariance.iter().enumerate();
        let mut left: Vec<f64> = weighted.map(|(at, x)| x * norms[at / width] * norms[at % width]).collect();
        let ridge = PIVOT_RIDGE * (0..width).map(|c| left[c * width + c]).sum::<f64>() / width as f64;
        let all: Vec<usize> = (0..width).collect();
        for _ in 0..keep {
            // A_:u·(A_uu + ε·I)⁻¹·A_u:, and its trace without the ridge of a single channel, which cancels.
            let part = |u: u32| {
                let own = channels_of(&[u], unit);
                let mut diagonal = entries(&left, width, &own, &own);
                (0..unit).for_each(|i| diagonal[i * unit + i] += ridge);
                let rows = entries(&left, width, &own, &all);
                product(&transposed(&rows, width), &solve(&diagonal, &rows, unit), unit)
            };
            let gain = |u: &u32| match unit {
                1 => left[*u as usize * (width + 1)],
                _ => part(*u).iter().step_by(width + 1).sum::<f64>(),
            };
            let others = (0..(width / unit) as u32).filter(|u| !kept.contains(u));
            let best = others.max_by(|a, b| gain(a).total_cmp(&gain(b))).unwrap();
            let part = part(best);
            left.iter_mut().zip(part).for_each(|(x, part)| *x -= part);
            kept.push(best);
        }
    }
    kept.sort_unstable();
    kept
}
