//! `centre_energy`, `gather_pruned` and `accumulate_product`: what compensation of pruned channels needs.

use probeprune::{
    Result,
    backend::{Backend, Grid, KeptBlocks, KeptSet},
    gpu::{Driver, Gpu, GpuDtype},
};
use rand::RngExt;

use crate::case::{
    Case, DTYPES, Expected, Output, Put, check, check_once, check_traffic, elements, floats, rng, subset,
    unit_roundoff, wide,
};

#[derive(Clone, Debug)]
struct CentreCase {
    grid: Grid,
    width: usize,
    masked: bool,
    prior: bool,
}

const WEIGHT: f32 = 0.75;
const SHARE: f32 = 0.625;

impl CentreCase {
    /// a (B, S, C), mask (B, S) with a token in the last slot, prior (C).
    fn input(&self) -> (Vec<f64>, Vec<u32>, Vec<f32>) {
        let mut rng = rng(self.width as u64);
        let rows = self.grid.rows();
        let a = wide(&floats(&mut rng, -1.0..2.0, rows * self.width));
        let real = |row: usize| !self.masked || row + 1 == rows;
        let mask = (0..rows).map(|row| u32::from(real(row) || rng.random_range(0..3) > 0)).collect();
        (a, mask, floats(&mut rng, -1.0..1.0, self.width))
    }

    /// Values of slot s and channel c that are no pads.
    fn at<'a>(&self, a: &'a [f64], mask: &'a [u32], s: usize, c: usize) -> Vec<f64> {
        let Grid { samples, tokens } = self.grid;
        let rows = (0..samples).map(|b| b * tokens + s).filter(|&row| mask[row] != 0);
        rows.map(|row| a[row * self.width + c]).collect()
    }

    fn divisor(&self, count: usize) -> f64 {
        count as f64 + if self.masked { 1e-3 } else { 0.0 }
    }

    fn each<'a>(&'a self, a: &'a [f64], mask: &'a [u32], f: impl Fn(&[f64], usize) -> f64 + 'a) -> Vec<f64> {
        (0..self.grid.tokens * self.width)
            .map(|i| f(&self.at(a, mask, i / self.width, i % self.width), i % self.width))
            .collect()
    }
}

impl Case for CentreCase {
    fn run<D: Driver>(&self, gpu: &Gpu<D>) -> Result<Vec<Output>> {
        let (a, mask, prior) = self.input();
        let narrow = |values: Vec<f64>| values.iter().map(|&x| x as f32).collect::<Vec<_>>();
        let squares =
            |values: &[f64], _| values.iter().map(|x| x * x).sum::<f64>() / self.divisor(values.len());
        let energy = narrow(self.each(&a, &mask, squares));
        let sums = narrow(self.each(&a, &mask, |values, _| values.iter().sum()));
        let mut energy = gpu.put_statistics(&energy);
        let mask = self.masked.then(|| gpu.put_indices(&mask));
        let prior = self.prior.then(|| gpu.put_statistics(&prior));
        let mut mean = gpu.put_statistics(&vec![f32::NAN; self.width]);
        let sums = gpu.put_statistics(&sums);
        gpu.centre_energy(
            &mut energy,
            &sums,
            self.grid,
            self.width,
            mask.as_ref(),
            prior.as_ref().map(|prior| (prior, WEIGHT)),
            SHARE,
            &mut mean,
        );
        Ok(vec![
            Output::Floats(gpu.download_statistics(&energy, self.grid.tokens * self.width)?),
            Output::Floats(gpu.download_statistics(&mean, self.width)?),
        ])
    }

    fn expected(&self) -> Vec<Expected> {
        let (a, mask, prior) = self.input();
        let mean: Vec<f64> = (0..self.width)
            .map(|c| {
                let all: Vec<f64> = (0..self.grid.tokens).flat_map(|s| self.at(&a, &mask, s, c)).collect();
                let mean = all.iter().sum::<f64>() / all.len() as f64;
                let prior = f64::from(prior[c]);
                if self.prior { prior + f64::from(WEIGHT) * (mean - prior) } else { mean }
            })
            .collect();
        let centred = self.each(&a, &mask, |values, c| {
            values.iter().map(|x| (x - f64::from(SHARE) * mean[c]).powi(2)).sum::<f64>()
                / self.divisor(values.len())
        });
        // Differences of f32 values up to 4.
        let floats = |values| Expected::Floats { values, tolerance: 5e-6 };
        vec![floats(centred), floats(mean)]
    }

    fn dtype(&self) -> GpuDtype {
        GpuDtype::Bf16
    }
}

#[test]
fn centre_energy() {
    for (samples, tokens, width) in
        [(1, 2, 1), (1, 9, 31), (3, 8, 32), (2, 33, 40), (5, 17, 97), (40, 3, 70), (1, 128, 576)]
    {
        for (masked, prior) in [(false, false), (true, true), (false, true)] {
            check(&CentreCase { grid: Grid { samples, tokens }, width, masked, prior });
        }
    }
}

#[test]
fn centre_energy_moves_what_its_header_says() {
    let case = CentreCase { grid: Grid { samples: 2, tokens: 64 }, width: 1024, masked: false, prior: true };
    let len = 64 * 1024;
    check_traffic(&case, "centre_energy", 12 * len + 32 * 1024, 4 * len + 4 * 1024);
}

#[derive(Clone, Debug)]
struct GatherCase {
    dtype: GpuDtype,
    /// Units in all, those that are kept, channels of each, rows.
    of: usize,
    kept: usize,
    width: usize,
    rank: usize,
}

