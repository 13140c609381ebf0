//! The GPU backend around its kernels: launches collected into graphs, errors, memory; and the CUDA driver, on a GPU where
//! there is one.

// Helpers that other test programs use too.
#![allow(dead_code, unreachable_pub)]

#[path = "../common/mod.rs"]
mod common;
mod cuda;
#[path = "../common/device.rs"]
mod device;
#[cfg(target_os = "linux")]
#[path = "../common/emulated_cuda.rs"]
mod emulated_cuda;
#[path = "../common/emulator.rs"]
mod emulator;
mod graphs;
mod memory;
