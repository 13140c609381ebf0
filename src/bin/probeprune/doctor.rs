//! `probeprune doctor`: what this machine offers, and what this build contains.

use std::{
    ffi::{CStr, c_char, c_int},
    fmt::Write,
};

use libloading::{Library, Symbol};
use probeprune::source::BUNDLES;

use crate::failure::{Result, print};

/// Runs the command.
pub(crate) fn run() -> Result<()> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let models: Vec<_> = BUNDLES.iter().map(|bundle| format!("bundled:{}", bundle.name)).collect();
    print(&format!(
        "probeprune   {}, {} build for {} on {}\n\
         models       {}\n\
         GPU kernels  none in this build: everything runs on the CPU\n\
         threads      {threads}\n\
         CPU          {}\n\
         CUDA         {}\n",
        env!("CARGO_PKG_VERSION"),
        if cfg!(debug_assertions) { "debug" } else { "release" },
        std::env::consts::ARCH,
        std::env::consts::OS,
        models.join(", "),
        cpu_features().join(", "),
        cuda().unwrap_or_else(|reason| reason),
    ))
}

/// What this CPU has of the instruction sets that the matrix products can use.
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

type Init = unsafe extern "C" fn(u32) -> c_int;
type ReadInt = unsafe extern "C" fn(*mut c_int) -> c_int;
type DeviceGet = unsafe extern "C" fn(*mut c_int, c_int) -> c_int;
type DeviceName = unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int;
type DeviceAttribute = unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int;

/// CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, and _MINOR.
const COMPUTE_CAPABILITY: [c_int; 2] = [75, 76];

/// The driver's version and the GPUs it sees, or what is missing.
fn cuda() -> Result<String, String> {
    let name = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" };
    // SAFETY: loading runs the library's initialisers; NVIDIA's driver is made to be loaded at run time like this.
    let library =
        unsafe { Library::new(name) }.map_err(|_| format!("no driver: {name} is not on this machine"))?;
    // SAFETY: the types are these functions' signatures in cuda.h, with C's int for its enums and CUdevice.
    let (init, driver_version, device_count, device_get, device_name, device_attribute) = unsafe {
        (
            function::<Init>(&library, "cuInit")?,
            function::<ReadInt>(&library, "cuDriverGetVersion")?,
            function::<ReadInt>(&library, "cuDeviceGetCount")?,
            function::<DeviceGet>(&library, "cuDeviceGet")?,
            function::<DeviceName>(&library, "cuDeviceGetName")?,
            function::<DeviceAttribute>(&library, "cuDeviceGetAttribute")?,
        )
    };
    let mut version: c_int = 0;
    // SAFETY: may be called before cuInit; writes one int.
    if unsafe { driver_version(&mut version) } != 0 {
        return Err(format!("{name} does not tell its version"));
    }
    let mut out = format!("driver for CUDA {}.{}", version / 1000, version % 1000 / 10);
    // SAFETY: flags have to be 0.
    let status = unsafe { init(0) };
    let mut count: c_int = 0;
    // SAFETY: writes one int; only reached once cuInit has succeeded.
    if status != 0 || unsafe { device_count(&mut count) } != 0 || count == 0 {
        let _ = write!(out, ", no GPU that it can use (status {status})");
        return Ok(out);
    }
    for ordinal in 0..count {
        let mut device: c_int = 0;
        // SAFETY: writes one int.
        if unsafe { device_get(&mut device, ordinal) } != 0 {
            continue;
        }
        let mut text = [0 as c_char; 128];
        // SAFETY: writes at most the given number of bytes, and ends them with NUL.
        let named = unsafe { device_name(text.as_mut_ptr(), text.len() as c_int, device) } == 0;
        // SAFETY: the array is initialised, and its last byte is NUL even if nothing was written.
        let name = unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy();
        let capability = COMPUTE_CAPABILITY.map(|attribute| {
            let mut value: c_int = 0;
            // SAFETY: writes one int.
            if unsafe { device_attribute(&mut value, attribute, device) } == 0 { value } else { 0 }
        });
        let name = if named { &*name } else { "without a name" };
        let _ = write!(out, "\n             GPU {ordinal}: {name}, sm_{}{}", capability[0], capability[1]);
    }
    Ok(out)
}

/// Looks a function up.
///
/// # Safety
/// `F` has to be the function's type.
unsafe fn function<'library, F>(
    library: &'library Library,
    name: &str,
) -> Result<Symbol<'library, F>, String> {
    // SAFETY: the caller's to keep.
    unsafe { library.get(name) }.map_err(|_| format!("the driver has no {name}: it is not CUDA's"))
}
