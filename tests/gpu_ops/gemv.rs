//! Products of up to 16 rows: `linear`, `logits`, `gated_linear`, `project`.

use probeprune::{
    Result,
    backend::{Backend, KeptBlocks, WeightUse},
    config::Activation,
    gpu::{Driver, Gpu, GpuDtype},
};

use crate::case::{
    Case, DTYPES, Expected, Output, Put, check, check_once, check_traffic, elements, floats, rng, subset,
    unit_roundoff, wide,
};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Op {
    Linear,
    Gated,
    Logits,
    Project,
}

/// `len` of `of` blocks of `width` channels, the last `skipped` of them `u32::MAX`.
#[derive(Debug, Clone, Copy)]
struct Kept {
    width: usize,
    len: usize,
    of: usize,
    skipped: usize,
}

#[derive(Debug, Clone)]
struct GemvCase {
    dtype: GpuDtype,
    op: Op,
    tokens: usize,
    /// Channels to prune from: rows of a first projection, columns of a last one.
    channels: usize,
    /// The other side.
    width: usize,
    kept: Option<Kept>,
    bias: bool,
    /// `project` only.
    residual: bool,
    activation: Option<Activation>,
    scale: f32,
}

struct Input {
    x: Vec<f32>,
    /// (channels, width), as every kernel reads it; NaN where nothing is kept.
    weights: [Vec<f32>; 2],
    biases: [Vec<f32>; 2],
    residual: Vec<f32>,
    indices: Vec<u32>,
}

impl GemvCase {
    /// A plain `op`.
    fn new(dtype: GpuDtype, op: Op, tokens: usize, channels: usize, width: usize) -> Self {
        let activation = (op == Op::Gated).then_some(Activation::Silu);
        let (kept, bias, residual) = (None, false, false);
        Self { dtype, op, tokens, channels, width, kept, bias, residual, activation, scale: 1.0 }
    }

    fn keep(self, width: usize, len: usize, skipped: usize) -> Self {
        let of = self.channels / width;
        Self { kept: Some(Kept { width, len, of, skipped }), channels: of * width, ..self }
    }

    fn with_bias(self) -> Self {
        Self { bias: true, ..self }
    }

    fn with_residual(self) -> Self {
        Self { residual: true, ..self }
    }

    fn with(self, activation: Activation, scale: f32) -> Self {
        Self { activation: Some(activation), scale, ..self }
    }

    /// The channel of every kept one.
    fn rows(&self, indices: &[u32]) -> Vec<Option<usize>> {
        let Some(kept) = self.kept else { return (0..self.channels).map(Some).collect() };
        let of = |i: usize| match indices[i / kept.width] {
            u32::MAX => None,
            block => Some(block as usize * kept.width + i % kept.width),
        };
        (0..kept.len * kept.width).map(of).collect()
    }

    fn input(&self) -> Input {
        let mut rng = rng(1);
        let mut indices = Vec::new();
        if let Some(kept) = self.kept {
            indices = subset(&mut rng, kept.of, kept.len);
            indices[kept.len - kept.skipped..].fill(u32::MAX);
        }
        let rows = self.rows(&indices);
        let weights = std::array::from_fn(|_| {
            let mut weight = elements(&mut rng, self.dtype, self.channels * self.width);
            for (c, row) in weight.chunks_exact_mut(self.width).enumerate() {
                if !rows.contains(&Some(c)) {
                    row.fill(f32::NAN);
                }
            }
            weight
        });
        let inner = if self.op == Op::Project { rows.len() } else { self.width };
        let outer = if self.op == Op::Project { self.width } else { self.channels };
        Input {
            x: elements(&mut rng, self.dtype, self.tokens * inner),
            weights,
            biases: std::array::from_fn(|_| floats(&mut rng, -2.0..2.0, outer)),
            residual: elements(&mut rng, self.dtype, self.tokens * self.width),
            indices,
        }
    }

    /// Entries of the output.
    fn len(&self, input: &Input) -> usize {
        self.tokens * if self.op == Op::Project { self.width } else { self.rows(&input.indices).len() }
    }
}

fn activate(x: f64, activation: Option<Activation>) -> f64 {
    match activation {
        None => x,
        Some(Activation::Silu) => x / (1.0 + (-x).exp()),
        Some(Activation::Relu) => x.max(0.0),
        Some(Activation::Gelu) => x * 0.5 * (1.0 + libm::erf(x / 2f64.sqrt())),
        Some(Activation::GeluTanh) => {
            x * 0.5 * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        }
    }
}

