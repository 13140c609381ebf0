//! The driver functions that are called here and in cudarc, which panics when one is missing.

use std::sync::OnceLock;

use cudarc::driver::{
    DriverError,
    sys::{self, CUevent, CUresult},
};

/// Tells a driver's age.
pub(super) const VERSION: &str = "cuDriverGetVersion";

/// Its first version, which every driver has. The one that cudarc calls is there from CUDA 12.8 on.
const ELAPSED: &str = "cuEventElapsedTime";

/// All of them. `cudaTypedefs.h` of the toolkit has the version that added each; the newest is
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

/// A function that the driver lacks. There must be a driver.
pub(super) fn missing() -> Option<&'static str> {
    static MISSING: OnceLock<Option<&str>> = OnceLock::new();
    *MISSING.get_or_init(|| {
        // SAFETY: `survey` has loaded the library, which stays loaded; the symbols are looked up and not called.
        let has =
            |name: &&str| unsafe { sys::culib().get::<unsafe extern "C" fn()>(name.as_bytes()) }.is_ok();
        FUNCTIONS.into_iter().find(|name| !has(name))
    })
}

/// Milliseconds between two events that have passed.
///
/// # Safety
/// Both events are alive and belong to the current context.
pub(super) unsafe fn elapsed(from: CUevent, to: CUevent) -> Result<f32, DriverError> {
    type Elapsed = unsafe extern "C" fn(*mut f32, CUevent, CUevent) -> CUresult;
    let mut milliseconds = 0.0;
    // SAFETY: `survey` checked that the driver has the function, whose type is `Elapsed` and which writes one float. The
    // caller promises that both events are alive and of the current context.
    unsafe {
        let function = sys::culib().get::<Elapsed>(ELAPSED.as_bytes()).expect("the survey found it");
        function(&raw mut milliseconds, from, to).result()?;
    }
    Ok(milliseconds)
}
