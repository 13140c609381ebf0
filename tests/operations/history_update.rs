//! `history_update`: momentum on kept channels in both formats.

use half::f16;
use probeprune::{
    Result,
    backend::{Backend, History, HistoryUpdateOperands},
    gpu::GpuDtype,
    prune::{
        history::{HistoryLayout, from_f16, to_f16},
        settings::HistoryDtype,
    },
};

use super::{
    Case, ElementBytes, Expected, Output, Put, Ready, Traffic,
    near::{Near, Stored},
    outputs,
    product::Kept,
    source::Source,
};

#[derive(Clone, Debug)]
pub struct UpdateCase {
    pub layout: HistoryLayout,
    /// Slots and channels of history.
    pub slots: usize,
    pub channels: usize,
    /// Kept blocks.
    pub kept: usize,
    pub block_width: usize,
    pub tokens: usize,
    pub at: usize,
    pub momentum: f64,
    /// Some p are not finite.
    pub overflow: bool,
}

impl UpdateCase {
    /// p, energies of history, kept blocks.
    fn input(&self, source: Source<'_>) -> (Vec<f32>, Vec<f32>, Vec<u32>) {
        let mut stream = source.stream(self.channels as u64);
        let kept = stream.kept(self.channels / self.block_width, self.kept);
        let mut p = stream.floats(0.0..4.0, self.tokens * self.kept_channels());
        if self.overflow {
            for (i, p) in p.iter_mut().enumerate().filter(|(i, _)| i % 5 == 1) {
                *p = [f32::INFINITY, f32::NAN][i % 2];
            }
        }
        (p, stream.floats(0.0..4.0, self.slots * self.channels), kept)
    }

    fn kept_channels(&self) -> usize {
        self.kept * self.block_width
    }

    /// Bytes of an entry.
    fn entry(&self) -> usize {
        match self.layout.dtype {
            HistoryDtype::F32 => 4,
            HistoryDtype::F16 => 2,
        }
    }
}

impl Case for UpdateCase {
    fn prepare<B: Backend>(&self, backend: &B, source: Source<'_>) -> Result<Ready<B>> {
        let (p, energies, indices) = self.input(source);
        let Self { layout, slots, channels, block_width, tokens, at, momentum, .. } = *self;
        let words = layout.words(slots, channels);
        let values = backend.put_statistics(words, &layout.encode(&energies, channels))?;
        let mut history = History { values, slots, channels, layout };
        let kept = backend.put_kept(&Kept { indices, block_width }, channels)?;
        let p = backend.put_statistics(tokens * self.kept_channels(), &p)?;
        Ok(Box::new(move |backend, read| {
            backend.history_update(HistoryUpdateOperands {
                p: &p,
                tokens,
                at,
                kept: &kept,
                momentum,
                history: &mut history,
            });
            outputs(read, || {
                let words = backend.download_statistics(&history.values, words)?;
                let halves = |word: &f32| [word.to_bits() as u16, (word.to_bits() >> 16) as u16];
                Ok(vec![Output::Floats(match layout.dtype {
                    HistoryDtype::F32 => words,
                    HistoryDtype::F16 => {
                        words.iter().flat_map(halves).map(|bits| from_f16(f16::from_bits(bits))).collect()
                    }
                })])
            })
        }))
    }

    fn expected(&self, source: Source<'_>, _stored: Stored) -> Vec<Expected> {
        let (p, energies, kept) = self.input(source);
        let HistoryLayout { dtype, bucket } = self.layout;
        let (rows, width) = (self.slots.div_ceil(bucket), self.channels);
        let half = dtype == HistoryDtype::F16;
        let mut h =
            vec![Near::from(0.0); if half { (rows * width).next_multiple_of(2) } else { rows * width }];
        let channels = self.kept_channels();
        for row in 0..rows {
            let of_row = |slot: &usize| slot / bucket == row;
            for c in 0..width {
                let all: Vec<f32> = (0..self.slots).filter(of_row).map(|s| energies[s * width + c]).collect();
                let stored = all.iter().sum::<f32>() / all.len() as f32;
                let old = Near::from(if half { from_f16(to_f16(stored)) } else { stored });
                let kept_at = kept.iter().position(|&block| block as usize == c / self.block_width);
                let updated = (self.at..(self.at + self.tokens).min(self.slots)).filter(of_row);
                let now: Vec<Near> = kept_at.map_or(vec![], |kept| {
                    let j = kept * self.block_width + c % self.block_width;
                    updated.map(|s| p[(s - self.at) * channels + j].into()).collect()
                });
                let mean = now.iter().copied().sum::<Near>() / Near::from(now.len() as f64);
                let share = |share: f64| Near::from(share as f32);
                h[row * width + c] = if mean.value().is_finite() {
                    let moved = share(self.momentum) * old + share(1.0 - self.momentum) * mean;
                    if half {
                        // The square of the root that an f16 holds, which ends at 65504.
                        let root = moved.non_negative().sqrt().map(|x| x.min(65504.0), 0.0);
                        root.stored(Stored::Element(GpuDtype::F16)).square()
                    } else {
                        moved
                    }
                } else {
                    old
                };
            }
        }
        vec![Expected::Floats(h)]
    }

    fn bytes(&self, _element: ElementBytes) -> usize {
        let rows = self.layout.rows(self.tokens);
        (4 * self.tokens + 2 * self.entry() * rows) * self.kept_channels()
    }

    fn traffic(&self) -> Traffic {
        let (channels, rows) = (self.kept_channels(), self.layout.rows(self.tokens));
        // The blocks' indices: a sector for each warp and eight rows.
        let kept = channels / 32 * 32 * rows.div_ceil(8);
        let moved = self.entry() * rows * channels;
        Traffic::new("history_update", 4 * self.tokens * channels + moved + kept, moved)
    }
}
