//! `project`: products with columns of a weight.

use probeprune::{
    Result,
    backend::{Addition, Backend, KeptBlocks, WeightUse},
    gpu::{Driver, Gpu, GpuDtype},
};

use crate::{
    case::{
        Case, DTYPES, Expected, Output, Put, check, check_once, check_traffic, elements, floats, kept_counts,
        rng, traffic, wide,
    },
    product::{Keep, inputs, picked, tolerance, weights},
};

#[derive(Clone, Debug)]
struct ProjectCase {
    dtype: GpuDtype,
    rows: usize,
    /// H and C of the weight.
    weight: [usize; 2],
    keep: Keep,
    bias: bool,
    residual: bool,
    /// r of an addition.
    addition: Option<usize>,
}

struct Input {
    a: Vec<f32>,
    kept: Option<(Vec<u32>, usize)>,
    w: Vec<f32>,
    bias: Vec<f32>,
    residual: Vec<f32>,
    z: Vec<f32>,
    addition: Vec<f32>,
}

impl ProjectCase {
    fn new(dtype: GpuDtype, rows: usize, weight: [usize; 2], keep: Keep) -> Self {
        Self { dtype, rows, weight, keep, bias: true, residual: true, addition: None }
    }

    fn input(&self) -> Input {
        let mut rng = rng(8);
        let [h, c] = self.weight;
        let kept = self.keep.indices(&mut rng, c);
        let a = inputs(&mut rng, self.dtype, self.rows, picked(&kept, c).len());
        let w = weights(&mut rng, self.dtype, h, c);
        let bias = floats(&mut rng, -1.0..1.0, h);
        let residual = elements(&mut rng, self.dtype, self.rows * h);
        let rank = self.addition.unwrap_or(0);
        let z = inputs(&mut rng, self.dtype, self.rows, rank);
        Input { a, kept, w, bias, residual, z, addition: weights(&mut rng, self.dtype, rank + 1, h) }
    }
}

impl Case for ProjectCase {
    fn run<D: Driver>(&self, gpu: &Gpu<D>) -> Result<Vec<Output>> {
        let input = self.input();
        let [h, c] = self.weight;
        let w = gpu.put_linear(&input.w, h, c, None, WeightUse::Columns);
        let set = input.kept.as_ref().map(|(indices, width)| (gpu.put_kept(indices, c / width), *width));
        let kept = set.as_ref().map(|(set, width)| KeptBlocks { set, width: *width });
        let (a, residual) = (gpu.put_activations(&input.a), gpu.put_activations(&input.residual));
        let bias = gpu.put_statistics(&input.bias);
        let mut out = gpu.activations(self.rows * h)?;
        let (bias, residual) = (self.bias.then_some(&bias), self.residual.then_some(&residual));
        let (z, weight) = (gpu.put_activations(&input.z), gpu.put_activations(&input.addition));
        let addition = self.addition.map(|rank| Addition { z: &z, rank, weight: &weight });
        gpu.project(&a, self.rows, &w, kept, bias, addition, residual, &mut out);
        Ok(vec![Output::Floats(gpu.download_activations(&out, self.rows * h)?)])
    }

    fn expected(&self) -> Vec<Expected> {
        let input = self.input();
        let [h, c] = self.weight;
        let picked: Vec<usize> = picked(&input.kept, c).into_iter().flatten().collect();
        let (a, w) = (wide(&input.a), wide(&input.w));
        let (z, addition) = (wide(&input.z), wide(&input.addition));
        let added = |t: usize, o: usize| -> f64 {
            let Some(rank) = self.addition else { return 0.0 };
            (0..rank).map(|l| z[t * rank + l] * addition[l * h + o]).sum::<f64>() + addition[rank * h + o]
        };
        let values = (0..self.rows * h).map(|i| {
            let (t, o) = (i / h, i % h);
            let a = &a[t * picked.len()..][..picked.len()];
            let sum: f64 = a.iter().zip(&picked).map(|(a, &channel)| a * w[o * c + channel]).sum();
            let bias = if self.bias { f64::from(input.bias[o]) } else { 0.0 };
            sum + bias + added(t, o) + if self.residual { f64::from(input.residual[i]) } else { 0.0 }
        });
        vec![Expected::Floats { values: values.collect(), tolerance: tolerance(self.dtype) }]
    }

