//! What is called of the driver, here and in cudarc, which panics when it calls what the driver does not have.

use std::sync::OnceLock;

use cudarc::driver::{
    DriverError,
    sys::{self, CUevent, CUresult},
};

/// The one that a driver's age is asked of.
pub(super) const VERSION: &str = "cuDriverGetVersion";

/// The first version of it, which every driver has. The one that cudarc calls is there from CUDA 12.8 on.
const ELAPSED: &str = "cuEventElapsedTime";

/// Every one of them. `cudaTypedefs.h` of the toolkit says since when each is there; the newest is
/// `cuGraphInstantiateWithFlags`, of CUDA 11.4.
const FUNCTIONS: [&str; 43] = [
    VERSION,
    "cuInit",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDeviceTotalMem_v2",
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuCtxSynchronize",
    "cuEventCreate",
    "cuEventDestroy_v2",
    ELAPSED,
    "cuEventRecord",
    "cuEventSynchronize",
    "cuFuncGetAttribute",
    "cuFuncSetAttribute",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuLaunchKernel",
    "cuMemAlloc_v2",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemHostAlloc",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemsetD8Async",
    "cuModuleGetFunction",
    "cuModuleLoadDataEx",
    "cuModuleUnload",
    "cuPointerGetAttribute",
    "cuStreamBeginCapture_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamEndCapture",
    "cuStreamSynchronize",
];

/// One that the driver does not have. There has to be a driver.
pub(super) fn missing() -> Option<&'static str> {
    static MISSING: OnceLock<Option<&str>> = OnceLock::new();
    *MISSING.get_or_init(|| {
        // SAFETY: the library is there, and stays loaded; the symbols are looked up and not called.
        let has =
            |name: &&str| unsafe { sys::culib().get::<unsafe extern "C" fn()>(name.as_bytes()) }.is_ok();
        FUNCTIONS.into_iter().find(|name| !has(name))
    })
}

/// Milliseconds between two events that have passed.
///
/// # Safety
/// Both are alive, and of one context, which is current.
pub(super) unsafe fn elapsed(from: CUevent, to: CUevent) -> Result<f32, DriverError> {
    type Elapsed = unsafe extern "C" fn(*mut f32, CUevent, CUevent) -> CUresult;
    let mut milliseconds = 0.0;
    // SAFETY: this is the function's type; it writes one float. That there is one was checked before there were events.
    unsafe {
        let function = sys::culib().get::<Elapsed>(ELAPSED.as_bytes()).expect("the survey found it");
        function(&raw mut milliseconds, from, to).result()?;
    }
    Ok(milliseconds)
}
