//! `centre_energy`: energies around a share of the mean.

use probeprune::{
    Result,
    backend::{Backend, CentreEnergyOperands},
    prune::BatchShape,
};
use rand::RngExt;

use super::{
    Case, ElementBytes, Expected, Put, Ready, Traffic,
    near::{Near, Stored, UNIT},
    outputs,
    source::{Source, wide},
};

#[derive(Clone, Debug)]
pub struct CentreCase {
    pub shape: BatchShape,
    pub channels: usize,
    /// `None` without a mask, otherwise whether the last slot is a token; without one, all are pads.
    pub masked: Option<bool>,
    pub prior: bool,
    pub share: f32,
    /// A channel has the same value everywhere: around all of the mean, nothing but roundings is left.
    pub equal: bool,
}

const WEIGHT: f32 = 0.75;

impl CentreCase {
    pub fn new(shape: BatchShape, channels: usize, masked: bool, prior: bool) -> Self {
        Self { shape, channels, masked: masked.then_some(true), prior, share: 0.625, equal: false }
    }

    /// a (B, S, C), mask (B, S), prior (C).
    fn input(&self, source: Source<'_>) -> (Vec<f64>, Vec<u32>, Vec<f32>) {
        let mut stream = source.stream(self.channels as u64);
        let rows = self.shape.rows();
        let mut a = wide(&stream.floats(-1.0..2.0, rows * self.channels));
        if self.equal {
            let first = a[..self.channels].to_vec();
            a.chunks_exact_mut(self.channels).for_each(|row| row.copy_from_slice(&first));
        }
        let rng = &mut stream.rng;
        let mut real = |row: usize| match self.masked {
            None => true,
            Some(last) => last && (row + 1 == rows || rng.random_range(0..3) > 0),
        };
        let mask = (0..rows).map(|row| u32::from(real(row))).collect();
        (a, mask, stream.floats(-1.0..1.0, self.channels))
    }

    /// Values of slot s and channel c that are no pads.
    fn at(&self, a: &[f64], mask: &[u32], s: usize, c: usize) -> Vec<f64> {
        let BatchShape { samples, tokens } = self.shape;
        let rows = (0..samples).map(|b| b * tokens + s).filter(|&row| mask[row] != 0);
        rows.map(|row| a[row * self.channels + c]).collect()
    }

    fn divisor(&self, count: usize) -> f64 {
        count as f64 + if self.masked.is_some() { 1e-3 } else { 0.0 }
    }

    /// f of the values of every slot and channel.
    fn each(&self, a: &[f64], mask: &[u32], f: impl Fn(&[f64], usize) -> f64) -> Vec<f64> {
        (0..self.shape.tokens * self.channels)
            .map(|i| f(&self.at(a, mask, i / self.channels, i % self.channels), i % self.channels))
            .collect()
    }

    /// Energies and sums, as [`Backend::energy`] makes them; a benchmark's need not belong together.
    fn energies(&self, source: Source<'_>, a: &[f64], mask: &[u32]) -> [Vec<f32>; 2] {
        let mut stream = source.stream(0);
        if !stream.is_exact() {
            let len = self.shape.tokens * self.channels;
            return [stream.floats(1.0..2.0, len), stream.floats(-1.0..1.0, len)];
        }
        let narrow = |values: Vec<f64>| values.iter().map(|&x| x as f32).collect();
        let squares =
            |values: &[f64], _| values.iter().map(|x| x * x).sum::<f64>() / self.divisor(values.len());
        [
            narrow(self.each(a, mask, squares)),
            narrow(self.each(a, mask, |values: &[f64], _| values.iter().sum())),
        ]
    }
}

impl Case for CentreCase {
    fn prepare<B: Backend>(&self, backend: &B, source: Source<'_>) -> Result<Ready<B>> {
        let (a, mask, prior) = self.input(source);
        let [energy, sums] = self.energies(source, &a, &mask);
        let Self { shape, channels, share, .. } = *self;
        let len = shape.tokens * channels;
        let (mut energy, sums) = (backend.put_statistics(len, &energy)?, backend.put_statistics(len, &sums)?);
        let mask = self.masked.map(|_| backend.put_indices(&mask)).transpose()?;
        let prior = self.prior.then(|| backend.put_statistics(channels, &prior)).transpose()?;
        let mut mean = backend.put_statistics(channels, &source.stream(0).nans(channels))?;
        Ok(Box::new(move |backend, read| {
            backend.centre_energy(CentreEnergyOperands {
                energy: &mut energy,
                sums: &sums,
                shape,
                channels,
                mask: mask.as_ref(),
                prior: prior.as_ref().map(|prior| (prior, WEIGHT)),
                share,
                mean: &mut mean,
            });
            outputs(read, || {
                Ok(vec![backend.read_statistics(&energy, len)?, backend.read_statistics(&mean, channels)?])
            })
        }))
    }

    fn expected(&self, source: Source<'_>, _stored: Stored) -> Vec<Expected> {
        let (a, mask, prior) = self.input(source);
        let [energies, _] = self.energies(source, &a, &mask);
        let mean: Vec<Near> = (0..self.channels)
            .map(|c| {
                let all = (0..self.shape.tokens).flat_map(|s| self.at(&a, &mask, s, c));
                let all: Vec<Near> = all.map(Near::from).collect();
                let mean = all.iter().copied().sum::<Near>() / Near::from(all.len().max(1) as f64);
                let prior = Near::from(prior[c]);
                if self.prior { prior + Near::from(WEIGHT) * (mean - prior) } else { mean }
            })
            .collect();
        let centred = (0..self.shape.tokens * self.channels).map(|i| {
            let (s, c) = (i / self.channels, i % self.channels);
            let (values, m) = (self.at(&a, &mask, s, c), Near::from(self.share) * mean[c]);
            // The difference of two infinities may be anything.
            if energies[i].is_infinite() {
                return Near::ANY;
            }
            let divisor = self.divisor(values.len());
            let squares = |f: &dyn Fn(f64) -> Near| {
                values.iter().map(|&x| f(x).square()).sum::<Near>() / Near::from(divisor)
            };
            // From energies and sums: what cancels has the roundings of its terms.
            let terms = squares(&|x| (x.abs() + m.magnitude()).into());
            squares(&|x| Near::from(x) - m).rounded(1.0).give(8.0 * UNIT * terms.magnitude()).non_negative()
        });
        vec![Expected::Floats(centred.collect()), Expected::Floats(mean)]
    }

    fn bytes(&self, _element: ElementBytes) -> usize {
        4 * (3 * self.shape.tokens + 1) * self.channels
    }

    fn traffic(&self) -> Traffic {
        let len = self.shape.tokens * self.channels;
        Traffic::new("centre_energy", 12 * len + 32 * self.channels, 4 * len + 4 * self.channels)
    }
}
