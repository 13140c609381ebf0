//! Corrections of folds (docs/method.md, section 13). With S = U·Fᵀ + c·o·oᵀ + I = L·Lᵀ for the features F, their images
//! U = F·P and the constant feature o, all that is needed comes from V = L⁻¹·U, G = L⁻¹·E and v = L⁻¹·o:
//! W'ᵀ += Vᵀ·G, P −= Vᵀ·V, and c·vᵀ·G is added to the output at the mean.

use rayon::prelude::*;

use super::Cpu;
use crate::{
    backend::{AdaptOperands, AdaptScratch, Precision},
    products::{View, add_product, add_product_parallel},
    prune::fold::factor::cholesky,
};

/// Columns that one task solves for.
const COLUMNS: usize = 128;
/// Rows that are solved, or stored, together.
const ROWS: usize = 32;

pub(super) fn adapt(cpu: &Cpu, operands: AdaptOperands<'_, Cpu>) {
    cpu.pool.install(|| correct(operands));
}

fn correct(operands: AdaptOperands<'_, Cpu>) {
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
    let AdaptScratch { features, images, errors, gram, at_mean, fault: _ } = scratch;
    let (features, images, errors) = (&mut features[..t * n], &mut images[..t * n], &mut errors[..t * h]);
    let (gram, ones) = gram[..t * (t + 1)].split_at_mut(t * t);
    let weight = &mut weight[..n * h];
    let is_token = |row: usize| mask.is_none_or(|mask| mask[row] != 0);
    for (row, one) in ones.iter_mut().enumerate() {
        *one = f32::from(u8::from(is_token(row)));
    }

    // F, and E = target − (output at the mean) − F·W'ᵀ.
    let width = kept.of * kept.block_width;
    let channels = || {
        let blocks = kept.indices[..kept.len].iter();
        blocks.flat_map(|&block| block as usize * kept.block_width..(block as usize + 1) * kept.block_width)
    };
    features.par_chunks_exact_mut(n).zip(a.par_chunks_exact(width)).enumerate().for_each(
        |(row, (out, a))| {
            if is_token(row) {
                out.iter_mut()
                    .zip(channels())
                    .zip(&means[..n])
                    .for_each(|((out, c), mean)| *out = a[c] - mean);
            } else {
                out.fill(0.0);
            }
        },
    );
    let at_mean = &mut at_mean[..h];
    at_mean.copy_from_slice(&bias[..h]);
    add_product_parallel(at_mean, h, [1, h, n], 1.0, View::rows(&means[..n], n), View::rows(weight, h));
    errors.par_chunks_exact_mut(h).zip(target.par_chunks_exact(h)).enumerate().for_each(
        |(row, (out, target))| {
            if is_token(row) {
                out.iter_mut().zip(target).zip(&*at_mean).for_each(|((out, y), mean)| *out = y - mean);
            } else {
                out.fill(0.0);
            }
        },
    );
    let of_features = View::rows(&*features, n);
    add_product_parallel(errors, h, [t, h, n], -1.0, of_features, View::rows(weight, h));
    let squares: f64 = errors.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    let tokens = ones.iter().sum::<f32>();
    error[0] = (squares / f64::from(tokens.max(1.0))) as f32;
    if !error[0].is_finite() {
        return;
    }

    // U and S.
    match &*precision {
        Precision::Full(p) => {
            images.fill(0.0);
            add_product_parallel(images, n, [t, n, n], 1.0, of_features, View::rows(&p[..n * n], n));
        }
        Precision::Diagonal(p) => {
            images.par_chunks_exact_mut(n).zip(features.par_chunks_exact(n)).for_each(|(out, row)| {
                out.iter_mut().zip(row).zip(&p[..n]).for_each(|((out, x), p)| *out = x * p);
            });
        }
    }
    for (i, row) in gram.chunks_exact_mut(t).enumerate() {
        for (j, s) in row.iter_mut().enumerate() {
            *s = bias_gain * ones[i] * ones[j] + f32::from(u8::from(i == j));
        }
    }
    add_product_parallel(gram, t, [t, t, n], 1.0, View::rows(&*images, n), of_features.transposed());
    if !gram.iter().all(|s| s.is_finite()) {
        return;
    }

    factor(gram, t);
    substitute(gram, t, images, n);
    substitute(gram, t, errors, h);
    substitute(gram, t, ones, 1);

    // The output at the mean, W', and b' from both.
    add_product_parallel(at_mean, h, [1, h, t], bias_gain, View::rows(&*ones, t), View::rows(&*errors, h));
    let images = View::rows(&*images, n);
    add_product_parallel(weight, h, [n, h, t], 1.0, images.transposed(), View::rows(&*errors, h));
    bias[..h].copy_from_slice(at_mean);
    let weight = &*weight;
    add_product_parallel(
        &mut bias[..h],
        h,
        [1, h, n],
        -1.0,
        View::rows(&means[..n], n),
        View::rows(weight, h),
    );
    match precision {
        Precision::Full(p) => shrink(&mut p[..n * n], n, t, images, forgetting),
        Precision::Diagonal(p) => shrink_diagonal(&mut p[..n], features, forgetting),
    }
    store(weight, n, h, last);
}

