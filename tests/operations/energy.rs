//! `energy`: the mean over samples of a².

use probeprune::{
    Result,
    backend::{Backend, EnergyOperands},
    prune::BatchShape,
};
use rand::RngExt;

use super::{
    Case, ElementBytes, Expected, Put, Ready, Traffic,
    near::{Near, Stored},
    outputs,
    source::{Source, wide},
};

#[derive(Clone, Debug)]
pub struct EnergyCase {
    pub shape: BatchShape,
    pub channels: usize,
    pub masked: bool,
    /// Sums over samples too.
    pub sums: bool,
}

impl EnergyCase {
    /// a, and the mask: slot 0 is a pad in every sample, and pads hold what must not be seen.
    fn input(&self, source: Source<'_>) -> (Vec<f32>, Vec<u32>) {
        let mut stream = source.stream(self.channels as u64);
        let rows = self.shape.rows();
        let mut a = stream.elements(rows * self.channels);
        let mut real = |row: usize| {
            !self.masked || (!row.is_multiple_of(self.shape.tokens) && stream.rng.random_range(0..3) > 0)
        };
        let mask: Vec<u32> = (0..rows).map(|row| u32::from(real(row))).collect();
        for (row, &real) in a.chunks_mut(self.channels.max(1)).zip(&mask) {
            if real == 0 {
                row.fill(f32::NAN);
            }
        }
        (a, mask)
    }
}

/// The mean over `count` samples, as energies have it where others are masked: 0 of none.
pub fn mean(sum: Near, count: usize, masked: bool) -> Near {
    let count = Near::from(count as f64);
    // Some kernels multiply with the inverse.
    (sum / if masked { count + 1e-3f32.into() } else { count }).rounded(1.0)
}

impl Case for EnergyCase {
    fn prepare<B: Backend>(&self, backend: &B, source: Source<'_>) -> Result<Ready<B>> {
        let (a, mask) = self.input(source);
        let Self { shape, channels, sums: with_sums, .. } = *self;
        let len = shape.tokens * channels;
        let a = backend.put_activations(shape.rows() * channels, &a)?;
        let mask = self.masked.then(|| backend.put_indices(&mask)).transpose()?;
        let nans = source.stream(0).nans(len);
        let (mut out, mut sums) = (backend.put_statistics(len, &nans)?, backend.put_statistics(len, &nans)?);
        Ok(Box::new(move |backend, read| {
            backend.energy(EnergyOperands {
                a: &a,
                shape,
                channels,
                mask: mask.as_ref(),
                out: &mut out,
                sums: with_sums.then_some(&mut sums),
            });
            outputs(read, || {
                let mut all = vec![backend.read_statistics(&out, len)?];
                if with_sums {
                    all.push(backend.read_statistics(&sums, len)?);
                }
                Ok(all)
            })
        }))
    }

    fn expected(&self, source: Source<'_>, _stored: Stored) -> Vec<Expected> {
        let (a, mask) = self.input(source);
        let (a, BatchShape { samples, tokens }) = (wide(&a), self.shape);
        let at = |i: usize| {
            let (s, c) = (i / self.channels, i % self.channels);
            let rows = (0..samples).map(|b| b * tokens + s).filter(|&row| mask[row] != 0);
            rows.map(|row| Near::from(a[row * self.channels + c])).collect::<Vec<_>>()
        };
        let energy = |i: usize| {
            let values = at(i);
            mean(values.iter().map(|a| a.square()).sum(), values.len(), self.masked)
        };
        let all = || 0..tokens * self.channels;
        let mut expected = vec![Expected::Floats(all().map(energy).collect())];
        if self.sums {
            expected.push(Expected::Floats(all().map(|i| at(i).into_iter().sum()).collect()));
        }
        expected
    }

    fn bytes(&self, element: ElementBytes) -> usize {
        let outputs = if self.sums { 8 } else { 4 };
        (element.activation * self.shape.rows() + outputs * self.shape.tokens) * self.channels
    }

    fn traffic(&self) -> Traffic {
        let BatchShape { samples, tokens } = self.shape;
        // A warp has 256 channels, and reads a sector of the mask for each sample.
        let masks = if self.masked { samples * (tokens * self.channels / 256) * 32 } else { 0 };
        let outputs = if self.sums { 8 } else { 4 };
        let read = 2 * samples * tokens * self.channels + masks;
        Traffic::new("energy", read, outputs * tokens * self.channels)
    }
}
