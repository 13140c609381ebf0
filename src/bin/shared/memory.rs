//! The programs' allocator: where there is no memory they end with one line and the exit code of errors, not by a signal.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    io::Write,
    sync::atomic::{AtomicBool, Ordering},
};

use probeprune::memory::is_asking;

use crate::failure::USER_ERROR;

#[global_allocator]
static HOST: Host = Host;

/// The system's allocator.
struct Host;

// SAFETY: all memory is the system allocator's; a null pointer goes on to callers that asked whether there is memory.
unsafe impl GlobalAlloc for Host {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        found(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        found(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        found(unsafe { System.realloc(start, layout, size) }, size)
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(start, layout) }
    }
}

/// Ends the program if there is no memory that the caller cannot do without.
fn found(start: *mut u8, size: usize) -> *mut u8 {
    if start.is_null() && !is_asking() {
        static ENDING: AtomicBool = AtomicBool::new(false);
        // Another thread is about to end the program, in one line.
        while ENDING.swap(true, Ordering::Relaxed) {
            std::thread::yield_now();
        }
        // Numbers are formatted without memory.
        let help = "Use smaller batches, shorter windows or less text, or end other programs.";
        let _ = writeln!(std::io::stderr(), "error: memory: expected {size} bytes more, got none. {help}");
        end();
    }
    start
}

/// Ends the program at once: functions that run at its exit may need memory.
#[cfg(unix)]
fn end() -> ! {
    // SAFETY: no memory is touched.
    unsafe { libc::_exit(USER_ERROR.into()) }
}

#[cfg(not(unix))]
fn end() -> ! {
    std::process::exit(USER_ERROR.into())
}