    fn dtype(&self) -> GpuDtype {
        self.dtype
    }
}

#[test]
fn project_of_odd_shapes() {
    for dtype in DTYPES {
        for (rows, weight) in [(1, [8, 1]), (31, [33, 31]), (33, [130, 40]), (130, [72, 136]), (65, [7, 129])]
        {
            let case = ProjectCase::new(dtype, rows, weight, Keep::Dense);
            check(&ProjectCase { bias: false, ..case.clone() });
            check(&ProjectCase { residual: false, ..case });
        }
    }
    // More than one group of tiles.
    check_once(&ProjectCase::new(GpuDtype::F16, 1200, [260, 24], Keep::Dense));
}

#[test]
fn kept_columns_are_gathered() {
    for dtype in DTYPES {
        for (len, width) in [(1, 1), (71, 1), (144, 1), (3, 16), (9, 16), (5, 6), (17, 6), (2, 48), (3, 40)] {
            check(&ProjectCase::new(dtype, 35, [72, 144], Keep::Blocks { len, width }));
        }
    }
    // The ring wraps, in the gathered dimension.
    check(&ProjectCase::new(GpuDtype::Bf16, 5, [24, 700], Keep::Blocks { len: 361, width: 1 }));
    check(&ProjectCase::new(GpuDtype::F16, 5, [24, 720], Keep::Blocks { len: 5, width: 80 }));
}

#[test]
fn every_number_of_kept_columns() {
    for (all, width) in [(144, 1), (9, 16)] {
        for len in kept_counts(all) {
            // A tile's kernel, and the matrix-vector one.
            for rows in [35, 3] {
                let keep = Keep::Blocks { len, width };
                check_once(&ProjectCase::new(GpuDtype::Bf16, rows, [72, all * width], keep));
            }
        }
    }
}

#[test]
fn additions_are_more_columns_and_a_constant() {
    for dtype in DTYPES {
        // Few rows go to the matrix-vector kernel.
        for (rows, weight, keep, rank) in [
            (1, [33, 31], Keep::Dense, 0),
            (3, [40, 64], Keep::Blocks { len: 37, width: 1 }, 5),
            (16, [72, 144], Keep::Blocks { len: 9, width: 8 }, 32),
            (33, [130, 40], Keep::Dense, 0),
            (35, [72, 144], Keep::Blocks { len: 71, width: 1 }, 32),
            (130, [66, 144], Keep::Blocks { len: 3, width: 16 }, 7),
            (65, [24, 720], Keep::Blocks { len: 40, width: 8 }, 200),
        ] {
            let case = ProjectCase { addition: Some(rank), ..ProjectCase::new(dtype, rows, weight, keep) };
            check(&ProjectCase { bias: false, residual: false, ..case.clone() });
            check(&case);
        }
    }
}

#[test]
fn project_moves_what_its_header_says() {
    let (t, h, c) = (256, 512, 1024);
    let case = ProjectCase::new(GpuDtype::Bf16, t, [h, 2048], Keep::Blocks { len: c, width: 1 });
    let tiles = t / 128 * h / 128;
    // The 16 threads of a row of the tile read the same index: a sector of 8 indices for each 2 rows of a warp.
    let kept = tiles * c / 2 * 32;
    check_traffic(
        &case,
        "project",
        h / 128 * 2 * t * c + t / 128 * (2 * c * h + 4 * h) + kept + 2 * t * h,
        2 * t * h,
    );
    let (rank, added) = (32, ProjectCase { addition: Some(32), ..case.clone() });
    let more = h / 128 * 2 * t * rank + t / 128 * 2 * (rank + 1) * h;
    let [Some(plain), Some(added)] = [&case, &added].map(|case| traffic(case, "project")) else { return };
    let near = (added.read - plain.read) as f64 / more as f64;
    assert!((near - 1.0).abs() < 0.02 && added.conflicts == 0, "{added:?} for {plain:?} and {more} more");
}
