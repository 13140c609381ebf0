//! Running the study kernels and judging their results.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

use std::{collections::HashMap, fs, path::Path};

use ptx_emu::{Args, Counters, Device, Launch, Module, Result, Settings, Struct, Swizzle, TensorMap};

/// A module of `kernels/ptx`.
pub fn module(name: &str) -> Module {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/ptx").join(format!("{name}.ptx"));
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Module::parse(&text).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Deterministic numbers in [-1, 1).
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.next()).collect()
    }

    /// Floats that bf16 holds exactly, as bits.
    pub fn bf16(&mut self, n: usize) -> Vec<u16> {
        (0..n).map(|_| (self.next().to_bits() >> 16) as u16).collect()
    }
}

/// Bits of a bf16 as a number.
pub fn of_bf16(bits: u16) -> f64 {
    f64::from(f32::from_bits(u32::from(bits) << 16))
}

/// What a run was: counters and whether the result is right.
pub type Outcome = Result<(Counters, bool)>;

/// The sum of `n` floats over some blocks.
pub fn reduce(m: &Module, n: usize, blocks: u32, settings: &Settings) -> Outcome {
    let x = Numbers::new(3).floats(n);
    let mut dev = Device::new();
    let px = dev.upload("x", &x)?;
    let partial = dev.alloc("partial", blocks as usize * 4)?;
    let out = dev.alloc("out", 4)?;
    let counter = dev.upload("counter", &[0u32])?;
    let args = Struct::new().field(px).field(partial).field(out).field(counter).field(n as i32).args();
    let c = dev.launch(m, "reduce", Launch::linear(blocks, 256, 148), &args, settings)?;
    let want: f64 = x.iter().map(|v| f64::from(*v)).sum();
    // Each addition is off by at most half an ulp of a partial sum; no partial sum exceeds the sum of magnitudes, and no
    // value takes part in more than n / threads + 5 + 5 + blocks additions.
    let magnitude: f64 = x.iter().map(|v| f64::from(v.abs())).sum();
    let depth = n as f64 / (256.0 * f64::from(blocks)) + 10.0 + f64::from(blocks);
    let tolerance = magnitude * depth * 2f64.powi(-24);
    let got = dev.read::<f32>(out, 1)?[0];
    Ok((c, (f64::from(got) - want).abs() <= tolerance))
}

/// The sum of 32 floats in one warp.
pub fn warp_sum(m: &Module, settings: &Settings) -> Outcome {
    let x: Vec<f32> = (0..32).map(|i| i as f32).collect();
    let mut dev = Device::new();
    let (px, out) = (dev.upload("x", &x)?, dev.alloc("out", 4)?);
    let args = Struct::new().field(px).field(out).args();
    let c = dev.launch(m, "warp_sum_shared", Launch::linear(1, 32, 128), &args, settings)?;
    Ok((c, dev.read::<f32>(out, 1)?[0] == 496.0))
}

/// The `k` largest of each row, with many ties.
pub fn topk(m: &Module, rows: usize, n: usize, k: usize, threads: u32, settings: &Settings) -> Outcome {
    let x: Vec<f32> = Numbers::new(7).floats(rows * n).iter().map(|v| (v * 64.0).round() / 8.0).collect();
    let mut dev = Device::new();
    let px = dev.upload("x", &x)?;
    let (values, indices) = (dev.alloc("values", rows * k * 4)?, dev.alloc("indices", rows * k * 4)?);
    let args = Struct::new().field(px).field(values).field(indices).field(n as i32).field(k as i32).args();
    let c = dev.launch(m, "topk", Launch::linear(rows as u32, threads, 1328), &args, settings)?;
    let (values, indices) = (dev.read::<f32>(values, rows * k)?, dev.read::<i32>(indices, rows * k)?);
    let right = (0..rows).all(|r| {
        let row = &x[r * n..(r + 1) * n];
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
        let mut want = order[..k].to_vec();
        want.sort_unstable();
        (0..k).all(|j| indices[r * k + j] == want[j] as i32 && values[r * k + j] == row[want[j]])
    });
    Ok((c, right))
}

/// A matrix product with its exact answer and error bound.
pub struct Gemm {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: Vec<u16>,
    pub b: Vec<u16>,
    want: Vec<f64>,
    tolerance: Vec<f64>,
}

