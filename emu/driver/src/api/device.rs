//! Devices and contexts.

use super::*;
use std::ffi::CStr;

fn device_count() -> usize {
    setting("DEVICES", 1) as usize
}

fn device(ordinal: c_int) -> Result<usize, Code> {
    let ordinal = usize::try_from(ordinal).map_err(|_| INVALID_DEVICE)?;
    if ordinal < device_count() { Ok(ordinal) } else { Err(INVALID_DEVICE) }
}

api! {
    fn cuDriverGetVersion(number: *mut c_int) since 2020 {
        // SAFETY: the API's contract.
        unsafe { put(number, version() as c_int) }
    }
    fn cuInit(_flags: c_uint) since 2000 {
        if device_count() == 0 {
            return Err(NO_DEVICE);
        }
        state().initialised = true;
    }
    fn cuDeviceGetCount(count: *mut c_int) since 2000 {
        // SAFETY: the API's contract.
        unsafe { put(count, device_count() as c_int) }
    }
    fn cuDeviceGet(handle: *mut c_int, ordinal: c_int) since 2000 {
        if !state().initialised {
            misuse("a call before cuInit");
        }
        // SAFETY: the API's contract.
        unsafe { put(handle, device(ordinal)? as c_int) }
    }
    fn cuDeviceGetName(name: *mut c_char, len: c_int, handle: c_int) since 2000 {
        device(handle)?;
        let text = c"Emulated GPU".to_bytes_with_nul();
        if (len as usize) < text.len() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: the API's contract; it fits.
        unsafe { name.copy_from_nonoverlapping(text.as_ptr().cast(), text.len()) }
    }
    fn cuDeviceTotalMem_v2(bytes: *mut usize, handle: c_int) since 3020 {
        device(handle)?;
        // SAFETY: the API's contract.
        unsafe { put(bytes, setting("MEMORY", 1 << 30) as usize) }
    }
    fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, handle: c_int) since 2000 {
        device(handle)?;
        let capability = std::env::var("EMULATED_CUDA_CAPABILITY").unwrap_or_else(|_| "8.0".to_string());
        let (major, minor) = capability.split_once('.').unwrap_or((&capability, "0"));
        let found = match attribute {
            13 => 1_000_000, // clock, kHz
            16 => 4,         // multiprocessors
            36 => 1_000_000, // memory clock, kHz
            37 => 64,        // bits of the memory bus
            75 => major.parse().map_err(|_| INVALID_VALUE)?,
            76 => minor.parse().map_err(|_| INVALID_VALUE)?,
            115 => 0, // memory pools
            _ => misuse(&format!("device attribute {attribute}")),
        };
        // SAFETY: the API's contract.
        unsafe { put(value, found) }
    }
    fn cuGetErrorName(code: Code, name: *mut *const c_char) since 6000 {
        // SAFETY: the API's contract.
        unsafe { put(name, error_text(code)?.0.as_ptr()) }
    }
    fn cuGetErrorString(code: Code, text: *mut *const c_char) since 6000 {
        // SAFETY: the API's contract.
        unsafe { put(text, error_text(code)?.1.as_ptr()) }
    }
    fn cuDevicePrimaryCtxRetain(context: *mut usize, handle: c_int) since 7000 {
        let handle = device(handle)? + 1;
        *state().contexts.entry(handle).or_default() += 1;
        // SAFETY: the API's contract.
        unsafe { put(context, handle) }
    }
    fn cuDevicePrimaryCtxRelease_v2(handle: c_int) since 11000 {
        let mut state = state();
        let users = state.contexts.get_mut(&(handle as usize + 1)).unwrap_or_else(|| misuse("releasing no context"));
        *users -= 1;
        let leaked = [
            ("allocations", state.allocations.len()),
            ("streams", state.streams.keys().filter(|&&stream| stream != 0).count()),
            ("events", state.events.len()),
            ("pinned allocations", state.pinned.len()),
            ("modules", state.modules.len()),
            ("graphs", state.graphs.len() + state.executables.len()),
        ];
        if !state.poisoned
            && state.contexts.values().all(|&users| users == 0)
            && let Some((what, count)) = leaked.into_iter().find(|&(_, count)| count > 0)
        {
            misuse(&format!("{count} {what} left behind"));
        }
    }
    fn cuCtxGetCurrent(context: *mut usize) since 4000 {
        // SAFETY: the API's contract.
        unsafe { put(context, CURRENT.get()) }
    }
    fn cuCtxSetCurrent(context: usize) since 4000 {
        CURRENT.set(context)
    }
    fn cuCtxSynchronize() since 2000 {
        check(State::enter()?.run_all(|_| false))?
    }
}

/// An error's name and meaning.
fn error_text(code: Code) -> Result<(&'static CStr, &'static CStr), Code> {
    Ok(match code {
        INVALID_VALUE => (c"CUDA_ERROR_INVALID_VALUE", c"invalid argument"),
        OUT_OF_MEMORY => (c"CUDA_ERROR_OUT_OF_MEMORY", c"out of memory"),
        NO_DEVICE => (c"CUDA_ERROR_NO_DEVICE", c"no CUDA-capable device is detected"),
        INVALID_DEVICE => (c"CUDA_ERROR_INVALID_DEVICE", c"invalid device ordinal"),
        INVALID_IMAGE => (c"CUDA_ERROR_INVALID_IMAGE", c"device kernel image is invalid"),
        INVALID_CONTEXT => (c"CUDA_ERROR_INVALID_CONTEXT", c"invalid device context"),
        NO_BINARY_FOR_GPU => {
            (c"CUDA_ERROR_NO_BINARY_FOR_GPU", c"no kernel image is available for execution on the device")
        }
        UNSUPPORTED_PTX_VERSION => (
            c"CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
            c"the provided PTX was compiled with an unsupported toolchain.",
        ),
        NOT_FOUND => (c"CUDA_ERROR_NOT_FOUND", c"named symbol not found"),
        ILLEGAL_ADDRESS => (c"CUDA_ERROR_ILLEGAL_ADDRESS", c"an illegal memory access was encountered"),
        CAPTURE_UNSUPPORTED => {
            (c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", c"operation not permitted when capturing")
        }
        _ => return Err(INVALID_VALUE),
    })
}
