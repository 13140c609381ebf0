//! The method's operations one by one, in callers' memory and on callers' streams.
//!
//! Each operation reads its arguments into checked tensors, states its workspace, and runs on either backend over borrowed
//! memory. On a GPU it allocates no memory and does not wait.

mod attend;
mod columns;
mod energy;
mod lend;
mod operands;
mod probe;
mod products;
mod score;

use std::{ffi::c_void, sync::Arc};

pub use attend::*;
pub use columns::*;
pub use energy::*;
use lend::Lend;
use operands::{Operands, Workspace};
pub use probe::*;
pub use products::*;
pub use score::*;

use super::{
    check::{self, Out, Versioned},
    dlpack::{self, DLDataType, DLDevice, DLTensor, Tensor},
    handle::{self, Handle},
    place,
    status::{Outcome, call},
    structs::DeviceOptions,
};
use crate::{
    cpu::Cpu,
    gpu::{Cuda, Gpu, GpuDtype, OnStream},
};

/// The object behind `probeprune_device*`.
pub enum Opened {
    /// The CPU, with a pool of threads.
    Cpu(Box<Cpu>),
    /// A GPU, its kernels loaded.
    Cuda(Arc<Cuda>),
}

/// `probeprune_device`.
pub type Device = Handle<Opened>;

impl Opened {
    fn device(&self) -> DLDevice {
        match self {
            Self::Cpu(_) => DLDevice { device_type: dlpack::CPU, device_id: 0 },
            Self::Cuda(cuda) => {
                DLDevice { device_type: dlpack::CUDA, device_id: cuda.device().ordinal as i32 }
            }
        }
    }

    fn is_broken(&self) -> bool {
        match self {
            Self::Cpu(_) => false,
            Self::Cuda(cuda) => cuda.is_broken(),
        }
    }
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_device_open(options: *const DeviceOptions, out: *mut *mut Device) -> i32 {
    call(|| {
        // SAFETY: the header requires `options` to be null or readable for its `struct_size`, and `out` to be null or
        // writable.
        let (options, out) =
            unsafe { (check::versioned_or_default(options, "options")?, Out::new(out, "out")?) };
        let opened = match options.device_type {
            dlpack::CPU => Opened::Cpu(Box::new(Cpu::new(options.threads as usize)?)),
            dlpack::CUDA => Opened::Cuda(Arc::new(Cuda::new(place::ordinal(options.device_id)?)?)),
            other => return Err(place::no_such_device(other)),
        };
        check::give(out, Handle::new(opened));
        Ok(())
    })
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_device_free(device: *mut Device) {
    // SAFETY: the header requires `device` to be null, or neither freed before nor in use.
    unsafe { check::take_back(device) }
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_synchronize(device: *const Device, stream: *mut c_void) -> i32 {
    // SAFETY: the header requires `device` to be null or not freed, and `stream` to be of the device's primary
    // context.
    call(|| unsafe {
        handle::with(device, "device", |device| {
            let Opened::Cuda(cuda) = device else { return Ok(()) };
            let done = OnStream::new(Arc::clone(cuda), stream).synchronize();
            done.map_err(|error| place::poisoned(error.into(), cuda.is_broken()))
        })
    })
}

/// One of the method's operations, its arguments checked.
trait Operation<'a>: Sized {
    /// The header's struct.
    type Arguments: Versioned;

    /// # Safety
    /// Each pointer in `arguments` is null or valid for 'a, as the header requires.
    unsafe fn read(arguments: &Self::Arguments, operands: &mut Operands) -> Outcome<Self>;

    /// Bytes of workspace that it needs.
    fn workspace(&self) -> usize {
        0
    }

    /// # Safety
    /// The tensors' memory may be used as the header says until the operation is over.
    unsafe fn run<B: Lend>(self, backend: &B, workspace: Workspace) -> Outcome;
}

/// # Safety
/// As the header says.
unsafe fn run<'a, O: Operation<'a>>(
    device: *const Device,
    arguments: *const O::Arguments,
    workspace: *mut c_void,
    workspace_size: usize,
    stream: *mut c_void,
) -> i32 {
    // SAFETY: the caller passes on what the header requires: `device` null or not freed, `arguments` null or readable
    // for its `struct_size`, tensors and workspace valid until the operation is over, a stream of the device's
    // primary context.
    call(|| unsafe {
        handle::with(device, "device", |device| {
            let mut operands = Operands::new(device.device());
            let operation = O::read(&check::versioned(arguments, "args")?, &mut operands)?;
            let workspace = operands.workspace(workspace, workspace_size, operation.workspace())?;
            match device {
                Opened::Cpu(cpu) => operation.run(&**cpu, workspace),
                Opened::Cuda(cuda) => {
                    let dtype = match operands.activations() {
                        Some(DLDataType::FLOAT16) => GpuDtype::F16,
                        _ => GpuDtype::Bf16,
                    };
                    let gpu = Gpu::new(OnStream::new(Arc::clone(cuda), stream), dtype);
                    operation
                        .run(&gpu, workspace)
                        .and_then(|()| Ok(gpu.issued()?))
                        .map_err(|failure| place::poisoned(failure, device.is_broken()))
                }
            }
        })
    })
}

/// # Safety
/// As the header says.
unsafe fn workspace_size<'a, O: Operation<'a>>(
    device: *const Device,
    arguments: *const O::Arguments,
    size: *mut usize,
) -> i32 {
    // SAFETY: the caller passes on what the header requires: `device` null or not freed, `arguments` null or readable
    // for its `struct_size`, valid tensors, and `size` null or writable.
    call(|| unsafe {
        handle::with(device, "device", |device| {
            let size = Out::new(size, "size")?;
            let mut operands = Operands::new(device.device());
            let operation = O::read(&check::versioned(arguments, "args")?, &mut operands)?;
            size.write(operation.workspace());
            Ok(())
        })
    })
}

/// The two functions of an operation; its struct's `_init` comes from `versioned!`.
macro_rules! operation {
    ($operation:ident, $arguments:ident, $run:ident, $size:ident) => {
        /// See include/probeprune.h.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $run(
            device: *const $crate::ffi::kernels::Device,
            args: *const $arguments,
            workspace: *mut ::std::ffi::c_void,
            workspace_size: usize,
            stream: *mut ::std::ffi::c_void,
        ) -> i32 {
            // SAFETY: the header requires what `run` does.
            unsafe {
                $crate::ffi::kernels::run::<$operation<'_>>(device, args, workspace, workspace_size, stream)
            }
        }

        /// See include/probeprune.h.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $size(
            device: *const $crate::ffi::kernels::Device,
            args: *const $arguments,
            size: *mut usize,
        ) -> i32 {
            // SAFETY: the header requires what `workspace_size` does.
            unsafe { $crate::ffi::kernels::workspace_size::<$operation<'_>>(device, args, size) }
        }
    };
}
use operation;

/// Indices of a tensor on the host.
///
/// # Safety
/// As [`Tensor::new`].
pub(super) unsafe fn host_indices(tensor: *const DLTensor, name: &'static str) -> Outcome<Vec<u32>> {
    let host = DLDevice { device_type: dlpack::CPU, device_id: 0 };
    // SAFETY: the caller promises a valid DLTensor or null. It is in host memory and holds `entries()` entries of 32
    // bits, which `Tensor::new` and `of` checked.
    unsafe {
        let tensor = Tensor::new(tensor, name, host)?.of(&operands::INDICES)?.compact()?;
        Ok(check::array(tensor.data.cast::<u32>(), tensor.entries(), name)?.to_vec())
    }
}
