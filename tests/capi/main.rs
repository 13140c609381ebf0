//! The C ABI through the header's own declarations (`bindings.rs`): refusals, and agreement with the library.

mod bindings;
#[path = "../common/mod.rs"]
mod common;
mod compensation;
mod corrections;
#[cfg(target_os = "linux")]
#[path = "../common/emulated_cuda.rs"]
mod emulated_cuda;
mod fold;
mod gpu;
mod gpu_fold;
mod limits;
mod models;
mod operations;
mod probe_tokens;
mod structs;
mod support;
mod tensors;
mod weights;

// The symbols come from it.
use probeprune as _;
