//! What only a real GPU has: its copy bandwidth, cuBLAS, the memory that is taken.

use cudarc::driver::result;
use probeprune::{
    Result,
    gpu::{Cuda, Driver, Gpu},
};

use crate::timer::{Timer, median};

/// More than any L2 cache.
pub const FLUSH: usize = 256 << 20;

/// A matrix product (rows, outputs, inputs) of a peer, ready to be issued to the backend's stream.
pub type Peer<'a> = Box<dyn FnMut() + 'a>;

/// Bytes per second of a device-to-device copy, read and written counted.
///
/// # Errors
/// A device without room, or that failed.
pub fn copy_bandwidth(gpu: &Gpu<Cuda>, timer: &mut Timer<Gpu<Cuda>>) -> Result<f64> {
    const BYTES: usize = 1 << 30;
    let driver = gpu.driver();
    let (from, to) = (driver.alloc(BYTES)?, driver.alloc(BYTES)?);
    let (from, to, stream) = (driver.address(&from), driver.address(&to), driver.stream());
    let seconds = timer.time(gpu, 20, |_| {
        // SAFETY: both are allocations of so many bytes that live until the times are read; the stream is the driver's.
        unsafe { result::memcpy_dtod_async(to, from, BYTES, stream.cast()) }.expect("the device copies");
    })?;
    Ok(2.0 * BYTES as f64 / median(&seconds))
}

/// Bytes that are taken of the device's memory now.
pub fn memory_taken(gpu: &Gpu<Cuda>) -> Result<u64> {
    gpu.driver().synchronize()?;
    let (free, total) = result::mem_get_info().expect("the context is current");
    Ok((total - free) as u64)
}

/// cuBLAS on compact bf16 operands: x (rows, inputs) · W (outputs, inputs)ᵀ, float32 sums. `None` without the feature
/// `cublas`, or where its library is not installed.
///
/// # Errors
/// A device without room.
#[cfg(feature = "cublas")]
pub fn cublas<'a>(gpu: &'a Gpu<Cuda>, [rows, outputs, inputs]: [usize; 3]) -> Result<Option<Peer<'a>>> {
    use cudarc::cublas::{result as blas, sys};

    struct Handle(sys::cublasHandle_t);
    impl Drop for Handle {
        fn drop(&mut self) {
            // SAFETY: created below, destroyed once.
            let _ = unsafe { blas::destroy_handle(self.0) };
        }
    }

    // SAFETY: looks for the library only.
    if !unsafe { sys::is_culib_present() } {
        return Ok(None);
    }
    let driver = gpu.driver();
    // Also makes the context current, which cuBLAS wants.
    let random = |entries: usize, seed: u64| -> Result<_> {
        let memory = driver.alloc(2 * entries)?;
        let tensor = probeprune::checkpoint::Tensor::random(vec![entries / inputs, inputs], seed);
        driver.write(driver.address(&memory), tensor.bytes())?;
        Ok(memory)
    };
    let (x, weight) = (random(rows * inputs, 1)?, random(outputs * inputs, 2)?);
    let out = driver.alloc(2 * rows * outputs)?;
    let handle = Handle(blas::create_handle().expect("cuBLAS starts"));
    // SAFETY: the stream is the driver's, and outlives the handle, which borrows the backend.
    unsafe { blas::set_stream(handle.0, driver.stream().cast()) }.expect("cuBLAS takes the stream");
    Ok(Some(Box::new(move || {
        let (alpha, beta) = (1.0f32, 0.0f32);
        let [m, n, k] = [outputs, rows, inputs].map(|size| size as i32);
        let bf16 = sys::cudaDataType::CUDA_R_16BF;
        // SAFETY: cuBLAS is column-major: its (outputs, rows) result is ours in row-major order; the operands have the
        // sizes given and live as long as this closure.
        unsafe {
            blas::gemm_ex(
                handle.0,
                sys::cublasOperation_t::CUBLAS_OP_T,
                sys::cublasOperation_t::CUBLAS_OP_N,
                m,
                n,
                k,
                (&raw const alpha).cast(),
                driver.address(&weight) as *const _,
                bf16,
                k,
                driver.address(&x) as *const _,
                bf16,
                k,
                (&raw const beta).cast(),
                driver.address(&out) as *mut _,
                bf16,
                m,
                sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }
        .expect("cuBLAS multiplies");
    })))
}

/// See above.
///
/// # Errors
/// None.
#[cfg(not(feature = "cublas"))]
pub fn cublas<'a>(_gpu: &'a Gpu<Cuda>, _sizes: [usize; 3]) -> Result<Option<Peer<'a>>> {
    Ok(None)
}
