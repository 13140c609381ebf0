//! The one error type: what failed, where, what was expected, what was found.

use crate::fault::Fault;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is not PTX that this crate can read.
    #[error("PTX line {line}: {message}")]
    Parse {
        /// Line of the PTX text, from 1.
        line: u32,
        /// What is wrong.
        message: String,
    },
    /// An instruction, or a form of one, that the emulator does not implement. It is never skipped.
    #[error("PTX line {line}: kernel {kernel}: cannot execute `{instruction}`: {reason}")]
    Unsupported {
        /// Line of the PTX text, from 1.
        line: u32,
        /// The kernel it stands in.
        kernel: String,
        /// Opcode with its modifiers.
        instruction: String,
        /// Why.
        reason: String,
    },
    /// The module has no kernel of that name.
    #[error("no kernel {name:?} in this module; it has {}", available.join(", "))]
    NoKernel {
        /// The name asked for.
        name: String,
        /// Names of the kernels that exist.
        available: Vec<String>,
    },
    /// A launch that a driver would refuse: geometry, shared memory, arguments.
    #[error("launch of {kernel}: {what}: expected {expected}, got {got}")]
    Launch {
        /// The kernel.
        kernel: String,
        /// Which part of the launch.
        what: String,
        /// What would have been right.
        expected: String,
        /// What was passed.
        got: String,
    },
    /// A host call on device memory that is out of range, freed, or of the wrong size.
    #[error("device memory: {what}: expected {expected}, got {got}")]
    Memory {
        /// Which call.
        what: String,
        /// What would have been right.
        expected: String,
        /// What was passed.
        got: String,
    },
    /// A tensor map that `cuTensorMapEncodeTiled` would refuse.
    #[error("tensor map: {what}: expected {expected}, got {got}")]
    TensorMap {
        /// Which argument.
        what: String,
        /// What the driver demands.
        expected: String,
        /// What was passed.
        got: String,
    },
    /// The kernel did something wrong while it ran.
    #[error(transparent)]
    Fault(Box<Fault>),
}

impl Error {
    pub(crate) fn parse(line: u32, message: impl Into<String>) -> Self {
        Self::Parse { line, message: message.into() }
    }

    pub(crate) fn launch(
        kernel: &str,
        what: impl ToString,
        expected: impl ToString,
        got: impl ToString,
    ) -> Self {
        Self::Launch {
            kernel: kernel.to_owned(),
            what: what.to_string(),
            expected: expected.to_string(),
            got: got.to_string(),
        }
    }

    pub(crate) fn memory(what: impl ToString, expected: impl ToString, got: impl ToString) -> Self {
        Self::Memory { what: what.to_string(), expected: expected.to_string(), got: got.to_string() }
    }

    pub(crate) fn tensor_map(what: impl ToString, expected: impl ToString, got: impl ToString) -> Self {
        Self::TensorMap { what: what.to_string(), expected: expected.to_string(), got: got.to_string() }
    }

    /// The fault report, if the kernel ran and did something wrong.
    pub fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Fault(f) => Some(f),
            _ => None,
        }
    }
}

impl From<Box<Fault>> for Error {
    fn from(fault: Box<Fault>) -> Self {
        Self::Fault(fault)
    }
}
