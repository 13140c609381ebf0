//! This build's kernels on a device.

use std::{
    collections::HashMap,
    ffi::{CString, c_void},
    sync::{Arc, Mutex, PoisonError},
};

use cudarc::driver::{
    DriverError, result,
    sys::{self, CUfunction, CUfunction_attribute as Attribute, CUjit_option as Jit, CUmodule, CUresult},
};
use rayon::prelude::*;

use super::{
    devices::{describe, targets, version},
    link::Link,
};
use crate::{
    error::{Error, Result},
    gpu::{Kernel, Launch},
};

/// An image at an address that the driver can take.
#[repr(C, align(16))]
pub(super) struct Aligned<T: ?Sized>(T);

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// Bytes of dynamic shared memory that every kernel may have without asking.
const DEFAULT_SHARED: u32 = 48 << 10;

/// Every module, and the functions that were asked for.
#[derive(Debug)]
pub(super) struct Kernels {
    link: Arc<Link>,
    modules: HashMap<&'static str, CUmodule>,
    functions: Mutex<HashMap<Kernel, Function>>,
}

#[derive(Clone, Copy, Debug)]
struct Function {
    handle: CUfunction,
    /// Dynamic shared memory that it may have.
    shared: u32,
}

// SAFETY: handles of modules and functions may be used from any thread that has their context current.
unsafe impl Send for Kernels {}
// SAFETY: as above; the driver synchronises calls on them.
unsafe impl Sync for Kernels {}

/// A handle that goes from a loading thread to the one that waits for it.
struct Loaded(CUmodule);
// SAFETY: as for `Kernels`.
unsafe impl Send for Loaded {}

impl Kernels {
    /// Loads every module. PTX is compiled here, which the driver caches on disk.
    pub(super) fn load(link: &Arc<Link>, driver: u32) -> Result<Self> {
        // PTX takes most of a second per module to compile.
        let modules: Vec<_> = IMAGES
            .par_iter()
            .map(|&(name, image)| Ok((name, Loaded(load_module(link, name, image, driver)?))))
            .collect();
        let mut kernels =
            Self { link: Arc::clone(link), modules: HashMap::new(), functions: Mutex::default() };
        let mut failed = None;
        for module in modules {
            match module {
                Ok((name, Loaded(module))) => drop(kernels.modules.insert(name, module)),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(kernels), Err)
    }

    /// The function of a launch, allowed as much dynamic shared memory as the launch wants. The context has to be
    /// current.
    pub(super) fn function(&self, launch: &Launch) -> Result<CUfunction> {
        let (kernel, shared) = (launch.kernel, launch.geometry.shared);
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        let function = match functions.get(&kernel) {
            Some(&function) => function,
            None => self.find(kernel)?,
        };
        if shared > function.shared {
            // SAFETY: the handle is a function's of a module that stays loaded.
            let allowed = unsafe {
                result::function::set_function_attribute(
                    function.handle,
                    Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                    shared as i32,
                )
            };
            let what = format!("asking for {shared} bytes of shared memory for {}", kernel.name);
            self.link.check(what, allowed)?;
        }
        functions.insert(kernel, Function { shared: function.shared.max(shared), ..function });
        Ok(function.handle)
    }

    fn find(&self, kernel: Kernel) -> Result<Function> {
        let missing = || {
            let help = "The kernels and the program are of different versions: build anew.";
            Error::device(
                &self.link.label,
                "kernels",
                format!("{} in {}.cu", kernel.name, kernel.module),
                "none",
                help,
            )
        };
        let &module = self.modules.get(kernel.module).ok_or_else(missing)?;
        let name = CString::new(kernel.name).expect("kernels' names have no NUL");
        // SAFETY: the module is loaded.
        match unsafe { result::module::get_function(module, name) } {
            Ok(handle) => {
                // The driver may load a function when it is first used, and a capture must not be that use.
                let attribute = Attribute::CU_FUNC_ATTRIBUTE_NUM_REGS;
                // SAFETY: the handle is the function's that was just found.
                let loaded = unsafe { result::function::get_function_attribute(handle, attribute) };
                self.link.check(format!("loading {}", kernel.name), loaded)?;
                Ok(Function { handle, shared: DEFAULT_SHARED })
            }
            Err(DriverError(CUresult::CUDA_ERROR_NOT_FOUND)) => Err(missing()),
            Err(error) => self.link.check(format!("finding {}", kernel.name), Err(error)),
        }
    }
}

fn load_module(link: &Link, name: &str, image: &'static Aligned<[u8]>, driver: u32) -> Result<CUmodule> {
    link.enter()?;
    let mut log = [0u8; 2048];
    let mut options = [Jit::CU_JIT_ERROR_LOG_BUFFER, Jit::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    let mut values = [log.as_mut_ptr().cast::<c_void>(), std::ptr::without_provenance_mut(log.len())];
    let mut module = std::ptr::null_mut();
    // SAFETY: the image is a fatbin, or PTX with a NUL at its end, as build.rs made it; the two options' values are a
    // buffer and its length.
    let loaded = unsafe {
        let (count, values) = (options.len() as u32, values.as_mut_ptr());
        sys::cuModuleLoadDataEx(&mut module, image.0.as_ptr().cast(), count, options.as_mut_ptr(), values)
            .result()
    };
    loaded.map(|()| module).map_err(|error| {
        let expected = format!("{name}.cu for {}, compiled by CUDA {}", targets(), version(COMPILER));
        let log = String::from_utf8_lossy(&log);
        let log = log.trim_end_matches('\0').split_whitespace().collect::<Vec<_>>().join(" ");
        let colon = if log.is_empty() { "" } else { ": " };
        let got = format!("{} from a driver for CUDA {}{colon}{log}", describe(error), version(driver));
        let help = if driver < COMPILER {
            "Update NVIDIA's driver, or build with an older nvcc (set CUDA_HOME)."
        } else {
            "Build anew, with PROBEPRUNE_CUDA_ARCH for this GPU."
        };
        Error::device(&link.label, "loading kernels", expected, got, help)
    })
}

impl Drop for Kernels {
    fn drop(&mut self) {
        self.link.enter_to_free();
        for &module in self.modules.values() {
            // SAFETY: loaded by this, unloaded once; whoever launches has waited for the stream.
            let _ = unsafe { result::module::unload(module) };
        }
    }
}
