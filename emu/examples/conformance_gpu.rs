//! Runs the conformance kernels on a real GPU through the driver and says, per primitive, whether it agrees with what
//! the emulator is held to: `cargo run --release --features gpu --example conformance_gpu`.
#![allow(unsafe_code, reason = "the driver's API is a C library")]

#[path = "../conformance/cases/mod.rs"]
#[allow(missing_docs, unreachable_pub, reason = "shared with the emulator's tests")]
mod cases;

use std::{
    error::Error,
    ffi::{CString, c_void},
    process::ExitCode,
};

use cases::{Case, Map};
use cudarc::driver::{CudaContext, result, sys};

/// A tensor map, aligned as the driver demands.
#[repr(C, align(64))]
struct MapBytes(sys::CUtensorMap);

fn main() -> ExitCode {
    match run() {
        Ok(0) => ExitCode::SUCCESS,
        Ok(n) => {
            eprintln!("{n} primitives disagree");
            ExitCode::FAILURE
        }
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<usize, Box<dyn Error>> {
    // SAFETY: only looks for the library; without it every other call of cudarc would panic.
    if !unsafe { sys::is_culib_present() } {
        return Err("no CUDA driver on this machine".into());
    }
    let context = CudaContext::new(0)?;
    let capability = context.compute_capability()?;
    println!("{}, compute capability {}.{}", context.name()?, capability.0, capability.1);
    let mut wrong = 0;
    for case in cases::all() {
        if case.module.ends_with("sm90") && capability != (9, 0) {
            println!("{:24} not run: needs compute capability 9.0", case.kernel);
            continue;
        }
        let got = execute(&case)?;
        match case.difference(&got) {
            None => println!("{:24} agree", case.kernel),
            Some((i, want, got)) => {
                wrong += 1;
                println!("{:24} DISAGREE at word {i}: expected {want:#010x}, got {got:#010x}", case.kernel);
            }
        }
    }
    Ok(wrong)
}

/// Uploads words to a fresh allocation.
fn upload(words: &[u32]) -> Result<sys::CUdeviceptr, Box<dyn Error>> {
    // SAFETY: the allocation has the size of the slice that is copied to it.
    unsafe {
        let p = result::malloc_sync(words.len().max(1) * 4)?;
        result::memcpy_htod_sync(p, words)?;
        Ok(p)
    }
}

fn execute(case: &Case) -> Result<Vec<u32>, Box<dyn Error>> {
    let path = format!("{}/kernels/ptx/{}.ptx", env!("CARGO_MANIFEST_DIR"), case.module);
    let text = CString::new(std::fs::read(path)?)?;
    let n = case.expected.len();
    let input = upload(&case.input)?;
    let mut output = upload(&vec![u32::MAX; n])?;
    let mut map = None;
    if let Some(m) = &case.map {
        let tensor = upload(&m.data)?;
        map = Some(encode(m, tensor)?);
        if m.is_output {
            output = tensor;
        }
    }
    let mut words = [input, output];
    let mut params: Vec<*mut c_void> = Vec::new();
    if let Some(m) = &mut map {
        params.push((&raw mut *m).cast());
    }
    params.push(words.as_mut_ptr().cast());
    let mut got = vec![0u32; n];
    // SAFETY: the text ends in zero; the parameters are those of every conformance kernel and outlive the launch, which is
    // waited for; the buffers hold what the kernels read and write, as the emulator has checked for the same cases.
    unsafe {
        let module = result::module::load_data(text.as_ptr().cast())?;
        let f = result::module::get_function(module, CString::new(case.kernel)?)?;
        let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        result::function::set_function_attribute(f, attribute, case.shared as i32)?;
        result::launch_kernel(
            f,
            (1, 1, 1),
            (case.threads, 1, 1),
            case.shared,
            std::ptr::null_mut(),
            &mut params,
        )?;
        result::ctx::synchronize()?;
        result::memcpy_dtoh_sync(&mut got, output)?;
        result::module::unload(module)?;
        result::free_sync(input)?;
        result::free_sync(output)?;
    }
    Ok(got)
}

fn encode(m: &Map, tensor: sys::CUdeviceptr) -> Result<MapBytes, Box<dyn Error>> {
    let swizzle = match m.swizzle {
        32 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_32B,
        64 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_64B,
        128 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
        _ => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
    };
    assert_eq!(m.element_bytes, 4, "the cases use words");
    let ones = vec![1u32; m.size.len()];
    // SAFETY: a tensor map is plain bytes, all of which the driver writes; every array has one entry per dimension (the
    // strides one less), as the driver reads them.
    unsafe {
        let mut map = MapBytes(std::mem::zeroed());
        sys::cuTensorMapEncodeTiled(
            &raw mut map.0,
            sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT32,
            m.size.len() as u32,
            tensor as *mut c_void,
            m.size.as_ptr(),
            m.stride.as_ptr(),
            m.box_size.as_ptr(),
            ones.as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            swizzle,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_NONE,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
        .result()?;
        Ok(map)
    }
}
