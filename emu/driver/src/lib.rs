//! A stand-in for NVIDIA's `libcuda.so`: the part of the driver API that probeprune uses, on the PTX emulator. Tests put it
//! in the driver's place with `LD_LIBRARY_PATH`, so that the code that talks to real GPUs runs on machines without one.
//!
//! It is lazy where a GPU may be late: work waits in its stream until the host synchronises, and copies from pinned memory
//! read that memory only then. It is strict where the driver says "undefined": misuse ends the process with a message.
//!
//! The environment sets what it pretends to be: `EMULATED_CUDA_VERSION` (13000), `EMULATED_CUDA_DEVICES` (1),
//! `EMULATED_CUDA_CAPABILITY` (8.0), `EMULATED_CUDA_MEMORY` (bytes, 2^30), and what it refuses to load:
//! `EMULATED_CUDA_REFUSES` ("machine code", "PTX", or both with a comma between). PTX that is newer than the version it
//! refuses anyway. The kernels of machine code are those of the PTX in [`ptx_folder`].

mod api;
mod image;
mod state;

pub use image::ptx_folder;

/// Every function that the library has, and since which CUDA version, as 1000 · major + 10 · minor, NVIDIA's has it. Who
/// pretends to have an older driver has to hide the newer ones from the loader.
pub fn functions() -> impl Iterator<Item = (&'static str, u32)> {
    api::functions()
}
