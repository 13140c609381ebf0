//! A device's context, a stream on it, and the fault that broke it.

use std::{
    fmt::Display,
    sync::{Arc, OnceLock},
};

use cudarc::driver::{
    CudaContext, CudaStream, DriverError,
    sys::{CUresult, CUstream},
};

use super::devices::describe;
use crate::error::{Error, Result};

/// Shared by everything that lives on a device, so that it outlives all of it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) context: Arc<CudaContext>,
    pub(super) stream: Arc<CudaStream>,
    /// "cuda:0 (NVIDIA H100 80GB HBM3)".
    pub(super) label: String,
    /// The fault that broke the context.
    poison: OnceLock<String>,
}

/// Errors after which CUDA refuses everything in this process.
pub(super) fn is_sticky(error: CUresult) -> bool {
    use CUresult as E;
    matches!(
        error,
        E::CUDA_ERROR_DEINITIALIZED
            | E::CUDA_ERROR_ECC_UNCORRECTABLE
            | E::CUDA_ERROR_NVLINK_UNCORRECTABLE
            | E::CUDA_ERROR_CONTAINED
            | E::CUDA_ERROR_ILLEGAL_ADDRESS
            | E::CUDA_ERROR_LAUNCH_TIMEOUT
            | E::CUDA_ERROR_CONTEXT_IS_DESTROYED
            | E::CUDA_ERROR_ASSERT
            | E::CUDA_ERROR_HARDWARE_STACK_ERROR
            | E::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | E::CUDA_ERROR_MISALIGNED_ADDRESS
            | E::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | E::CUDA_ERROR_INVALID_PC
            | E::CUDA_ERROR_LAUNCH_FAILED
            | E::CUDA_ERROR_TENSOR_MEMORY_LEAK
            | E::CUDA_ERROR_EXTERNAL_DEVICE
            | E::CUDA_ERROR_MPS_CLIENT_TERMINATED
            | E::CUDA_ERROR_UNKNOWN
    )
}

const RESTART: &str = "Restart the process: CUDA refuses everything else in this one. If it happens again, \
                       compute-sanitizer names the kernel.";

impl Link {
    pub(super) fn new(context: Arc<CudaContext>, stream: Arc<CudaStream>, label: String) -> Self {
        Self { context, stream, label, poison: OnceLock::new() }
    }

    /// The stream's handle.
    pub(super) fn raw_stream(&self) -> CUstream {
        self.stream.cu_stream()
    }

    /// Makes the context the calling thread's; refused once it is broken.
    pub(super) fn enter(&self) -> Result<()> {
        if let Some(broken) = self.poison.get() {
            let got = format!("one that broke before: {broken}");
            return Err(Error::device(&self.label, "context", "one that works", got, RESTART));
        }
        self.check("entering its context", self.context.bind_to_thread())
    }

    /// As [`Link::enter`] for destructors, which cannot report errors.
    pub(super) fn enter_to_free(&self) {
        let _ = self.context.bind_to_thread();
    }

    /// Whether a fault broke the context.
    pub(super) fn is_broken(&self) -> bool {
        self.poison.get().is_some()
    }

    /// Waits for everything on the stream.
    pub(super) fn synchronize(&self, what: &str) -> Result<()> {
        self.enter()?;
        // SAFETY: `self` owns the stream, or the caller of `Cuda::on_stream` promised that it lives.
        let done = unsafe { cudarc::driver::result::stream::synchronize(self.raw_stream()) };
        self.check(what, done)
    }

    /// The outcome of a CUDA call.
    pub(super) fn check<T>(&self, what: impl Display, outcome: Result<T, DriverError>) -> Result<T> {
        outcome.map_err(|error| {
            let got = describe(error);
            let help = if is_sticky(error.0) {
                let _ = self.poison.set(format!("{got} while {what}"));
                RESTART
            } else {
                "Check nvidia-smi and whether other programs use this GPU."
            };
            Error::device(&self.label, what, "no fault", got, help)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_out_of_memory_breaks_nothing() {
        assert!(!is_sticky(CUresult::CUDA_ERROR_OUT_OF_MEMORY));
        assert!(!is_sticky(CUresult::CUDA_ERROR_INVALID_VALUE));
        assert!(is_sticky(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS));
    }
}
