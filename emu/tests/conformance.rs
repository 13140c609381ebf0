//! Every primitive computes what the PTX manual says, under every schedule.

#[path = "../conformance/cases/mod.rs"]
#[allow(missing_docs, unreachable_pub, reason = "shared with the GPU runner")]
mod cases;
mod common;

use std::collections::BTreeSet;

use cases::Case;
use common::Modules;
use ptx_emu::{Args, Device, Launch, Module, Result, Settings, Struct, Swizzle, TensorMap};

fn run(case: &Case, module: &Module, settings: &Settings) -> Result<Vec<u32>> {
    let mut dev = Device::new();
    let input = dev.upload("in", &case.input)?;
    let mut output = dev.alloc("out", case.expected.len() * 4)?;
    let mut args = Args::new();
    if let Some(m) = &case.map {
        let tensor = dev.upload("tensor", &m.data)?;
        let swizzle = match m.swizzle {
            32 => Swizzle::B32,
            64 => Swizzle::B64,
            128 => Swizzle::B128,
            _ => Swizzle::None,
        };
        args = args.tensor_map(&TensorMap::tiled(
            m.element_bytes,
            tensor,
            &m.size,
            &m.stride,
            &m.box_size,
            swizzle,
        )?);
        if m.is_output {
            output = tensor;
        }
    }
    let args = args.fields(Struct::new().field(input).field(output));
    dev.launch(module, case.kernel, Launch::linear(1, case.threads, case.shared), &args, settings)?;
    dev.read(output, case.expected.len())
}

#[test]
fn primitives_conform() {
    let mut modules = Modules::default();
    let mut wrong = Vec::new();
    for case in cases::all() {
        for settings in Settings::matrix(2) {
            match run(&case, modules.get(case.module), &settings) {
                Ok(got) => {
                    if let Some((i, want, got)) = case.difference(&got) {
                        wrong.push(format!("{}: word {i}: expected {want:#x}, got {got:#x}", case.kernel));
                        break;
                    }
                }
                Err(e) => {
                    wrong.push(format!("{} under {settings:?}: {e}", case.kernel));
                    break;
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_kernel_has_a_case() {
    let mut modules = Modules::default();
    let cases = cases::all();
    let tested: BTreeSet<&str> = cases.iter().map(|c| c.kernel).collect();
    for name in ["conformance_sm80", "conformance_sm90"] {
        modules.get(name).check().unwrap();
        for kernel in modules.get(name).kernels() {
            assert!(tested.contains(kernel), "{kernel} has no case");
        }
    }
}
