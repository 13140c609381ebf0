//! Corrections of folds (docs/method.md, section 13). With S = U·Fᵀ + c·o·oᵀ + I = L·Lᵀ for the features F, their images
//! U = F·P and the constant feature o, all that is needed comes from V = L⁻¹·U, G = L⁻¹·E and v = L⁻¹·o:
//! W' += Gᵀ·V, P −= Vᵀ·V, and b' += Gᵀ·(c·v − V·μ_K), since c·Gᵀ·v is added to the output at the mean.
//!
//! F, U, V, E and G lie transposed, with a column for every token: products with W' (H, n) are fastest then.

use rayon::prelude::*;

use super::{
    Cpu, math,
    matrix::{Pick, picked},
};
use crate::{
    backend::{AdaptOperands, AdaptScratch, Precision},
    checkpoint::round_into,
    products::{View, add_product, add_product_parallel},
    prune::fold::factor::cholesky,
};

/// Tasks that share W', and the most rows of it that one of them takes: what a product changes is rounded while it is in cache.
const TASKS: usize = 4;
const TASK_ROWS: usize = 256;
/// Rows that one task solves for.
const SOLVED: usize = 96;
/// Entries of a row that are solved together.
const TOGETHER: usize = 32;
/// Channels that one task gathers, and tokens at a time.
const GATHERED: usize = 64;
const TOKENS: usize = 16;

pub(super) fn adapt(cpu: &Cpu, operands: AdaptOperands<'_, Cpu>) {
    cpu.pool.install(|| correct(cpu, operands));
}

