//! `linear`, `gated_linear` and `logits`: products with rows of a weight.

use probeprune::{
    Result,
    backend::{Backend, EnergyOf, Grid, KeptBlocks, WeightUse},
    config::Activation,
    gpu::{Driver, Gpu, GpuDtype},
};

use crate::{
    case::{
        Case, DTYPES, Expected, Output, Put, check, check_once, check_traffic, floats, kept_counts, rng,
        unit_roundoff, wide,
    },
    product::{Keep, activate, inputs, picked, product, tolerance, weights},
};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Linear,
    Gated,
    Logits,
}

#[derive(Clone, Debug)]
struct LinearCase {
    kind: Kind,
    dtype: GpuDtype,
    grid: Grid,
    /// Rows and columns of the weight.
    weight: [usize; 2],
    keep: Keep,
    bias: bool,
    activation: Option<Activation>,
    scale: f32,
    /// Ask for energies; `Some(true)`: nothing else is wanted.
    energy: Option<bool>,
    mask: bool,
}

impl LinearCase {
    fn new(kind: Kind, dtype: GpuDtype, rows: usize, weight: [usize; 2], keep: Keep) -> Self {
        Self {
            kind,
            dtype,
            grid: Grid { samples: 1, tokens: rows },
            weight,
            keep,
            bias: false,
            activation: (kind == Kind::Gated).then_some(Activation::Silu),
            scale: 1.0,
            energy: None,
            mask: false,
        }
    }

    fn input(&self) -> Input {
        let mut rng = rng(7);
        let [all, k] = self.weight;
        let x = inputs(&mut rng, self.dtype, self.grid.rows(), k);
        let kept = self.keep.indices(&mut rng, all);
        let [w, up] = [(); 2].map(|()| weights(&mut rng, self.dtype, all, k));
        let [bias, up_bias] = [(); 2].map(|()| self.bias.then(|| floats(&mut rng, -1.0..1.0, all)));
        let mask = (0..self.grid.rows()).map(|i| u32::from(i * 7 % 5 != 0)).collect();
        Input { x, kept, w, up, bias, up_bias, mask }
    }
}

struct Input {
    x: Vec<f32>,
    kept: Option<(Vec<u32>, usize)>,
    w: Vec<f32>,
    up: Vec<f32>,
    bias: Option<Vec<f32>>,
    up_bias: Option<Vec<f32>>,
    mask: Vec<u32>,
}

impl Case for LinearCase {
    fn run<D: Driver>(&self, gpu: &Gpu<D>) -> Result<Vec<Output>> {
        let input = self.input();
        let [all, k] = self.weight;
        let rows = self.grid.rows();
        let features = picked(&input.kept, all).len();
        let x = gpu.put_activations(&input.x);
        let put =
            |w: &[f32], bias: &Option<Vec<f32>>| gpu.put_linear(w, all, k, bias.as_deref(), WeightUse::Rows);
        let (w, up) = (put(&input.w, &input.bias), put(&input.up, &input.up_bias));
        if self.kind == Kind::Logits {
            let mut out = gpu.statistics(rows * features)?;
            gpu.logits(&x, rows, &w, &mut out);
            return Ok(vec![Output::Floats(gpu.download_statistics(&out, rows * features)?)]);
        }
        let set = input.kept.as_ref().map(|(indices, width)| (gpu.put_kept(indices, all / width), *width));
        let kept = set.as_ref().map(|(set, width)| KeptBlocks { set, width: *width });
        let mask = gpu.put_indices(&input.mask);
        let mut energies = gpu.statistics(self.grid.tokens * features)?;
        let energy = self.energy.map(|alone| EnergyOf {
            grid: self.grid,
            mask: self.mask.then_some(&mask),
            out: &mut energies,
            alone,
        });
        let mut out = gpu.activations(rows * features)?;
        match self.kind {
            Kind::Gated => {
                let activation = self.activation.unwrap();
                gpu.gated_linear(&x, rows, &w, &up, kept, activation, energy, &mut out);
            }
            _ => gpu.linear(&x, rows, &w, kept, self.activation, self.scale, energy, &mut out),
        }
        let mut outputs = Vec::new();
        if self.energy != Some(true) {
            outputs.push(Output::Floats(gpu.download_activations(&out, rows * features)?));
        }
        if self.energy.is_some() {
            outputs.push(Output::Floats(gpu.download_statistics(&energies, self.grid.tokens * features)?));
        }
        Ok(outputs)
    }