impl Case for GemvCase {
    fn run<D: Driver>(&self, gpu: &Gpu<D>) -> Result<Vec<Output>> {
        let input = self.input();
        let bias = |which: usize| self.bias.then_some(&input.biases[which][..]);
        let x = gpu.put_activations(&input.x);
        let set = self.kept.map(|kept| gpu.put_kept(&input.indices, kept.of));
        let kept =
            set.as_ref().zip(self.kept).map(|(set, kept): (_, Kept)| KeptBlocks { set, width: kept.width });
        let first = |which: usize| {
            gpu.put_linear(&input.weights[which], self.channels, self.width, bias(which), WeightUse::Rows)
        };
        let (tokens, len) = (self.tokens, self.len(&input));
        if self.op == Op::Logits {
            let mut out = gpu.statistics(len)?;
            gpu.logits(&x, tokens, &first(0), &mut out);
            return Ok(vec![Output::Floats(gpu.download_statistics(&out, len)?)]);
        }
        let mut out = gpu.activations(len)?;
        match self.op {
            Op::Linear => {
                gpu.linear(&x, tokens, &first(0), kept, self.activation, self.scale, None, &mut out)
            }
            Op::Gated => {
                let activation = self.activation.unwrap();
                gpu.gated_linear(&x, tokens, &first(0), &first(1), kept, activation, None, &mut out);
            }
            _ => {
                // The checkpoint's layout; the backend stores it transposed again.
                let weight: Vec<f32> = (0..self.width * self.channels)
                    .map(|i| input.weights[0][i % self.channels * self.width + i / self.channels])
                    .collect();
                let last = gpu.put_linear(&weight, self.width, self.channels, None, WeightUse::Columns);
                let bias = bias(0).map(|bias| gpu.put_statistics(bias));
                let residual = self.residual.then(|| gpu.put_activations(&input.residual));
                gpu.project(&x, tokens, &last, kept, bias.as_ref(), None, residual.as_ref(), &mut out);
            }
        }
        Ok(vec![Output::Floats(gpu.download_activations(&out, len)?)])
    }

    fn expected(&self) -> Vec<Expected> {
        let input = self.input();
        let rows = self.rows(&input.indices);
        let x = wide(&input.x);
        let weights = input.weights.each_ref().map(|weight| wide(weight));
        let bias = |which: usize, i: usize| if self.bias { f64::from(input.biases[which][i]) } else { 0.0 };
        let mut values = Vec::with_capacity(self.len(&input));
        for t in 0..self.tokens {
            if self.op == Op::Project {
                let mut sums: Vec<f64> = (0..self.width).map(|h| bias(0, h)).collect();
                for (j, &c) in rows.iter().enumerate() {
                    let c = c.expect("channels of a last projection are not skipped");
                    let weight = &weights[0][c * self.width..][..self.width];
                    let a = x[t * rows.len() + j];
                    sums.iter_mut().zip(weight).for_each(|(sum, w)| *sum += a * w);
                }
                if self.residual {
                    let residual = &input.residual[t * self.width..][..self.width];
                    sums.iter_mut().zip(residual).for_each(|(sum, &r)| *sum += f64::from(r));
                }
                values.extend(sums);
                continue;
            }
            let x = &x[t * self.width..][..self.width];
            let product = |which: usize, row: usize| {
                let weight = &weights[which][row * self.width..][..self.width];
                weight.iter().zip(x).map(|(w, x)| w * x).sum::<f64>() + bias(which, row)
            };
            values.extend(rows.iter().map(|&row| match row {
                None => 0.0,
                Some(row) if self.op == Op::Gated => {
                    activate(product(0, row), self.activation) * product(1, row)
                }
                Some(row) => activate(product(0, row), self.activation) * f64::from(self.scale),
            }));
        }
        // One rounding of values up to 5 rms, of products of two such up to 16; f32 sums, whose error grows with their
        // largest part.
        let rounding = match self.op {
            Op::Logits => 0.0,
            Op::Gated => 16.0 * unit_roundoff(self.dtype),
            _ => 5.0 * unit_roundoff(self.dtype),
        };
        vec![Expected::Floats { values, tolerance: rounding + 1e-5 }]
    }

    fn dtype(&self) -> GpuDtype {
        self.dtype
    }
}

#[test]
fn linear() {
    use Activation::{Gelu, GeluTanh, Relu, Silu};
    for dtype in DTYPES {
        let case = |tokens, channels, width| GemvCase::new(dtype, Op::Linear, tokens, channels, width);
        // Every row count of a tile, widths that are no multiple of 8, of 32, of what is under way at once.
        check(&case(1, 1, 8));
        check(&case(1, 33, 7).with_bias());
        check(&case(2, 31, 33).with(Relu, 1.0));
        check(&case(3, 40, 64).with_bias().with(Gelu, 0.5));
        check(&case(7, 32, 264).with(GeluTanh, 2.0));
        check(&case(8, 70, 1).with(Silu, 1.0));
        check(&case(9, 5, 72).with_bias().with(Silu, 0.25));
        check(&case(15, 65, 31));
        check(&case(16, 100, 4104).with_bias());
        check(&case(4, 50, 4104));
    }
}

#[test]
fn linear_of_kept_rows() {
    for dtype in DTYPES {
        let case = |tokens, channels, width| GemvCase::new(dtype, Op::Linear, tokens, channels, width);
        check(&case(1, 100, 64).keep(1, 37, 0).with_bias());
        check(&case(12, 48, 40).keep(1, 48, 0));
        // Query heads, then key/value heads of which the last are skipped.
        check(&case(3, 96, 128).keep(16, 4, 0).with_bias());
        check(&case(10, 96, 56).keep(16, 5, 2).with_bias());
        check(&case(1, 80, 33).keep(10, 6, 1).with_bias().with(Activation::Relu, 0.5));
        check(&case(2, 64, 24).keep(32, 2, 2));
    }
}

