//! The CUDA driver and GPUs of this machine, and whether this build's kernels run there; found without touching a GPU.

use std::sync::OnceLock;

use cudarc::driver::{
    DriverError,
    result::{self, device},
    sys::{self, CUdevice_attribute as Attribute, CUresult},
};

use super::{functions, kernels};
use crate::error::{Error, Result};

/// The oldest driver that has every function used here and takes this build's PTX, as 1000 · major + 10 · minor of its
/// CUDA version.
const OLDEST_DRIVER: u32 = if kernels::PTX_DRIVER > 11_040 { kernels::PTX_DRIVER } else { 11_040 };

/// The oldest compute capability that the kernels can be compiled for: they need asynchronous copies and bfloat16.
const OLDEST_CAPABILITY: (u32, u32) = (8, 0);

const USE_CPU: &str = "use the CPU (`device` cpu)";

/// The driver and the GPUs that it sees.
#[derive(Clone, Debug)]
pub struct Survey {
    /// Newest CUDA version that the driver knows, as 1000 · major + 10 · minor.
    pub driver: u32,
    /// By ordinal. `CUDA_VISIBLE_DEVICES` hides and reorders them.
    pub devices: Vec<Device>,
}

/// A GPU.
#[derive(Clone, Debug)]
pub struct Device {
    /// Its number, from 0.
    pub ordinal: usize,
    /// The driver's name for it.
    pub name: String,
    /// Compute capability: major, minor.
    pub capability: (u32, u32),
    /// Bytes of memory.
    pub memory: u64,
}

/// "13.0" for 13000.
pub fn version(cuda: u32) -> String {
    format!("{}.{}", cuda / 1000, cuda % 1000 / 10)
}

/// Whether NVIDIA's driver is installed. Nothing else of cudarc may be called where it is not: it would panic.
pub fn driver_is_installed() -> bool {
    static INSTALLED: OnceLock<bool> = OnceLock::new();
    // SAFETY: loading runs the library's initialisers; NVIDIA supports loading its driver at run time.
    *INSTALLED.get_or_init(|| unsafe { sys::is_culib_present() })
}

/// An error's name and meaning. The driver must be installed.
pub(super) fn describe(error: DriverError) -> String {
    let name =
        error.error_name().map_or_else(|_| format!("{:?}", error.0), |name| name.to_string_lossy().into());
    let meaning = error.error_string().map_or_else(|_| "unknown".into(), |text| text.to_string_lossy());
    format!("{name} ({meaning})")
}

/// Looks for the driver and its GPUs.
///
/// # Errors
/// No driver, one that is too old or does not start, no GPU.
pub fn survey() -> Result<Survey> {
    if !driver_is_installed() {
        let (wanted, help) = ("NVIDIA's driver (libcuda.so.1)", format!("Install it, or {USE_CPU}."));
        return Err(Error::device("cuda", "driver", wanted, "none on this machine", help));
    }
    let missing = functions::missing();
    let mut driver = 0;
    if missing != Some(functions::VERSION) {
        // SAFETY: `driver` has room for the one int written; CUDA allows the call before cuInit.
        unsafe { sys::cuDriverGetVersion(&mut driver) }.result().map_err(|error| not_started(error, 0))?;
    }
    let driver = driver.unsigned_abs();
    if driver < OLDEST_DRIVER || missing.is_some() {
        return Err(too_old(driver, missing));
    }
    let count = match result::init().and_then(|()| device::get_count()) {
        Ok(0) | Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => {
            let help = format!("Check nvidia-smi and CUDA_VISIBLE_DEVICES, or {USE_CPU}.");
            return Err(Error::device("cuda", "device", "a GPU", "none that the driver can use", help));
        }
        count => count.map_err(|error| not_started(error, driver))?,
    };
    let devices = (0..count as usize).map(describe_device).collect::<Result<_, _>>();
    Ok(Survey { driver, devices: devices.map_err(|error| not_started(error, driver))? })
}

fn describe_device(ordinal: usize) -> Result<Device, DriverError> {
    let handle = device::get(ordinal as i32)?;
    let attribute = |attribute| {
        // SAFETY: `device::get` returned the handle.
        unsafe { device::get_attribute(handle, attribute) }.map(|value| value as u32)
    };
    Ok(Device {
        ordinal,
        name: device::get_name(handle)?,
        capability: (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        // SAFETY: `device::get` returned the handle.
        memory: unsafe { device::total_mem(handle) }? as u64,
    })
}

fn not_started(error: DriverError, driver: u32) -> Error {
    let got = format!("{} (driver for CUDA {})", describe(error), version(driver));
    let help = format!("Check nvidia-smi; restart after a driver update, or {USE_CPU}.");
    Error::device("cuda", "driver", "one that starts", got, help)
}

fn too_old(driver: u32, missing: Option<&str>) -> Error {
    let expected = format!("one for CUDA {} or newer", version(OLDEST_DRIVER));
    let without = missing.map(|function| format!(" without {function}")).unwrap_or_default();
    let got = format!("one for CUDA {}{without}", version(driver));
    Error::device("cuda", "driver", expected, got, format!("Update NVIDIA's driver, or {USE_CPU}."))
}

/// The code that kernels are loaded from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    /// Machine code for the device.
    Machine,
    /// PTX that the driver compiles for it.
    Ptx,
}

/// The code of this build's kernels: "sm_80, sm_90a, made by CUDA 13.0; PTX for compute_80 and newer".
pub fn build() -> String {
    code_of(kernels::FATBINS)
}

