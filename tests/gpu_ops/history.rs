//! `history_update`: momentum on kept channels in both layouts, with the CPU backend's bits.

use half::f16;
use probeprune::{
    Result,
    backend::{Backend, History, KeptBlocks},
    cpu::Cpu,
    gpu::{Driver, Gpu, GpuDtype},
    prune::{
        history::{from_f16, to_f16},
        settings::{HistoryDtype, HistoryLayout},
    },
};

use crate::{
    case::{Case, Expected, Output, Put, check, check_once, check_traffic, floats, rng, subset},
    device::TestDevice,
};

#[derive(Clone, Debug)]
struct UpdateCase {
    layout: HistoryLayout,
    /// Slots and channels of history.
    slots: usize,
    width: usize,
    /// Kept blocks of so many channels.
    kept: usize,
    block: usize,
    tokens: usize,
    at: usize,
    momentum: f64,
    /// Some p are not finite.
    overflow: bool,
}

impl UpdateCase {
    /// p, energies of history, kept blocks.
    fn input(&self) -> (Vec<f32>, Vec<f32>, Vec<u32>) {
        let mut rng = rng(self.width as u64);
        let kept = subset(&mut rng, self.width / self.block, self.kept);
        let mut p = floats(&mut rng, 0.0..4.0, self.tokens * self.kept * self.block);
        if self.overflow {
            for (i, p) in p.iter_mut().enumerate().filter(|(i, _)| i % 5 == 1) {
                *p = [f32::INFINITY, f32::NAN][i % 2];
            }
        }
        (p, floats(&mut rng, 0.0..4.0, self.slots * self.width), kept)
    }

    fn run_on<B: Backend>(&self, backend: &B) -> Result<Vec<Output>> {
        let (p, energies, kept) = self.input();
        let stored = self.layout.encode(&energies, self.width);
        let mut history = History {
            values: backend.put_statistics(&stored),
            slots: self.slots,
            width: self.width,
            layout: self.layout,
        };
        let set = backend.put_kept(&kept, self.width / self.block);
        let kept = KeptBlocks { set: &set, width: self.block };
        let p = backend.put_statistics(&p);
        backend.history_update(&p, self.tokens, self.at, kept, self.momentum, &mut history);
        let words = backend.download_statistics(&history.values, stored.len())?;
        Ok(vec![Output::Floats(match self.layout.dtype {
            HistoryDtype::F32 => words,
            HistoryDtype::F16 => {
                let halves = |word: &f32| [word.to_bits() as u16, (word.to_bits() >> 16) as u16];
                words.iter().flat_map(halves).map(|bits| from_f16(f16::from_bits(bits))).collect()
            }
        })])
    }
}

impl Case for UpdateCase {
    fn run<D: Driver>(&self, gpu: &Gpu<D>) -> Result<Vec<Output>> {
        self.run_on(gpu)
    }

    fn expected(&self) -> Vec<Expected> {
        let (p, energies, kept) = self.input();
        let HistoryLayout { dtype, bucket } = self.layout;
        let rows = self.slots.div_ceil(bucket);
        let half = dtype == HistoryDtype::F16;
        let mut h = vec![0.0; if half { (rows * self.width).next_multiple_of(2) } else { rows * self.width }];
        let channels = self.kept * self.block;
        for row in 0..rows {
            let of_row = |slot: &usize| slot / bucket == row;
            for c in 0..self.width {
                let all: Vec<f32> =
                    (0..self.slots).filter(of_row).map(|s| energies[s * self.width + c]).collect();
                let stored = all.iter().sum::<f32>() / all.len() as f32;
                let old = f64::from(if half { from_f16(to_f16(stored)) } else { stored });
                let kept_at = kept.iter().position(|&block| block as usize == c / self.block);
                let updated = (self.at..(self.at + self.tokens).min(self.slots)).filter(of_row);
                let now: Vec<f64> = kept_at.map_or(vec![], |kept| {
                    let j = kept * self.block + c % self.block;
                    updated.map(|s| f64::from(p[(s - self.at) * channels + j])).collect()
                });
                let mean = now.iter().sum::<f64>() / now.len() as f64;
                h[row * self.width + c] = if !now.is_empty() && mean.is_finite() {
                    self.momentum * old + (1.0 - self.momentum) * mean
                } else {
                    old
                };
            }
        }
        // A square root rounded to f16 moves an energy by up to 2·2⁻¹¹ of it; the largest is about 2 rms.
        vec![Expected::Floats { values: h, tolerance: if half { 3e-3 } else { 1e-6 } }]
    }

    fn dtype(&self) -> GpuDtype {
        GpuDtype::F16
    }
}

fn agrees_with_the_cpu(case: &UpdateCase) {
    let gpu = Gpu::new(TestDevice::new(ptx_emu::Settings::default()), GpuDtype::Bf16);
    let [on_gpu, on_cpu] = [case.run(&gpu).unwrap(), case.run_on(&Cpu::new(1).unwrap()).unwrap()];
    // Finite, so equality is equality of bits but for the sign of 0.
    assert_eq!(on_gpu, on_cpu, "{case:?}");
}

#[test]
fn history_update() {
    let shapes = [
        (1, 1, 1, 1, 1, 0),
        (3, 6, 2, 2, 2, 1),
        (20, 33, 20, 1, 20, 0),
        (9, 31, 31, 1, 30, 3),
        (17, 40, 3, 8, 11, 6),
        (5, 300, 280, 1, 2, 4),
        (4, 6, 1, 3, 5, 9),
    ];
    for dtype in [HistoryDtype::F32, HistoryDtype::F16] {
        for bucket in [1, 2, 3, 16] {
            for (i, (slots, width, kept, block, tokens, at)) in shapes.into_iter().enumerate() {
                let momentum = [0.99, 0.0, 1.0][(i + bucket) % 3];
                let layout = HistoryLayout { dtype, bucket };
                let overflow = i % 2 == 1;
                let case = UpdateCase { layout, slots, width, kept, block, tokens, at, momentum, overflow };
                check(&case);
                agrees_with_the_cpu(&case);
            }
        }
    }
}

fn wide_case(dtype: HistoryDtype, bucket: usize, kept: usize, block: usize) -> UpdateCase {
    let layout = HistoryLayout { dtype, bucket };
    let (slots, width, tokens, at, momentum) = (64, 4096, 32, 8, 0.99);
    UpdateCase { layout, slots, width, kept, block, tokens, at, momentum, overflow: false }
}

#[test]
fn history_update_at_real_widths() {
    for dtype in [HistoryDtype::F32, HistoryDtype::F16] {
        for bucket in [1, 4] {
            for (kept, block) in [(18, 128), (2304, 1)] {
                let case = wide_case(dtype, bucket, kept, block);
                check_once(&case);
                agrees_with_the_cpu(&case);
            }
        }
    }
}

#[test]
fn history_update_moves_what_its_header_says() {
    for (dtype, bytes) in [(HistoryDtype::F32, 4), (HistoryDtype::F16, 2)] {
        for bucket in [1, 4] {
            let case = wide_case(dtype, bucket, 18, 128);
            let (channels, rows) = (18 * 128, 32 / bucket);
            // The blocks' indices: a sector for each warp and eight rows.
            let kept = channels / 32 * 32 * rows.div_ceil(8);
            let read = 4 * 32 * channels + bytes * rows * channels + kept;
            check_traffic(&case, "history_update", read, bytes * rows * channels);
        }
    }
}
