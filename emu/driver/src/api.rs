//! The driver API's functions, under their own names.

#![allow(non_snake_case, unreachable_pub, reason = "C's names, which the linker exports")]

use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void};

use ptx_emu::Launch;

use crate::state::*;

/// Runs a body that ends early with an error's code.
macro_rules! code {
    ($body:block) => {{
        #[allow(clippy::redundant_closure_call)]
        (|| -> Result<(), Code> {
            $body;
            Ok(())
        })()
        .map_or_else(|code| code, |()| SUCCESS)
    }};
}

/// Turns a code into a `Result`.
fn check(code: Code) -> Result<(), Code> {
    if code == SUCCESS { Ok(()) } else { Err(code) }
}

/// Writes a result where the caller wants it.
///
/// # Safety
/// `to` is a place for a `T`.
unsafe fn put<T>(to: *mut T, value: T) {
    // SAFETY: the caller's to keep.
    unsafe { to.write(value) }
}

macro_rules! api {
    ($(fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block)*) => {
        $(
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name($($argument: $type),*) -> Code {
                code!($body)
            }
        )*
    };
}

fn device_count() -> usize {
    setting("DEVICES", 1) as usize
}

fn device(ordinal: c_int) -> Result<usize, Code> {
    let ordinal = usize::try_from(ordinal).map_err(|_| INVALID_DEVICE)?;
    if ordinal < device_count() { Ok(ordinal) } else { Err(INVALID_DEVICE) }
}