/// P = (P − Vᵀ·V) / forgetting, symmetric to the bit.
fn shrink(p: &mut [f32], n: usize, t: usize, images: View<'_, f32>, forgetting: f32) {
    add_product_parallel(p, n, [n, n, t], -1.0, images.transposed(), images);
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

/// The diagonal of P⁻¹ gains that of Fᵀ·F: P = P / (1 + P·Σ f²) / forgetting for every column of F.
fn shrink_diagonal(p: &mut [f32], features: &[f32], forgetting: f32) {
    let mut squares = vec![0.0f32; p.len()];
    for row in features.chunks_exact(p.len()) {
        squares.iter_mut().zip(row).for_each(|(sum, x)| *sum += x * x);
    }
    p.iter_mut().zip(squares).for_each(|(p, squares)| *p /= forgetting * (1.0 + *p * squares));
}

/// The lower Cholesky factor of S (t, t), in place. Its pivots are at least 1 because S is at least I: rounding that says
/// otherwise has no say.
fn factor(s: &mut [f32], t: usize) {
    let mut wide: Vec<f64> = s.iter().map(|&x| x.into()).collect();
    cholesky(&mut wide, t, 1.0);
    s.iter_mut().zip(wide).for_each(|(x, y)| *x = y as f32);
}

/// L⁻¹·X for X (t, n), in place; L (t, t) is the lower triangle of `factor`.
fn substitute(factor: &[f32], t: usize, x: &mut [f32], n: usize) {
    // Columns are independent: each task takes some of them out, and puts them back when they are solved.
    let solved: Vec<Vec<f32>> = (0..n.div_ceil(COLUMNS))
        .into_par_iter()
        .map(|task| {
            let columns = task * COLUMNS..n.min((task + 1) * COLUMNS);
            let width = columns.len();
            let mut part: Vec<f32> =
                x.chunks_exact(n).flat_map(|row| &row[columns.clone()]).copied().collect();
            for first in (0..t).step_by(ROWS) {
                let rows = ROWS.min(t - first);
                let (done, rest) = part.split_at_mut(first * width);
                let left = View::rows(&factor[first * t..], t);
                add_product(rest, width, [rows, width, first], -1.0, left, View::rows(done, width));
                for i in 0..rows {
                    let (done, rest) = rest.split_at_mut(i * width);
                    let row = &mut rest[..width];
                    let left = &factor[(first + i) * t + first..];
                    for (known, &l) in done.chunks_exact(width).zip(left) {
                        row.iter_mut().zip(known).for_each(|(x, y)| *x -= l * y);
                    }
                    row.iter_mut().for_each(|x| *x /= left[i]);
                }
            }
            part
        })
        .collect();
    for (row, x) in x.chunks_exact_mut(n).enumerate() {
        for (to, part) in x.chunks_mut(COLUMNS).zip(&solved) {
            to.copy_from_slice(&part[row * to.len()..][..to.len()]);
        }
    }
}

/// W' (H, n) in the model's dtype from W'ᵀ (n, H).
fn store(weight: &[f32], n: usize, h: usize, last: &mut crate::backend::Linear<Cpu>) {
    last.weight.tensor.store_rows(ROWS, |first, out| {
        let rows = out.len() / n;
        for (k, from) in weight.chunks_exact(h).take(n).enumerate() {
            let from = &from[first..first + rows];
            out[k..].iter_mut().step_by(n).zip(from).for_each(|(to, &x)| *to = x);
        }
    });
}
