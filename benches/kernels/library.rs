//! The goals as a library, for a process that has PyTorch on the same stream: see tools/peers/goals.py.

#![allow(unreachable_pub)]

mod block;
// The benchmark uses all of these.
#[allow(dead_code)]
#[path = "case.rs"]
mod case;
mod clocks;
mod content;
mod cuda;
mod goals;
mod measure;
#[path = "../../tests/operations/mod.rs"]
mod operations;
mod peers;
#[allow(dead_code)]
mod predict;
mod rows;
mod start;
mod timer;
mod torch;

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    panic::{AssertUnwindSafe, catch_unwind},
};

use cuda::Libraries;
use probeprune::gpu::Cuda;
use start::Options;
use torch::{Callbacks, Torch};

/// No row failed, some did, or nothing could be measured at all.
const FINE: c_int = 0;
const SOME_FAILED: c_int = 1;
const REFUSED: c_int = 2;

/// Measures rows on the first GPU and returns 0, or 1 if a row failed, or 2 with a message on standard error.
///
/// `options` is a JSON object ([`Options`]). With `callbacks`, everything runs on `stream` (a `cudaStream_t`, null for the
/// legacy default stream), and so must what they issue; without, on a stream of its own.
///
/// # Safety
/// `options` is a string that ends with NUL; `stream` belongs to the device's primary context; `callbacks` is null or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_goals(
    options: *const c_char,
    stream: *mut c_void,
    callbacks: *const Callbacks,
) -> c_int {
    // SAFETY: the caller promises a NUL-terminated `options`, and `callbacks` that is null or valid.
    let (options, callbacks) = unsafe { (CStr::from_ptr(options), callbacks.as_ref()) };
    let run = || -> Result<bool, String> {
        let options: Options =
            serde_json::from_slice(options.to_bytes()).map_err(|error| format!("options: {error}"))?;
        let opened = start::supported().and_then(|()| match callbacks {
            // SAFETY: the caller promises a stream of the device's primary context.
            Some(_) => unsafe { Cuda::on_stream(0, stream) },
            None => Cuda::new(0),
        });
        let fine = start::run(&options, opened, |gpu| match callbacks {
            Some(&callbacks) => Box::new(Torch::new(gpu, callbacks)),
            None => Box::new(Libraries(gpu)),
        });
        fine.map_err(|error| error.to_string())
    };
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(true)) => FINE,
        Ok(Ok(false)) => SOME_FAILED,
        Ok(Err(why)) => {
            eprintln!("{why}");
            REFUSED
        }
        Err(_) => REFUSED,
    }
}
