//! `probeprune doctor`: this machine's hardware and this build's contents.

use std::fmt::Write;

use probeprune::{
    cpu::{TIER_VARIABLE, Tier},
    gpu::cuda::{Cuda, build, survey, version},
    source::BUNDLES,
};

use crate::{
    failure::{Result, print},
    flags,
};

/// Runs the command.
pub(crate) fn run() -> Result<()> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let models: Vec<_> = BUNDLES.iter().map(|bundle| format!("bundled:{}", bundle.name)).collect();
    print(&format!(
        "probeprune   {}, {} build for {} on {}\n\
         models       {}\n\
         GPU kernels  {}\n\
         threads      {threads}\n\
         CPU          {}\n\
         CPU tier     {}\n\
         CUDA         {}\n",
        env!("CARGO_PKG_VERSION"),
        if cfg!(debug_assertions) { "debug" } else { "release" },
        std::env::consts::ARCH,
        std::env::consts::OS,
        models.join(", "),
        build(),
        cpu_features().join(", "),
        tier(),
        cuda(),
    ))
}

/// This CPU's instruction sets that matter to matrix products.
fn cpu_features() -> Vec<&'static str> {
    let mut found = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        macro_rules! detect {
            ($($feature:tt),+) => {
                $(if std::arch::is_x86_feature_detected!($feature) {
                    found.push($feature);
                })+
            };
        }
        detect!("sse4.2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512bf16");
    }
    #[cfg(target_arch = "aarch64")]
    {
        macro_rules! detect {
            ($($feature:tt),+) => {
                $(if std::arch::is_aarch64_feature_detected!($feature) {
                    found.push($feature);
                })+
            };
        }
        detect!("neon", "fp16", "bf16", "sve");
    }
    if found.is_empty() {
        found.push("no known vector instructions");
    }
    found
}

/// The instruction set that the CPU backend takes, or why it takes none.
fn tier() -> String {
    let names: Vec<_> = Tier::available().into_iter().map(Tier::name).collect();
    match Tier::chosen() {
        Ok(tier) => {
            let refusal =
                Tier::amx_refusal().map_or_else(String::new, |reason| format!("; no amx: {reason}"));
            format!("{tier} (of {}; {TIER_VARIABLE} forces one{refusal})", names.join(", "))
        }
        Err(reason) => flags::message(&reason),
    }
}

/// The driver and its GPUs, each tested by loading the kernels; or the reason why there are none.
fn cuda() -> String {
    let survey = match survey() {
        Ok(survey) => survey,
        Err(reason) => return flags::message(&reason),
    };
    let mut out = format!("driver for CUDA {}", version(survey.driver));
    for device in &survey.devices {
        let ((major, minor), gigabytes) = (device.capability, device.memory as f64 / 1e9);
        let loaded =
            survey.supports(device).and_then(|()| Cuda::new(device.ordinal)).map(|cuda| cuda.loading());
        let usable =
            loaded.map_or_else(|reason| flags::message(&reason), |loading| format!("usable, {loading}"));
        let _ = write!(
            out,
            "\n             {device}: compute capability {major}.{minor}, {gigabytes:.1} GB, {usable}"
        );
    }
    out
}
