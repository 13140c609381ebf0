//! Scores, kept sets, history and calibration moments (docs/method.md, sections 3 to 7).

use std::borrow::Cow;

use half::f16;
use rayon::prelude::*;

use super::{Buffer, Cpu, probe::largest};
use crate::{
    backend::{
        AccumulateMomentsOperands, ChannelScoreOperands, ColumnStatisticOperands, Fusion,
        HistoryUpdateOperands, KeepKvHeadsOperands, KeptSet, TopKKeepOperands,
    },
    prune::{
        BatchShape, Unit,
        history::{from_f16, to_f16},
        settings::{HistoryDtype, Metric},
    },
};

/// Columns that one task works on.
pub(super) const COLUMN_CHUNK: usize = 256;
/// Keeps 0/0 out of the fusion weight (docs/method.md, section 3).
const FUSION_EPS: f32 = 1e-6;

pub(super) fn column_statistic(cpu: &Cpu, operands: ColumnStatisticOperands<'_, Cpu>) {
    let ColumnStatisticOperands { projection, metric, out } = operands;
    let weight = &projection.weight;
    let columns = weight.columns;
    let statistics: Vec<Vec<f64>> = cpu.map_tasks(columns.div_ceil(COLUMN_CHUNK), |task, scratch| {
        let from = task * COLUMN_CHUNK;
        let row = &mut scratch.panel[..COLUMN_CHUNK.min(columns - from)];
        let mut sums = vec![0.0f64; row.len()];
        for o in 0..weight.rows {
            weight.row_to_f32(o, from, row);
            for (sum, &w) in sums.iter_mut().zip(&*row) {
                let w = f64::from(w);
                *sum += match metric {
                    Metric::Ppsp => w.powi(4),
                    Metric::WandaSp => w.abs(),
                    Metric::Flap => w * w,
                };
            }
        }
        sums
    });
    for (out, sum) in out.iter_mut().zip(statistics.into_iter().flatten()) {
        *out = if metric == Metric::Ppsp { sum.sqrt() } else { sum } as f32;
    }
}

pub(super) fn channel_score(cpu: &Cpu, operands: ChannelScoreOperands<'_, Cpu>) {
    let ChannelScoreOperands { p, tokens, channels, fusion, metric, statistic, unit, out } = operands;
    // A task's channels are whole units, so that it can finish their scores.
    let step = unit.block_width();
    let chunk = COLUMN_CHUNK.next_multiple_of(step);
    let outputs = &mut out[..channels / step];
    cpu.pool.install(|| {
        outputs.par_chunks_mut(chunk / step).enumerate().for_each(|(task, out)| {
            cpu.vectorized(
                #[inline(always)]
                || {
                    let from = task * chunk;
                    let mut energy = vec![0.0f32; out.len() * step];
                    sum_fused(p, tokens, channels, &fusion, from, &mut energy);
                    for (energy, &statistic) in energy.iter_mut().zip(&statistic[from..]) {
                        *energy = statistic * if metric == Metric::WandaSp { energy.sqrt() } else { *energy };
                    }
                    for (out, unit_scores) in out.iter_mut().zip(energy.chunks_exact(step)) {
                        *out = match (unit, metric) {
                            (Unit::Channel, _) => unit_scores[0],
                            (Unit::Group(_), _) | (Unit::Head(_), Metric::Ppsp) => {
                                unit_scores.iter().map(|x| x * x).sum::<f32>().sqrt()
                            }
                            (Unit::Head(_), Metric::WandaSp | Metric::Flap) => unit_scores.iter().sum(),
                        };
                    }
                },
            );
        });
    });
}

