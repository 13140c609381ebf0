//! The one error type: every message names what failed, where, what was expected, what was found, and what to do.

use std::{fmt::Display, io, path::PathBuf};

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong on user data. Messages end with what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a file or folder.
    #[error("{}: cannot {action}: {source}. {help}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// The attempted action: "open", "read", "write", ...
        action: &'static str,
        /// The operating system's reason.
        source: io::Error,
        /// How to fix it.
        help: String,
    },
    /// A file's content is invalid: checkpoint, config, tokenizer, history or token file.
    #[error("{}: {what}: expected {expected}, got {got}. {help}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The field, tensor or part of the file.
        what: String,
        /// The valid values.
        expected: String,
        /// The value found.
        got: String,
        /// How to fix it.
        help: String,
    },
    /// A value passed by the caller (a setting, a token) is out of range.
    #[error("{name}: expected {expected}, got {got}. {help}")]
    Argument {
        /// The setting, perhaps with its value. Other fields name settings in backticks.
        name: String,
        /// The valid values.
        expected: String,
        /// The value passed.
        got: String,
        /// How to fix it.
        help: String,
    },
    /// A device cannot be used or failed.
    #[error("{device}: {what}: expected {expected}, got {got}. {help}")]
    Device {
        /// Which device.
        device: String,
        /// The attempted action.
        what: String,
        /// The valid values.
        expected: String,
        /// The outcome.
        got: String,
        /// How to fix it.
        help: String,
    },
    /// A device has no room. Nothing is broken: what was there before still works.
    #[error(
        "{device}: memory: expected {needed} bytes for a buffer, got {}. {help}", free_of(*free, *total)
    )]
    OutOfMemory {
        /// Which device.
        device: String,
        /// Bytes requested.
        needed: usize,
        /// Bytes that it has left.
        free: usize,
        /// Bytes that it has in all; 0 if that is not known.
        total: usize,
        /// How to fix it.
        help: String,
    },
    /// The caller cancelled the work: see [`crate::session::Session::canceller`].
    #[error("cancelled, as the caller asked")]
    Cancelled,
    /// A score or activation became NaN or infinite while the model ran.
    #[error("layer {layer}, {block}: {what} is not finite (NaN or infinity). {help}")]
    NonFinite {
        /// Decoder layer, from 0.
        layer: usize,
        /// "attention" or "mlp".
        block: &'static str,
        /// Which quantity.
        what: &'static str,
        /// How to fix it.
        help: String,
    },
}

/// The return value of a progress callback: nothing, to continue, or a `Result` whose error ends the work.
pub trait Proceed {
    /// Whether to go on.
    ///
    /// # Errors
    /// The error that ends the work, if any.
    fn proceed(self) -> Result<()>;
}

impl Proceed for () {
    fn proceed(self) -> Result<()> {
        Ok(())
    }
}

impl Proceed for Result<()> {
    fn proceed(self) -> Result<()> {
        self
    }
}

/// What is left of a memory; its size is 0 where the system does not tell.
fn free_of(free: usize, total: usize) -> String {
    if total == 0 { "less".to_string() } else { format!("{free} bytes free of {total}") }
}

impl Error {
    /// An [`Error::Io`].
    pub fn io(path: impl Into<PathBuf>, action: &'static str, source: io::Error, help: impl Display) -> Self {
        Self::Io { path: path.into(), action, source, help: help.to_string() }
    }

    /// An [`Error::File`].
    pub fn file(
        path: impl Into<PathBuf>,
        what: impl Display,
        expected: impl Display,
        got: impl Display,
        help: impl Display,
    ) -> Self {
        Self::File {
            path: path.into(),
            what: what.to_string(),
            expected: expected.to_string(),
            got: got.to_string(),
            help: help.to_string(),
        }
    }

    /// An [`Error::Device`].
    pub fn device(
        device: impl Display,
        what: impl Display,
        expected: impl Display,
        got: impl Display,
        help: impl Display,
    ) -> Self {
        Self::Device {
            device: device.to_string(),
            what: what.to_string(),
            expected: expected.to_string(),
            got: got.to_string(),
            help: help.to_string(),
        }
    }

    /// An [`Error::Argument`].
    pub fn argument(
        name: impl Display,
        expected: impl Display,
        got: impl Display,
        help: impl Display,
    ) -> Self {
        Self::Argument {
            name: name.to_string(),
            expected: expected.to_string(),
            got: got.to_string(),
            help: help.to_string(),
        }
    }
}

/// `text` from a file as it may go into a message: in quotes, non-printable characters (NUL, terminal
/// escapes, line ends) escaped, and cut after 120 characters, so that no file can garble or flood a terminal.
pub(crate) fn printable(text: &str) -> String {
    const SHOWN: usize = 120;
    let shown: String = text.chars().take(SHOWN).collect();
    let dots = if shown.len() < text.len() { "…" } else { "" };
    format!("{shown:?}{dots}")
}
