//! Statuses, the message of the last failure, and the boundary that no panic crosses.

use std::{
    any::Any,
    cell::RefCell,
    ffi::{CString, c_char},
    fmt::Display,
    panic::{AssertUnwindSafe, catch_unwind},
};

use crate::error::Error;

/// `probeprune_status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// An invalid value, pointer or setting.
    InvalidArgument = 1,
    /// A struct that is too short, or sets bytes that this version does not know.
    InvalidStruct = 2,
    /// A tensor of the wrong dtype, device, strides, shape, alignment or version, or one that overlaps another.
    InvalidTensor = 3,
    /// A missing, damaged or unsuitable file.
    File = 4,
    /// An unusable device, or one that failed.
    Device = 5,
    /// Out of device memory; objects made before still work.
    OutOfMemory = 6,
    /// NaN or infinity while a model ran.
    NotFinite = 7,
    /// Cancelled by the caller.
    Cancelled = 8,
    /// Another thread, or a callback's caller, is inside this session.
    Busy = 9,
    /// An earlier fault broke the device: restart the process.
    Poisoned = 10,
    /// A defect in probeprune, or a panic in a callback: the handle can only be freed.
    Panic = 11,
    /// The caller's buffer or workspace is too small.
    TooSmall = 12,
}

impl Status {
    const ALL: [(Self, &'static std::ffi::CStr); 13] = [
        (Self::Ok, c"PROBEPRUNE_OK"),
        (Self::InvalidArgument, c"PROBEPRUNE_INVALID_ARGUMENT"),
        (Self::InvalidStruct, c"PROBEPRUNE_INVALID_STRUCT"),
        (Self::InvalidTensor, c"PROBEPRUNE_INVALID_TENSOR"),
        (Self::File, c"PROBEPRUNE_FILE"),
        (Self::Device, c"PROBEPRUNE_DEVICE"),
        (Self::OutOfMemory, c"PROBEPRUNE_OUT_OF_MEMORY"),
        (Self::NotFinite, c"PROBEPRUNE_NOT_FINITE"),
        (Self::Cancelled, c"PROBEPRUNE_CANCELLED"),
        (Self::Busy, c"PROBEPRUNE_BUSY"),
        (Self::Poisoned, c"PROBEPRUNE_POISONED"),
        (Self::Panic, c"PROBEPRUNE_PANIC"),
        (Self::TooSmall, c"PROBEPRUNE_TOO_SMALL"),
    ];
}

/// Status and message of a call that failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) status: Status,
    pub(super) message: String,
}

/// Result of a call.
pub(super) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// In the form of the library's errors: what, expected, got, help.
    pub(super) fn new(
        status: Status,
        what: impl Display,
        expected: impl Display,
        got: impl Display,
        help: impl Display,
    ) -> Self {
        Self { status, message: format!("{what}: expected {expected}, got {got}. {help}") }
    }

    pub(super) fn argument(
        what: impl Display,
        expected: impl Display,
        got: impl Display,
        help: impl Display,
    ) -> Self {
        Self::new(Status::InvalidArgument, what, expected, got, help)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::Argument { .. } => Status::InvalidArgument,
            Error::Io { .. } | Error::File { .. } => Status::File,
            Error::Device { .. } => Status::Device,
            Error::OutOfMemory { .. } => Status::OutOfMemory,
            Error::NonFinite { .. } => Status::NotFinite,
            Error::Cancelled => Status::Cancelled,
        };
        Self { status, message: error.to_string() }
    }
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

fn remember(message: &str) {
    // Messages quote files and arguments, which may contain NUL.
    let message = CString::new(message.replace('\0', "\\0")).unwrap_or_default();
    LAST.set(message);
}

/// Runs a call's body, stores the message of a failure, and stops panics.
pub(super) fn call(body: impl FnOnce() -> Outcome) -> i32 {
    let status = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => {
            // Clears the message of a call that failed inside a callback.
            remember("");
            Status::Ok
        }
        Ok(Err(failure)) => {
            remember(&failure.message);
            failure.status
        }
        Err(panic) => {
            remember(&panic_message(&*panic));
            Status::Panic
        }
    };
    status as i32
}

/// Frees an object. A panic in its destructor is swallowed: `_free` functions have no result to report it by.
pub(super) fn free(body: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(body));
}

pub(super) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!(
        "panic: {}. Free the handle and report this, unless it came out of a callback.",
        text.unwrap_or("no message")
    )
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub extern "C" fn probeprune_last_error() -> *const c_char {
    LAST.with_borrow(|message| message.as_ptr())
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub extern "C" fn probeprune_status_name(status: i32) -> *const c_char {
    let known = Status::ALL.iter().find(|(known, _)| *known as i32 == status);
    known.map_or(c"unknown status", |(_, name)| name).as_ptr()
}
