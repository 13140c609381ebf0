//! Row-wise operations: embedding, norms, activations, rotary positions, cross-entropy.

use rayon::prelude::*;

use super::{Cpu, math, product, vector};
use crate::{
    backend::{
        CacheSlots, CrossEntropyOperands, EmbedOperands, Norm, NormKind, NormOperands, RopeCacheOperands,
    },
    config::Activation,
};

pub(super) fn embed(cpu: &Cpu, operands: EmbedOperands<'_, Cpu>) {
    let EmbedOperands { table, tokens, position_table, rows, out } = operands;
    let width = table.columns;
    cpu.rows(&mut out[..rows * width], width, |t, out| {
        table.row_to_f32(tokens[t] as usize, 0, out);
        if let Some((table, positions)) = position_table {
            cpu.with_scratch(|scratch| {
                let row = &mut scratch.panel[..width];
                table.row_to_f32(positions[t] as usize, 0, row);
                cpu.arch.dispatch(vector::Add(out, row));
            });
        }
    });
}

pub(super) fn norm(cpu: &Cpu, operands: NormOperands<'_, Cpu>) {
    let NormOperands { x, norm, rows, hidden_size, out, sum_squares } = operands;
    cpu.pool.install(|| {
        (x[..rows * hidden_size].par_chunks_exact(hidden_size))
            .zip(out[..rows * hidden_size].par_chunks_exact_mut(hidden_size))
            .zip(&mut sum_squares[..rows])
            .with_min_len(16)
            .for_each(|((x, out), sum)| {
                cpu.vectorized(
                    #[inline(always)]
                    || *sum = norm_row(x, norm, out),
                )
            });
    });
}

/// out = norm(x); returns Σ x².
#[inline(always)]
fn norm_row(x: &[f32], norm: Option<&Norm<Cpu>>, out: &mut [f32]) -> f32 {
    let sum_squares = math::sum(x, |x| x * x);
    let Some(norm) = norm else {
        out.copy_from_slice(x);
        return sum_squares;
    };
    let n = x.len() as f32;
    match norm.kind {
        NormKind::Rms => {
            let scale = 1.0 / (sum_squares / n + norm.eps).sqrt();
            for (out, x) in out.iter_mut().zip(x) {
                *out = x * scale;
            }
        }
        NormKind::Layer => {
            let mean = math::sum(x, |x| x) / n;
            let variance = math::sum(x, |x| (x - mean) * (x - mean)) / n;
            let scale = 1.0 / (variance + norm.eps).sqrt();
            for (out, x) in out.iter_mut().zip(x) {
                *out = (x - mean) * scale;
            }
        }
    }
    if let Some(weight) = &norm.weight {
        for (out, weight) in out.iter_mut().zip(weight) {
            *out *= weight;
        }
    }
    if let Some(bias) = &norm.bias {
        for (out, bias) in out.iter_mut().zip(bias) {
            *out += bias;
        }
    }
    sum_squares
}

/// values = activation(values + bias\[first..\]) · scale.
#[inline(always)]
pub(super) fn bias_activation_scale(
    cpu: &Cpu,
    values: &mut [f32],
    bias: Option<&[f32]>,
    first: usize,
    activation: Option<Activation>,
    scale: f32,
) {
    if let Some(bias) = bias {
        cpu.arch.dispatch(vector::Add(values, &bias[first..]));
    }
    match activation {
        None => {}
        Some(Activation::Silu) => cpu.arch.dispatch(vector::Silu(values)),
        Some(Activation::Relu) => values.iter_mut().for_each(|x| *x = if *x < 0.0 { 0.0 } else { *x }),
        Some(Activation::Gelu) => {
            values
                .iter_mut()
                .for_each(|x| *x *= 0.5 * (1.0 + libm::erff(*x * std::f32::consts::FRAC_1_SQRT_2)));
        }
        Some(Activation::GeluTanh) => values.iter_mut().for_each(|x| {
            let inner = (2.0 / std::f32::consts::PI).sqrt() * (*x + 0.044715 * *x * *x * *x);
            *x *= 0.5 * (1.0 + inner.tanh());
        }),
    }
    if scale != 1.0 {
        values.iter_mut().for_each(|x| *x *= scale);
    }
}

pub(super) fn rope_cache(cpu: &Cpu, operands: RopeCacheOperands<'_, Cpu>) {
    let RopeCacheOperands { q, k, v, shape, heads, kv_heads, head_dim, rotary, cache } = operands;
    if let Some((table, positions)) = rotary {
        rope(cpu, q, shape.rows(), heads, head_dim, table, positions);
        rope(cpu, k, shape.rows(), kv_heads, head_dim, table, positions);
    }
    if let Some(CacheSlots { keys, values, capacity, at }) = cache {
        let width = kv_heads * head_dim;
        for (from, to) in [(&*k, keys), (v, values)] {
            let samples = from.chunks_exact(shape.tokens * width).take(shape.samples);
            for (from, to) in samples.zip(to.chunks_exact_mut(capacity * width)) {
                to[at * width..][..from.len()].copy_from_slice(from);
            }
        }
    }
}

