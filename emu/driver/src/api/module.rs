//! Modules, functions and launches.

use std::ffi::CStr;

use ptx_emu::Launch;

use super::*;
use crate::image::Image;

/// Loads an image.
///
/// # Safety
/// A fatbin, or PTX with a NUL at its end.
unsafe fn load(image: *const c_char) -> Result<usize, Code> {
    let mut state = State::enter_outside_captures()?;
    if !image.addr().is_multiple_of(8) {
        misuse("an image that is not aligned");
    }
    // SAFETY: an image has at least that many bytes.
    let magic = unsafe { image.cast::<u32>().read() };
    let image = if magic == 0xba55_ed50 {
        Image::machine_code()?
    } else {
        // SAFETY: as this function's.
        Image::ptx(unsafe { CStr::from_ptr(image) }.to_str().map_err(|_| INVALID_IMAGE)?)?
    };
    let handle = state.handle();
    state.modules.insert(handle, image);
    Ok(handle)
}

api! {
    fn cuModuleLoadData(module: *mut usize, image: *const c_char) since 2000 {
        // SAFETY: the API's contract.
        unsafe { put(module, load(image)?) }
    }
    fn cuModuleLoadDataEx(
        module: *mut usize,
        image: *const c_char,
        _count: c_uint,
        _options: *mut c_int,
        _values: *mut *mut c_void,
    ) since 2010 {
        // SAFETY: the API's contract.
        unsafe { put(module, load(image)?) }
    }
    fn cuModuleUnload(module: usize) since 2000 {
        let mut state = State::enter()?;
        if state.is_waiting(|operation| matches!(operation, Operation::Launch(call) if call.function.owner == module)) {
            misuse("unloading a module that something waiting will use");
        }
        state.modules.remove(&module).unwrap_or_else(|| misuse("unloading no module"));
        state.functions.retain(|_, function| function.owner != module);
    }
    fn cuModuleGetFunction(function: *mut usize, module: usize, name: *const c_char) since 2000 {
        let mut state = State::enter_outside_captures()?;
        // SAFETY: the API's contract.
        let name = unsafe { CStr::from_ptr(name) }.to_str().map_err(|_| INVALID_VALUE)?;
        let image = state.modules.get(&module).unwrap_or_else(|| misuse("a module that is not loaded"));
        let (ptx, argument_bytes) = image.find(name).ok_or(NOT_FOUND)?;
        let handle = state.handle();
        let name = name.to_string();
        state.functions.insert(handle, Function { owner: module, ptx, name, argument_bytes, shared: DEFAULT_SHARED });
        // SAFETY: the API's contract.
        unsafe { put(function, handle) }
    }
    fn cuFuncGetAttribute(value: *mut c_int, _attribute: c_int, function: usize) since 2020 {
        State::enter()?.functions.get(&function).unwrap_or_else(|| misuse("a function that is not loaded"));
        // SAFETY: the API's contract.
        unsafe { put(value, 32) }
    }
    fn cuFuncSetAttribute(function: usize, attribute: c_int, value: c_int) since 9000 {
        let mut state = State::enter()?;
        let function = state.functions.get_mut(&function).unwrap_or_else(|| misuse("a function that is not loaded"));
        if attribute != 8 || value as u32 > MOST_SHARED {
            return Err(INVALID_VALUE);
        }
        function.shared = value as u32;
    }
    fn cuLaunchKernel(
        function: usize,
        grid_x: c_uint,
        grid_y: c_uint,
        grid_z: c_uint,
        block_x: c_uint,
        block_y: c_uint,
        block_z: c_uint,
        shared: c_uint,
        stream: usize,
        arguments: *const *const u8,
        _extra: *const c_void,
    ) since 4000 {
        let mut state = State::enter()?;
        let function = state.functions.get(&function).unwrap_or_else(|| misuse("a function that is not loaded"));
        let function = function.clone();
        if shared > function.shared {
            return Err(INVALID_VALUE);
        }
        // SAFETY: kernels have one argument, a struct of as many bytes as the kernel's parameter.
        let arguments = unsafe { std::slice::from_raw_parts(arguments.read(), function.argument_bytes) }.to_vec();
        let launch = Launch { grid: [grid_x, grid_y, grid_z], block: [block_x, block_y, block_z], shared };
        check(state.enqueue(stream, Operation::Launch(Call { function, launch, arguments })))?
    }
}