    fn expected(&self) -> Vec<Expected> {
        let input = self.input();
        let [all, k] = self.weight;
        let picked = picked(&input.kept, all);
        let with_bias = |w: &[f32], bias: &Option<Vec<f32>>| -> Vec<f64> {
            let values = product(&wide(&input.x), &wide(w), k, &picked);
            let bias = |j: usize| match (bias, picked[j]) {
                (Some(bias), Some(row)) => f64::from(bias[row]),
                _ => 0.0,
            };
            values.iter().enumerate().map(|(i, x)| x + bias(i % picked.len())).collect()
        };
        let mut out = with_bias(&input.w, &input.bias);
        out.iter_mut().for_each(|x| *x = activate(*x, self.activation) * f64::from(self.scale));
        if self.kind == Kind::Gated {
            let up = with_bias(&input.up, &input.up_bias);
            out.iter_mut().zip(up).for_each(|(x, up)| *x *= up);
        }
        let Grid { samples, tokens } = self.grid;
        let width = picked.len();
        let energy = (0..tokens * width).map(|i| {
            let (s, c) = (i / width, i % width);
            let real = |b: &usize| !self.mask || input.mask[b * tokens + s] != 0;
            let sum: f64 = (0..samples).filter(real).map(|b| out[(b * tokens + s) * width + c].powi(2)).sum();
            sum / ((0..samples).filter(real).count() as f64 + if self.mask { 1e-3 } else { 0.0 })
        });
        // Each output is rounded once, which its square feels twice; the largest energy is up to 40 rms.
        let energies =
            Expected::Floats { values: energy.collect(), tolerance: 80.0 * unit_roundoff(self.dtype) + 1e-5 };
        let outputs = Expected::Floats {
            values: out,
            tolerance: if self.kind == Kind::Logits { 1e-5 } else { 2.0 * tolerance(self.dtype) },
        };
        match self.energy {
            None => vec![outputs],
            Some(false) => vec![outputs, energies],
            Some(true) => vec![energies],
        }
    }

    fn dtype(&self) -> GpuDtype {
        self.dtype
    }
}

#[test]
fn linear_and_logits_of_odd_shapes() {
    for dtype in DTYPES {
        for (rows, weight) in [(1, [1, 8]), (31, [33, 31]), (33, [130, 40]), (130, [72, 136]), (65, [129, 7])]
        {
            for kind in [Kind::Linear, Kind::Logits] {
                check(&LinearCase::new(kind, dtype, rows, weight, Keep::Dense));
            }
            check(&LinearCase::new(Kind::Gated, dtype, rows, weight, Keep::Dense));
        }
    }
}

#[test]
fn a_long_ring_wraps() {
    check(&LinearCase::new(Kind::Linear, GpuDtype::Bf16, 5, [9, 32 * 11], Keep::Dense));
    check(&LinearCase::new(Kind::Gated, GpuDtype::F16, 5, [9, 32 * 11 + 3], Keep::Dense));
    // More than one group of tiles.
    check_once(&LinearCase::new(Kind::Linear, GpuDtype::Bf16, 1200, [260, 24], Keep::Dense));
}

