//! `channel_score`: fusion with history in both layouts, sums over tokens, metrics, heads.

use probeprune::{
    Result,
    backend::{Backend, Fusion, History, Unit},
    gpu::{Driver, Gpu, GpuDtype},
    prune::{
        history::from_f16,
        settings::{HistoryDtype, HistoryLayout, Metric},
    },
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::case::{Case, Expected, Output, Put, check, check_once, check_traffic, floats, rng, wide};

#[derive(Clone, Copy, Debug)]
struct Past {
    layout: HistoryLayout,
    /// Slots that history has.
    slots: usize,
    fixed_weight: Option<f32>,
}

#[derive(Clone, Debug)]
struct ScoreCase {
    tokens: usize,
    width: usize,
    unit: Unit,
    metric: Metric,
    past: Option<Past>,
}

/// Energies over six decades, some of them 0.
fn energies(rng: &mut ChaCha8Rng, n: usize) -> Vec<f32> {
    let mut value =
        || if rng.random_range(0..8) == 0 { 0.0 } else { 10f32.powf(rng.random_range(-4.0..2.0)) };
    (0..n).map(|_| value()).collect()
}

impl ScoreCase {
    /// p, statistic, ascending slots.
    fn input(&self) -> (Vec<f32>, Vec<f32>, Vec<u32>) {
        let mut rng = rng(self.width as u64);
        let p = energies(&mut rng, self.tokens * self.width);
        let statistic = floats(&mut rng, 0.5..2.0, self.width);
        let mut slot = 0;
        let mut next = || {
            slot += rng.random_range(1..3);
            slot - 1
        };
        (p, statistic, (0..self.tokens).map(|_| next()).collect())
    }

    /// History as it is stored.
    fn stored(&self, past: Past) -> Vec<f32> {
        past.layout.encode(&energies(&mut ChaCha8Rng::seed_from_u64(9), past.slots * self.width), self.width)
    }

    /// h of a slot and channel, from what is stored.
    fn h(&self, past: Past, stored: &[f32], slot: usize, c: usize) -> f64 {
        if slot >= past.slots {
            return 0.0;
        }
        let at = slot / past.layout.bucket * self.width + c;
        match past.layout.dtype {
            HistoryDtype::F32 => f64::from(stored[at]),
            HistoryDtype::F16 => {
                let bits = (stored[at / 2].to_bits() >> (16 * (at % 2))) as u16;
                f64::from(from_f16(half::f16::from_bits(bits)))
            }
        }
    }
}

impl Case for ScoreCase {
    fn run<D: Driver>(&self, gpu: &Gpu<D>) -> Result<Vec<Output>> {
        let (p, statistic, slots) = self.input();
        let history = self.past.map(|past| History {
            values: gpu.put_statistics(&self.stored(past)),
            slots: past.slots,
            width: self.width,
            layout: past.layout,
        });
        let slots = gpu.put_indices(&slots);
        let fusion = match (&history, self.past) {
            (Some(history), Some(Past { fixed_weight, .. })) => {
                Fusion::History { history, slots: &slots, fixed_weight }
            }
            _ => Fusion::ProbeOnly,
        };
        let len = self.width / self.unit.width();
        let mut out = gpu.put_statistics(&vec![f32::NAN; len]);
        let (p, statistic) = (gpu.put_statistics(&p), gpu.put_statistics(&statistic));
        gpu.channel_score(&p, self.tokens, self.width, fusion, self.metric, &statistic, self.unit, &mut out);
        Ok(vec![Output::Floats(gpu.download_statistics(&out, len)?)])
    }

    fn expected(&self) -> Vec<Expected> {
        let (p, statistic, slots) = self.input();
        let (p, statistic) = (wide(&p), wide(&statistic));
        let stored = self.past.map(|past| self.stored(past));
        let channel = |c: usize| -> f64 {
            let fused = |s: usize| {
                let p = p[s * self.width + c];
                let (Some(past), Some(stored)) = (self.past, &stored) else { return p };
                let h = self.h(past, stored, slots[s] as usize, c);
                let w = past.fixed_weight.map_or(p / (p + h + 1e-6), f64::from);
                w * p + (1.0 - w) * h
            };
            let energy: f64 = (0..self.tokens).map(fused).sum();
            statistic[c] * if self.metric == Metric::WandaSp { energy.sqrt() } else { energy }
        };
        let step = self.unit.width();
        let score = |unit: usize| {
            let channels = (unit * step..).take(step).map(channel);
            match (self.unit, self.metric) {
                (Unit::Head(_), Metric::Ppsp) | (Unit::Group(_), _) => {
                    channels.map(|x| x * x).sum::<f64>().sqrt()
                }
                _ => channels.sum(),
            }
        };
        // Sums of positive terms; a quotient that may be 2 units in the last place off.
        vec![Expected::Floats { values: (0..self.width / step).map(score).collect(), tolerance: 4e-6 }]
    }

    fn dtype(&self) -> GpuDtype {
        GpuDtype::Bf16
    }
}

fn unit(head_dim: Option<usize>) -> Unit {
    head_dim.map_or(Unit::Channel, Unit::Head)
}

fn layout(dtype: HistoryDtype, bucket: usize) -> HistoryLayout {
    HistoryLayout { dtype, bucket }
}

/// No history, then both formats with buckets, with all and with some of the slots, weights computed and fixed.
fn pasts(tokens: usize) -> Vec<Option<Past>> {
    let past = |dtype, bucket, slots, fixed_weight| {
        Some(Past { layout: layout(dtype, bucket), slots, fixed_weight })
    };
    vec![
        None,
        past(HistoryDtype::F32, 1, 2 * tokens, None),
        past(HistoryDtype::F16, 1, 2 * tokens, None),
        past(HistoryDtype::F32, 3, tokens.div_ceil(2), None),
        past(HistoryDtype::F16, 4, tokens + 1, Some(0.25)),
        past(HistoryDtype::F32, 1, tokens, Some(1.0)),
    ]
}

#[test]
fn channel_score() {
    let shapes = [
        (1, 1, None),
        (3, 31, None),
        (5, 33, None),
        (33, 40, None),
        (50, 100, None),
        (17, 64, Some(64)),
        (2, 6, Some(3)),
        (9, 5, Some(1)),
        (40, 160, Some(80)),
        (35, 66, Some(33)),
        (3, 260, Some(260)),
    ];
    for (i, (tokens, width, head_dim)) in shapes.into_iter().enumerate() {
        for (j, past) in pasts(tokens).into_iter().enumerate() {
            let metric = Metric::ALL[(i + j) % 3];
            check(&ScoreCase { tokens, width, unit: unit(head_dim), metric, past });
        }
    }
    for metric in [Metric::Ppsp, Metric::WandaSp, Metric::Flap] {
        check(&ScoreCase { tokens: 20, width: 256, unit: unit(Some(128)), metric, past: pasts(20)[1] });
    }
}

#[test]
fn channel_score_at_real_widths() {
    for (tokens, width, head_dim) in
        [(70, 11008, None), (300, 4096, Some(128)), (64, 14336, None), (270, 576, Some(64))]
    {
        for past in [None, pasts(tokens)[1], pasts(tokens)[2]] {
            check_once(&ScoreCase { tokens, width, unit: unit(head_dim), metric: Metric::Ppsp, past });
        }
    }
}

#[test]
fn channel_score_moves_what_its_header_says() {
    for (width, head_dim) in [(4096, None), (4096, Some(128))] {
        let (s, blocks) = (128, width / head_dim.unwrap_or(32));
        let outputs = 4 * head_dim.map_or(width, |_| blocks);
        let case = |past| ScoreCase { tokens: s, width, unit: unit(head_dim), metric: Metric::Ppsp, past };
        check_traffic(&case(None), "channel_score", 4 * s * width + 4 * width, outputs.max(32 * blocks));
        for (past, bytes) in [(pasts(s)[1], 8), (pasts(s)[2], 6)] {
            // Every warp of a block reads the slots of its tokens.
            let slots = 4 * s * blocks * head_dim.map_or(1, |d| d / 32);
            let read = bytes * s * width + 4 * width + slots;
            check_traffic(&case(past), "channel_score", read, outputs.max(32 * blocks));
        }
    }
}

#[test]
fn groups_of_channels_have_one_score() {
    for (i, (tokens, width, group)) in
        [(3, 8, 8), (5, 48, 16), (33, 40, 8), (17, 112, 16), (20, 1000, 8)].into_iter().enumerate()
    {
        for (j, past) in pasts(tokens).into_iter().enumerate() {
            let metric = Metric::ALL[(i + j) % 3];
            check(&ScoreCase { tokens, width, unit: Unit::Group(group), metric, past });
        }
    }
}
