//! The fold: a static choice of channels or heads whose last projection is refitted by least squares, so that it
//! stands for the pruned ones too (docs/method.md, section 12). No part of it is in the paper.
//!
//! With G and μ the covariance and the mean of a block's intermediate states a (C), W (H, C) its last projection, K the kept
//! channels and P the others, the fold is the ridge regression of a_P on a_K, put into W:
//!
//! ```text
//! M  = G_PK·(G_KK + λ·mean(diag G_KK)·I)⁻¹
//! W' = W_K + W_P·M          b' = b + W_P·(μ_P − M·μ_K)          y = W'·a_K + b'
//! ```

mod choice;
mod factor;

use factor::{cholesky, solve};

use super::{
    Unit,
    second_moments::SecondMoments,
    settings::{AdaptMetric, FoldChoice},
};
use crate::products::{View, add_product_parallel};

/// λ, relative to the mean variance of the kept channels.
const RIDGE: f64 = 0.01;

/// What a block is folded from.
#[derive(Clone, Copy, Debug)]
pub struct FoldSource<'a> {
    /// μ (C).
    pub means: &'a [f32],
    /// E\[a·aᵀ\] (C, C).
    pub second: &'a SecondMoments,
    /// W (H, C), row-major.
    pub weight: &'a [f32],
    /// b (H).
    pub bias: Option<&'a [f32]>,
}

/// A folded block.
#[derive(Clone, Debug, PartialEq)]
pub struct FoldedBlock {
    /// Kept heads or channels, ascending.
    pub kept: Vec<u32>,
    /// W' (H, kept channels), row-major.
    pub weight: Vec<f32>,
    /// b' (H).
    pub bias: Vec<f32>,
    /// What a correction by a probe starts from.
    pub prior: Option<FoldPrior>,
}

/// What calibration knows of a folded block.
#[derive(Clone, Debug, PartialEq)]
pub struct FoldPrior {
    /// μ_K (n).
    pub means: Vec<f32>,
    /// (G_KK + λ·mean(diag G_KK)·I)⁻¹ (n, n), or one over the diagonal of the sum (n).
    pub metric: Vec<f32>,
    /// Mean of ‖y − W·a − b‖² over calibration's tokens: the fold's error.
    pub error: f64,
    /// Variance of W·a over calibration's tokens, summed over its H entries.
    pub variance: f64,
    /// Share of the channels that are pruned.
    pub pruned_share: f64,
}

