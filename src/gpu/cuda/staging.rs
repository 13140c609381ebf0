//! Pinned memory on the way to the device, so that the caller may change its bytes at once.

use std::sync::Arc;

use cudarc::driver::{
    DriverError,
    result::{self, event},
    sys::{CUevent, CUevent_flags, CUstream},
};

use super::link::Link;
use crate::error::Result;

/// Slots for one write after another: one is filled while the device still reads the others.
#[derive(Debug)]
pub(super) struct Ring {
    link: Arc<Link>,
    slots: Vec<Slot>,
    next: usize,
    slot_bytes: usize,
}

#[derive(Debug)]
struct Slot {
    memory: *mut u8,
    /// Recorded behind the copy out of this slot; an event that was never recorded counts as done.
    read: CUevent,
}

// SAFETY: CUDA allows pinned memory and events on any thread with their context current; `write` takes `&mut self`, so
// one thread at a time uses them.
unsafe impl Send for Ring {}

impl Ring {
    /// `count` slots of `slot_bytes` bytes.
    pub(super) fn new(link: &Arc<Link>, count: usize, slot_bytes: usize) -> Result<Self> {
        link.enter()?;
        let mut ring = Self { link: Arc::clone(link), slots: Vec::new(), next: 0, slot_bytes };
        for _ in 0..count {
            // SAFETY: `enter` made the context current; `write` fills the memory before the device reads it.
            let memory = unsafe { result::malloc_host(slot_bytes, 0) };
            let memory: *mut u8 = link.check("reserving pinned memory", memory)?.cast();
            let read = event::create(CUevent_flags::CU_EVENT_DISABLE_TIMING).inspect_err(|_| {
                // SAFETY: `malloc_host` returned it just now, and no slot owns it yet.
                let _ = unsafe { result::free_host(memory.cast()) };
            });
            ring.slots.push(Slot { memory, read: link.check("creating an event", read)? });
        }
        Ok(ring)
    }

    /// Copies `bytes` to device memory on `stream`, piece by piece. The context must be current.
    ///
    /// # Safety
    /// `to` must be device memory of `bytes.len()` bytes, and stay allocated until the copy is done.
    pub(super) unsafe fn write(
        &mut self,
        mut to: u64,
        bytes: &[u8],
        stream: CUstream,
    ) -> Result<(), DriverError> {
        for piece in bytes.chunks(self.slot_bytes) {
            let slot = &self.slots[self.next];
            self.next = (self.next + 1) % self.slots.len();
            // SAFETY: once the slot's event has passed, no copy reads its memory, which holds `slot_bytes` bytes, the most
            // that a piece has. The caller promises device memory at `to` that outlives the copy.
            unsafe {
                event::synchronize(slot.read)?;
                std::ptr::copy_nonoverlapping(piece.as_ptr(), slot.memory, piece.len());
                let staged = std::slice::from_raw_parts(slot.memory, piece.len());
                result::memcpy_htod_async(to, staged, stream)?;
                event::record(slot.read, stream)?;
            }
            to += piece.len() as u64;
        }
        Ok(())
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.link.enter_to_free();
        for slot in &self.slots {
            // SAFETY: the slot owns event and memory; after the event, or on a broken context, no copy reads them.
            unsafe {
                let _ = event::synchronize(slot.read);
                let _ = event::destroy(slot.read);
                let _ = result::free_host(slot.memory.cast());
            }
        }
    }
}
