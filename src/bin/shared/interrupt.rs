//! Signals. Ctrl-C and termination end the program at once, but never in the middle of writing a file; a file that may not
//! grow is an error.

use std::sync::{Mutex, PoisonError};

/// Held while a file is written.
static WRITING: Mutex<()> = Mutex::new(());

/// Exit code after Ctrl-C, as in shells.
const INTERRUPTED: i32 = 130;

/// Installs the signal handlers.
pub(crate) fn install() {
    // A write beyond the limit on the size of files then fails, instead of ending the program.
    #[cfg(unix)]
    // SAFETY: no handler runs.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
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