/// energy\[c\] = Σ_s e\[s, from + c\].
#[inline(always)]
fn sum_fused(
    p: &[f32],
    tokens: usize,
    channels: usize,
    fusion: &Fusion<'_, Cpu>,
    from: usize,
    energy: &mut [f32],
) {
    for s in 0..tokens {
        let p = &p[s * channels + from..][..energy.len()];
        match fusion {
            Fusion::History { history, slots, fixed_weight } if (slots[s] as usize) < history.slots => {
                let at = slots[s] as usize / history.layout.bucket * channels + from;
                let fuse = |p: f32, h: f32| {
                    let w = fixed_weight.unwrap_or(p / (p + h + FUSION_EPS));
                    w * p + (1.0 - w) * h
                };
                match history.layout.dtype {
                    HistoryDtype::F32 => {
                        for ((energy, &p), &h) in energy.iter_mut().zip(p).zip(&history.values[at..]) {
                            *energy += fuse(p, h);
                        }
                    }
                    HistoryDtype::F16 => {
                        let entries = &bytemuck::cast_slice::<f32, f16>(&history.values)[at..];
                        for ((energy, &p), &h) in energy.iter_mut().zip(p).zip(entries) {
                            *energy += fuse(p, from_f16(h));
                        }
                    }
                }
            }
            // A slot that history has not seen counts as h = 0.
            Fusion::History { fixed_weight, .. } => {
                for (energy, &p) in energy.iter_mut().zip(p) {
                    *energy += fixed_weight.unwrap_or(p / (p + FUSION_EPS)) * p;
                }
            }
            Fusion::ProbeOnly => {
                for (energy, &p) in energy.iter_mut().zip(p) {
                    *energy += p;
                }
            }
        }
    }
}

pub(super) fn top_k_keep(TopKKeepOperands { scores, kept, tag, fault }: TopKKeepOperands<'_, Cpu>) {
    check_finite(&scores[..kept.of], tag, fault);
    kept.indices[..kept.len].copy_from_slice(&largest(&scores[..kept.of], kept.len));
}

pub(super) fn check_finite(values: &[f32], tag: u32, fault: &mut [u32]) {
    if fault[0] == 0 && !values.iter().all(|x| x.is_finite()) {
        fault[0] = tag;
    }
}

pub(super) fn keep_kv_heads(operands: KeepKvHeadsOperands<'_, Cpu>) {
    let KeepKvHeadsOperands { heads, gqa_group, kv_heads, kv_head_of } = operands;
    let mut used = 0;
    for (i, &head) in heads.indices[..heads.len].iter().enumerate() {
        let kv = head / gqa_group as u32;
        // Kept heads ascend, so equal key/value heads are neighbours.
        if used == 0 || kv_heads.indices[used - 1] != kv {
            kv_heads.indices[used] = kv;
            used += 1;
        }
        kv_head_of[i] = used as u32 - 1;
    }
    kv_heads.indices[used..].fill(u32::MAX);
}

pub(super) fn history_update(cpu: &Cpu, operands: HistoryUpdateOperands<'_, Cpu>) {
    let HistoryUpdateOperands { p, tokens, at, kept, momentum, history } = operands;
    let (channels, width, bucket) = (kept.channels(), history.channels, history.layout.bucket);
    let (old, new) = (momentum as f32, (1.0 - momentum) as f32);
    // A batch that overflowed is an error of that batch; it must not spoil the ones after it.
    let next = |h: f32, p: f32| if p.is_finite() { old * h + new * p } else { h };
    let end = (at + tokens).min(history.slots);
    if at >= end {
        return;
    }
    // Mean of p over the updated slots of a row's bucket.
    let mean = |row: usize| -> Cow<'_, [f32]> {
        let (from, to) = ((row * bucket).max(at) - at, ((row + 1) * bucket).min(end) - at);
        let mut slots = p[from * channels..to * channels].chunks_exact(channels);
        if to - from == 1 {
            return Cow::Borrowed(&p[from * channels..to * channels]);
        }
        let mut sum = slots.next().unwrap_or_default().to_vec();
        slots.for_each(|slot| sum.iter_mut().zip(slot).for_each(|(sum, p)| *sum += p));
        sum.iter_mut().for_each(|sum| *sum /= (to - from) as f32);
        Cow::Owned(sum)
    };
    let first = at / bucket;
    let range = first * width..((end - 1) / bucket + 1) * width;
    match history.layout.dtype {
        HistoryDtype::F32 => cpu.rows(&mut history.values[range], width, |row, h| {
            let p = mean(first + row);
            cpu.vectorized(
                #[inline(always)]
                || fold(h, &p, kept, next),
            );
        }),
        HistoryDtype::F16 => {
            let entries = &mut bytemuck::cast_slice_mut::<f32, f16>(&mut history.values)[range];
            cpu.pool.install(|| {
                entries.par_chunks_exact_mut(width).with_min_len(16).enumerate().for_each(|(row, h)| {
                    fold(h, &mean(first + row), kept, |h, p| to_f16(next(from_f16(h), p)));
                });
            });
        }
    }
}

