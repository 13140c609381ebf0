//! The benchmarks' case table at a small shape: the GPU backend, on the emulator or a GPU, agrees with the CPU's.

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
mod operations;

use case::{LARGE, LayerShape, MEDIUM, SMALL, cases};
use content::Content;
use operations::{Case, ElementBytes, Output, source::Source};
use probeprune::{backend::Backend, cpu::Cpu, gpu::GpuDtype, prune::BatchShape};

/// Everything that one run leaves behind; indices as floats.
fn run<B: Backend>(case: &impl Case, backend: &B, content: &Content) -> Vec<Vec<f32>> {
    let outputs = case.prepare(backend, Source::Content(content, 1)).unwrap()(backend, true).unwrap();
    let floats = |output| match output {
        Output::Floats(values) => values,
        Output::Indices(values) => values.into_iter().map(|index| index as f32).collect(),
    };
    outputs.into_iter().map(floats).collect()
}

#[test]
fn every_case_is_the_same_on_both_backends() {
    let (cpu, gpu) = (Cpu::new(2).unwrap(), device::backend(GpuDtype::F16));
    let content = Content::random();
    let token = LayerShape { name: "small_1x1", batch: BatchShape { samples: 1, tokens: 1 }, ..SMALL };
    for case in [SMALL, token].into_iter().flat_map(cases) {
        let operation = case.operation();
        let want = run(&operation, &cpu, &content);
        let got = run(&operation, &gpu, &content);
        assert_eq!(got.len(), want.len(), "{}", case.id());
        for (which, (got, want)) in got.iter().zip(&want).enumerate() {
            let what = format!("{}, output {which}", case.id());
            assert_eq!(got.len(), want.len(), "{what}");
            let rms =
                (want.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / want.len().max(1) as f64).sqrt();
            assert!(rms > 0.0 || which > 0, "{what} computes something");
            for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
                // float16 inputs, rounded within 2^-11 each, in sums of up to 80 products; indices are exact in it.
                let error = f64::from(got - want).abs();
                assert!(error <= 0.01 * rms, "{what} at {i}: {got} for {want}, rms {rms}");
            }
        }
    }
}

#[test]
fn pruned_cases_compute_and_move_less() {
    const BF16: ElementBytes = ElementBytes { activation: 2, weight: 2 };
    let shapes = LARGE.into_iter().chain(MEDIUM);
    for pair in shapes.flat_map(cases).collect::<Vec<_>>().windows(2) {
        let [whole, kept] = pair else { unreachable!() };
        let bytes = whole.operation().bytes(BF16);
        if kept.pruned {
            assert_eq!(whole.op, kept.op);
            let share = kept.operation().flops().unwrap() / whole.operation().flops().unwrap();
            assert!((0.5..0.65).contains(&share), "{}: {share}", kept.id());
            assert!(kept.operation().bytes(BF16) < bytes, "{}", kept.id());
        }
        assert!(bytes > 0);
    }
    let all: Vec<String> = LARGE.into_iter().flat_map(cases).map(|case| case.id()).collect();
    assert_eq!(
        all.len(),
        all.iter().collect::<std::collections::HashSet<_>>().len(),
        "names tell cases apart"
    );
}