api! {
    fn cuDriverGetVersion(version: *mut c_int) {
        // SAFETY: the API's contract.
        unsafe { put(version, setting("VERSION", 13_000) as c_int) }
    }
    fn cuInit(_flags: c_uint) {
        if device_count() == 0 {
            return Err(NO_DEVICE);
        }
        state().initialised = true;
    }
    fn cuDeviceGetCount(count: *mut c_int) {
        // SAFETY: the API's contract.
        unsafe { put(count, device_count() as c_int) }
    }
    fn cuDeviceGet(handle: *mut c_int, ordinal: c_int) {
        if !state().initialised {
            misuse("a call before cuInit");
        }
        // SAFETY: the API's contract.
        unsafe { put(handle, device(ordinal)? as c_int) }
    }
    fn cuDeviceGetName(name: *mut c_char, len: c_int, handle: c_int) {
        device(handle)?;
        let text = c"Emulated GPU".to_bytes_with_nul();
        if (len as usize) < text.len() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: the API's contract; it fits.
        unsafe { name.copy_from_nonoverlapping(text.as_ptr().cast(), text.len()) }
    }
    fn cuDeviceTotalMem_v2(bytes: *mut usize, handle: c_int) {
        device(handle)?;
        // SAFETY: the API's contract.
        unsafe { put(bytes, setting("MEMORY", 1 << 30) as usize) }
    }
    fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, handle: c_int) {
        device(handle)?;
        let capability = std::env::var("EMULATED_CUDA_CAPABILITY").unwrap_or_else(|_| "8.0".to_string());
        let (major, minor) = capability.split_once('.').unwrap_or((&capability, "0"));
        let found = match attribute {
            16 => 4, // multiprocessors
            75 => major.parse().map_err(|_| INVALID_VALUE)?,
            76 => minor.parse().map_err(|_| INVALID_VALUE)?,
            115 => 0, // memory pools
            _ => misuse(&format!("device attribute {attribute}")),
        };
        // SAFETY: the API's contract.
        unsafe { put(value, found) }
    }
    fn cuGetErrorName(code: Code, name: *mut *const c_char) {
        // SAFETY: the API's contract.
        unsafe { put(name, error_text(code)?.0.as_ptr()) }
    }
    fn cuGetErrorString(code: Code, text: *mut *const c_char) {
        // SAFETY: the API's contract.
        unsafe { put(text, error_text(code)?.1.as_ptr()) }
    }
    fn cuDevicePrimaryCtxRetain(context: *mut usize, handle: c_int) {
        let handle = device(handle)? + 1;
        *state().contexts.entry(handle).or_default() += 1;
        // SAFETY: the API's contract.
        unsafe { put(context, handle) }
    }
    fn cuDevicePrimaryCtxRelease_v2(handle: c_int) {
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
    fn cuCtxGetCurrent(context: *mut usize) {
        // SAFETY: the API's contract.
        unsafe { put(context, CURRENT.get()) }
    }
    fn cuCtxSetCurrent(context: usize) {
        CURRENT.set(context)
    }
    fn cuCtxSynchronize() {
        let mut state = State::enter()?;
        for stream in state.streams.keys().copied().collect::<Vec<_>>() {
            if state.stream(stream).capturing.is_none() {
                check(state.run(stream, |_| false))?;
            }
        }
    }
    fn cuStreamCreate(stream: *mut usize, _flags: c_uint) {
        let mut state = State::enter()?;
        let handle = state.handle();
        state.streams.insert(handle, Stream::default());
        // SAFETY: the API's contract.
        unsafe { put(stream, handle) }
    }
    fn cuStreamDestroy_v2(stream: usize) {
        let mut state = State::enter()?;
        check(state.run(stream, |_| false))?;
        state.streams.remove(&stream);
    }
    fn cuStreamSynchronize(stream: usize) {
        check(State::enter()?.run(stream, |_| false))?
    }
    fn cuStreamBeginCapture_v2(stream: usize, _mode: c_int) {
        if stream == 0 {
            return Err(CAPTURE_UNSUPPORTED);
        }
        let mut state = State::enter()?;
        let stream = state.stream(stream);
        if stream.capturing.replace(Vec::new()).is_some() {
            misuse("two captures on one stream");
        }
    }
    fn cuStreamEndCapture(stream: usize, graph: *mut usize) {
        let mut state = State::enter()?;
        let calls = state.stream(stream).capturing.take().unwrap_or_else(|| misuse("ending no capture"));
        let handle = state.handle();
        state.graphs.insert(handle, calls);
        // SAFETY: the API's contract.
        unsafe { put(graph, handle) }
    }
    fn cuGraphInstantiateWithFlags(executable: *mut usize, graph: usize, _flags: c_ulonglong) {
        let mut state = State::enter()?;
        let calls = state.graphs.get(&graph).unwrap_or_else(|| misuse("a graph that does not exist")).clone();
        let handle = state.handle();
        state.executables.insert(handle, calls);
        // SAFETY: the API's contract.
        unsafe { put(executable, handle) }
    }
    fn cuGraphDestroy(graph: usize) {
        State::enter()?.graphs.remove(&graph).unwrap_or_else(|| misuse("destroying no graph"))
    }
    fn cuGraphExecDestroy(executable: usize) {
        State::enter()?.executables.remove(&executable).unwrap_or_else(|| misuse("destroying no graph"))
    }
    fn cuGraphLaunch(executable: usize, stream: usize) {
        let mut state = State::enter()?;
        let calls = state.executables.get(&executable).unwrap_or_else(|| misuse("launching no graph")).clone();
        for call in calls {
            check(state.enqueue(stream, Operation::Launch(call)))?;
        }
    }
    fn cuMemAlloc_v2(address: *mut u64, bytes: usize) {
        let mut state = State::enter()?;
        let taken: usize = state.allocations.values().map(|allocation| allocation.bytes).sum();
        if bytes == 0 {
            return Err(INVALID_VALUE);
        }
        if taken.saturating_add(bytes) as u64 > setting("MEMORY", 1 << 30) {
            return Err(OUT_OF_MEMORY);
        }
        let at = state.memory.alloc("buffer", bytes).map_err(|_| OUT_OF_MEMORY)?;
        state.allocations.insert(at, Allocation { bytes, ordinal: CURRENT.get() - 1 });
        // SAFETY: the API's contract.
        unsafe { put(address, at) }
    }
    fn cuMemFree_v2(address: u64) {
        let mut state = State::enter()?;
        let allocation = state.allocations.remove(&address);
        let bytes = allocation.unwrap_or_else(|| misuse("freeing what was not allocated")).bytes as u64;
        if state.is_waiting(|operation| operation.touches(&(address..address + bytes))) {
            misuse("freeing memory that something waiting will use");
        }
        state.memory.free(address).map_err(|_| INVALID_VALUE)?;
    }
    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) {
        let state = State::enter()?;
        let taken: usize = state.allocations.values().map(|allocation| allocation.bytes).sum();
        let all = setting("MEMORY", 1 << 30) as usize;
        // SAFETY: the API's contract.
        unsafe {
            put(free, all - taken);
            put(total, all);
        }
    }
    fn cuMemHostAlloc(memory: *mut *mut c_void, bytes: usize, _flags: c_uint) {
        let mut words = vec![0u64; bytes.div_ceil(8)].into_boxed_slice();
        let at = words.as_mut_ptr();
        State::enter()?.pinned.insert(at as usize, words);
        // SAFETY: the API's contract.
        unsafe { put(memory, at.cast()) }
    }
    fn cuMemFreeHost(memory: *mut c_void) {
        drop(State::enter()?.pinned.remove(&(memory as usize)).unwrap_or_else(|| misuse("freeing unknown memory")))
    }
    fn cuMemsetD8Async(at: u64, value: u8, len: usize, stream: usize) {
        check(State::enter()?.enqueue(stream, Operation::Set { at, value, len }))?
    }
    fn cuMemcpyHtoDAsync_v2(to: u64, from: *const u8, len: usize, stream: usize) {
        let mut state = State::enter()?;
        let operation = match state.pinned_range(from as usize, len) {
            Some(_) => Operation::WritePinned { to, from: from as usize, len },
            // SAFETY: the API's contract.
            None => Operation::Write { to, bytes: unsafe { std::slice::from_raw_parts(from, len) }.to_vec() },
        };
        check(state.enqueue(stream, operation))?
    }
    fn cuMemcpyDtoHAsync_v2(to: *mut u8, from: u64, len: usize, stream: usize) {
        check(State::enter()?.enqueue(stream, Operation::Read { from, to: to as usize, len }))?
    }
    fn cuEventCreate(event: *mut usize, _flags: c_uint) {
        let mut state = State::enter()?;
        let handle = state.handle();
        state.events.insert(handle, 0);
        // SAFETY: the API's contract.
        unsafe { put(event, handle) }
    }
    fn cuEventRecord(event: usize, stream: usize) {
        let mut state = State::enter()?;
        *state.events.get_mut(&event).unwrap_or_else(|| misuse("recording no event")) += 1;
        check(state.enqueue(stream, Operation::Event(event)))?
    }
    fn cuEventSynchronize(event: usize) {
        let mut state = State::enter()?;
        for stream in state.streams.keys().copied().collect::<Vec<_>>() {
            let done = |state: &State| state.events.get(&event).is_none_or(|&waiting| waiting == 0);
            if !done(&state) {
                check(state.run(stream, done))?;
            }
        }
    }
    fn cuEventElapsedTime_v2(milliseconds: *mut f32, from: usize, to: usize) {
        let state = State::enter()?;
        let passed = |event: usize| match state.events.get(&event) {
            Some(0) => state.passed.get(&event).copied().ok_or(INVALID_HANDLE),
            Some(_) => Err(NOT_READY),
            None => misuse("reading no event"),
        };
        // SAFETY: the API's contract.
        unsafe { put(milliseconds, (passed(to)? - passed(from)?).as_secs_f32() * 1e3) }
    }
    fn cuEventDestroy_v2(event: usize) {
        State::enter()?.events.remove(&event).map(drop).unwrap_or_else(|| misuse("destroying no event"))
    }
    fn cuModuleLoadDataEx(
        module: *mut usize,
        image: *const c_char,
        _count: c_uint,
        _options: *mut c_int,
        _values: *mut *mut c_void,
    ) {
        let mut state = State::enter()?;
        if !image.addr().is_multiple_of(8) {
            misuse("an image that is not aligned");
        }
        // SAFETY: an image has at least that many bytes.
        let magic = unsafe { image.cast::<u32>().read() };
        let text = if magic == 0xba55_ed50 {
            // A fatbin; its kernels are looked for in the committed PTX.
            String::new()
        } else {
            // SAFETY: PTX ends with a NUL, says the API's contract.
            unsafe { CStr::from_ptr(image) }.to_str().map_err(|_| INVALID_IMAGE)?.to_string()
        };
        let handle = state.handle();
        state.modules.insert(handle, text);
        // SAFETY: the API's contract.
        unsafe { put(module, handle) }
    }
    fn cuModuleUnload(module: usize) {
        let mut state = State::enter()?;
        if state.is_waiting(|operation| matches!(operation, Operation::Launch(call) if call.function.owner == module)) {
            misuse("unloading a module that something waiting will use");
        }
        state.modules.remove(&module).unwrap_or_else(|| misuse("unloading no module"));
        state.functions.retain(|_, function| function.owner != module);
    }
    fn cuModuleGetFunction(function: *mut usize, module: usize, name: *const c_char) {
        let mut state = State::enter()?;
        // SAFETY: the API's contract.
        let name = unsafe { CStr::from_ptr(name) }.to_str().map_err(|_| INVALID_VALUE)?;
        let ptx = state.modules.get(&module).unwrap_or_else(|| misuse("a module that is not loaded"));
        let found = match ptx.as_str() {
            "" => committed_ptx().find_map(|ptx| find_function(&ptx, module, name)),
            ptx => find_function(ptx, module, name),
        };
        let handle = state.handle();
        state.functions.insert(handle, found.ok_or(NOT_FOUND)?);
        // SAFETY: the API's contract.
        unsafe { put(function, handle) }
    }
    fn cuFuncGetAttribute(value: *mut c_int, _attribute: c_int, function: usize) {
        State::enter()?.functions.get(&function).unwrap_or_else(|| misuse("a function that is not loaded"));
        // SAFETY: the API's contract.
        unsafe { put(value, 32) }
    }
    fn cuFuncSetAttribute(function: usize, attribute: c_int, value: c_int) {
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
    ) {
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
    fn cuPointerGetAttribute(value: *mut c_int, attribute: c_int, address: u64) {
        let state = State::enter()?;
        let allocation = state.allocation(address).filter(|_| attribute == 9).ok_or(INVALID_VALUE)?;
        // SAFETY: the API's contract for the device's ordinal.
        unsafe { put(value, allocation.ordinal as c_int) }
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
        NOT_FOUND => (c"CUDA_ERROR_NOT_FOUND", c"named symbol not found"),
        ILLEGAL_ADDRESS => (c"CUDA_ERROR_ILLEGAL_ADDRESS", c"an illegal memory access was encountered"),
        CAPTURE_UNSUPPORTED => {
            (c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", c"operation not permitted when capturing")
        }
        _ => return Err(INVALID_VALUE),
    })
}
