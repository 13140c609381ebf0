//! Rounding in long series of corrections.

use probeprune::{
    backend::{AdaptOperands, AdaptScratch, Backend, KeptSet, Linear, Precision, WeightUse},
    checkpoint::{Dtype, Tensor},
    cpu::Cpu,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::reference::{product, solve, transposed};

const N: usize = 24;
const H: usize = 5;
const T: usize = 6;
const UPDATES: usize = 10_000;

/// W'ᵀ (n, H) and P (n, n) after [`UPDATES`] corrections towards a projection that drifts, in f64.
struct Exact {
    weight: Vec<f64>,
    precision: Vec<f64>,
}

impl Exact {
    fn correct(&mut self, f: &[f64], y: &[f64], forgetting: f64) {
        let error: Vec<f64> = y.iter().zip(product(f, &self.weight, N)).map(|(y, x)| y - x).collect();
        let images = product(f, &self.precision, N);
        let mut s = product(&images, &transposed(f, N), N);
        (0..T).for_each(|i| s[i * (T + 1)] += 1.0);
        let change = product(&transposed(&images, N), &solve(&s, &error, T), T);
        self.weight.iter_mut().zip(change).for_each(|(w, x)| *w += x);
        let taken = product(&transposed(&images, N), &solve(&s, &images, T), T);
        self.precision.iter_mut().zip(taken).for_each(|(p, x)| *p = (*p - x) / forgetting);
        // An uneven part would grow by 1 / forgetting with every update, in f64 too.
        let back = transposed(&self.precision, N);
        self.precision.iter_mut().zip(back).for_each(|(p, x)| *p = 0.5 * (*p + x));
    }
}

/// Features that depend on each other almost, so that P has large and small directions.
fn features(rng: &mut ChaCha8Rng) -> Vec<f32> {
    let mut rows = Vec::new();
    for _ in 0..T {
        let common: f32 = rng.random_range(-1.0..1.0);
        rows.extend((0..N).map(|c| common + rng.random_range(-1.0f32..1.0) / (1 + c) as f32));
    }
    rows
}

fn largest(values: impl Iterator<Item = f64>) -> f64 {
    values.map(f64::abs).fold(0.0, f64::max)
}

#[test]
fn ten_thousand_corrections_stay_near_exact_ones() {
    for forgetting in [1.0, 0.98] {
        let cpu = Cpu::new(2).unwrap();
        let statistics = |values: &[f32]| {
            let mut out = cpu.statistics(values.len()).unwrap();
            cpu.upload_statistics(values, &mut out);
            out
        };
        let identity: Vec<f32> = (0..N * N).map(|at| if at / N == at % N { 0.1 } else { 0.0 }).collect();
        let mut precision = Precision::Full(statistics(&identity));
        let (mut weight, mut bias, means) =
            (statistics(&[0.0; N * H]), statistics(&[0.0; H]), statistics(&[0.0; N]));
        let tensor = Tensor::from_f32(vec![H, N], vec![0.0; N * H]).rounded_to(Dtype::BF16);
        let mut last = Linear::<Cpu> {
            weight: cpu.weight(&tensor, WeightUse::Columns).unwrap(),
            bias: None,
            out_features: H,
            in_features: N,
        };
        let mut indices = cpu.indices(N).unwrap();
        cpu.upload_indices(&(0..N as u32).collect::<Vec<_>>(), &mut indices);
        let kept = KeptSet { indices, len: N, of: N, block_width: 1 };
        let mut scratch = AdaptScratch {
            features: cpu.statistics(T * N).unwrap(),
            images: cpu.statistics(T * N).unwrap(),
            errors: cpu.statistics(T * H).unwrap(),
            gram: cpu.statistics(T * (T + 1)).unwrap(),
            at_mean: cpu.statistics(H).unwrap(),
            fault: cpu.indices(1).unwrap(),
        };
        let mut error = cpu.statistics(1).unwrap();
        let (mut a, mut target) = (cpu.activations(T * N).unwrap(), cpu.activations(T * H).unwrap());
        let wide = |values: &[f32]| -> Vec<f64> { values.iter().map(|&x| f64::from(x)).collect() };
        let mut exact = Exact { weight: vec![0.0; N * H], precision: wide(&identity) };
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        for update in 0..UPDATES {
            let f = features(&mut rng);
            let turn = update as f32 / 500.0;
            let truth = |at: usize| (turn + at as f32).sin();
            let output = |row: &[f32], o: usize| (0..N).map(|c| row[c] * truth(c * H + o)).sum::<f32>();
            let y: Vec<f32> = f
                .chunks_exact(N)
                .flat_map(|row| (0..H).map(|o| output(row, o)).collect::<Vec<_>>())
                .map(|y| y + rng.random_range(-0.1..0.1))
                .collect();
            cpu.upload_activations(&f, &mut a);
            cpu.upload_activations(&y, &mut target);
            cpu.adapt(AdaptOperands {
                a: &a,
                target: &target,
                rows: T,
                mask: None,
                kept: &kept,
                means: &means,
                precision: &mut precision,
                bias_gain: 0.0,
                forgetting,
                weight: &mut weight,
                bias: &mut bias,
                last: &mut last,
                error: &mut error,
                scratch: &mut scratch,
            });
            exact.correct(&wide(&f), &wide(&y), f64::from(forgetting));
        }
        let got = transposed(&wide(&cpu.download_statistics(&weight, N * H).unwrap()), N);
        let off = largest(got.iter().zip(&exact.weight).map(|(a, b)| a - b))
            / largest(exact.weight.iter().copied());
        assert!(off < 2e-3, "forgetting {forgetting}: W' is off by {off:e}");
        let Precision::Full(precision) = precision else { unreachable!("made above") };
        let p = cpu.download_statistics(&precision, N * N).unwrap();
        assert!((0..N * N).all(|at| p[at] == p[at % N * N + at / N]), "P is symmetric");
        assert!((0..N).all(|i| p[i * (N + 1)] > 0.0), "P's diagonal is positive");
        let off = largest(wide(&p).iter().zip(&exact.precision).map(|(a, b)| a - b))
            / largest(exact.precision.iter().copied());
        assert!(off < 2e-2, "forgetting {forgetting}: P is off by {off:e}");
        // The copy that batches run with is W', rounded.
        let copy = cpu.download_weight(&last.weight).unwrap().to_f32();
        let rounded = |at: usize| half::bf16::from_f32(got[at % N * H + at / N] as f32).to_f32();
        assert!((0..N * H).all(|at| copy[at] == rounded(at)));
    }
}
