//! This build's kernels on a device.

use std::{
    collections::{BTreeSet, HashMap},
    ffi::{CString, c_void},
    fmt,
    io::Write,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use cudarc::driver::{
    DriverError, result,
    sys::{self, CUfunction, CUfunction_attribute as Attribute, CUjit_option as Jit, CUmodule, CUresult},
};
use rayon::prelude::*;

use super::{
    devices::{Code, Device, Survey, build, describe, version},
    link::{Link, is_sticky},
};
use crate::{
    error::{Error, Result},
    gpu::Launch,
};

/// An image at an address that the driver can take.
#[repr(C, align(16))]
struct Aligned<T: ?Sized>(T);

/// One file of cuda/, compiled.
struct Image {
    name: &'static str,
    kernels: &'static [&'static str],
    /// From nvcc, if the build had one.
    fatbin: Option<&'static Aligned<[u8]>>,
    /// Text, with a NUL at its end.
    ptx: &'static Aligned<[u8]>,
}

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// Bytes of dynamic shared memory that every kernel may have without asking.
const DEFAULT_SHARED: u32 = 48 << 10;

/// Every module and its functions.
#[derive(Debug)]
pub(super) struct Kernels {
    link: Arc<Link>,
    modules: Vec<CUmodule>,
    functions: HashMap<&'static str, Function>,
    pub(super) loading: Loading,
}

#[derive(Debug)]
struct Function {
    handle: CUfunction,
    /// Dynamic shared memory that it may have.
    shared: Mutex<u32>,
}

/// How the kernels were loaded.
#[derive(Clone, Copy, Debug)]
pub struct Loading {
    /// Loading time.
    pub time: Duration,
    /// Modules in all.
    pub modules: usize,
    /// Modules from PTX, which the driver compiles, or takes from its cache. The others are machine code.
    pub from_ptx: usize,
}

impl fmt::Display for Loading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kernels loaded in {:.2} s from ", self.time.as_secs_f64())?;
        match self.from_ptx {
            0 => write!(f, "machine code"),
            all if all == self.modules => write!(f, "PTX"),
            some => write!(f, "machine code, {some} of {} modules from PTX", self.modules),
        }
    }
}

// SAFETY: CUDA allows handles of modules and functions on any thread with their context current.
unsafe impl Send for Kernels {}
// SAFETY: the driver synchronises calls on these handles.
unsafe impl Sync for Kernels {}

/// A loaded module and its source.
struct Module {
    handle: CUmodule,
    code: Code,
    /// Why the build's machine code was not taken, if it has some.
    refusal: Option<String>,
}
// SAFETY: CUDA allows handles of modules on any thread with their context current.
unsafe impl Send for Module {}