impl FoldSource<'_> {
    /// Keeps as many units as each of `counts` says, of which the last is the largest; with `metric` it leaves priors for
    /// corrections too. NaN in the moments or the weight ends up in the result.
    pub fn folds(
        self,
        unit: Unit,
        counts: &[usize],
        choice: FoldChoice,
        metric: Option<AdaptMetric>,
    ) -> impl Iterator<Item = FoldedBlock> {
        let covariance = self.second.covariance(self.means);
        // Each choice is the beginning of a larger one.
        let order = self.choose(&covariance, unit, counts.last().copied().unwrap_or(0), choice);
        counts.iter().map(move |&keep| {
            let mut kept: Vec<u32> = order[..keep].iter().map(|&unit| unit as u32).collect();
            kept.sort_unstable();
            self.refit(&covariance, unit, kept, metric)
        })
    }

    /// C.
    fn width(&self) -> usize {
        self.means.len()
    }

    /// The units to keep, the best first.
    fn choose(&self, covariance: &[f64], unit: Unit, keep: usize, choice: FoldChoice) -> Vec<usize> {
        let width = self.width();
        match choice {
            FoldChoice::Pivot => {
                let norms: Vec<f64> = self.column_sums(|w| w * w).into_iter().map(f64::sqrt).collect();
                let weighted = covariance.iter().enumerate();
                let weighted = weighted.map(|(at, x)| x * norms[at / width] * norms[at % width]).collect();
                match unit.block_width() {
                    1 => choice::channels(weighted, width, keep),
                    head_dim => choice::heads(weighted, width, head_dim, keep),
                }
            }
            FoldChoice::Score => {
                let fourth = self.column_sums(|w| w.powi(4));
                let score = |c: usize| covariance[c * width + c] * fourth[c].sqrt();
                let scores: Vec<f64> = (0..width).map(score).collect();
                let units = scores.chunks_exact(unit.block_width());
                let scores: Vec<f64> = units.map(|unit| factor::dot(unit, unit)).collect();
                let mut order: Vec<usize> = (0..scores.len()).collect();
                order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
                order.truncate(keep);
                order
            }
        }
    }

    /// Sums of f(W) over every column (C).
    fn column_sums(&self, f: impl Fn(f64) -> f64) -> Vec<f64> {
        let mut sums = vec![0.0; self.width()];
        for row in self.weight.chunks_exact(self.width()) {
            sums.iter_mut().zip(row).for_each(|(sum, &w)| *sum += f(f64::from(w)));
        }
        sums
    }

    fn refit(
        &self,
        covariance: &[f64],
        unit: Unit,
        kept: Vec<u32>,
        metric: Option<AdaptMetric>,
    ) -> FoldedBlock {
        let (width, out) = (self.width(), self.weight.len() / self.width());
        let block = unit.block_width();
        let mut is_kept = vec![false; width];
        for &unit in &kept {
            is_kept[unit as usize * block..][..block].fill(true);
        }
        let (k, p): (Vec<usize>, Vec<usize>) = (0..width).partition(|&c| is_kept[c]);
        let (n, rest) = (k.len(), p.len());
        let entries = |rows: &[usize], columns: &[usize]| -> Vec<f64> {
            let row = |r: &usize| &covariance[r * width..][..width];
            rows.iter().flat_map(|r| columns.iter().map(move |&c| row(r)[c])).collect()
        };
        let mut factor = entries(&k, &k);
        let ridge = RIDGE * (0..n).map(|i| factor[i * n + i]).sum::<f64>() / n as f64;
        (0..n).for_each(|i| factor[i * n + i] += ridge);
        let diagonal: Vec<f32> = (0..n).map(|i| (1.0 / factor[i * n + i]) as f32).collect();
        cholesky(&mut factor, n, f64::MIN_POSITIVE);

        // W_P·G_PK, and a row μ_K, whose solution gives M·μ_K.
        let weight = |row: usize, c: usize| f64::from(self.weight[row * width + c]);
        let w_p: Vec<f64> = (0..out).flat_map(|row| p.iter().map(move |&c| weight(row, c))).collect();
        let g_pk = entries(&p, &k);
        let mut solved = vec![0.0; (out + 1) * n];
        let (w_p, g_pk) = (View::rows(&w_p, rest), View::rows(&g_pk, n));
        add_product_parallel(&mut solved, n, [out, n, rest], 1.0, w_p, g_pk);
        let mean = |c: &usize| f64::from(self.means[*c]);
        solved[out * n..].iter_mut().zip(&k).for_each(|(x, c)| *x = mean(c));
        solve(&factor, n, &mut solved);
        let (rows, of_mean) = solved.split_at(out * n);

        let unexplained: Vec<f64> = p
            .iter()
            .enumerate()
            .map(|(i, c)| mean(c) - factor::dot(&g_pk.values[i * n..][..n], of_mean))
            .collect();
        let bias = (0..out).map(|row| {
            let own = self.bias.map_or(0.0, |bias| f64::from(bias[row]));
            (own + factor::dot(&w_p.values[row * rest..][..rest], &unexplained)) as f32
        });
        let refitted = (rows.chunks_exact(n).enumerate())
            .flat_map(|(row, fitted)| fitted.iter().zip(&k).map(move |(x, &c)| (weight(row, c) + x) as f32));
        let prior = metric.map(|metric| {
            let weights = Weights { own: w_p, refit: View::rows(rows, n) };
            FoldPrior {
                means: k.iter().map(|&c| self.means[c]).collect(),
                metric: match metric {
                    AdaptMetric::Diagonal => diagonal,
                    AdaptMetric::Full => inverse(&factor, n),
                },
                error: weights.error([out, n], [&entries(&p, &p), g_pk.values, &entries(&k, &k)]),
                pruned_share: rest as f64 / width as f64,
                variance: {
                    let weight: Vec<f64> = self.weight.iter().map(|&w| f64::from(w)).collect();
                    let weight = View::rows(&weight, width);
                    trace(weight, covariance, weight, [out, width, width])
                },
            }
        });
        FoldedBlock { weight: refitted.collect(), bias: bias.collect(), kept, prior }
    }
}

/// The inverse of L·Lᵀ (n, n).
fn inverse(factor: &[f64], n: usize) -> Vec<f32> {
    let mut inverse = vec![0.0; n * n];
    (0..n).for_each(|i| inverse[i * n + i] = 1.0);
    solve(factor, n, &mut inverse);
    inverse.into_iter().map(|x| x as f32).collect()
}

/// tr(A·G·Bᵀ) for A (out, rows), G (rows, columns) and B (out, columns).
fn trace(a: View<'_, f64>, g: &[f64], b: View<'_, f64>, [out, rows, columns]: [usize; 3]) -> f64 {
    let mut product = vec![0.0; out * columns];
    add_product_parallel(&mut product, columns, [out, columns, rows], 1.0, a, View::rows(g, columns));
    factor::dot(&product, b.values)
}

/// W_P (H, C − n) and W_P·M (H, n).
struct Weights<'a> {
    own: View<'a, f64>,
    refit: View<'a, f64>,
}

impl Weights<'_> {
    /// E‖W_P·(a_P − M·a_K)‖² for centred a: tr(W_P·(G_PP − M·G_KP − G_PK·Mᵀ + M·G_KK·Mᵀ)·W_Pᵀ). `moments` are G_PP, G_PK
    /// and G_KK.
    fn error(&self, [out, n]: [usize; 2], [pp, pk, kk]: [&[f64]; 3]) -> f64 {
        let rest = self.own.values.len() / out.max(1);
        trace(self.own, pp, self.own, [out, rest, rest])
            - 2.0 * trace(self.own, pk, self.refit, [out, rest, n])
            + trace(self.refit, kk, self.refit, [out, n, n])
    }
}
