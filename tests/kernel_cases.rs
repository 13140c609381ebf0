//! The benchmarks' case table at a small shape: the GPU backend, on the emulator or a GPU, does what the CPU does.

#![allow(unreachable_pub)]

#[allow(dead_code)]
#[path = "../benches/kernels/case.rs"]
mod case;
#[allow(dead_code)]
#[path = "../benches/kernels/content.rs"]
mod content;
#[path = "common/device.rs"]
mod device;
#[path = "common/emulator.rs"]
mod emulator;

use case::{LARGE, MEDIUM, SMALL, Shape, cases};
use content::Content;
use probeprune::{backend::Grid, cpu::Cpu, gpu::GpuDtype};

#[test]
fn every_case_is_the_same_on_both_backends() {
    let (cpu, gpu) = (Cpu::new(2).unwrap(), device::backend(GpuDtype::F16));
    let content = Content::random();
    let token = Shape { name: "small_1x1", grid: Grid { samples: 1, tokens: 1 }, ..SMALL };
    for case in [SMALL, token].into_iter().flat_map(cases) {
        let want = case.prepare(&cpu, &content, 1).unwrap()(&cpu, true);
        let got = case.prepare(&gpu, &content, 1).unwrap()(&gpu, true);
        assert_eq!(got.len(), want.len(), "{}", case.id());
        let rms = (want.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / want.len() as f64).sqrt();
        assert!(rms > 0.0, "{} computes something", case.id());
        for (i, (&got, &want)) in got.iter().zip(&want).enumerate() {
            // float16 inputs, rounded within 2^-11 each, in sums of up to 80 products; indices are exact in it.
            let error = f64::from(got - want).abs();
            assert!(error <= 0.01 * rms, "{} at {i}: {got} for {want}, rms {rms}", case.id());
        }
    }
}

#[test]
fn pruned_cases_compute_and_move_less() {
    let shapes = LARGE.into_iter().chain(MEDIUM);
    for pair in shapes.flat_map(cases).collect::<Vec<_>>().windows(2) {
        let [whole, kept] = pair else { unreachable!() };
        if kept.pruned {
            assert_eq!(whole.op, kept.op);
            let share = kept.flops().unwrap() / whole.flops().unwrap();
            assert!((0.5..0.65).contains(&share), "{}: {share}", kept.id());
            assert!(kept.bytes(2, 2) < whole.bytes(2, 2), "{}", kept.id());
        }
        assert!(whole.bytes(2, 2) > 0.0);
    }
    let all: Vec<String> = LARGE.into_iter().flat_map(cases).map(|case| case.id()).collect();
    assert_eq!(
        all.len(),
        all.iter().collect::<std::collections::HashSet<_>>().len(),
        "names tell cases apart"
    );
}
