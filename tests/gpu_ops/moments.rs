//! `accumulate_moments`: energies, and FLAP's baseline and fluctuation, over several batches.

use probeprune::{
    Result,
    backend::{Backend, Grid, Moments},
    gpu::{Driver, Gpu, GpuDtype},
};

use crate::case::{
    Case, DTYPES, Expected, Output, Put, check, check_once, check_traffic, elements, rng, wide,
};

#[derive(Clone, Debug)]
struct MomentsCase {
    dtype: GpuDtype,
    /// Samples of each batch.
    batches: Vec<usize>,
    tokens: usize,
    width: usize,
    flap: bool,
    mean: bool,
}

impl MomentsCase {
    /// a of each batch, its values around 1 in even channels.
    fn input(&self) -> Vec<Vec<f32>> {
        let mut rng = rng(self.width as u64);
        let mut batch = |samples: &usize| -> Vec<f32> {
            let noise = elements(&mut rng, self.dtype, samples * self.tokens * self.width);
            let value = |(i, x): (usize, f32)| {
                if (i % self.width).is_multiple_of(2) { 1.0 + (x * 8.0).round() / 8.0 } else { x }
            };
            noise.into_iter().enumerate().map(value).collect()
        };
        self.batches.iter().map(&mut batch).collect()
    }
}

impl Case for MomentsCase {
    fn run<D: Driver>(&self, gpu: &Gpu<D>) -> Result<Vec<Output>> {
        let len = self.tokens * self.width;
        let flap_len = if self.flap { len } else { 0 };
        let mut moments = Moments {
            energy: gpu.statistics(len)?,
            mean: gpu.statistics(if self.mean { len } else { 0 })?,
            baseline: gpu.statistics(flap_len)?,
            fluctuation: gpu.statistics(flap_len)?,
        };
        let mut seen = 0;
        for (a, &samples) in self.input().iter().zip(&self.batches) {
            let grid = Grid { samples, tokens: self.tokens };
            gpu.accumulate_moments(&gpu.put_activations(a), grid, self.width, seen, &mut moments);
            seen += samples;
        }
        Ok(vec![
            Output::Floats(gpu.download_statistics(&moments.energy, len)?),
            Output::Floats(gpu.download_statistics(&moments.mean, if self.mean { len } else { 0 })?),
            Output::Floats(gpu.download_statistics(&moments.baseline, flap_len)?),
            Output::Floats(gpu.download_statistics(&moments.fluctuation, flap_len)?),
        ])
    }

    fn expected(&self) -> Vec<Expected> {
        let (len, width) = (self.tokens * self.width, self.width);
        let (mut energy, mut baseline, mut fluctuation) = (vec![0.0; len], vec![0.0; len], vec![0.0; len]);
        let means = |x: &[f64]| -> Vec<f64> {
            let column = |c: usize| x[c..].iter().step_by(width).sum::<f64>() / self.tokens as f64;
            (0..width).map(column).collect()
        };
        let (mut n, mut mean) = (0.0, vec![0.0; len]);
        for (a, &samples) in self.input().iter().zip(&self.batches) {
            let (a, b) = (wide(a), samples as f64);
            let of = |i: usize| a[i..].iter().step_by(len).copied();
            let old = means(&baseline);
            for i in 0..len {
                energy[i] = energy[i] * n / (n + b) + of(i).map(|x| x * x).sum::<f64>() / (n + b);
                mean[i] = mean[i] * n / (n + b) + of(i).sum::<f64>() / (n + b);
                baseline[i] = baseline[i] * n / (n + b) + of(i).sum::<f64>() / b / (n + b);
            }
            let new = means(&baseline);
            for i in (0..len).filter(|_| n > 0.0) {
                let c = i % width;
                let spread: f64 = of(i).map(|x| (x - new[c]) * (x - old[c])).sum();
                fluctuation[i] = fluctuation[i] * (n - 1.0) / (n + b - 1.0) + spread / (n + b);
            }
            n += b;
        }
        let kept = |values: Vec<f64>| if self.flap { values } else { vec![] };
        // Sums of a few terms of similar size in f32, a few roundings for each batch.
        let floats = |values| Expected::Floats { values, tolerance: 2e-6 };
        let mean = if self.mean { mean } else { vec![] };
        vec![floats(energy), floats(mean), floats(kept(baseline)), floats(kept(fluctuation))]
    }

    fn dtype(&self) -> GpuDtype {
        self.dtype
    }
}

#[test]
fn moments() {
    let shapes = [
        (vec![1], 1, 1),
        (vec![2, 1], 3, 31),
        (vec![1, 3], 33, 9),
        (vec![2, 2, 1], 5, 8),
        (vec![5, 4], 35, 40),
        (vec![1, 6], 2, 72),
        (vec![4, 1], 70, 128),
    ];
    for dtype in DTYPES {
        for (batches, tokens, width) in shapes.clone() {
            for flap in [false, true] {
                check(&MomentsCase { dtype, batches: batches.clone(), tokens, width, flap, mean: flap });
            }
        }
        check_once(&MomentsCase {
            dtype,
            batches: vec![2, 2],
            tokens: 40,
            width: 4096,
            flap: true,
            mean: true,
        });
    }
}

#[test]
fn moments_move_what_their_header_says() {
    let case = |batches, flap| MomentsCase {
        dtype: GpuDtype::Bf16,
        batches,
        tokens: 64,
        width: 512,
        flap,
        mean: false,
    };
    let cells = 64 * 512;
    check_traffic(&case(vec![3], false), "moments", 2 * 3 * cells + 4 * cells, 4 * cells);
    let with_mean = MomentsCase { mean: true, ..case(vec![3], false) };
    check_traffic(&with_mean, "moments", 2 * 3 * cells + 8 * cells, 8 * cells);
    let first = 2 * 3 * cells + 8 * cells;
    check_traffic(&case(vec![3], true), "moments", first, 8 * cells);
    let second = 4 * 5 * cells + 16 * cells;
    check_traffic(&case(vec![3, 5], true), "moments", first + second, (8 + 12) * cells);
}
