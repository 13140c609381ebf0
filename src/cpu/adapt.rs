//! Corrections of folds (docs/method.md, section 13). With S = U·Fᵀ + c·o·oᵀ + I = L·Lᵀ for the features F, their images
//! U = F·P and the constant feature o, all that is needed comes from V = L⁻¹·U, G = L⁻¹·E and v = L⁻¹·o:
//! W' += Gᵀ·V, P −= Vᵀ·V, and b' += Gᵀ·(c·v − V·μ_K), since c·Gᵀ·v is added to the output at the mean.
//!
//! Every product has the form of [`RowsProduct`], without copies: W' (H, n) and E (H, T_p) have a row for every output, U and V
//! (T_p, n) one for every token, F (n, T_p) one for every channel.

use rayon::prelude::*;

use super::{
    Cpu,
    factor::inverse_factor,
    math,
    matrix::{Pick, picked},
    product::{Rows, RowsProduct},
    vector,
};
use crate::{
    backend::{AdaptOperands, AdaptScratch, Precision},
    checkpoint::round_into,
    products::{View, add_product_parallel},
};

/// Rows of W', E or U that one task takes: what a product changes is rounded while it is in cache.
const TASK_ROWS: usize = 48;
/// Rows of S or V that one task takes: a block of the micro-kernel, since those of a triangle differ in length.
const TASK_TOKENS: usize = 6;
/// Channels that one task transposes.
const TRANSPOSED: usize = 64;

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

    // F, and −E = F·W'ᵀ + (output at the mean) − target.
    let width = kept.of * kept.block_width;
    let channels = picked(Some(kept), width);
    cpu.rows(images, n, |row, out| gather(&a[row * width..][..width], channels, means, ones[row], out));
    features.par_chunks_mut(TRANSPOSED * t).enumerate().for_each(|(task, features)| {
        let shape = [t, features.len() / t];
        cpu.vectorized(
            #[inline(always)]
            || math::transpose(&images[task * TRANSPOSED..], n, shape, features, t),
        );
    });
    let of_features = Rows { values: features, stride: t };
    let sums: Vec<f64> = errors
        .par_chunks_mut(TASK_ROWS * t)
        .zip(weight.par_chunks(TASK_ROWS * n))
        .zip(bias.par_chunks(TASK_ROWS))
        .enumerate()
        .map(|(task, ((errors, weight), bias))| {
            deviations(cpu, &target[task * TASK_ROWS..], h, (weight, bias), means, ones, errors);
            let x = Rows { values: weight, stride: n };
            multiply(cpu, [bias.len(), t, n], x, of_features, (errors, t), true);
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

    // U, and the upper triangle of S.
    match &*precision {
        Precision::Full(p) => images.par_chunks_mut(TASK_ROWS * n).for_each(|rows| {
            let features = rows.to_vec();
            let (x, panel) = (Rows { values: &features, stride: n }, Rows { values: &p[..n * n], stride: n });
            multiply(cpu, [rows.len() / n, n, n], x, panel, (rows, n), false);
        }),
        Precision::Diagonal(p) => {
            cpu.rows(images, n, |_, row| cpu.arch.dispatch(vector::Multiply(row, &p[..n])))
        }
    }
    gram.par_chunks_mut(TASK_TOKENS * t).enumerate().for_each(|(task, gram)| {
        let first = task * TASK_TOKENS;
        for (i, row) in gram.chunks_exact_mut(t).enumerate() {
            for (j, s) in row.iter_mut().enumerate() {
                *s = bias_gain * ones[first + i] * ones[j] + f32::from(u8::from(first + i == j));
            }
        }
        let x = Rows { values: &images[first * n..], stride: n };
        let panel = Rows { values: &features[first..], stride: t };
        multiply(cpu, [gram.len() / t, t - first, n], x, panel, (&mut gram[first..], t), true);
    });
    if !gram.iter().all(|s| s.is_finite()) {
        return;
    }

    // L⁻¹ and −L⁻ᵀ. The pivots are at least 1 because S is at least I: rounding that says otherwise has no say.
    let inverse = inverse_factor(cpu, gram, t, 1.0);
    let lower = gram;
    let mut upper = vec![0.0; t * t];
    for (i, row) in inverse.rows().enumerate() {
        for (j, &x) in row.iter().enumerate() {
            (lower[i * t + j], upper[j * t + i]) = (x as f32, -x as f32);
        }
    }
    let upper = Rows { values: &upper, stride: t };

    // P, V where F was, and c·v − V·μ_K.
    if let Precision::Diagonal(p) = &mut *precision {
        shrink_diagonal(cpu, &mut p[..n], features, forgetting);
    }
    let (of_images, solved) = (Rows { values: images, stride: n }, features);
    solved.par_chunks_mut(TASK_TOKENS * n).enumerate().for_each(|(task, solved)| {
        let (first, rows) = (task * TASK_TOKENS, solved.len() / n);
        let x = Rows { values: &lower[first * t..], stride: t };
        multiply(cpu, [rows, n, first + rows], x, of_images, (solved, n), false);
    });
    let shift: Vec<f32> = (solved.par_chunks_exact(n).zip(lower.par_chunks_exact(t)))
        .map(|(solved, lower)| {
            cpu.vectorized(
                #[inline(always)]
                || bias_gain * math::dot(lower, ones) - math::dot(solved, means),
            )
        })
        .collect();
    if let Precision::Full(p) = precision {
        shrink(&mut p[..n * n], n, t, View::rows(solved, n), forgetting);
    }

    // G, W' and b'.
    let dtype = last.weight.tensor.dtype();
    let solved = Rows { values: solved, stride: n };
    weight
        .par_chunks_mut(TASK_ROWS * n)
        .zip(last.weight.tensor.own_bytes().par_chunks_mut(TASK_ROWS * n * dtype.size()))
        .zip(bias.par_chunks_mut(TASK_ROWS))
        .zip(errors.par_chunks(TASK_ROWS * t))
        .for_each(|(((weight, rounded), bias), errors)| {
            let mut gains = vec![0.0; errors.len()];
            let x = Rows { values: errors, stride: t };
            multiply(cpu, [bias.len(), t, t], x, upper, (&mut gains, t), false);
            let x = Rows { values: &gains, stride: t };
            multiply(cpu, [bias.len(), n, t], x, solved, (weight, n), true);
            cpu.vectorized(
                #[inline(always)]
                || {
                    for (bias, gains) in bias.iter_mut().zip(gains.chunks_exact(t)) {
                        *bias += math::dot(gains, &shift);
                    }
                    round_into(dtype, weight, rounded);
                },
            );
        });
}

/// out (m, n; rows `stride` apart) = x (m, k) · panel (k, n), or what it holds plus that.
fn multiply(
    cpu: &Cpu,
    size: [usize; 3],
    x: Rows<'_>,
    panel: Rows<'_>,
    (out, stride): (&mut [f32], usize),
    accumulate: bool,
) {
    cpu.arch.dispatch(RowsProduct { size, x, panel, out, stride, accumulate });
}

/// The picked channels of a token less their means; 0 for a pad.
fn gather(a: &[f32], channels: Pick<'_>, means: &[f32], is_token: f32, out: &mut [f32]) {
    if is_token == 0.0 {
        return out.fill(0.0);
    }
    if let Pick::Blocks { indices, block_width: 1 } = channels {
        for ((x, &channel), mean) in out.iter_mut().zip(indices).zip(means) {
            *x = a[channel as usize] - mean;
        }
        return;
    }
    channels.runs(0, means.len(), |first, channel, length| {
        let (out, means) = (&mut out[first..][..length], &means[first..]);
        for ((x, a), mean) in out.iter_mut().zip(&a[channel..]).zip(means) {
            *x = a - mean;
        }
    });
}

/// The fold's output at the mean less some outputs of the tokens, which are columns of `target` (T_p, H); 0 for pads.
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
                    *x = if *is_token == 0.0 { 0.0 } else { at_mean - *x };
                }
            }
        },
    );
}

/// P = (P − Vᵀ·V) / forgetting, symmetric to the bit.
fn shrink(p: &mut [f32], n: usize, t: usize, solved: View<'_, f32>, forgetting: f32) {
    add_product_parallel(p, n, [n, n, t], -1.0, solved.transposed(), solved);
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