impl GatherCase {
    fn input(&self) -> (Vec<u32>, Vec<f32>, Vec<f32>) {
        let mut rng = rng(3);
        let channels = self.of * self.width;
        let kept = subset(&mut rng, self.of, self.kept);
        (kept, floats(&mut rng, -1.0..1.0, self.rank * channels), floats(&mut rng, -1.0..1.0, channels))
    }
}

impl Case for GatherCase {
    fn run<D: Driver>(&self, gpu: &Gpu<D>) -> Result<Vec<Output>> {
        let (kept, rows, last) = self.input();
        let set = gpu.put_kept(&kept, self.of);
        let pruned_len = self.of - self.kept;
        let mut pruned =
            KeptSet { indices: gpu.put_indices(&vec![7777; pruned_len]), len: pruned_len, of: self.of };
        let len = (self.rank + 1) * pruned_len * self.width;
        let mut out = gpu.activations(len)?;
        let (rows, last) = (gpu.put_statistics(&rows), gpu.put_statistics(&last));
        let rows = (self.rank > 0).then_some((&rows, self.rank));
        gpu.gather_pruned(KeptBlocks { set: &set, width: self.width }, rows, &last, &mut pruned, &mut out);
        Ok(vec![
            Output::Indices(gpu.download_indices(&pruned.indices, pruned_len)?),
            Output::Floats(gpu.download_activations(&out, len)?),
        ])
    }

    fn expected(&self) -> Vec<Expected> {
        let (kept, rows, last) = self.input();
        let pruned: Vec<u32> = (0..self.of as u32).filter(|unit| !kept.contains(unit)).collect();
        let sources = rows.chunks_exact((self.of * self.width).max(1)).chain([&last[..]]);
        let columns =
            || pruned.iter().flat_map(|&unit| (0..self.width).map(move |i| unit as usize * self.width + i));
        let values = sources.flat_map(|row| columns().map(move |c| f64::from(row[c]))).collect();
        // One rounding of values up to 2 rms.
        let tolerance = 2.0 * unit_roundoff(self.dtype);
        vec![Expected::Indices(pruned), Expected::Floats { values, tolerance }]
    }

    fn dtype(&self) -> GpuDtype {
        self.dtype
    }
}

#[test]
fn gather_pruned() {
    for dtype in DTYPES {
        for (of, kept, width, rank) in [
            (2, 1, 1, 0),
            (33, 31, 1, 3),
            (300, 0, 1, 1),
            (1000, 613, 1, 5),
            (257, 256, 1, 2),
            (9, 3, 64, 4),
            (32, 18, 128, 2),
            (7, 4, 80, 0),
            (70, 40, 8, 33),
            (4, 2, 300, 1),
        ] {
            check(&GatherCase { dtype, of, kept, width, rank });
        }
    }
    check_once(&GatherCase { dtype: GpuDtype::Bf16, of: 11008, kept: 6208, width: 1, rank: 32 });
}

#[test]
fn gather_pruned_moves_what_its_header_says() {
    // Whole heads, so that what is pruned lies in whole sectors.
    let (of, kept, width, rank) = (32, 18, 128, 32);
    let case = GatherCase { dtype: GpuDtype::Bf16, of, kept, width, rank };
    let (channels, pruned) = (of * width, (of - kept) * width);
    // An index list of 18 words is three sectors, and each pruned index that is written is one.
    let read = channels / 256 * 96 + 4 * (rank + 1) * pruned;
    check_traffic(&case, "gather_pruned", read, 32 * (of - kept) + 2 * (rank + 1) * pruned);
}

#[derive(Clone, Debug)]
struct ProductCase {
    dtype: GpuDtype,
    rows: usize,
    m: usize,
    n: usize,
}

impl ProductCase {
    fn input(&self) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let mut rng = rng(4);
        let a = elements(&mut rng, self.dtype, self.rows * self.m);
        let b = elements(&mut rng, self.dtype, self.rows * self.n);
        (a, b, floats(&mut rng, -1.0..1.0, self.m * self.n))
    }
}

impl Case for ProductCase {
    fn run<D: Driver>(&self, gpu: &Gpu<D>) -> Result<Vec<Output>> {
        let (a, b, before) = self.input();
        let mut out = gpu.put_statistics(&before);
        let (a, b) = (gpu.put_activations(&a), gpu.put_activations(&b));
        gpu.accumulate_product(&a, &b, self.rows, [self.m, self.n], &mut out);
        Ok(vec![Output::Floats(gpu.download_statistics(&out, self.m * self.n)?)])
    }

    fn expected(&self) -> Vec<Expected> {
        let (a, b, before) = self.input();
        let (a, b) = (wide(&a), wide(&b));
        let values = (0..self.m * self.n).map(|i| {
            let (row, column) = (i / self.n, i % self.n);
            let sum: f64 = (0..self.rows).map(|t| a[t * self.m + row] * b[t * self.n + column]).sum();
            sum + f64::from(before[i])
        });
        // f32 sums.
        vec![Expected::Floats { values: values.collect(), tolerance: 1e-5 }]
    }

    fn dtype(&self) -> GpuDtype {
        self.dtype
    }
}

#[test]
fn accumulate_product() {
    for dtype in DTYPES {
        for (rows, m, n) in [(1, 1, 1), (15, 3, 70), (16, 64, 64), (33, 65, 31), (50, 32, 130)] {
            check(&ProductCase { dtype, rows, m, n });
        }
    }
}

#[test]
fn accumulate_product_moves_what_its_header_says() {
    let (rows, m, n) = (64, 128, 192);
    let case = ProductCase { dtype: GpuDtype::F16, rows, m, n };
    let read = n / 64 * 2 * rows * m + m / 64 * 2 * rows * n + 4 * m * n;
    check_traffic(&case, "accumulate_product", read, 4 * m * n);
}
