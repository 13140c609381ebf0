//! What ends the program early, its exit code, and writing to the two standard streams without panicking.

use std::{
    fmt,
    io::{self, Write},
    process::ExitCode,
};

use probeprune::Error;

use crate::flags;

/// Exit code of every error that a user can cause; clap's usage errors have the same.
const USER_ERROR: u8 = 2;

/// Why a command ended early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Bad input.
    Library(Error),
    /// Standard output does not take more.
    Output(io::Error),
}

/// `Result` of a command.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Library(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Library(error) => f.write_str(&flags::message(error)),
            Self::Output(error) => write!(
                f,
                "standard output: cannot write: {error}. Check what it leads to, and that the disk has room."
            ),
        }
    }
}

impl Failure {
    /// Says what is wrong on standard error. A reader of standard output that has seen enough is no error.
    pub(crate) fn report(&self) -> u8 {
        match self {
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            _ => {
                say(&format!("error: {self}"));
                USER_ERROR
            }
        }
    }
}

/// The program's exit code.
pub(crate) fn exit_code(result: Result<()>) -> ExitCode {
    ExitCode::from(result.err().map_or(0, |failure| failure.report()))
}

/// Writes to standard output, at once.
///
/// # Errors
/// If it is closed or full; `print!` would panic.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::Output)
}

/// A line on standard error that is no error.
pub(crate) fn note(text: &str) {
    say(&format!("note: {text}"));
}

fn say(line: &str) {
    // Nobody is left to tell when standard error is closed.
    let _ = writeln!(io::stderr(), "{line}");
}