#[test]
fn kept_rows_are_gathered() {
    for dtype in DTYPES {
        for keep in [
            Keep::Blocks { len: 1, width: 1 },
            Keep::Blocks { len: 71, width: 1 },
            Keep::Blocks { len: 144, width: 1 },
            Keep::Blocks { len: 3, width: 16 },
            Keep::Blocks { len: 9, width: 16 },
            Keep::Blocks { len: 5, width: 6 },
            Keep::Skipping { len: 5, width: 16 },
            Keep::Skipping { len: 7, width: 6 },
        ] {
            let case = LinearCase::new(Kind::Linear, dtype, 35, [144, 72], keep.clone());
            check(&LinearCase { bias: true, scale: 0.25, ..case });
            if let Keep::Blocks { width: 1, .. } = keep {
                check(&LinearCase { bias: true, ..LinearCase::new(Kind::Gated, dtype, 35, [144, 72], keep) });
            }
        }
    }
}

#[test]
fn every_number_of_kept_rows() {
    for (all, width) in [(144, 1), (9, 16)] {
        for len in kept_counts(all) {
            let case = LinearCase::new(
                Kind::Linear,
                GpuDtype::Bf16,
                35,
                [all * width, 40],
                Keep::Blocks { len, width },
            );
            if width == 1 {
                check_once(&LinearCase {
                    kind: Kind::Gated,
                    activation: Some(Activation::Silu),
                    ..case.clone()
                });
            }
            check_once(&case);
        }
    }
}

#[test]
fn activations() {
    for activation in [Activation::Silu, Activation::Relu, Activation::Gelu, Activation::GeluTanh] {
        for kind in [Kind::Linear, Kind::Gated] {
            let case = LinearCase::new(kind, GpuDtype::F16, 9, [40, 24], Keep::Blocks { len: 21, width: 1 });
            check(&LinearCase { activation: Some(activation), bias: true, ..case });
        }
    }
}

#[test]
fn energies_of_the_epilogue_and_of_a_pass_of_their_own() {
    for kind in [Kind::Linear, Kind::Gated] {
        // 1, 2, 3, 4 and 32 samples fill a tile to at least 95 %, 5 of 64 rows do (60), 20 and 70 do not.
        for (samples, tokens) in [(1, 65), (2, 40), (3, 50), (4, 17), (5, 13), (32, 3), (20, 4), (70, 1)] {
            for (energy, mask) in [(false, true), (true, false)] {
                let keep = Keep::Blocks { len: 67, width: 1 };
                let case = LinearCase::new(kind, GpuDtype::F16, samples * tokens, [80, 16], keep);
                let grid = Grid { samples, tokens };
                check_once(&LinearCase { grid, energy: Some(energy), mask, ..case });
            }
        }
        let case = LinearCase::new(kind, GpuDtype::Bf16, 36, [70, 16], Keep::Dense);
        check(&LinearCase { grid: Grid { samples: 2, tokens: 18 }, energy: Some(false), mask: true, ..case });
    }
}

#[test]
fn products_move_what_their_headers_say() {
    let (t, h, f) = (256, 1024, 512);
    let keep = Keep::Blocks { len: f, width: 1 };
    // The emulated device has 4 multiprocessors: 128 rows to a tile.
    let linear = LinearCase::new(Kind::Linear, GpuDtype::Bf16, t, [1024, h], keep.clone());
    check_traffic(&linear, "linear", f / 128 * 2 * t * h + t / 128 * (2 * f * h + 4 * f), 2 * t * f);
    let logits = LinearCase::new(Kind::Logits, GpuDtype::Bf16, t, [f, h], Keep::Dense);
    check_traffic(&logits, "logits", f / 128 * 2 * t * h + t / 128 * 2 * f * h, 4 * t * f);
    let gated = LinearCase::new(Kind::Gated, GpuDtype::Bf16, t, [1024, h], keep);
    let gated = LinearCase { energy: Some(false), ..gated };
    let read = f / 64 * 2 * t * h + t / 128 * (4 * f * h + 8 * f);
    check_traffic(&gated, "gated_linear", read, 2 * t * f + 4 * t * f);
}
