//! The probe: which rows have the largest residual, and the energy of their intermediate states.

use rayon::prelude::*;

use super::{Buffer, Cpu, score::COLUMN_CHUNK};
use crate::{
    backend::{
        CentreEnergyOperands, EnergyOperands, GatherPrunedOperands, ProbeGatherOperands, ProbeSelectOperands,
    },
    prune::{BatchShape, settings::ProbeOrder},
};

/// docs/method.md, section 1. All norms are of Σ r² per row, so sums of them are squared norms and order the same way; they are
/// taken as square roots all the same, because that is where the published code rounds.
pub(super) fn select(operands: ProbeSelectOperands<'_, Cpu>) {
    let ProbeSelectOperands { sum_squares, shape, order, positions, mask, leading_slot_limit, probe } =
        operands;
    let BatchShape { samples, tokens } = shape;
    let real = |b: usize, s: usize| mask.is_none_or(|mask| mask[b * tokens + s] != 0);
    let norm = |b: usize, s: usize| if real(b, s) { sum_squares[b * tokens + s].sqrt() } else { 0.0 };
    let all = |n: usize| (0..n as u32).collect::<Vec<_>>();
    // ‖n[:, s]‖ over the samples; −∞ where all of them are pads. Likewise over the tokens, summed as a GPU's warp does.
    type Cells<'a> = &'a mut dyn Iterator<Item = f32>;
    let joint = |count: usize,
                 others: &[u32],
                 at: &dyn Fn(usize, usize) -> (usize, usize),
                 sum: fn(Cells<'_>) -> f32|
     -> Vec<f32> {
        (0..count)
            .map(|i| {
                let cells = || others.iter().map(|&j| at(i, j as usize));
                if cells().all(|(b, s)| !real(b, s)) {
                    return f32::NEG_INFINITY;
                }
                sum(&mut cells().map(|(b, s)| norm(b, s).powi(2))).sqrt()
            })
            .collect()
    };
    let top_tokens = |of: &[u32]| {
        let mut kept = largest(&joint(tokens, of, &|s, b| (b, s), |cells| cells.sum()), probe.shape.tokens);
        if kept.len() <= leading_slot_limit {
            // With few tokens the first one, which attention leans on, is always in.
            let first = (0..tokens).find(|&s| of.iter().any(|&b| real(b as usize, s))).unwrap_or(0) as u32;
            kept[0] = kept[0].min(first);
        }
        kept
    };
    let top_samples =
        |of: &[u32]| largest(&joint(samples, of, &|b, s| (b, s), interleaved_sum), probe.shape.samples);
    let (kept_samples, kept_tokens) = match order {
        ProbeOrder::TokensSamples => {
            let kept = top_tokens(&all(samples));
            (top_samples(&kept), kept)
        }
        ProbeOrder::SamplesTokens => {
            let kept = top_samples(&all(tokens));
            let tokens = top_tokens(&kept);
            (kept, tokens)
        }
        ProbeOrder::Tokens => (all(samples), top_tokens(&all(samples))),
        ProbeOrder::Samples => (top_samples(&all(tokens)), all(tokens)),
    };
    for (i, &b) in kept_samples.iter().enumerate() {
        for (j, &s) in kept_tokens.iter().enumerate() {
            let (row, from) = (i * kept_tokens.len() + j, b as usize * tokens + s as usize);
            probe.positions[row] = positions[from];
            probe.mask[row] = mask.map_or(1, |mask| mask[from]);
        }
    }
    probe.samples[..kept_samples.len()].copy_from_slice(&kept_samples);
    probe.slots[..kept_tokens.len()].copy_from_slice(&kept_tokens);
}

/// A sum as the lanes of a GPU's warp make it: 32 sums of every 32nd value, then halves onto halves. In f32 the order
/// decides the last bit, and both backends are to choose the same samples.
fn interleaved_sum(values: &mut dyn Iterator<Item = f32>) -> f32 {
    let mut lanes = [0.0f32; 32];
    for (i, value) in values.enumerate() {
        lanes[i % 32] += value;
    }
    for half in [16, 8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
    }
    lanes[0]
}

/// Indices of the `k` largest values, ascending; ties keep the lower index, NaN comes last.
pub(super) fn largest(values: &[f32], k: usize) -> Vec<u32> {
    let key = |i: u32| {
        let value = values[i as usize];
        // Adding 0 makes −0 and 0 the tie that they are.
        if value.is_nan() { f32::NEG_INFINITY } else { value + 0.0 }
    };
    let mut order: Vec<u32> = (0..values.len() as u32).collect();
    let before = |a: &u32, b: &u32| key(*b).total_cmp(&key(*a)).then(a.cmp(b));
    if k < order.len() {
        order.select_nth_unstable_by(k, before);
        order.truncate(k);
    }
    order.sort_unstable();
    order
}

pub(super) fn gather(cpu: &Cpu, operands: ProbeGatherOperands<'_, Cpu>) {
    let ProbeGatherOperands { x, shape, hidden_size, probe, out } = operands;
    let tokens = probe.shape.tokens;
    cpu.rows(&mut out[..probe.shape.rows() * hidden_size], hidden_size, |row, out| {
        let (b, s) = (probe.samples[row / tokens] as usize, probe.slots[row % tokens] as usize);
        out.copy_from_slice(&x[(b * shape.tokens + s) * hidden_size..][..hidden_size]);
    });
}

/// Whether the token of sample b at slot s is one, and no pad.
#[inline(always)]
fn is_real(mask: Option<&Buffer<u32>>, tokens: usize, b: usize, s: usize) -> bool {
    mask.is_none_or(|mask| mask[b * tokens + s] != 0)
}

/// Tokens at slot s that are no pads, and the divisor of energies there (docs/method.md, section 3).
#[inline(always)]
fn count_and_divisor(shape: BatchShape, mask: Option<&Buffer<u32>>, s: usize) -> (f32, f32) {
    let count = (0..shape.samples).filter(|&b| is_real(mask, shape.tokens, b, s)).count() as f32;
    (count, if mask.is_some() { count + 1e-3 } else { count })
}

/// docs/method.md, section 3: out (S, C) = mean over samples of a²; sums (S, C) = Σ over samples of a.
pub(super) fn energy(cpu: &Cpu, operands: EnergyOperands<'_, Cpu>) {
    let EnergyOperands { a, shape, channels: width, mask, out, sums } = operands;
    let BatchShape { samples, tokens } = shape;
    let rows = |s: usize| {
        let real = (0..samples).filter(move |&b| is_real(mask, tokens, b, s));
        real.map(move |b| &a[(b * tokens + s) * width..][..width])
    };
    let divide = |s: usize, out: &mut [f32]| {
        let (_, divisor) = count_and_divisor(shape, mask, s);
        out.iter_mut().for_each(|out| *out /= divisor);
    };
    let out = &mut out[..tokens * width];
    let Some(sums) = sums else {
        return cpu.rows(out, width, |s, out| {
            cpu.vectorized(
                #[inline(always)]
                || {
                    out.fill(0.0);
                    for a in rows(s) {
                        for (out, a) in out.iter_mut().zip(a) {
                            *out += a * a;
                        }
                    }
                    divide(s, out);
                },
            );
        });
    };
    cpu.row_pairs(out, &mut sums[..tokens * width], width, |s, out, sums| {
        cpu.vectorized(
            #[inline(always)]
            || {
                out.fill(0.0);
                sums.fill(0.0);
                for a in rows(s) {
                    for ((out, sum), a) in out.iter_mut().zip(&mut *sums).zip(a) {
                        *out += a * a;
                        *sum += a;
                    }
                }
                divide(s, out);
            },
        );
    });
}

/// See [`crate::backend::Backend::centre_energy`].
pub(super) fn centre_energy(cpu: &Cpu, operands: CentreEnergyOperands<'_, Cpu>) {
    let CentreEnergyOperands { energy: p, sums, shape, channels: width, mask, prior, share, mean } = operands;
    let tokens = shape.tokens;
    let real: f32 = (0..tokens).map(|s| count_and_divisor(shape, mask, s).0).sum();
    let mean = &mut mean[..width];
    cpu.pool.install(|| {
        mean.par_chunks_mut(COLUMN_CHUNK).enumerate().for_each(|(chunk, mean)| {
            mean.fill(0.0);
            for sums in sums[..tokens * width].chunks_exact(width) {
                mean.iter_mut().zip(&sums[chunk * COLUMN_CHUNK..]).for_each(|(mean, sum)| *mean += sum);
            }
            mean.iter_mut().for_each(|mean| *mean /= real.max(1.0));
            if let Some((prior, weight)) = prior {
                let prior = &prior[chunk * COLUMN_CHUNK..];
                mean.iter_mut().zip(prior).for_each(|(mean, prior)| *mean = prior + weight * (*mean - prior));
            }
        });
    });
    cpu.rows(&mut p[..tokens * width], width, |s, p| {
        let (count, divisor) = count_and_divisor(shape, mask, s);
        let counted = count / divisor;
        cpu.vectorized(
            #[inline(always)]
            || {
                for ((p, sum), m) in p.iter_mut().zip(&sums[s * width..]).zip(&*mean) {
                    // Rounding may leave a hair below 0 where all values are equal. NaN has to stay.
                    let m = share * m;
                    let centred = *p + m * (counted * m - 2.0 * sum / divisor);
                    *p = if centred < 0.0 { 0.0 } else { centred };
                }
            },
        );
    });
}

/// See [`crate::backend::Backend::gather_pruned`].
pub(super) fn gather_pruned(operands: GatherPrunedOperands<'_, Cpu>) {
    let GatherPrunedOperands { kept, coefficients, mean, pruned, out } = operands;
    let mut kept_blocks = kept.indices[..kept.len].iter().peekable();
    let dropped = (0..kept.of as u32).filter(|block| kept_blocks.next_if_eq(&block).is_none());
    for (entry, block) in pruned.indices[..pruned.len].iter_mut().zip(dropped) {
        *entry = block;
    }
    let (channels, block_width) = (kept.of * kept.block_width, kept.block_width);
    let gathered = pruned.channels();
    let (coefficients, rank) =
        coefficients.map_or((&[][..], 0), |(coefficients, rank)| (&coefficients[..], rank));
    let sources = coefficients[..rank * channels].chunks_exact(channels).chain([&mean[..]]);
    for (from, to) in sources.zip(out.chunks_exact_mut(gathered.max(1))) {
        for (to, &block) in to.chunks_exact_mut(block_width).zip(&pruned.indices) {
            to.copy_from_slice(&from[block as usize * block_width..][..block_width]);
        }
    }
}
