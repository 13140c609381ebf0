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

// SAFETY: CUDA allows events on any thread with their context current, which `Link::enter` sees to.
unsafe impl Send for Event {}
// SAFETY: the driver synchronises calls on events.
unsafe impl Sync for Event {}

impl Event {
    /// An event that was not recorded yet.
    pub(super) fn new(link: &Arc<Link>) -> Result<Self> {
        link.enter()?;
        let handle = link.check("creating an event", event::create(CUevent_flags::CU_EVENT_DEFAULT))?;
        Ok(Self { handle, link: Arc::clone(link) })
    }

    /// Records it behind everything issued to `stream`, of the same context, so far.
    pub(super) fn record(&self, stream: CUstream) -> Result<()> {
        self.link.enter()?;
        // SAFETY: `self` owns the event; every stream here is of its context.
        let recorded = unsafe { event::record(self.handle, stream) };
        self.link.check("recording an event", recorded)
    }

    /// Seconds from one to another, both passed.
    pub(super) fn elapsed(from: &Self, to: &Self) -> Result<f64> {
        from.link.enter()?;
        // SAFETY: `from` and `to` own their events; both belong to the context just entered.
        let milliseconds = unsafe { functions::elapsed(from.handle, to.handle) };
        from.link.check("reading events", milliseconds).map(|milliseconds| f64::from(milliseconds) / 1e3)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        self.link.enter_to_free();
        // SAFETY: `new` created the event, and only this destroys it; the driver keeps it until the stream has passed it.
        let _ = unsafe { event::destroy(self.handle) };
    }
}
