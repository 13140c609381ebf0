//! What only a real GPU has: cuBLAS, copies, the memory that is taken.

use cudarc::{
    cublas::{result as blas, sys},
    driver::{self, result},
};
use probeprune::{
    Error, Result,
    checkpoint::Tensor,
    gpu::{Cuda, Driver, Gpu},
};

use crate::peers::{Peer, Peers, Rival, Trouble};

/// The driver's own copies, and cuBLAS where it is installed.
#[derive(Clone, Copy, Debug)]
pub struct Libraries<'a>(pub &'a Gpu<Cuda>);

impl Peers for Libraries<'_> {
    fn prepare(&self, rival: Rival) -> Result<Peer<'_>, Trouble> {
        match rival {
            Rival::Product(sizes) => self.product(sizes),
            Rival::Gated(sizes) => {
                let Peer { name, mut run } = self.product(sizes)?;
                let name = format!("{name}, gate and up one after the other, their SwiGLU not counted");
                let run = Box::new(move || {
                    run();
                    run();
                });
                Ok(Peer { name, run })
            }
            Rival::Copy(bytes) => self.copy(bytes),
            Rival::Layer(..) | Rival::Sparse(_) | Rival::TopK { .. } | Rival::Authors { .. } => {
                let why = "needs PyTorch: run tools/peers/goals.py with a python3 that has the package torch";
                Err(Trouble::Missing(why.to_string()))
            }
        }
    }

    fn memory_taken(&self) -> Result<f64> {
        self.0.driver().synchronize()?;
        let (free, total) =
            result::mem_get_info().map_err(|error| failed("free memory", format!("{error:?}")))?;
        Ok((total - free) as f64)
    }
}

fn failed(what: &str, got: String) -> Error {
    Error::device("GPU", what, "success", got, "Look at the driver's messages: dmesg, nvidia-smi.")
}

impl<'a> Libraries<'a> {
    fn copy(&self, bytes: usize) -> Result<Peer<'a>, Trouble> {
        // The stand-in for the driver may lack what only benchmarks call, and cudarc panics where a function is not there.
        // SAFETY: looks for a symbol of a library that is loaded.
        if unsafe { driver::sys::culib().get::<*const ()>(b"cuMemcpyDtoDAsync_v2") }.is_err() {
            return Err(Trouble::Missing("needs the driver's cuMemcpyDtoDAsync_v2".to_string()));
        }
        let driver = self.0.driver();
        let (from, to) = (driver.alloc(bytes)?, driver.alloc(bytes)?);
        let copy = move || {
            let (from, to, stream) = (driver.address(&from), driver.address(&to), driver.stream());
            // SAFETY: both are allocations of so many bytes that live as long as this closure; dropping them waits for the
            // stream, which is the driver's.
            unsafe { result::memcpy_dtod_async(to, from, bytes, stream.cast()) }.expect("the device copies");
        };
        Ok(Peer { name: "cuMemcpyDtoDAsync".to_string(), run: Box::new(copy) })
    }

    /// x (rows, inputs) · W (outputs, inputs)ᵀ on bf16 operands, float32 sums.
    fn product(&self, [rows, outputs, inputs]: [usize; 3]) -> Result<Peer<'a>, Trouble> {
        // SAFETY: looks for the library only.
        if !unsafe { sys::is_culib_present() } {
            let why = "needs cuBLAS: libcublas.so.13 or libcublas.so.12, where LD_LIBRARY_PATH finds it";
            return Err(Trouble::Missing(why.to_string()));
        }
        let driver = self.0.driver();
        // Also makes the context current, which cuBLAS wants.
        let random = |rows: usize, seed: u64| -> Result<_> {
            let memory = driver.alloc(2 * rows * inputs)?;
            driver.write(driver.address(&memory), Tensor::random(vec![rows, inputs], seed).bytes())?;
            Ok(memory)
        };
        let (x, weight) = (random(rows, 1)?, random(outputs, 2)?);
        let out = driver.alloc(2 * rows * outputs)?;
        let handle = Handle::new(self.0)?;
        let name = handle.name();
        let run = move || {
            let (alpha, beta) = (1.0f32, 0.0f32);
            let [m, n, k] = [outputs, rows, inputs].map(|size| size as i32);
            let bf16 = sys::cudaDataType::CUDA_R_16BF;
            // SAFETY: cuBLAS is column-major: its (outputs, rows) result is ours in row-major order; the operands have
            // the sizes given and live as long as this closure.
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
        };
        // It loads its kernels with the first product.
        run();
        Ok(Peer { name, run: Box::new(run) })
    }
}

/// cuBLAS, on a backend's stream.
struct Handle(sys::cublasHandle_t);

impl Handle {
    fn new(gpu: &Gpu<Cuda>) -> Result<Self> {
        let refused = |error| failed("cuBLAS", format!("{error:?}"));
        let handle = Self(blas::create_handle().map_err(refused)?);
        // SAFETY: the stream is the driver's, and outlives the handle, which borrows the backend.
        unsafe { blas::set_stream(handle.0, gpu.driver().stream().cast()) }.map_err(refused)?;
        Ok(handle)
    }

    /// "cuBLAS 13.0.2", say.
    fn name(&self) -> String {
        let mut version = 0;
        // SAFETY: writes one int.
        unsafe { sys::cublasGetVersion_v2(self.0, &raw mut version) };
        format!("cuBLAS {}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: created by `new`, destroyed once.
        let _ = unsafe { blas::destroy_handle(self.0) };
    }
}
