//! `accumulate_moments`: energies, means, and FLAP's baseline and fluctuation, over several batches.

use probeprune::{
    Result,
    backend::{AccumulateMomentsOperands, Backend, Moments},
    prune::BatchShape,
};

use super::{
    Case, ElementBytes, Expected, Put, Ready, Traffic,
    near::{Near, Stored},
    outputs,
    source::{Source, wide},
};

#[derive(Clone, Debug)]
pub struct MomentsCase {
    /// Samples of each batch.
    pub batches: Vec<usize>,
    pub tokens: usize,
    pub channels: usize,
    pub flap: bool,
    pub mean: bool,
}

impl MomentsCase {
    /// a of each batch, its values around 1 in even channels.
    fn input(&self, source: Source<'_>) -> Vec<Vec<f32>> {
        let mut stream = source.stream(self.channels as u64);
        let mut batch = |samples: &usize| -> Vec<f32> {
            let mut a = stream.elements(samples * self.tokens * self.channels);
            for row in a.chunks_exact_mut(self.channels) {
                row.iter_mut().step_by(2).for_each(|x| *x = stream.rounded(1.0 + (*x * 8.0).round() / 8.0));
            }
            a
        };
        self.batches.iter().map(&mut batch).collect()
    }

    /// Energies, means, baselines and fluctuations, of which some are empty.
    fn lens(&self) -> [usize; 4] {
        let len = |there: bool| if there { self.tokens * self.channels } else { 0 };
        [len(true), len(self.mean), len(self.flap), len(self.flap)]
    }
}

impl Case for MomentsCase {
    fn prepare<B: Backend>(&self, backend: &B, source: Source<'_>) -> Result<Ready<B>> {
        let (tokens, channels, lens) = (self.tokens, self.channels, self.lens());
        let [energy, mean, baseline, fluctuation] = lens.map(|len| backend.statistics(len));
        let mut moments =
            Moments { energy: energy?, mean: mean?, baseline: baseline?, fluctuation: fluctuation? };
        let mut batches = Vec::new();
        for (a, &samples) in self.input(source).iter().zip(&self.batches) {
            let shape = BatchShape { samples, tokens };
            batches.push((shape, backend.put_activations(shape.rows() * channels, a)?));
        }
        Ok(Box::new(move |backend, read| {
            let mut seen = 0;
            for (shape, a) in &batches {
                let (shape, moments) = (*shape, &mut moments);
                backend.accumulate_moments(AccumulateMomentsOperands { a, shape, channels, seen, moments });
                seen += shape.samples;
            }
            let Moments { energy, mean, baseline, fluctuation } = &moments;
            outputs(read, || {
                let all = [energy, mean, baseline, fluctuation].into_iter().zip(lens);
                all.map(|(values, len)| backend.read_statistics(values, len)).collect()
            })
        }))
    }

    fn expected(&self, source: Source<'_>, _stored: Stored) -> Vec<Expected> {
        let (len, width) = (self.tokens * self.channels, self.channels);
        let zeros = || vec![Near::from(0.0); len];
        let (mut energy, mut baseline, mut fluctuation) = (zeros(), zeros(), zeros());
        let means = |x: &[Near]| -> Vec<Near> {
            let column = |c: usize| x[c..].iter().step_by(width).copied().sum::<Near>();
            (0..width).map(|c| column(c) / Near::from(self.tokens as f64)).collect()
        };
        let (mut n, mut mean) = (0.0, zeros());
        for (a, &samples) in self.input(source).iter().zip(&self.batches) {
            let (a, b) = (wide(a), samples as f64);
            let of = |i: usize| a[i..].iter().step_by(len).map(|&x| Near::from(x));
            let quotient = |x: f64, y: f64| Near::from(x) / Near::from(y);
            let moved = |old: Near, sum: Near| old * quotient(n, n + b) + sum / Near::from(n + b);
            let old = means(&baseline);
            for i in 0..len {
                energy[i] = moved(energy[i], of(i).map(Near::square).sum());
                mean[i] = moved(mean[i], of(i).sum());
                baseline[i] = moved(baseline[i], of(i).sum::<Near>() / Near::from(b));
            }
            let new = means(&baseline);
            for i in (0..len).filter(|_| n > 0.0) {
                let c = i % width;
                let spread: Near = of(i).map(|x| (x - new[c]) * (x - old[c])).sum();
                fluctuation[i] = fluctuation[i] * quotient(n - 1.0, n + b - 1.0) + spread / Near::from(n + b);
            }
            n += b;
        }
        [energy, mean, baseline, fluctuation]
            .into_iter()
            .zip(self.lens())
            .map(|(mut values, len)| {
                values.truncate(len);
                Expected::Floats(values)
            })
            .collect()
    }

    fn bytes(&self, element: ElementBytes) -> usize {
        let samples: usize = self.batches.iter().sum();
        element.activation * samples * self.tokens * self.channels
            + 8 * self.batches.len() * self.lens().iter().sum::<usize>()
    }

    fn traffic(&self) -> Traffic {
        let cells = self.tokens * self.channels;
        let mean = if self.mean { 4 } else { 0 };
        let mut traffic = Traffic::new("moments", 0, 0);
        for (i, samples) in self.batches.iter().enumerate() {
            // FLAP's fluctuation is not there in the first batch, and needs a second pass later.
            let (read, written) = match (self.flap, i) {
                (false, _) => (2 * samples + 4, 4),
                (true, 0) => (2 * samples + 8, 8),
                (true, _) => (4 * samples + 16, 12),
            };
            traffic.read += (read + mean) * cells;
            traffic.written += (written + mean) * cells;
        }
        traffic
    }
}
