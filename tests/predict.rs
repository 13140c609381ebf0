//! The analytic model of the GPU goals: nothing is faster than memory and tensor cores allow, and every kernel is in it.

#![allow(unreachable_pub)]

#[allow(dead_code)]
#[path = "../benches/kernels/block.rs"]
mod block;
#[allow(dead_code)]
#[path = "../benches/kernels/case.rs"]
mod case;
#[allow(dead_code)]
#[path = "../benches/kernels/content.rs"]
mod content;
#[allow(dead_code)]
#[path = "../benches/kernels/measure.rs"]
mod measure;
mod operations;
#[allow(dead_code)]
#[path = "../benches/kernels/peers.rs"]
mod peers;
#[allow(dead_code)]
#[path = "../benches/kernels/predict/mod.rs"]
mod predict;
#[allow(dead_code)]
#[path = "../benches/kernels/timer.rs"]
mod timer;

use std::{collections::BTreeSet, sync::Arc};

use case::{LARGE, LayerCase, Op, cases};
use content::Content;
use operations::{Case, ElementBytes, source::Source};
use peers::Trouble;
use predict::{Prediction, driver::Predicted, machine::MACHINES, machine::Machine};
use probeprune::gpu::{Driver, Geometry, Gpu, GpuDtype, Kernel, Launch};

fn expected(machine: &'static Machine, number: usize) -> Prediction {
    predict::row(machine, number).unwrap_or_else(|trouble| match trouble {
        Trouble::Missing(why) => panic!("row {number} on {}: {why}", machine.name),
        Trouble::Failed(error) => panic!("row {number} on {}: {error}", machine.name),
    })
}

const BF16: ElementBytes = ElementBytes { activation: 2, weight: 2 };

/// Seconds of a case on a calculated GPU, and its kernels.
fn seconds(machine: &'static Machine, case: LayerCase) -> (f64, Vec<&'static str>) {
    let gpu = Gpu::new(Predicted::new(machine), GpuDtype::Bf16);
    let mut ready = case.operation().prepare(&gpu, Source::Content(&Content::none(), 1)).unwrap();
    let events = [gpu.driver().event().unwrap(), gpu.driver().event().unwrap()];
    gpu.driver().record(&events[0]).unwrap();
    ready(&gpu, false).unwrap();
    gpu.driver().record(&events[1]).unwrap();
    gpu.issued().unwrap();
    let kernels = gpu.driver().take_runs().into_iter().flat_map(|(kernels, _)| kernels).collect();
    (gpu.driver().elapsed(&events[0], &events[1]).unwrap(), kernels)
}

#[test]
fn every_row_is_predicted_for_every_gpu() {
    for (which, machine) in MACHINES.iter().enumerate() {
        // Whole models take a second each.
        for number in 1..=if which == 0 { 15 } else { 13 } {
            let prediction = expected(machine, number);
            let values = prediction.values();
            assert!(!values.is_empty(), "row {number}");
            assert!(values.iter().all(|value| value.is_finite() && *value > 0.0), "row {number}: {values:?}");
            assert!(number == 14 || !prediction.runs.is_empty(), "row {number} launches something");
            for (kernels, split) in prediction.runs {
                assert_eq!(kernels.len(), split.launches);
                let parts = [split.memory, split.tensor, split.l2, split.gaps];
                assert!(parts.into_iter().all(|part| part >= 0.0), "row {number}: {split:?}");
                // What is above bytes and FLOPs is never below 0, but for rounding.
                assert!(split.waves >= -1e-12, "row {number}, {}: {split:?}", kernels[0]);
                assert!(split.gaps >= machine.gap * split.launches as f64 * 0.999, "row {number}: {split:?}");
            }
        }
    }
}

#[test]
fn pruning_more_takes_less() {
    for machine in &MACHINES {
        for number in [1, 2] {
            let values = expected(machine, number).values();
            assert!(values.windows(2).all(|pair| pair[1] < 0.9 * pair[0]), "{}: {values:?}", machine.name);
        }
    }
}

#[test]
fn nothing_is_faster_than_memory_and_tensor_cores() {
    for machine in [&MACHINES[0], &MACHINES[2]] {
        for case in LARGE.into_iter().flat_map(cases) {
            // Calibration and compensation are in no goal, and not in the model.
            if matches!(
                case.op,
                Op::CentreEnergy | Op::GatherPruned | Op::Moments | Op::InputProduct | Op::PrunedProduct
            ) {
                continue;
            }
            let (seconds, _) = seconds(machine, case);
            let flops = case.operation().flops().unwrap_or(0.0) / machine.mma;
            assert!(seconds > flops, "{} on {}: {seconds} s", case.id(), machine.name);
            // What a cache as large as this one cannot keep has to come from memory.
            let bytes = (case.operation().bytes(BF16) as f64 - machine.l2) / machine.memory;
            assert!(seconds > bytes, "{} on {}: {seconds} s", case.id(), machine.name);
        }
    }
}

#[test]
fn decoding_products_are_bound_by_memory() {
    for machine in &MACHINES {
        for pruned in [false, true] {
            let case = LayerCase { op: Op::Gated, shape: LARGE[3], pruned };
            let (seconds, kernels) = seconds(machine, case);
            assert_eq!(kernels, ["gated_linear_gemv_8_bf16"]);
            let memory = case.operation().bytes(BF16) as f64 / machine.reachable() + machine.launch;
            assert!(seconds < 1.15 * memory, "{}: {seconds} s where memory takes {memory}", case.id());
        }
    }
}

#[test]
fn a_kernel_is_in_the_model_or_in_no_goal() {
    // Those of calibration, compensation, corrections, losses and greedy sampling.
    const IN_NO_GOAL: [&str; 13] = [
        "accumulate_product",
        "adapt_error",
        "adapt_factor",
        "adapt_product",
        "adapt_rows",
        "adapt_store",
        "adapt_substitute",
        "adapt_vector",
        "argmax",
        "centre_energy",
        "cross_entropy",
        "gather_pruned",
        "moments",
    ];
    let machine = &MACHINES[0];
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/cuda");
    let mut unknown = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let Some(module) = name.strip_suffix(".cu") else { continue };
        let module: &'static str = module.to_string().leak();
        let geometry = Geometry { grid: [1; 3], threads: 128, shared: 0 };
        let launch = Launch::new(Kernel { module, name: module }, geometry, &[0u64; 24]);
        if predict::kernels::work(machine, &launch).is_some() {
            continue;
        }
        unknown.insert(module);
    }
    assert_eq!(unknown, IN_NO_GOAL.into_iter().collect(), "add it to benches/kernels/predict/kernels.rs");
}

#[test]
fn an_unknown_kernel_is_an_error() {
    let gpu = Arc::new(Gpu::new(Predicted::new(&MACHINES[0]), GpuDtype::Bf16));
    let kernel = Kernel { module: "novel", name: "novel_bf16" };
    let geometry = Geometry { grid: [1; 3], threads: 128, shared: 0 };
    let error = gpu.driver().launch(&Launch::new(kernel, geometry, &0u64)).unwrap_err().to_string();
    assert!(error.contains("novel_bf16") && error.contains("kernels.rs"), "{error}");
}
