//! A stand-in for `libcublas.so`, for dry runs of benchmarks on the emulated driver: it checks what it is asked for and
//! multiplies nothing.

#![allow(non_snake_case, reason = "C's names, which the linker exports")]

use std::ffi::{c_int, c_void};

const SUCCESS: c_int = 0;
const NOT_INITIALIZED: c_int = 1;
const INVALID_VALUE: c_int = 7;

/// The only handle.
const HANDLE: usize = 0xb1a5;

/// CUBLAS_OP_T, CUBLAS_OP_N, CUDA_R_16BF and CUBLAS_COMPUTE_32F.
const TRANSPOSED: c_int = 1;
const AS_IT_IS: c_int = 0;
const BF16: c_int = 14;
const COMPUTE_F32: c_int = 68;

fn checked(handle: usize, holds: bool) -> c_int {
    if handle != HANDLE {
        NOT_INITIALIZED
    } else if holds {
        SUCCESS
    } else {
        INVALID_VALUE
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasCreate_v2(handle: *mut usize) -> c_int {
    // SAFETY: the API's contract.
    unsafe { handle.write(HANDLE) };
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn cublasDestroy_v2(handle: usize) -> c_int {
    checked(handle, true)
}

#[unsafe(no_mangle)]
extern "C" fn cublasSetStream_v2(handle: usize, _stream: *mut c_void) -> c_int {
    checked(handle, true)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasGetVersion_v2(handle: usize, version: *mut c_int) -> c_int {
    // SAFETY: the API's contract.
    unsafe { version.write(130_000) };
    checked(handle, true)
}

/// A product of row-major bfloat16 matrices, (n, k) · (m, k)ᵀ, as column-major cuBLAS sees it.
#[unsafe(no_mangle)]
extern "C" fn cublasGemmEx(
    handle: usize,
    transa: c_int,
    transb: c_int,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: *const f32,
    a: usize,
    a_type: c_int,
    lda: c_int,
    b: usize,
    b_type: c_int,
    ldb: c_int,
    beta: *const f32,
    c: usize,
    c_type: c_int,
    ldc: c_int,
    compute: c_int,
    _algorithm: c_int,
) -> c_int {
    let operands = [transa, transb] == [TRANSPOSED, AS_IT_IS] && [lda, ldb, ldc] == [k, k, m];
    let types = [a_type, b_type, c_type, compute] == [BF16, BF16, BF16, COMPUTE_F32];
    let sizes = [m, n, k].iter().all(|&size| size > 0) && [a, b, c].iter().all(|&address| address != 0);
    checked(handle, operands && types && sizes && !alpha.is_null() && !beta.is_null())
}