impl Kernels {
    /// Loads every module and finds every kernel now, not at first use: a stream may be captured then, the caller's too
    /// ([`super::OnStream`]), and the driver refuses to load anything during a capture. PTX takes seconds to compile, on
    /// all CPUs, but only the first time: the driver caches the result on disk.
    pub(super) fn load(link: &Arc<Link>, survey: &Survey, device: &Device) -> Result<Self> {
        let start = Instant::now();
        let code = device.fatbins();
        let modules: Vec<_> =
            IMAGES.par_iter().map(|image| load_module(link, image, code, survey.driver)).collect();
        let mut kernels = Self {
            link: Arc::clone(link),
            modules: Vec::new(),
            functions: HashMap::new(),
            loading: Loading { time: Duration::ZERO, modules: IMAGES.len(), from_ptx: 0 },
        };
        // Loaded modules are unloaded again if another one fails.
        let (mut failed, mut refused) = (None, None);
        for module in modules {
            match module {
                Ok(Module { handle, code, refusal }) => {
                    kernels.modules.push(handle);
                    kernels.loading.from_ptx += usize::from(code == Code::Ptx);
                    refused = refused.or(refusal);
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        kernels.find_functions()?;
        if let Some(refusal) = refused {
            note_once(device, &refusal, survey.driver);
        }
        kernels.loading.time = start.elapsed();
        Ok(kernels)
    }

    fn find_functions(&mut self) -> Result<()> {
        self.link.enter()?;
        for (image, &module) in IMAGES.iter().zip(&self.modules) {
            for &name in image.kernels {
                let c_name = CString::new(name).expect("kernels' names have no NUL");
                // SAFETY: `load_module` loaded the module, and `self` unloads it only when dropped.
                let handle = match unsafe { result::module::get_function(module, c_name) } {
                    Err(DriverError(CUresult::CUDA_ERROR_NOT_FOUND)) => {
                        return Err(self.missing(image.name, name));
                    }
                    handle => self.link.check(format!("finding {name}"), handle)?,
                };
                // Finding a function need not load it, but a query that depends on its code does.
                let attribute = Attribute::CU_FUNC_ATTRIBUTE_NUM_REGS;
                // SAFETY: `get_function` just returned the handle.
                let loaded = unsafe { result::function::get_function_attribute(handle, attribute) };
                self.link.check(format!("loading {name}"), loaded)?;
                self.functions.insert(name, Function { handle, shared: Mutex::new(DEFAULT_SHARED) });
            }
        }
        Ok(())
    }

    /// The function of a launch, allowed as much dynamic shared memory as the launch wants. The context must be
    /// current.
    pub(super) fn function(&self, launch: &Launch) -> Result<CUfunction> {
        let (kernel, shared) = (launch.kernel, launch.geometry.shared);
        let function =
            self.functions.get(kernel.name).ok_or_else(|| self.missing(kernel.module, kernel.name))?;
        let mut allowed = function.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if shared > *allowed {
            // SAFETY: the handle belongs to a module of `self`, which stays loaded.
            let set = unsafe {
                result::function::set_function_attribute(
                    function.handle,
                    Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                    shared as i32,
                )
            };
            let what = format!("asking for {shared} bytes of shared memory for {}", kernel.name);
            self.link.check(what, set)?;
            *allowed = shared;
        }
        Ok(function.handle)
    }

    fn missing(&self, module: &str, name: &str) -> Error {
        let help = "The kernels, cuda/ptx and the program are of different versions: run tools/kernels/cuda.sh ptx and rebuild.";
        Error::device(&self.link.label, "kernels", format!("{name} in {module}.cu"), "none", help)
    }
}

impl Drop for Kernels {
    fn drop(&mut self) {
        self.link.enter_to_free();
        for &module in &self.modules {
            // SAFETY: `load` loaded the module, and only this unloads it; drops of `Cuda` and `Graph` wait for the stream.
            let _ = unsafe { result::module::unload(module) };
        }
    }
}

/// Loads one file's kernels: from the fatbin if it has `code` for the device and the driver takes it, else from PTX.
fn load_module(link: &Link, image: &Image, code: Option<Code>, driver: u32) -> Result<Module> {
    let mut refusal = None;
    if let (Some(fatbin), Some(code)) = (image.fatbin, code) {
        match load_image(link, fatbin)? {
            Ok(handle) => return Ok(Module { handle, code, refusal }),
            Err(reason) => refusal = Some(reason),
        }
    }
    match load_image(link, image.ptx)? {
        Ok(handle) => Ok(Module { handle, code: Code::Ptx, refusal }),
        Err(reason) => {
            let refused = match refusal {
                Some(first) => format!("{first} for the machine code, {reason} for the PTX"),
                None => reason,
            };
            Err(Error::device(
                &link.label,
                "loading kernels",
                format!("a driver that takes {}.cu as {}", image.name, build()),
                format!("{refused}; the driver is for CUDA {}", version(driver)),
                "Update NVIDIA's driver, or use the CPU (`device` cpu).",
            ))
        }
    }
}

/// A module, or why the driver refuses this image of it. Other errors are not the image's fault.
fn load_image(link: &Link, image: &Aligned<[u8]>) -> Result<Result<CUmodule, String>> {
    link.enter()?;
    let mut log = [0u8; 2048];
    let mut options = [Jit::CU_JIT_ERROR_LOG_BUFFER, Jit::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    let mut values = [log.as_mut_ptr().cast::<c_void>(), std::ptr::without_provenance_mut(log.len())];
    let mut module = std::ptr::null_mut();
    // SAFETY: build.rs made the image, a fatbin or PTX with a NUL at its end; the two options' values are `log` and its
    // length.
    let loaded = unsafe {
        let (count, values) = (options.len() as u32, values.as_mut_ptr());
        sys::cuModuleLoadDataEx(&mut module, image.0.as_ptr().cast(), count, options.as_mut_ptr(), values)
            .result()
    };
    match loaded {
        // Drivers have many errors for images for other GPUs, of newer compilers, or of a newer format.
        Err(error) if error.0 != CUresult::CUDA_ERROR_OUT_OF_MEMORY && !is_sticky(error.0) => {
            let log = String::from_utf8_lossy(&log);
            let log = log.trim_end_matches('\0').split_whitespace().collect::<Vec<_>>().join(" ");
            let colon = if log.is_empty() { "" } else { ": " };
            Ok(Err(format!("{}{colon}{log}", describe(error))))
        }
        loaded => link.check("loading kernels", loaded.map(|()| Ok(module))),
    }
}

/// Says that machine code was refused, once per process and device.
fn note_once(device: &Device, refusal: &str, driver: u32) {
    static TOLD: Mutex<BTreeSet<usize>> = Mutex::new(BTreeSet::new());
    if TOLD.lock().unwrap_or_else(PoisonError::into_inner).insert(device.ordinal) {
        let driver = version(driver);
        // There is nowhere to report a closed standard error.
        let _ = writeln!(
            std::io::stderr(),
            "note: {device}: the driver, for CUDA {driver}, refuses this build's machine code, and its PTX takes its \
             place: {refusal}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loading_is_told_by_its_source() {
        let told = |from_ptx| Loading { time: Duration::from_millis(50), modules: 3, from_ptx }.to_string();
        assert_eq!(told(0), "kernels loaded in 0.05 s from machine code");
        assert_eq!(told(1), "kernels loaded in 0.05 s from machine code, 1 of 3 modules from PTX");
        assert_eq!(told(3), "kernels loaded in 0.05 s from PTX");
    }
}
