//! Runs the conformance kernels on a real GPU through the driver and says, per primitive, whether it agrees with what
//! the emulator is held to: `cargo run --release --example conformance_gpu`. The kernels are in
//! `emu/kernels/ptx` of the nearest folder around the program that has it.
//!
//! One line per primitive, and a last one: "N passed, M failed, K not run". Exit code 1 if any failed or none ran.
#![allow(unsafe_code, reason = "the driver's API is a C library")]

#[path = "../conformance/cases/mod.rs"]
#[allow(missing_docs, unreachable_pub, reason = "shared with the emulator's tests")]
mod cases;

use std::{
    collections::{HashMap, hash_map::Entry},
    error::Error,
    ffi::{CString, c_void},
    path::PathBuf,
    process::ExitCode,
};

use cases::{Case, Map};
use cudarc::driver::{CudaContext, result, sys};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A tensor map, aligned as the driver demands.
#[repr(C, align(64))]
struct MapBytes(sys::CUtensorMap);

/// What a case came to.
enum Outcome {
    Passed,
    Failed(String),
    NotRun(String),
}

fn main() -> ExitCode {
    match run() {
        Ok((passed, failed)) if passed > 0 && failed == 0 => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("conformance_gpu: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs every case; how many passed, and how many failed.
fn run() -> Result<(usize, usize)> {
    let cases = cases::all();
    // Read before a GPU is looked for: a package that lacks them is broken on any machine.
    let texts = texts(&cases)?;
    // SAFETY: only looks for the library; without it every other call of cudarc would panic.
    if !unsafe { sys::is_culib_present() } {
        return Err("there is no CUDA driver on this machine".into());
    }
    let context = CudaContext::new(0)?;
    let capability = context.compute_capability()?;
    println!("{}, compute capability {}.{}", context.name()?, capability.0, capability.1);
    let mut modules = HashMap::new();
    let (mut passed, mut failed, mut not_run) = (0, 0, 0);
    let mut broken_by = None;
    for case in &cases {
        let name = case.kernel;
        match outcome(case, capability, &texts[case.module], &mut modules, broken_by) {
            Outcome::Passed => {
                passed += 1;
                println!("{name:24} passed");
            }
            Outcome::Failed(how) => {
                failed += 1;
                println!("{name:24} FAILED: {how}");
                // After a fault CUDA refuses everything else in this process.
                broken_by = broken_by.or(context.synchronize().is_err().then_some(name));
            }
            Outcome::NotRun(why) => {
                not_run += 1;
                println!("{name:24} not run: {why}");
            }
        }
    }
    println!("{passed} passed, {failed} failed, {not_run} not run");
    Ok((passed, failed))
}

/// The PTX of every module.
fn texts(cases: &[Case]) -> Result<HashMap<&'static str, CString>> {
    let program = std::env::current_exe()?;
    let folder =
        program.ancestors().map(|folder| folder.join("emu/kernels/ptx")).find(|folder| folder.is_dir());
    let folder: PathBuf =
        folder.ok_or_else(|| format!("no folder around {} has emu/kernels/ptx", program.display()))?;
    let mut texts = HashMap::new();
    for module in cases.iter().map(|case| case.module) {
        if !texts.contains_key(module) {
            let path = folder.join(format!("{module}.ptx"));
            let text = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            texts.insert(module, CString::new(text)?);
        }
    }
    Ok(texts)
}

/// Runs a case if this GPU can.
fn outcome(
    case: &Case,
    capability: (i32, i32),
    text: &CString,
    modules: &mut HashMap<&'static str, Module>,
    broken_by: Option<&str>,
) -> Outcome {
    if let Some(name) = broken_by {
        return Outcome::NotRun(format!("the GPU broke in {name}"));
    }
    if case.module.ends_with("sm90") && capability != (9, 0) {
        return Outcome::NotRun("needs compute capability 9.0".to_string());
    }
    // SAFETY: the driver is there; the symbol is looked up and not called.
    let encodes = || unsafe { sys::culib().get::<unsafe extern "C" fn()>(b"cuTensorMapEncodeTiled") }.is_ok();
    if case.map.is_some() && !encodes() {
        return Outcome::NotRun("the driver has no cuTensorMapEncodeTiled".to_string());
    }
    match load(case.module, text, modules).and_then(|module| execute(case, module)) {
        Ok(got) => match case.difference(&got) {
            None => Outcome::Passed,
            Some((i, want, got)) => {
                Outcome::Failed(format!("word {i}: expected {want:#010x}, got {got:#010x}"))
            }
        },
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

/// A module, loaded once.
fn load<'a>(
    name: &'static str,
    text: &CString,
    modules: &'a mut HashMap<&'static str, Module>,
) -> Result<&'a Module> {
    match modules.entry(name) {
        Entry::Occupied(loaded) => Ok(loaded.into_mut()),
        // SAFETY: PTX with a NUL at its end.
        Entry::Vacant(place) => unsafe {
            Ok(place.insert(Module(result::module::load_data(text.as_ptr().cast())?)))
        },
    }
}

/// Memory that is freed when dropped.
struct Buffer(sys::CUdeviceptr);

impl Buffer {
    /// A fresh allocation with these words.
    fn new(words: &[u32]) -> Result<Self> {
        // SAFETY: the allocation has the size of the slice that is copied to it.
        unsafe {
            let buffer = Self(result::malloc_sync(words.len().max(1) * 4)?);
            result::memcpy_htod_sync(buffer.0, words)?;
            Ok(buffer)
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated by `new`; whatever used it was waited for, or has broken the context.
        let _ = unsafe { result::free_sync(self.0) };
    }
}

/// A module that is unloaded when dropped.
struct Module(sys::CUmodule);

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: loaded once; its kernels are over.
        let _ = unsafe { result::module::unload(self.0) };
    }
}

fn execute(case: &Case, module: &Module) -> Result<Vec<u32>> {
    let n = case.expected.len();
    let input = Buffer::new(&case.input)?;
    let buffer = Buffer::new(&vec![u32::MAX; n])?;
    let tensor = case.map.as_ref().map(|map| Buffer::new(&map.data)).transpose()?;
    let mut output = &buffer;
    let mut map = None;
    if let (Some(m), Some(tensor)) = (&case.map, &tensor) {
        map = Some(encode(m, tensor.0)?);
        if m.is_output {
            output = tensor;
        }
    }
    let mut words = [input.0, output.0];
    let mut params: Vec<*mut c_void> = Vec::new();
    if let Some(m) = &mut map {
        params.push((&raw mut *m).cast());
    }
    params.push(words.as_mut_ptr().cast());
    let mut got = vec![0u32; n];
    // SAFETY: the module is loaded; the parameters are those of every conformance kernel and outlive the launch, which is
    // waited for; the buffers hold what the kernels read and write, as the emulator has checked for the same cases.
    unsafe {
        let f = result::module::get_function(module.0, CString::new(case.kernel)?)?;
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
        result::memcpy_dtoh_sync(&mut got, output.0)?;
    }
    Ok(got)
}

fn encode(m: &Map, tensor: sys::CUdeviceptr) -> Result<MapBytes> {
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