/// Of fatbins for `targets` ("80,90a,compute_90"), made by a compiler of this version.
fn code_of(fatbins: Option<(&str, u32)>) -> String {
    let name = |target: &str| match target.trim() {
        target if target.starts_with("compute_") => format!("PTX for {target} and newer"),
        target => format!("sm_{target}"),
    };
    let fatbins = fatbins.map(|(targets, compiler)| {
        let targets: Vec<_> = targets.split(',').map(name).collect();
        format!("{}, made by CUDA {}; ", targets.join(", "), version(compiler))
    });
    fatbins.unwrap_or_default() + "PTX for compute_80 and newer"
}

/// The code for a compute capability in fatbins compiled for `targets` ("80,90a,compute_90").
fn code_for(targets: &str, (major, minor): (u32, u32)) -> Option<Code> {
    let fits = |target: &str| {
        let (code, target) = match target.strip_prefix("compute_") {
            Some(target) => (Code::Ptx, target),
            None => (Code::Machine, target),
        };
        let number = target.trim_end_matches(char::is_alphabetic);
        let suffix = &target[number.len()..];
        let number: u32 = number.parse().ok()?;
        let of = (number / 10, number % 10);
        let runs = match (code, suffix) {
            (_, "a") => of == (major, minor),
            (Code::Ptx, "") => of <= (major, minor),
            _ => of.0 == major && of.1 <= minor,
        };
        runs.then_some(code)
    };
    let mut fitting = targets.split(',').map(str::trim).filter_map(fits);
    fitting.clone().find(|&code| code == Code::Machine).or_else(|| fitting.next())
}

impl Device {
    /// The code for it in this build's fatbins. There is always PTX beside them.
    pub(super) fn fatbins(&self) -> Option<Code> {
        kernels::FATBINS.and_then(|(targets, _)| code_for(targets, self.capability))
    }
}

impl Survey {
    /// GPU number `ordinal`.
    ///
    /// # Errors
    /// If there is none; lists the existing ones.
    pub fn device(&self, ordinal: usize) -> Result<&Device> {
        self.devices.get(ordinal).ok_or_else(|| {
            let all: Vec<_> = self
                .devices
                .iter()
                .map(|device| format!("cuda:{} ({})", device.ordinal, device.name))
                .collect();
            let help = format!("Pick one of them, check CUDA_VISIBLE_DEVICES, or {USE_CPU}.");
            Error::device(format!("cuda:{ordinal}"), "device", all.join(", "), "no such device", help)
        })
    }

    /// Whether this build's kernels run on a GPU.
    ///
    /// # Errors
    /// If the GPU is too old.
    pub fn supports(&self, device: &Device) -> Result<()> {
        if device.capability >= OLDEST_CAPABILITY {
            return Ok(());
        }
        let (major, minor) = device.capability;
        let help = format!("The kernels need an Ampere GPU (A100, RTX 30) or a newer one: {USE_CPU}.");
        let got = format!("{major}.{minor}");
        Err(Error::device(device.to_string(), "compute capability", "8.0 or newer", got, help))
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cuda:{} ({})", self.ordinal, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_runs_where_cuda_says_it_does() {
        let of = |targets, capability| code_for(targets, capability);
        let default = "80,90a,compute_90";
        for (capability, code) in [
            ((8, 0), Some(Code::Machine)),
            ((8, 9), Some(Code::Machine)),
            ((9, 0), Some(Code::Machine)),
            ((10, 0), Some(Code::Ptx)),
            ((12, 1), Some(Code::Ptx)),
            ((7, 5), None),
        ] {
            assert_eq!(of(default, capability), code, "{capability:?}");
        }
        assert_eq!(of("90a", (8, 0)), None);
        assert_eq!(of("90a", (9, 1)), None);
        assert_eq!(of("86", (8, 0)), None);
        assert_eq!(of("86", (8, 9)), Some(Code::Machine));
        assert_eq!(of("100f", (10, 3)), Some(Code::Machine));
        assert_eq!(of("compute_90a", (10, 0)), None);
        assert_eq!(of("compute_120", (12, 0)), Some(Code::Ptx));
    }

    #[test]
    fn code_is_told_by_its_targets() {
        let ptx = "PTX for compute_80 and newer";
        assert_eq!(code_of(None), ptx);
        let fatbins = code_of(Some(("80,90a,compute_90", 13_000)));
        let expected = "sm_80, sm_90a, PTX for compute_90 and newer, made by CUDA 13.0; ";
        assert_eq!(fatbins, format!("{expected}{ptx}"));
        assert!(build().ends_with(ptx));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_to_do() {
        let device = |capability| Device { ordinal: 1, name: "Some GPU".into(), capability, memory: 1 << 34 };
        let survey = Survey { driver: 13_000, devices: vec![device((8, 0))] };
        let message = |capability| survey.supports(&device(capability)).unwrap_err().to_string();
        assert!(
            message((7, 5))
                .starts_with("cuda:1 (Some GPU): compute capability: expected 8.0 or newer, got 7.5")
        );
        let missing = survey.device(3).unwrap_err().to_string();
        assert!(
            missing.contains("cuda:1 (Some GPU)") && missing.contains("CUDA_VISIBLE_DEVICES"),
            "{missing}"
        );
        let old = too_old(12_020, Some("cuGraphLaunch")).to_string();
        for part in ["or newer, got one for CUDA 12.2 without cuGraphLaunch", "Update", "`device` cpu"] {
            assert!(old.contains(part), "{part} in {old}");
        }
        assert_eq!((kernels::PTX_DRIVER, OLDEST_DRIVER), (11_040, 11_040), "PTX 7.4");
    }
}
