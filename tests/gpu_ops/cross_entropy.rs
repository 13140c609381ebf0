//! `cross_entropy`: losses without logits in memory.

use probeprune::{
    Result,
    backend::{Backend, WeightUse},
    gpu::{Driver, Gpu, GpuDtype},
};

use crate::{
    case::{Case, DTYPES, Expected, Output, Put, check, check_traffic, rng, wide},
    device::TestDevice,
    product::{inputs, product, weights},
};

#[derive(Clone, Debug)]
struct CrossEntropyCase {
    dtype: GpuDtype,
    rows: usize,
    vocab: usize,
    width: usize,
    /// Factor on the weights: logits far apart.
    scale: f32,
}

impl CrossEntropyCase {
    /// x, weight, targets.
    fn input(&self) -> (Vec<f32>, Vec<f32>, Vec<u32>) {
        let mut rng = rng(9);
        let x = inputs(&mut rng, self.dtype, self.rows, self.width);
        let w = weights(&mut rng, self.dtype, self.vocab, self.width);
        let w = w.into_iter().map(|w| crate::case::rounded(self.dtype, w * self.scale)).collect();
        let target = |row: usize| if row % 4 == 3 { u32::MAX } else { (row * 37 % self.vocab) as u32 };
        (x, w, (0..self.rows).map(target).collect())
    }
}

impl Case for CrossEntropyCase {
    fn run<D: Driver>(&self, gpu: &Gpu<D>) -> Result<Vec<Output>> {
        let (x, w, targets) = self.input();
        let head = gpu.put_linear(&w, self.vocab, self.width, None, WeightUse::Rows);
        let mut scratch = gpu.statistics(gpu.cross_entropy_scratch(self.rows, self.vocab))?;
        let mut out = gpu.statistics(self.rows)?;
        let (x, targets) = (gpu.put_activations(&x), gpu.put_indices(&targets));
        gpu.cross_entropy(&x, self.rows, &head, &targets, &mut scratch, &mut out);
        Ok(vec![Output::Floats(gpu.download_statistics(&out, self.rows)?)])
    }

    fn expected(&self) -> Vec<Expected> {
        let (x, w, targets) = self.input();
        let all: Vec<Option<usize>> = (0..self.vocab).map(Some).collect();
        let logits = product(&wide(&x), &wide(&w), self.width, &all);
        let loss = |(row, &target): (&[f64], &u32)| {
            let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = row.iter().map(|x| (x - most).exp()).sum();
            row.get(target as usize).map_or(0.0, |logit| most + sum.ln() - logit)
        };
        let values = logits.chunks_exact(self.vocab).zip(&targets).map(loss).collect();
        // f32 sums of logits up to some tens.
        vec![Expected::Floats { values, tolerance: 2e-5 }]
    }

    fn dtype(&self) -> GpuDtype {
        self.dtype
    }
}

#[test]
fn cross_entropy() {
    for dtype in DTYPES {
        for (rows, vocab, width) in [(1, 1, 8), (2, 300, 24), (5, 128, 40), (70, 129, 33), (131, 500, 16)] {
            check(&CrossEntropyCase { dtype, rows, vocab, width, scale: 1.0 });
        }
        check(&CrossEntropyCase { dtype, rows: 5, vocab: 300, width: 24, scale: 40.0 });
    }
}

#[test]
fn logits_that_are_not_finite_give_losses_that_are_not() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let gpu = Gpu::new(TestDevice::new(ptx_emu::Settings::default()), GpuDtype::Bf16);
        let (rows, vocab, width) = (3, 300, 16);
        let mut w = weights(&mut rng(1), GpuDtype::Bf16, vocab, width);
        w[200 * width] = bad;
        let head = gpu.put_linear(&w, vocab, width, None, WeightUse::Rows);
        let mut scratch = gpu.statistics(gpu.cross_entropy_scratch(rows, vocab)).unwrap();
        let mut out = gpu.statistics(rows).unwrap();
        let x = gpu.put_activations(&vec![1.0; rows * width]);
        let targets = gpu.put_indices(&[0, 200, u32::MAX]);
        gpu.cross_entropy(&x, rows, &head, &targets, &mut scratch, &mut out);
        let losses = gpu.download_statistics(&out, rows).unwrap();
        assert!(!losses[0].is_finite(), "{bad}: {losses:?}");
        assert!(!losses[1].is_finite() && losses[2] == 0.0, "{losses:?}");
    }
}

#[test]
fn cross_entropy_moves_what_its_header_says() {
    let (t, v, h) = (256, 1024, 512);
    let case = CrossEntropyCase { dtype: GpuDtype::Bf16, rows: t, vocab: v, width: h, scale: 1.0 };
    // Targets that a tile has are a sector more, for three rows of four.
    let read = v / 128 * (2 * t * h + 4 * t) + t / 128 * 2 * v * h;
    check_traffic(&case, "cross_entropy", read, 8 * t * v / 128 + 32 * t * 3 / 4);
}
