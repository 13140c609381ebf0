//! The C ABI of include/probeprune.h, which documents every function and struct here. Built with the feature `capi`.
//!
//! `status` is the boundary that no panic crosses; `check` turns callers' pointers into checked values.
//! Models and sessions of either device hide behind the trait objects of `place`; [`kernels`] has single operations on
//! callers' memory and streams.

// Every exported function has its contract in the header.
#![allow(clippy::missing_safety_doc, reason = "include/probeprune.h states the callers' obligations")]
#![allow(missing_debug_implementations, reason = "objects behind opaque pointers are never printed")]

mod check;
mod corrections;
pub mod dlpack;
mod folded;
mod generate;
mod handle;
mod kept;
pub mod kernels;
#[cfg(test)]
mod layout;
mod loaded;
mod model;
mod place;
mod session;
mod settings;
mod status;
mod structs;
mod tensors;
mod tokenizer;

use std::{
    ffi::{CString, c_char},
    sync::LazyLock,
};

pub use corrections::*;
pub use folded::*;
pub use generate::*;
pub use kept::*;
pub use model::*;
pub use session::*;
pub use settings::*;
pub use status::{Status, probeprune_last_error, probeprune_status_name};
pub use structs::*;
pub use tensors::*;
pub use tokenizer::*;

use crate::gpu::cuda;

/// `PROBEPRUNE_ABI_VERSION`, which changes with the ABI.
pub const ABI_VERSION: u32 = 1;

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub extern "C" fn probeprune_abi_version() -> u32 {
    ABI_VERSION
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub extern "C" fn probeprune_build_info() -> *const c_char {
    static INFO: LazyLock<CString> = LazyLock::new(|| {
        let (version, kernels) = (env!("CARGO_PKG_VERSION"), cuda::build());
        let info = format!("probeprune {version}, ABI {ABI_VERSION}; CUDA kernels for {kernels}");
        CString::new(info).unwrap_or_default()
    });
    INFO.as_ptr()
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub extern "C" fn probeprune_has_cuda() -> i32 {
    let usable = || {
        if !cuda::driver_is_installed() {
            return false;
        }
        let survey = cuda::survey();
        survey.is_ok_and(|survey| survey.devices.iter().any(|device| survey.supports(device).is_ok()))
    };
    std::panic::catch_unwind(usable).unwrap_or(false).into()
}
