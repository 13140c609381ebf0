//! `channel_score`: fusion with history in both formats, sums over tokens, metrics, heads.

use probeprune::{
    Result,
    backend::{Backend, ChannelScoreOperands, Fusion, History},
    prune::{
        Unit,
        history::{HistoryLayout, from_f16},
        settings::{HistoryDtype, Metric},
    },
};
use rand::RngExt;

use super::{
    Case, ElementBytes, Expected, Put, Ready, Traffic,
    near::{Near, Stored},
    outputs,
    source::{Source, wide},
};

#[derive(Clone, Copy, Debug)]
pub struct Past {
    pub layout: HistoryLayout,
    /// Slots that history has.
    pub slots: usize,
    pub fixed_weight: Option<f32>,
}

#[derive(Clone, Debug)]
pub struct ScoreCase {
    pub tokens: usize,
    pub channels: usize,
    pub unit: Unit,
    pub metric: Metric,
    pub past: Option<Past>,
}

impl ScoreCase {
    /// p, statistic, ascending slots.
    fn input(&self, source: Source<'_>) -> (Vec<f32>, Vec<f32>, Vec<u32>) {
        let mut stream = source.stream(self.channels as u64);
        let p = stream.energies(self.tokens * self.channels);
        let statistic = stream.floats(0.5..2.0, self.channels);
        let mut slot = 0;
        let mut next = || {
            slot += stream.rng.random_range(1..3);
            slot - 1
        };
        (p, statistic, (0..self.tokens).map(|_| next()).collect())
    }

    /// History as it is stored.
    fn stored(&self, source: Source<'_>, past: Past) -> Vec<f32> {
        let energies = source.stream(9).energies(past.slots * self.channels);
        past.layout.encode(&energies, self.channels)
    }

    /// h of a slot and channel, from the stored values.
    fn h(&self, past: Past, stored: &[f32], slot: usize, c: usize) -> f64 {
        if slot >= past.slots {
            return 0.0;
        }
        let at = slot / past.layout.bucket * self.channels + c;
        match past.layout.dtype {
            HistoryDtype::F32 => f64::from(stored[at]),
            HistoryDtype::F16 => {
                let bits = (stored[at / 2].to_bits() >> (16 * (at % 2))) as u16;
                f64::from(from_f16(half::f16::from_bits(bits)))
            }
        }
    }

    /// Bytes of an entry of history; 0 without.
    fn history_bytes(&self) -> usize {
        self.past.map_or(0, |past| match past.layout.dtype {
            HistoryDtype::F32 => 4,
            HistoryDtype::F16 => 2,
        })
    }
}

impl Case for ScoreCase {
    fn prepare<B: Backend>(&self, backend: &B, source: Source<'_>) -> Result<Ready<B>> {
        let (p, statistic, slots) = self.input(source);
        let Self { tokens, channels, unit, metric, past } = *self;
        let history = match past {
            None => None,
            Some(past) => {
                let words = past.layout.words(past.slots, channels);
                let values = backend.put_statistics(words, &self.stored(source, past))?;
                Some(History { values, slots: past.slots, channels, layout: past.layout })
            }
        };
        let slots = backend.put_indices(&slots)?;
        let (p, statistic) =
            (backend.put_statistics(tokens * channels, &p)?, backend.put_statistics(channels, &statistic)?);
        let len = channels / unit.block_width();
        let mut out = backend.put_statistics(len, &source.stream(0).nans(len))?;
        Ok(Box::new(move |backend, read| {
            let fusion = match (&history, past) {
                (Some(history), Some(Past { fixed_weight, .. })) => {
                    Fusion::History { history, slots: &slots, fixed_weight }
                }
                _ => Fusion::ProbeOnly,
            };
            backend.channel_score(ChannelScoreOperands {
                p: &p,
                tokens,
                channels,
                fusion,
                metric,
                statistic: &statistic,
                unit,
                out: &mut out,
            });
            outputs(read, || Ok(vec![backend.read_statistics(&out, len)?]))
        }))
    }

    fn expected(&self, source: Source<'_>, _stored: Stored) -> Vec<Expected> {
        let (p, statistic, slots) = self.input(source);
        let (p, statistic) = (wide(&p), wide(&statistic));
        let stored = self.past.map(|past| self.stored(source, past));
        let channel = |c: usize| -> Near {
            let fused = |s: usize| {
                let p = Near::from(p[s * self.channels + c]);
                let (Some(past), Some(stored)) = (self.past, &stored) else { return p };
                let h = Near::from(self.h(past, stored, slots[s] as usize, c));
                // The quotient may be 2 units in the last place off.
                let w =
                    past.fixed_weight.map_or_else(|| (p / (p + h + 1e-6f32.into())).rounded(4.0), Near::from);
                w * p + (Near::from(1.0) - w) * h
            };
            let energy: Near = (0..self.tokens).map(fused).sum();
            let energy = if self.metric == Metric::WandaSp { energy.sqrt() } else { energy };
            energy * statistic[c].into()
        };
        let step = self.unit.block_width();
        let score = |unit: usize| {
            let channels = (unit * step..).take(step).map(channel);
            match (self.unit, self.metric) {
                (Unit::Head(_), Metric::Ppsp) | (Unit::Group(_), _) => {
                    channels.map(Near::square).sum::<Near>().sqrt()
                }
                _ => channels.sum(),
            }
        };
        vec![Expected::Floats((0..self.channels / step).map(score).collect())]
    }

    fn bytes(&self, _element: ElementBytes) -> usize {
        let entries = self.tokens * self.channels;
        (4 + self.history_bytes()) * entries + 4 * (self.channels + self.channels / self.unit.block_width())
    }

    fn traffic(&self) -> Traffic {
        let (s, c) = (self.tokens, self.channels);
        let (blocks, warps) = match self.unit {
            Unit::Head(head_dim) => (c / head_dim, head_dim / 32),
            Unit::Channel | Unit::Group(_) => (c / 32, 1),
        };
        // Every warp of a block reads the slots of its tokens.
        let slots = if self.past.is_some() { 4 * s * blocks * warps } else { 0 };
        let read = (4 + self.history_bytes()) * s * c + 4 * c + slots;
        Traffic::new("channel_score", read, (4 * c / self.unit.block_width()).max(32 * blocks))
    }
}
