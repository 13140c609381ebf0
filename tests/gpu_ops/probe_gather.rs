//! `probe_gather`: the probe's rows.

use probeprune::{
    Result,
    backend::{Backend, Grid, Probe},
    gpu::{Driver, Gpu, GpuDtype},
};

use crate::case::{Case, DTYPES, Expected, Output, Put, check, check_traffic, elements, rng, subset, wide};

#[derive(Debug, Clone)]
struct GatherCase {
    dtype: GpuDtype,
    grid: Grid,
    probe: Grid,
    width: usize,
}

impl GatherCase {
    /// x, samples, slots.
    fn input(&self) -> (Vec<f32>, Vec<u32>, Vec<u32>) {
        let mut rng = rng(1);
        let x = elements(&mut rng, self.dtype, self.grid.rows() * self.width);
        let samples = subset(&mut rng, self.grid.samples, self.probe.samples);
        (x, samples, subset(&mut rng, self.grid.tokens, self.probe.tokens))
    }
}

impl Case for GatherCase {
    fn run<D: Driver>(&self, gpu: &Gpu<D>) -> Result<Vec<Output>> {
        let (x, samples, slots) = self.input();
        let probe = Probe::<Gpu<D>> {
            grid: self.probe,
            samples: gpu.put_indices(&samples),
            slots: gpu.put_indices(&slots),
            positions: gpu.indices(self.probe.rows())?,
            mask: gpu.indices(self.probe.rows())?,
        };
        let len = self.probe.rows() * self.width;
        let mut out = gpu.activations(len)?;
        gpu.probe_gather(&gpu.put_activations(&x), self.grid, self.width, &probe, &mut out);
        Ok(vec![Output::Floats(gpu.download_activations(&out, len)?)])
    }

    fn expected(&self) -> Vec<Expected> {
        let (x, samples, slots) = self.input();
        let mut values = Vec::new();
        for &sample in &samples {
            for &slot in &slots {
                let row = sample as usize * self.grid.tokens + slot as usize;
                values.extend(wide(&x[row * self.width..][..self.width]));
            }
        }
        // Copies.
        vec![Expected::Floats { values, tolerance: 0.0 }]
    }

    fn dtype(&self) -> GpuDtype {
        self.dtype
    }
}

fn grid(samples: usize, tokens: usize) -> Grid {
    Grid { samples, tokens }
}

#[test]
fn probe_gather() {
    for dtype in DTYPES {
        for (of, probe, width) in [
            (grid(1, 1), grid(1, 1), 1),
            (grid(3, 5), grid(2, 3), 7),
            (grid(4, 9), grid(1, 4), 33),
            (grid(2, 31), grid(2, 31), 8),
            (grid(5, 6), grid(3, 2), 1000),
            (grid(2, 3), grid(1, 2), 4096),
        ] {
            check(&GatherCase { dtype, grid: of, probe, width });
        }
    }
}

#[test]
fn probe_gather_moves_what_its_header_says() {
    let case = GatherCase { dtype: GpuDtype::Bf16, grid: grid(4, 9), probe: grid(2, 5), width: 4096 };
    let (rows, h) = (case.probe.rows(), case.width);
    check_traffic(&case, "probe_gather", 2 * rows * h + 512 * rows, 2 * rows * h);
}
