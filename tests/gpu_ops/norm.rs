//! `norm`: RMSNorm, LayerNorm, copy.

use probeprune::{
    Result,
    backend::{Backend, Norm, NormKind},
    gpu::{Driver, Gpu, GpuDtype},
};

use crate::case::{
    Case, DTYPES, Expected, Output, Put, check, check_once, check_traffic, elements, floats, rng, rounded,
    unit_roundoff, wide,
};

#[derive(Debug, Clone)]
struct NormCase {
    dtype: GpuDtype,
    kind: Option<NormKind>,
    affine: bool,
    rows: usize,
    width: usize,
    /// Added to x.
    mean: f32,
}

const EPS: f32 = 1e-5;

impl NormCase {
    /// x, weight, bias.
    fn input(&self) -> [Vec<f32>; 3] {
        let mut rng = rng(1);
        let x = elements(&mut rng, self.dtype, self.rows * self.width);
        let x = x.iter().map(|x| rounded(self.dtype, x + self.mean)).collect();
        [x, floats(&mut rng, 0.5..1.5, self.width), floats(&mut rng, -1.0..1.0, self.width)]
    }
}

impl Case for NormCase {
    fn run<D: Driver>(&self, gpu: &Gpu<D>) -> Result<Vec<Output>> {
        let [x, weight, bias] = self.input();
        let norm = self.kind.map(|kind| Norm {
            kind,
            weight: self.affine.then(|| gpu.put_statistics(&weight)),
            bias: (self.affine && kind == NormKind::Layer).then(|| gpu.put_statistics(&bias)),
            eps: EPS,
        });
        let len = self.rows * self.width;
        let mut out = gpu.activations(len)?;
        let mut sums = gpu.statistics(self.rows)?;
        gpu.norm(&gpu.put_activations(&x), norm.as_ref(), self.rows, self.width, &mut out, &mut sums);
        Ok(vec![
            Output::Floats(gpu.download_activations(&out, len)?),
            Output::Floats(gpu.download_statistics(&sums, self.rows)?),
        ])
    }

    fn expected(&self) -> Vec<Expected> {
        let [x, weight, bias] = self.input().map(|values| wide(&values));
        let (mut out, mut sums) = (Vec::new(), Vec::new());
        for row in x.chunks_exact(self.width) {
            let n = row.len() as f64;
            let squares: f64 = row.iter().map(|x| x * x).sum();
            let mean = match self.kind {
                Some(NormKind::Layer) => row.iter().sum::<f64>() / n,
                _ => 0.0,
            };
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
            let scale = if self.kind.is_some() { 1.0 / (variance + f64::from(EPS)).sqrt() } else { 1.0 };
            out.extend(row.iter().enumerate().map(|(c, x)| {
                let affine = self.affine && self.kind.is_some();
                let weight = if affine { weight[c] } else { 1.0 };
                let bias = if affine && self.kind == Some(NormKind::Layer) { bias[c] } else { 0.0 };
                (x - mean) * scale * weight + bias
            }));
            sums.push(squares);
        }
        // One rounding to the dtype of values up to about 4 rms; f32 sums.
        vec![
            Expected::Floats { values: out, tolerance: 5.0 * unit_roundoff(self.dtype) },
            Expected::Floats { values: sums, tolerance: 1e-6 },
        ]
    }

    fn dtype(&self) -> GpuDtype {
        self.dtype
    }
}

#[test]
fn norm() {
    for dtype in DTYPES {
        for kind in [None, Some(NormKind::Rms), Some(NormKind::Layer)] {
            for (rows, width, affine) in
                [(1, 1, true), (4, 7, false), (1, 8, true), (3, 33, true), (2, 256, false), (2, 1000, true)]
            {
                check(&NormCase { dtype, kind, affine, rows, width, mean: 0.0 });
            }
            // Kept in registers; read again.
            for width in [8192, 8200, 16384, 16392, 9001] {
                check_once(&NormCase { dtype, kind, affine: true, rows: 1, width, mean: 0.0 });
            }
        }
    }
}

#[test]
fn layer_norm_far_from_zero() {
    // The variance is a 30,000th of the mean square: a sum of squares in f32 would leave three digits of it.
    for width in [520, 1001] {
        let (dtype, kind) = (GpuDtype::F16, Some(NormKind::Layer));
        check(&NormCase { dtype, kind, affine: false, rows: 2, width, mean: 100.0 });
    }
}

#[test]
fn norm_moves_what_its_header_says() {
    for (kind, tables) in [(None, 0), (Some(NormKind::Rms), 1), (Some(NormKind::Layer), 2)] {
        for width in [4096, 8192] {
            let case = NormCase { dtype: GpuDtype::Bf16, kind, affine: true, rows: 4, width, mean: 0.0 };
            let (t, h) = (case.rows, width);
            check_traffic(&case, "norm", 2 * t * h + 8 * t * h * tables, 2 * t * h + 4 * t);
        }
    }
}