fn correct(cpu: &Cpu, operands: AdaptOperands<'_, Cpu>) {
    let AdaptOperands {
        a,
        target,
        rows: t,
        mask,
        kept,
        means,
        precision,
        bias_gain,
        forgetting,
        weight,
        bias,
        last,
        error,
        scratch,
    } = operands;
    let (n, h) = (kept.channels(), last.out_features);
    let AdaptScratch { features, images, errors, gram, at_mean: _, fault: _ } = scratch;
    let (features, images, errors) = (&mut features[..n * t], &mut images[..n * t], &mut errors[..h * t]);
    let (gram, ones) = gram[..t * (t + 1)].split_at_mut(t * t);
    let (weight, bias, means) = (&mut weight[..h * n], &mut bias[..h], &means[..n]);
    for (row, one) in ones.iter_mut().enumerate() {
        *one = f32::from(u8::from(mask.is_none_or(|mask| mask[row] != 0)));
    }
    let task_rows = h.div_ceil(TASKS * h.div_ceil(TASKS * TASK_ROWS));

    // F, and E = target − (output at the mean) − F·W'ᵀ.
    let width = kept.of * kept.block_width;
    gather(cpu, a, width, picked(Some(kept), width), means, ones, features);
    let of_features = View::rows(&*features, t);
    let sums: Vec<f64> = errors
        .par_chunks_mut(task_rows * t)
        .zip(weight.par_chunks(task_rows * n))
        .zip(bias.par_chunks(task_rows))
        .enumerate()
        .map(|(task, ((errors, weight), bias))| {
            deviations(cpu, &target[task * task_rows..], h, (weight, bias), means, ones, errors);
            add_product(errors, t, [bias.len(), t, n], -1.0, View::rows(weight, n), of_features);
            cpu.vectorized(
                #[inline(always)]
                || errors.chunks_exact(t).map(|row| f64::from(math::sum(row, |x| x * x))).sum::<f64>(),
            )
        })
        .collect();
    error[0] = (sums.iter().sum::<f64>() / f64::from(ones.iter().sum::<f32>().max(1.0))) as f32;
    if !error[0].is_finite() {
        return;
    }

    // U and S.
    match &*precision {
        Precision::Full(p) => {
            images.fill(0.0);
            let p = View::rows(&p[..n * n], n).transposed();
            add_product_parallel(images, t, [n, t, n], 1.0, p, of_features);
        }
        Precision::Diagonal(p) => cpu.rows(images, t, |channel, out| {
            let features = &features[channel * t..][..t];
            out.iter_mut().zip(features).for_each(|(out, x)| *out = x * p[channel]);
        }),
    }
    for (i, row) in gram.chunks_exact_mut(t).enumerate() {
        for (j, s) in row.iter_mut().enumerate() {
            *s = bias_gain * ones[i] * ones[j] + f32::from(u8::from(i == j));
        }
    }
    let of_images = View::rows(&*images, t).transposed();
    add_product_parallel(gram, t, [t, t, n], 1.0, of_images, of_features);
    if !gram.iter().all(|s| s.is_finite()) {
        return;
    }

    factor(gram, t);
    let rows = SOLVED * t;
    let solved = images.par_chunks_mut(rows).chain(errors.par_chunks_mut(rows)).chain(ones.par_chunks_mut(t));
    solved.for_each(|rows| solve(cpu, gram, t, rows));

    // P, W' and b'.
    let shift = ones;
    cpu.vectorized(
        #[inline(always)]
        || {
            shift.iter_mut().for_each(|x| *x *= bias_gain);
            for (image, mean) in images.chunks_exact(t).zip(means) {
                shift.iter_mut().zip(image).for_each(|(x, image)| *x -= mean * image);
            }
        },
    );
    let images = View::rows(&*images, t);
    match precision {
        Precision::Full(p) => shrink(&mut p[..n * n], n, t, images, forgetting),
        Precision::Diagonal(p) => shrink_diagonal(cpu, &mut p[..n], features, forgetting),
    }
    let dtype = last.weight.tensor.dtype();
    weight
        .par_chunks_mut(task_rows * n)
        .zip(last.weight.tensor.own_bytes().par_chunks_mut(task_rows * n * dtype.size()))
        .zip(bias.par_chunks_mut(task_rows))
        .zip(errors.par_chunks(task_rows * t))
        .for_each(|(((weight, rounded), bias), errors)| {
            let shape = [bias.len(), n, t];
            add_product(weight, n, shape, 1.0, View::rows(errors, t), images.transposed());
            cpu.vectorized(
                #[inline(always)]
                || {
                    for (bias, errors) in bias.iter_mut().zip(errors.chunks_exact(t)) {
                        *bias += math::dot(errors, shift);
                    }
                    round_into(dtype, weight, rounded);
                },
            );
        });
}

/// F: the picked channels of every token less their means; 0 for a pad.
fn gather(
    cpu: &Cpu,
    a: &[f32],
    width: usize,
    channels: Pick<'_>,
    means: &[f32],
    is_token: &[f32],
    features: &mut [f32],
) {
    let t = is_token.len();
    features.par_chunks_mut(GATHERED * t).zip(means.par_chunks(GATHERED)).enumerate().for_each(
        |(task, (features, means))| {
            let index = |i: usize| channels.index(task * GATHERED + i).expect("no block is skipped");
            let indices: Vec<usize> = (0..means.len()).map(index).collect();
            let mut tile = [0.0; TOKENS * GATHERED];
            for first in (0..t).step_by(TOKENS) {
                let tokens = TOKENS.min(t - first);
                for (row, tile) in tile.chunks_exact_mut(GATHERED).enumerate().take(tokens) {
                    if is_token[first + row] == 0.0 {
                        tile.fill(0.0);
                        continue;
                    }
                    let a = &a[(first + row) * width..][..width];
                    for ((x, &channel), mean) in tile.iter_mut().zip(&indices).zip(means) {
                        *x = a[channel] - mean;
                    }
                }
                cpu.vectorized(
                    #[inline(always)]
                    || math::transpose(&tile, GATHERED, [tokens, means.len()], &mut features[first..], t),
                );
            }
        },
    );
}

