//! Memory of other owners, by its address.

use cudarc::driver::sys;

use super::{Cuda, Memory};
use crate::{
    error::{Error, Result},
    gpu::{Activations, Buffer, Gpu, Indices, Statistics},
};

/// Borrowed memory is read and written 16 bytes at a time.
const ALIGNMENT: u64 = 16;

impl Cuda {
    /// Memory of another owner.
    ///
    /// # Safety
    /// As [`Gpu::borrow_activations`].
    unsafe fn borrow(&self, address: u64, len: usize) -> Result<Buffer<Self>> {
        self.check_address(address)?;
        Ok(Buffer { memory: Memory::Borrowed(address), len })
    }

    /// Refuses an address that is not this GPU's, or not aligned.
    pub(super) fn check_address(&self, address: u64) -> Result<()> {
        self.link.enter()?;
        let mut ordinal = -1i32;
        // SAFETY: the attribute is one int, for which `ordinal` has room; an address unknown to CUDA is an error.
        let known = unsafe {
            let attribute = sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL;
            sys::cuPointerGetAttribute((&raw mut ordinal).cast(), attribute, address).result()
        };
        if known.is_err() || ordinal != self.device.ordinal as i32 || !address.is_multiple_of(ALIGNMENT) {
            let expected = format!("an address in {}, a multiple of {ALIGNMENT}", self.link.label);
            // Drivers that can use all host memory report a negative ordinal for it.
            let got = match known {
                Ok(()) if ordinal >= 0 => format!("{address:#x} in cuda:{ordinal}"),
                _ => format!("{address:#x}, which CUDA does not know"),
            };
            let help = "Pass the address of device memory, and of its beginning rather than of a slice.";
            return Err(Error::argument("borrowed memory", expected, got, help));
        }
        Ok(())
    }
}

impl Gpu<Cuda> {
    /// `len` entries of the compute dtype at a device address, without copying.
    ///
    /// # Errors
    /// An address that is not in this GPU's memory, or not a multiple of 16.
    ///
    /// # Safety
    /// The memory must hold `len` entries and outlive the result and all work issued with it. Other work on it must be
    /// ordered with this backend's stream ([`Cuda::on_stream`], or events).
    pub unsafe fn borrow_activations(&self, address: u64, len: usize) -> Result<Activations<Cuda>> {
        // SAFETY: the caller promises that the memory holds `len` entries and outlives the result.
        unsafe { self.driver().borrow(address, len) }.map(Activations)
    }

    /// As [`Gpu::borrow_activations`], float32.
    ///
    /// # Errors
    /// As [`Gpu::borrow_activations`].
    ///
    /// # Safety
    /// As [`Gpu::borrow_activations`].
    pub unsafe fn borrow_statistics(&self, address: u64, len: usize) -> Result<Statistics<Cuda>> {
        // SAFETY: the caller promises that the memory holds `len` entries and outlives the result.
        unsafe { self.driver().borrow(address, len) }.map(Statistics)
    }

    /// As [`Gpu::borrow_activations`], u32.
    ///
    /// # Errors
    /// As [`Gpu::borrow_activations`].
    ///
    /// # Safety
    /// As [`Gpu::borrow_activations`].
    pub unsafe fn borrow_indices(&self, address: u64, len: usize) -> Result<Indices<Cuda>> {
        // SAFETY: the caller promises that the memory holds `len` entries and outlives the result.
        unsafe { self.driver().borrow(address, len) }.map(Indices)
    }
}
