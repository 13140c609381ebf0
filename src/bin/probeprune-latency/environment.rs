//! The environment of a measurement.

use std::{
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use probeprune::{Error, checkpoint::RandomTensors, gpu::cuda, memory::Room};
use serde_json::{Value, json};

use crate::{device::Device, failure::Result, report::Field};

/// Build, machine and device, in the order they are shown.
pub(crate) fn fields(device: &Device) -> Vec<Field> {
    let on_gpu = device.gpu.is_some();
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    vec![
        ("version", json!(env!("CARGO_PKG_VERSION"))),
        // Set by the packaging script: a build script that asked git would rebuild everything after each commit.
        ("commit", json!(option_env!("PROBEPRUNE_COMMIT"))),
        ("build", json!(if cfg!(debug_assertions) { "debug" } else { "release" })),
        ("system", json!(format!("{} {}", std::env::consts::OS, std::env::consts::ARCH))),
        ("cpu", json!(cpu())),
        ("cores", json!(std::thread::available_parallelism().map_or(1, usize::from))),
        ("device", json!(device.name)),
        ("dtype", json!(device.dtype)),
        ("threads", json!(device.threads)),
        ("cpu_tier", json!(device.tier)),
        ("gpu", json!(device.gpu)),
        ("gpu_driver", if on_gpu { json!(gpu_driver()) } else { Value::Null }),
        ("gpu_kernels", if on_gpu { json!(cuda::build()) } else { Value::Null }),
        ("unix_time", json!(seconds)),
    ]
}

/// The CPU's name, on Linux.
fn cpu() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

/// The driver's own version.
fn gpu_driver() -> Option<String> {
    let text = fs::read_to_string("/proc/driver/nvidia/version").ok()?;
    Some(text.lines().next()?.trim().to_string())
}

/// Refuses random weights that exceed the free memory, if the system tells its size.
pub(crate) fn check_room(tensors: &RandomTensors) -> Result<()> {
    match Room::now() {
        Some(Room { free, .. }) if tensors.bytes() > free => {
            let gigabytes = |bytes: u64| format!("{:.1} GB", bytes as f64 / 1e9);
            let expected = format!("weights that fit {} of free memory", gigabytes(free));
            let help = "Pass a smaller --layers, or a smaller shape.";
            Err(Error::argument("--shape", expected, gigabytes(tensors.bytes()), help).into())
        }
        _ => Ok(()),
    }
}