fn rope(
    cpu: &Cpu,
    x: &mut [f32],
    rows: usize,
    heads: usize,
    head_dim: usize,
    table: &[f32],
    positions: &[u32],
) {
    let (width, half) = (heads * head_dim, head_dim / 2);
    cpu.rows(&mut x[..rows * width], width, |t, row| {
        let (cos, sin) = table[positions[t] as usize * head_dim..][..head_dim].split_at(half);
        cpu.vectorized(
            #[inline(always)]
            || {
                for head in row.chunks_exact_mut(head_dim) {
                    let (low, high) = head.split_at_mut(half);
                    for i in 0..half {
                        (low[i], high[i]) =
                            (low[i] * cos[i] - high[i] * sin[i], high[i] * cos[i] + low[i] * sin[i]);
                    }
                }
            },
        );
    });
}

/// The largest logit of a panel and Σ exp(logit − largest), per row; and the target's logit where it is in the panel.
struct PanelLoss {
    partial: Vec<(f32, f64)>,
    targets: Vec<(usize, f32)>,
}

pub(super) fn cross_entropy(cpu: &Cpu, operands: CrossEntropyOperands<'_, Cpu>) {
    let CrossEntropyOperands { x, rows, head, targets, scratch: _, out } = operands;
    let (head, width) = (&head.weight, head.in_features);
    let targets = &targets[..rows];
    // Of rows without a target, pads for one, nothing is computed.
    let scored: Vec<usize> = (0..rows).filter(|&row| targets[row] != u32::MAX).collect();
    out[..rows].fill(0.0);
    for rows in scored.chunks(product::ROW_CHUNK) {
        let (first, chunk) = (rows[0], rows.len());
        let mut gathered = Vec::new();
        let x = if rows[chunk - 1] + 1 - first == chunk {
            &x[first * width..(first + chunk) * width]
        } else {
            rows.iter().for_each(|row| gathered.extend_from_slice(&x[row * width..(row + 1) * width]));
            &gathered
        };
        let panels = product::for_each_part(cpu, x, chunk, head, |first, len, logits| {
            let mut loss = PanelLoss { partial: Vec::with_capacity(chunk), targets: Vec::new() };
            for (t, row) in logits.chunks_exact_mut(len).enumerate() {
                if let Some(&logit) = (targets[rows[t]] as usize).checked_sub(first).and_then(|i| row.get(i))
                {
                    loss.targets.push((t, logit));
                }
                let (largest, sum) = cpu.arch.dispatch(vector::LogSumExp(row));
                loss.partial.push((largest, f64::from(sum)));
            }
            loss
        });
        let mut totals = vec![0.0; chunk];
        cpu.rows(&mut totals, 1, |t, total| {
            let parts = || panels.iter().map(|panel| panel.partial[t]);
            let largest = parts().fold(f32::NEG_INFINITY, |most, (largest, _)| most.max(largest));
            let sum: f64 = parts().map(|(at, sum)| sum * f64::from(at - largest).exp()).sum();
            total[0] = (f64::from(largest) + sum.ln()) as f32;
        });
        // The targets' logits are subtracted below.
        rows.iter().zip(totals).for_each(|(&row, total)| out[row] = total);
        for &(t, logit) in panels.iter().flat_map(|panel| &panel.targets) {
            out[rows[t]] -= logit;
        }
    }
}

impl Cpu {
    /// Calls `f(row index, row)` for the rows of `out`, in parallel; for none where rows have no columns, as in a product
    /// without kept rows.
    pub(super) fn rows(&self, out: &mut [f32], width: usize, f: impl Fn(usize, &mut [f32]) + Sync + Send) {
        self.pool.install(|| {
            let width = width.max(1);
            out.par_chunks_exact_mut(width).with_min_len(16).enumerate().for_each(|(t, row)| f(t, row));
        });
    }

    /// As [`Self::rows`], for the rows of two outputs together.
    pub(super) fn row_pairs(
        &self,
        a: &mut [f32],
        b: &mut [f32],
        width: usize,
        f: impl Fn(usize, &mut [f32], &mut [f32]) + Sync + Send,
    ) {
        self.pool.install(|| {
            let width = width.max(1);
            let pairs = a.par_chunks_exact_mut(width).zip(b.par_chunks_exact_mut(width));
            pairs.with_min_len(16).enumerate().for_each(|(t, (a, b))| f(t, a, b));
        });
    }
}