/// h\[c\] ← next(h\[c\], p\[j\]) for the kept channels c, the j-th of which has p\[j\].
#[inline(always)]
fn fold<T: Copy>(h: &mut [T], p: &[f32], kept: &KeptSet<Buffer<u32>>, next: impl Fn(T, f32) -> T) {
    if kept.block_width == 1 {
        // Loops over blocks of one would take six times as long.
        let indices = &kept.indices[..p.len()];
        for j in 0..p.len() {
            let h = &mut h[indices[j] as usize];
            *h = next(*h, p[j]);
        }
        return;
    }
    for (p, &block) in p.chunks_exact(kept.block_width).zip(&kept.indices) {
        for (h, &p) in h[block as usize * kept.block_width..].iter_mut().zip(p) {
            *h = next(*h, p);
        }
    }
}

pub(super) fn accumulate_moments(cpu: &Cpu, operands: AccumulateMomentsOperands<'_, Cpu>) {
    let AccumulateMomentsOperands { a, shape, channels: width, seen, moments } = operands;
    let BatchShape { samples, tokens } = shape;
    let (n, b) = (seen as f32, samples as f32);
    let len = tokens * width;
    let rows = |s: usize| (0..samples).map(move |b| &a[(b * tokens + s) * width..][..width]);
    cpu.rows(&mut moments.energy[..len], width, |s, energy| {
        let mut sum = vec![0.0f32; width];
        for a in rows(s) {
            for (sum, a) in sum.iter_mut().zip(a) {
                *sum += a * a;
            }
        }
        for (energy, sum) in energy.iter_mut().zip(sum) {
            *energy = *energy * (n / (n + b)) + sum / (n + b);
        }
    });
    if !moments.mean.is_empty() {
        cpu.rows(&mut moments.mean[..len], width, |s, mean| {
            let mut sum = vec![0.0f32; width];
            for a in rows(s) {
                for (sum, a) in sum.iter_mut().zip(a) {
                    *sum += a;
                }
            }
            for (mean, sum) in mean.iter_mut().zip(sum) {
                *mean = *mean * (n / (n + b)) + sum / (n + b);
            }
        });
    }
    if moments.baseline.is_empty() {
        return;
    }
    let old_mean = column_means(&moments.baseline[..len], tokens, width);
    cpu.rows(&mut moments.baseline[..len], width, |s, baseline| {
        let mut sum = vec![0.0f32; width];
        for a in rows(s) {
            for (sum, a) in sum.iter_mut().zip(a) {
                *sum += a;
            }
        }
        // The published code adds the mean of the batch, not its sum.
        for (baseline, sum) in baseline.iter_mut().zip(sum) {
            *baseline = *baseline * (n / (n + b)) + sum / b / (n + b);
        }
    });
    if seen == 0 {
        return;
    }
    let new_mean = column_means(&moments.baseline[..len], tokens, width);
    cpu.rows(&mut moments.fluctuation[..len], width, |s, fluctuation| {
        let mut sum = vec![0.0f32; width];
        for a in rows(s) {
            for (c, sum) in sum.iter_mut().enumerate() {
                *sum += (a[c] - new_mean[c]) * (a[c] - old_mean[c]);
            }
        }
        for (fluctuation, sum) in fluctuation.iter_mut().zip(sum) {
            *fluctuation = *fluctuation * ((n - 1.0) / (n + b - 1.0)) + sum / (n + b);
        }
    });
}

/// Mean over the rows of (tokens, width).
fn column_means(values: &[f32], tokens: usize, width: usize) -> Vec<f32> {
    let mut means = vec![0.0f32; width];
    for row in values.chunks_exact(width) {
        for (mean, x) in means.iter_mut().zip(row) {
            *mean += x;
        }
    }
    means.iter_mut().for_each(|mean| *mean /= tokens as f32);
    means
}
