//! The objects behind opaque pointers.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::atomic::{AtomicBool, Ordering},
};

use super::{
    check,
    status::{Failure, Outcome, Status},
};

/// An object that a panic makes unusable: it can then only be freed.
#[derive(Debug)]
pub struct Handle<T> {
    value: T,
    panicked: AtomicBool,
}

impl<T> Handle<T> {
    pub(super) fn new(value: T) -> Self {
        Self { value, panicked: AtomicBool::new(false) }
    }

    /// The object, even after a panic.
    pub(super) fn value(&self) -> &T {
        &self.value
    }
}

/// Runs `body` on the object behind a pointer.
///
/// # Safety
/// The pointer is null, or came from a call that makes such objects and was not freed.
pub(super) unsafe fn with<T, R>(
    pointer: *const Handle<T>,
    what: &str,
    body: impl FnOnce(&T) -> Outcome<R>,
) -> Outcome<R> {
    // SAFETY: the caller promises that the pointer is null, or leads to a handle that is not freed.
    let handle = unsafe { check::read(pointer, what) }?;
    if handle.panicked.load(Ordering::Relaxed) {
        let help = "It can only be freed.";
        return Err(Failure::new(
            Status::Panic,
            what,
            "one that works",
            "one in which an earlier call panicked",
            help,
        ));
    }
    catch_unwind(AssertUnwindSafe(|| body(&handle.value))).unwrap_or_else(|panic| {
        handle.panicked.store(true, Ordering::Relaxed);
        resume_unwind(panic)
    })
}
