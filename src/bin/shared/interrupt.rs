//! Ctrl-C and termination: the program ends at once, but never in the middle of writing a file.

use std::sync::{Mutex, PoisonError};

/// Held while a file is written.
static WRITING: Mutex<()> = Mutex::new(());

/// What a shell reports for a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// Takes over the signals.
pub(crate) fn install() {
    // Without a handler the signals still end the program, so a failure here changes nothing that matters.
    let _ = ctrlc::set_handler(|| {
        let _done = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
        std::process::exit(INTERRUPTED);
    });
}

/// Runs `write`, which a signal does not interrupt: the file is there whole, or it is not there, and neither is a
/// temporary one.
pub(crate) fn uninterrupted<T>(write: impl FnOnce() -> T) -> T {
    let _writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    write()
}
