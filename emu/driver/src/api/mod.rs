//! The driver API's functions, under their own names.

#![allow(non_snake_case, unreachable_pub, reason = "C's names, which the linker exports")]

mod device;
mod memory;
mod module;
mod stream;

use std::ffi::{c_char, c_int, c_uint, c_ulonglong, c_void};

use crate::state::*;

/// Every function here, and since which CUDA version, as 1000 · major + 10 · minor, NVIDIA's driver has it: the numbers
/// in the names of `cudaTypedefs.h`.
pub(crate) fn functions() -> impl Iterator<Item = (&'static str, u32)> {
    [device::FUNCTIONS, memory::FUNCTIONS, module::FUNCTIONS, stream::FUNCTIONS]
        .into_iter()
        .flatten()
        .copied()
}

/// Turns a code into a `Result`.
fn check(code: Code) -> Result<(), Code> {
    if code == SUCCESS { Ok(()) } else { Err(code) }
}

/// Writes a result where the caller wants it.
///
/// # Safety
/// `to` is a place for a `T`.
unsafe fn put<T>(to: *mut T, value: T) {
    // SAFETY: the caller promises that `to` is writable.
    unsafe { to.write(value) }
}

/// Functions that C can call, whose bodies may end early with an error's code.
macro_rules! api {
    ($(fn $name:ident($($argument:ident: $type:ty),* $(,)?) since $since:literal $body:block)*) => {
        pub(super) const FUNCTIONS: &[(&str, u32)] = &[$((stringify!($name), $since)),*];
        $(
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name($($argument: $type),*) -> Code {
                #[allow(clippy::redundant_closure_call)]
                (|| -> Result<(), Code> {
                    $body;
                    Ok(())
                })()
                .map_or_else(|code| code, |()| SUCCESS)
            }
        )*
    };
}
use api;
