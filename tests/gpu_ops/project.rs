//! `project`: products with columns of a weight.

use probeprune::{
    Result,
    backend::{Backend, KeptBlocks, WeightUse},
    gpu::{Driver, Gpu, GpuDtype},
};

use crate::{
    case::{
        Case, DTYPES, Expected, Output, Put, check, check_once, check_traffic, elements, floats, rng, wide,
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
}

struct Input {
    a: Vec<f32>,
    kept: Option<(Vec<u32>, usize)>,
    w: Vec<f32>,
    bias: Vec<f32>,
    residual: Vec<f32>,
}

impl ProjectCase {
    fn new(dtype: GpuDtype, rows: usize, weight: [usize; 2], keep: Keep) -> Self {
        Self { dtype, rows, weight, keep, bias: true, residual: true }
    }

    fn input(&self) -> Input {
        let mut rng = rng(8);
        let [h, c] = self.weight;
        let kept = self.keep.indices(&mut rng, c);
        let a = inputs(&mut rng, self.dtype, self.rows, picked(&kept, c).len());
        let w = weights(&mut rng, self.dtype, h, c);
        let bias = floats(&mut rng, -1.0..1.0, h);
        Input { a, kept, w, bias, residual: elements(&mut rng, self.dtype, self.rows * h) }
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
        gpu.project(&a, self.rows, &w, kept, bias, residual, &mut out);
        Ok(vec![Output::Floats(gpu.download_activations(&out, self.rows * h)?)])
    }

    fn expected(&self) -> Vec<Expected> {
        let input = self.input();
        let [h, c] = self.weight;
        let picked: Vec<usize> = picked(&input.kept, c).into_iter().flatten().collect();
        let (a, w) = (wide(&input.a), wide(&input.w));
        let values = (0..self.rows * h).map(|i| {
            let (t, o) = (i / h, i % h);
            let a = &a[t * picked.len()..][..picked.len()];
            let sum: f64 = a.iter().zip(&picked).map(|(a, &channel)| a * w[o * c + channel]).sum();
            let bias = if self.bias { f64::from(input.bias[o]) } else { 0.0 };
            sum + bias + if self.residual { f64::from(input.residual[i]) } else { 0.0 }
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
}
