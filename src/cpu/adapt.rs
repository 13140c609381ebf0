//! Corrections of folds (docs/method.md, section 13). With S = U·Fᵀ + c·o·oᵀ + I = L·Lᵀ for the features F, their images
//! U = F·P and the constant feature o, all that is needed comes from V = L⁻¹·U, G = L⁻¹·E and v = L⁻¹·o:
//! W'ᵀ += Vᵀ·G, P −= Vᵀ·V, and b' += (c·v − V·μ_K)ᵀ·G, since c·vᵀ·G is added to the output at the mean.

use std::ops::Range;

use rayon::prelude::*;

use super::{Cpu, math};
use crate::{
    backend::{AdaptOperands, AdaptScratch, Linear, Precision},
    products::{View, add_product, add_product_parallel},
    prune::fold::factor::cholesky,
};

/// Columns that one task solves for.
const COLUMNS: usize = 96;
/// Rows that are solved, or stored, together.
const ROWS: usize = 32;

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
    let AdaptScratch { features, images, errors, gram, at_mean, fault: _ } = scratch;
    let (features, images, errors) = (&mut features[..t * n], &mut images[..t * n], &mut errors[..t * h]);
    let (gram, ones) = gram[..t * (t + 1)].split_at_mut(t * t);
    let (weight, bias, means) = (&mut weight[..n * h], &mut bias[..h], &means[..n]);
    let is_token = |row: usize| mask.is_none_or(|mask| mask[row] != 0);
    for (row, one) in ones.iter_mut().enumerate() {
        *one = f32::from(u8::from(is_token(row)));
    }

    // F, and E = target − (output at the mean) − F·W'ᵀ.
    let width = kept.of * kept.block_width;
    cpu.rows(features, n, |row, out| {
        let a = if is_token(row) { &a[row * width..][..width] } else { return out.fill(0.0) };
        let blocks = &kept.indices[..kept.len];
        match kept.block_width {
            1 => out.iter_mut().zip(blocks).for_each(|(out, &channel)| *out = a[channel as usize]),
            width => out.chunks_exact_mut(width).zip(blocks).for_each(|(out, &block)| {
                out.copy_from_slice(&a[block as usize * width..][..width]);
            }),
        }
        out.iter_mut().zip(means).for_each(|(x, mean)| *x -= mean);
    });
    let at_mean = &mut at_mean[..h];
    at_mean.copy_from_slice(bias);
    add_product_parallel(at_mean, h, [1, h, n], 1.0, View::rows(means, n), View::rows(weight, h));
    cpu.rows(errors, h, |row, out| {
        let target = if is_token(row) { &target[row * h..][..h] } else { return out.fill(0.0) };
        out.iter_mut().zip(target).zip(&*at_mean).for_each(|((out, y), mean)| *out = y - mean);
    });
    let of_features = View::rows(&*features, n);
    add_product_parallel(errors, h, [t, h, n], -1.0, of_features, View::rows(weight, h));
    let squares: f64 = errors.chunks_exact(h).map(|row| f64::from(squares(cpu, row))).sum();
    error[0] = (squares / f64::from(ones.iter().sum::<f32>().max(1.0))) as f32;
    if !error[0].is_finite() {
        return;
    }

    // U and S.
    match &*precision {
        Precision::Full(p) => {
            images.fill(0.0);
            add_product_parallel(images, n, [t, n, n], 1.0, of_features, View::rows(&p[..n * n], n));
        }
        Precision::Diagonal(p) => cpu.rows(images, n, |row, out| {
            let features = &features[row * n..][..n];
            out.iter_mut().zip(features).zip(&p[..n]).for_each(|((out, x), p)| *out = x * p);
        }),
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
    substitute(cpu, gram, t, [(images, n), (errors, h), (ones, 1)]);

    // b', W' and P.
    let images = View::rows(&*images, n);
    for (row, shift) in ones.iter_mut().enumerate() {
        *shift = bias_gain * *shift - dot(cpu, &images.values[row * n..][..n], means);
    }
    let errors = View::rows(&*errors, h);
    add_product_parallel(bias, h, [1, h, t], 1.0, View::rows(&*ones, t), errors);
    add_product_parallel(weight, h, [n, h, t], 1.0, images.transposed(), errors);
    match precision {
        Precision::Full(p) => shrink(&mut p[..n * n], n, t, images, forgetting),
        Precision::Diagonal(p) => shrink_diagonal(cpu, &mut p[..n], features, forgetting),
    }
    store(cpu, weight, n, h, last);
}

/// Σ x².
fn squares(cpu: &Cpu, x: &[f32]) -> f32 {
    cpu.vectorized(
        #[inline(always)]
        || math::sum(x, |x| x * x),
    )
}

fn dot(cpu: &Cpu, a: &[f32], b: &[f32]) -> f32 {
    cpu.vectorized(
        #[inline(always)]
        || math::dot(a, b),
    )
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
fn shrink_diagonal(cpu: &Cpu, p: &mut [f32], features: &[f32], forgetting: f32) {
    let mut squares = vec![0.0f32; p.len()];
    cpu.vectorized(
        #[inline(always)]
        || {
            for row in features.chunks_exact(p.len()) {
                squares.iter_mut().zip(row).for_each(|(sum, x)| *sum += x * x);
            }
            p.iter_mut().zip(&squares).for_each(|(p, squares)| *p /= forgetting * (1.0 + *p * squares));
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

/// L⁻¹·X for some X (t, columns), in place; L (t, t) is the lower triangle of `factor`.
fn substitute<const N: usize>(cpu: &Cpu, factor: &[f32], t: usize, matrices: [(&mut [f32], usize); N]) {
    // Columns are independent: each task takes some of them out, and they are put back when all are solved.
    let ranges = |n: usize| (0..n).step_by(COLUMNS).map(move |first| first..n.min(first + COLUMNS));
    let tasks: Vec<_> =
        matrices.iter().flat_map(|(x, n)| ranges(*n).map(move |columns| (&**x, *n, columns))).collect();
    let solved: Vec<Vec<f32>> =
        tasks.into_par_iter().map(|(x, n, columns)| solve(cpu, factor, t, x, n, columns)).collect();
    let mut solved = solved.iter();
    for (x, n) in matrices {
        for (columns, part) in ranges(n).zip(&mut solved) {
            for (x, part) in x.chunks_exact_mut(n).zip(part.chunks_exact(columns.len())) {
                x[columns.clone()].copy_from_slice(part);
            }
        }
    }
}

/// Some columns of L⁻¹·X for X (t, n).
fn solve(cpu: &Cpu, factor: &[f32], t: usize, x: &[f32], n: usize, columns: Range<usize>) -> Vec<f32> {
    let width = columns.len();
    let mut part = Vec::with_capacity(t * width);
    x.chunks_exact(n).for_each(|row| part.extend_from_slice(&row[columns.clone()]));
    for first in (0..t).step_by(ROWS) {
        let rows = ROWS.min(t - first);
        let (done, rest) = part.split_at_mut(first * width);
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
    part
}

/// W' (H, n) in the model's dtype from W'ᵀ (n, H).
fn store(cpu: &Cpu, weight: &[f32], n: usize, h: usize, last: &mut Linear<Cpu>) {
    last.weight.tensor.store_rows(ROWS, |first, out| {
        let columns = out.len() / n;
        cpu.vectorized(
            #[inline(always)]
            || {
                for row in (0..n).step_by(ROWS) {
                    let shape = [ROWS.min(n - row), columns];
                    math::transpose(&weight[row * h + first..], h, shape, &mut out[row..], n);
                }
            },
        );
    });
}
