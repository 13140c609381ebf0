//! Errors that end a program, exit codes, and writing to the standard streams without panicking.

use std::{
    fmt,
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use probeprune::Error;

use crate::{
    flags,
    terminal::{shown, shown_line},
};

/// Exit code of user errors, as clap's.
pub(crate) const USER_ERROR: u8 = 2;

/// Why a command ended early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Bad input.
    Library(Error),
    /// Standard output cannot be written.
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
                "standard output: cannot write: {error}. Check its destination, and that the disk has room."
            ),
        }
    }
}

impl Failure {
    /// Prints the error and returns its exit code. A reader that closed standard output early is no error.
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

/// Writes to standard output, at once; on a terminal as [`shown`].
///
/// # Errors
/// If it is closed or full; `print!` would panic.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    let text = shown(text, out.is_terminal());
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::Output)
}

/// Prints a note to standard error.
pub(crate) fn note(text: &str) {
    say(&format!("note: {text}"));
}

fn say(line: &str) {
    // A closed standard error leaves nowhere to report to.
    let mut out = io::stderr().lock();
    let _ = writeln!(out, "{}", shown_line(line, out.is_terminal()));
}
