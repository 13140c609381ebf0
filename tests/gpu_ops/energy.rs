//! `energy`: the mean over samples of a².

use probeprune::{
    Result,
    backend::{Backend, Grid},
    gpu::{Driver, Gpu, GpuDtype},
};
use rand::RngExt;

use crate::case::{
    Case, DTYPES, Expected, Output, Put, check, check_once, check_traffic, elements, rng, wide,
};

#[derive(Clone, Debug)]
struct EnergyCase {
    dtype: GpuDtype,
    grid: Grid,
    width: usize,
    masked: bool,
    /// Sums over samples too.
    sums: bool,
}

impl EnergyCase {
    /// a, and the mask: slot 0 is a pad in every sample, and pads hold what must not be seen.
    fn input(&self) -> (Vec<f32>, Vec<u32>) {
        let mut rng = rng(self.width as u64);
        let rows = self.grid.rows();
        let mut a = elements(&mut rng, self.dtype, rows * self.width);
        let mask: Vec<u32> = (0..rows)
            .map(|row| u32::from(!self.masked || (row % self.grid.tokens > 0 && rng.random_range(0..3) > 0)))
            .collect();
        for (row, &real) in a.chunks_mut(self.width).zip(&mask) {
            if real == 0 {
                row.fill(f32::NAN);
            }
        }
        (a, mask)
    }
}

impl Case for EnergyCase {
    fn run<D: Driver>(&self, gpu: &Gpu<D>) -> Result<Vec<Output>> {
        let (a, mask) = self.input();
        let len = self.grid.tokens * self.width;
        let mask = self.masked.then(|| gpu.put_indices(&mask));
        let (a, empty) = (gpu.put_activations(&a), vec![f32::NAN; len]);
        let (mut out, mut again) = (gpu.put_statistics(&empty), gpu.put_statistics(&empty));
        let mut sums = gpu.put_statistics(&empty);
        gpu.energy(&a, self.grid, self.width, mask.as_ref(), &mut out, None);
        if self.sums {
            gpu.energy(&a, self.grid, self.width, mask.as_ref(), &mut again, Some(&mut sums));
            let same = gpu.download_statistics(&out, len)?.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            let other = gpu.download_statistics(&again, len)?;
            assert!(other.iter().map(|x| x.to_bits()).eq(same), "sums change no energy");
        }
        let mut outputs = vec![Output::Floats(gpu.download_statistics(&out, len)?)];
        if self.sums {
            outputs.push(Output::Floats(gpu.download_statistics(&sums, len)?));
        }
        Ok(outputs)
    }

    fn expected(&self) -> Vec<Expected> {
        let (a, mask) = self.input();
        let (a, Grid { samples, tokens }) = (wide(&a), self.grid);
        let at = |i: usize| {
            let (s, c) = (i / self.width, i % self.width);
            let rows = (0..samples).map(|b| b * tokens + s).filter(|&row| mask[row] != 0);
            rows.map(|row| a[row * self.width + c]).collect::<Vec<_>>()
        };
        let energy = |i: usize| {
            let values = at(i);
            let count = values.len() as f64 + if self.masked { 1e-3 } else { 0.0 };
            values.iter().map(|a| a * a).sum::<f64>() / count
        };
        let all = || 0..tokens * self.width;
        // Sums of a few terms in f32.
        let mut expected = vec![Expected::Floats { values: all().map(energy).collect(), tolerance: 1e-6 }];
        if self.sums {
            let values = all().map(|i| at(i).iter().sum()).collect();
            expected.push(Expected::Floats { values, tolerance: 1e-6 });
        }
        expected
    }

    fn dtype(&self) -> GpuDtype {
        self.dtype
    }
}

#[test]
fn energy() {
    let shapes = [
        (1, 1, 1),
        (1, 1, 8),
        (3, 2, 31),
        (5, 3, 33),
        (2, 3, 8),
        (4, 3, 40),
        (9, 1, 1000),
        (2, 5, 1000),
        (7, 4, 257),
    ];
    for dtype in DTYPES {
        for (samples, tokens, width) in shapes {
            for masked in [false, true] {
                check(&EnergyCase { dtype, grid: Grid { samples, tokens }, width, masked, sums: true });
            }
        }
        check_once(&EnergyCase {
            dtype,
            grid: Grid { samples: 3, tokens: 7 },
            width: 11008,
            masked: true,
            sums: false,
        });
    }
}

#[test]
fn energy_moves_what_its_header_says() {
    for (samples, tokens, width) in [(5, 8, 1024), (1, 3, 11008)] {
        let case = EnergyCase {
            dtype: GpuDtype::F16,
            grid: Grid { samples, tokens },
            width,
            masked: false,
            sums: false,
        };
        check_traffic(&case, "energy", 2 * samples * tokens * width, 4 * tokens * width);
        // A warp has 256 channels, and reads a sector of the mask for each sample.
        let case = EnergyCase { masked: true, ..case };
        let read = 2 * samples * tokens * width;
        let masks = samples * (tokens * width / 256) * 32;
        check_traffic(&case, "energy", read + masks, 4 * tokens * width);
    }
}