#[test]
fn linear_with_many_blocks() {
    // From 64 blocks on they have 8 warps, and columns of several rounds.
    for (tokens, width) in [(1, 1304), (16, 1032)] {
        let case = GemvCase::new(GpuDtype::Bf16, Op::Linear, tokens, 2050, width);
        check_once(&case.clone().keep(1, 2040, 0).with_bias());
        check_once(&case);
    }
}

#[test]
fn gated_linear() {
    for dtype in DTYPES {
        let case = |tokens, channels, width| GemvCase::new(dtype, Op::Gated, tokens, channels, width);
        check(&case(1, 17, 64));
        check(&case(2, 100, 72).keep(1, 61, 0).with_bias());
        check(&case(8, 16, 7).with_bias().with(Activation::Gelu, 1.0));
        check(&case(9, 50, 136).keep(1, 19, 0).with(Activation::GeluTanh, 1.0));
        check(&case(16, 33, 2064).with_bias());
        check(&case(3, 40, 40).keep(8, 3, 1).with_bias().with(Activation::Relu, 1.0));
    }
    check_once(&GemvCase::new(GpuDtype::Bf16, Op::Gated, 2, 1500, 1304).keep(1, 1100, 0));
}

#[test]
fn logits() {
    for dtype in DTYPES {
        let case = |tokens, channels, width| GemvCase::new(dtype, Op::Logits, tokens, channels, width);
        check(&case(1, 101, 64));
        check(&case(8, 33, 72));
        check(&case(11, 48, 33));
    }
    check_once(&GemvCase::new(GpuDtype::F16, Op::Logits, 1, 3000, 576));
}

#[test]
fn project() {
    for dtype in DTYPES {
        let case = |tokens, channels, width| GemvCase::new(dtype, Op::Project, tokens, channels, width);
        check(&case(1, 1, 1));
        check(&case(1, 64, 8).with_bias());
        check(&case(2, 33, 31).with_residual());
        check(&case(3, 100, 33).keep(1, 37, 0).with_bias().with_residual());
        check(&case(7, 300, 36).keep(1, 160, 0).with_residual());
        check(&case(8, 120, 100).keep(10, 7, 0).with_bias());
        check(&case(9, 256, 64).keep(64, 3, 0).with_bias().with_residual());
        check(&case(16, 4100, 40).with_residual());
        check(&case(15, 70, 34).keep(1, 70, 0));
        check(&case(5, 4200, 44).keep(1, 4103, 0).with_bias());
    }
}

#[test]
fn project_with_many_blocks() {
    for tokens in [1, 13] {
        let case = GemvCase::new(GpuDtype::Bf16, Op::Project, tokens, 2100, 2050);
        check_once(&case.clone().keep(1, 1500, 0).with_bias().with_residual());
        check_once(&GemvCase { width: 2048, ..case }.keep(100, 13, 0).with_residual());
    }
}

#[test]
fn linear_moves_what_its_header_says() {
    for tokens in [1, 8, 16] {
        let case = GemvCase::new(GpuDtype::Bf16, Op::Linear, tokens, 2048, 4096);
        let (t, h) = (tokens, 4096);
        let name = if tokens > 8 { "linear_gemv_16" } else { "linear_gemv_8" };
        check_traffic(&case, name, 2 * 2048 * h + 2 * t * h * 64, 2 * t * 2048);
        let kept = case.keep(128, 9, 0);
        check_traffic(&kept, name, 2 * 1152 * h + 2 * t * h * 36, 2 * t * 1152);
    }
    let case = GemvCase::new(GpuDtype::Bf16, Op::Logits, 1, 1024, 4096);
    check_traffic(&case, "linear_gemv_8", 2 * 1024 * 4096 + 2 * 4096 * 32, 4 * 1024);
}

#[test]
fn gated_linear_moves_what_its_header_says() {
    for tokens in [1, 8, 16] {
        let case = GemvCase::new(GpuDtype::Bf16, Op::Gated, tokens, 1024, 4096).keep(1, 512, 0);
        let name = if tokens > 8 { "gated_linear_gemv_16" } else { "gated_linear_gemv_8" };
        check_traffic(&case, name, 4 * 512 * 4096 + 2 * tokens * 4096 * 32, 2 * tokens * 512);
    }
}

#[test]
fn project_moves_what_its_header_says() {
    for tokens in [1, 8, 16] {
        let case = GemvCase::new(GpuDtype::Bf16, Op::Project, tokens, 1024, 4096).keep(1, 512, 0);
        let name = if tokens > 8 { "project_gemv_16" } else { "project_gemv_8" };
        let (t, c, h) = (tokens, 512, 4096);
        let read = 2 * c * h + (2 * t + 4) * c * h.div_ceil(32) + 2 * t * h;
        check_traffic(&case.with_residual(), name, read, 2 * t * h);
    }
}
