//! Ctrl-C and termination: the program ends at once, but never in the middle of writing a file.

use std::sync::{Mutex, PoisonError};

/// Held while a file is written.
static WRITING: Mutex<()> = Mutex::new(());

/// Exit code after Ctrl-C, as in shells.
const INTERRUPTED: i32 = 130;

/// Installs the signal handler.
pub(crate) fn install() {
    // Without a handler the signals still end the program.
    let _ = ctrlc::set_handler(|| {
        let _done = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
        std::process::exit(INTERRUPTED);
    });
}

/// Runs `write` to its end before a signal ends the program, which so leaves no partial or temporary file.
pub(crate) fn uninterrupted<T>(write: impl FnOnce() -> T) -> T {
    let _writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    write()
}