/// What some outputs of the tokens, in columns of `target` (T_p, H), differ by from the fold's output at the mean; 0 for pads.
fn deviations(
    cpu: &Cpu,
    target: &[f32],
    h: usize,
    (weight, bias): (&[f32], &[f32]),
    means: &[f32],
    is_token: &[f32],
    out: &mut [f32],
) {
    let (n, t) = (means.len(), is_token.len());
    cpu.vectorized(
        #[inline(always)]
        || {
            math::transpose(target, h, [t, bias.len()], out, t);
            for ((out, weight), bias) in out.chunks_exact_mut(t).zip(weight.chunks_exact(n)).zip(bias) {
                let at_mean = bias + math::dot(weight, means);
                for (x, is_token) in out.iter_mut().zip(is_token) {
                    *x = if *is_token == 0.0 { 0.0 } else { *x - at_mean };
                }
            }
        },
    );
}

/// P = (P − Vᵀ·V) / forgetting, symmetric to the bit.
fn shrink(p: &mut [f32], n: usize, t: usize, images: View<'_, f32>, forgetting: f32) {
    add_product_parallel(p, n, [n, n, t], -1.0, images, images.transposed());
    if forgetting != 1.0 {
        p.par_iter_mut().for_each(|x| *x /= forgetting);
    }
    for i in 0..n {
        for j in 0..i {
            let mean = 0.5 * (p[i * n + j] + p[j * n + i]);
            (p[i * n + j], p[j * n + i]) = (mean, mean);
        }
    }
}

/// The diagonal of P⁻¹ gains that of Fᵀ·F: P = P / (1 + P·Σ f²) / forgetting for every channel's features.
fn shrink_diagonal(cpu: &Cpu, p: &mut [f32], features: &[f32], forgetting: f32) {
    let t = features.len() / p.len();
    cpu.vectorized(
        #[inline(always)]
        || {
            for (p, features) in p.iter_mut().zip(features.chunks_exact(t)) {
                *p /= forgetting * (1.0 + *p * math::sum(features, |x| x * x));
            }
        },
    );
}

/// The lower Cholesky factor of S (t, t), in place. Its pivots are at least 1 because S is at least I: rounding that says
/// otherwise has no say.
fn factor(s: &mut [f32], t: usize) {
    let mut wide: Vec<f64> = s.iter().map(|&x| x.into()).collect();
    cholesky(&mut wide, t, 1.0);
    s.iter_mut().zip(wide).for_each(|(x, y)| *x = y as f32);
}

/// Rows L⁻¹·x for some rows x (T_p) of a matrix, in place; L (T_p, T_p) is the lower triangle of `factor`.
fn solve(cpu: &Cpu, factor: &[f32], t: usize, x: &mut [f32]) {
    let width = x.len() / t;
    let mut columns = vec![0.0; x.len()];
    cpu.vectorized(
        #[inline(always)]
        || math::transpose(x, t, [width, t], &mut columns, width),
    );
    for first in (0..t).step_by(TOGETHER) {
        let rows = TOGETHER.min(t - first);
        let (done, rest) = columns.split_at_mut(first * width);
        let left = View::rows(&factor[first * t..], t);
        add_product(rest, width, [rows, width, first], -1.0, left, View::rows(done, width));
        cpu.vectorized(
            #[inline(always)]
            || {
                for i in 0..rows {
                    let (done, rest) = rest.split_at_mut(i * width);
                    let row = &mut rest[..width];
                    let left = &factor[(first + i) * t + first..];
                    for (known, &l) in done.chunks_exact(width).zip(left) {
                        row.iter_mut().zip(known).for_each(|(x, y)| *x -= l * y);
                    }
                    row.iter_mut().for_each(|x| *x /= left[i]);
                }
            },
        );
    }
    cpu.vectorized(
        #[inline(always)]
        || math::transpose(&columns, width, [t, width], x, t),
    );
}