impl Gemm {
    pub fn new(m: usize, n: usize, k: usize) -> Self {
        let mut r = Numbers::new(42);
        let (a, b) = (r.bf16(m * k), r.bf16(n * k));
        let (mut want, mut tolerance) = (vec![0.0; m * n], vec![0.0; m * n]);
        for i in 0..m {
            for j in 0..n {
                let products = (0..k).map(|q| of_bf16(a[i * k + q]) * of_bf16(b[j * k + q]));
                let (s, t) = products.fold((0.0, 0.0), |(s, t), p| (s + p, t + p.abs()));
                want[i * n + j] = s;
                // k additions of exact products in f32.
                tolerance[i * n + j] = t * k as f64 * 2f64.powi(-24);
            }
        }
        Self { m, n, k, a, b, want, tolerance }
    }

    fn is_right(&self, c: &[f32]) -> bool {
        let close = |((c, w), t): ((&f32, &f64), &f64)| (f64::from(*c) - w).abs() <= *t;
        c.len() == self.want.len() && c.iter().zip(&self.want).zip(&self.tolerance).all(close)
    }

    /// On `gemm_mma`.
    pub fn mma(&self, module: &Module, settings: &Settings) -> Outcome {
        let mut dev = Device::new();
        let (a, b) = (dev.upload("A", &self.a)?, dev.upload("B", &self.b)?);
        let c = dev.alloc("C", self.m * self.n * 4)?;
        let row_max = dev.upload("row_max", &vec![0u32; self.m])?;
        let [m, n, k] = [self.m, self.n, self.k].map(|v| v as i32);
        let args = Struct::new().field(a).field(b).field(c).field(row_max).field(m).field(n).field(k).args();
        let grid = [self.n.div_ceil(64) as u32, self.m.div_ceil(64) as u32, 1];
        let launch = Launch { grid, block: [128, 1, 1], shared: 16_512 };
        let counters = dev.launch(module, "gemm_mma", launch, &args, settings)?;
        let c = dev.read::<f32>(c, self.m * self.n)?;
        let rows = dev.read::<u32>(row_max, self.m)?;
        let maxima = rows.iter().enumerate().all(|(r, bits)| {
            let want = c[r * self.n..(r + 1) * self.n].iter().fold(0f32, |m, v| m.max(v.abs()));
            f32::from_bits(*bits) == want
        });
        Ok((counters, self.is_right(&c) && maxima))
    }

    /// On `gemm_wgmma`; N has to be a multiple of 4, because C is stored by a tensor map.
    pub fn wgmma(&self, module: &Module, settings: &Settings) -> Outcome {
        let mut dev = Device::new();
        let (a, b) = (dev.upload("A", &self.a)?, dev.upload("B", &self.b)?);
        let c = dev.alloc("C", self.m * self.n * 4)?;
        let [m, n, k] = [self.m, self.n, self.k].map(|v| v as u64);
        let ab = |p, rows| TensorMap::tiled(2, p, &[k, rows], &[2 * k], &[64, 64], Swizzle::B128);
        let (ma, mb) = (ab(a, m)?, ab(b, n)?);
        let mc = TensorMap::tiled(4, c, &[n, m], &[4 * n], &[64, 64], Swizzle::None)?;
        let sizes = Struct::new().field(m as i32).field(n as i32).field(k as i32);
        let args = Args::new().tensor_map(&ma).tensor_map(&mb).tensor_map(&mc).fields(sizes);
        let grid = [self.n.div_ceil(64) as u32, self.m.div_ceil(64) as u32, 1];
        let launch = Launch { grid, block: [256, 1, 1], shared: 66_768 };
        let counters = dev.launch(module, "gemm_wgmma", launch, &args, settings)?;
        Ok((counters, self.is_right(&dev.read::<f32>(c, self.m * self.n)?)))
    }
}

/// Modules by name, parsed once.
#[derive(Default)]
pub struct Modules(HashMap<String, Module>);

impl Modules {
    pub fn get(&mut self, name: &str) -> &Module {
        self.0.entry(name.to_owned()).or_insert_with(|| module(name))
    }
}
