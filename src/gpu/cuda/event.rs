//! Moments in a stream.

use std::sync::Arc;

use cudarc::driver::{
    result::event,
    sys::{CUevent, CUevent_flags, CUstream},
};

use super::{functions, link::Link};
use crate::error::Result;

/// A moment in a stream of a [`super::Cuda`]'s context.
#[derive(Debug)]
pub struct Event {
    handle: CUevent,
    link: Arc<Link>,
}

// SAFETY: events may be used from any thread that has their context current; the driver synchronises calls on them.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    /// One that was not recorded yet.
    pub(super) fn new(link: &Arc<Link>) -> Result<Self> {
        link.enter()?;
        let handle = link.check("creating an event", event::create(CUevent_flags::CU_EVENT_DEFAULT))?;
        Ok(Self { handle, link: Arc::clone(link) })
    }

    /// Records it behind everything issued to `stream`, of the same context, so far.
    pub(super) fn record(&self, stream: CUstream) -> Result<()> {
        self.link.enter()?;
        // SAFETY: the event is alive, and of the stream's context.
        let recorded = unsafe { event::record(self.handle, stream) };
        self.link.check("recording an event", recorded)
    }

    /// Seconds from one to another, both passed.
    pub(super) fn elapsed(from: &Self, to: &Self) -> Result<f64> {
        from.link.enter()?;
        // SAFETY: both are alive, and of one stream.
        let milliseconds = unsafe { functions::elapsed(from.handle, to.handle) };
        from.link.check("reading events", milliseconds).map(|milliseconds| f64::from(milliseconds) / 1e3)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        self.link.enter_to_free();
        // SAFETY: created by `new`, destroyed once; the driver keeps what the stream still needs of it.
        let _ = unsafe { event::destroy(self.handle) };
    }
}
