//! Single operations on the caller's streams and in the caller's memory, for programs that bring their own.

use std::{ffi::c_void, sync::Arc};

use cudarc::driver::{result::stream, sys::CUstream};

use super::{Cuda, Event, Graph};
use crate::{
    backend::WeightUse,
    error::{Error, Result},
    gpu::{Activations, Buffer, Driver, Gpu, Indices, Launch, Speed, Statistics, Weight},
};

/// A [`Cuda`] that launches on the caller's stream: cheap to make, for one call. It has no memory of its own and copies
/// nothing: operations work in borrowed memory.
#[derive(Debug)]
pub struct OnStream {
    cuda: Arc<Cuda>,
    stream: CUstream,
}

// SAFETY: CUDA allows a stream on any thread with its context current, which `Link::enter` sees to.
unsafe impl Send for OnStream {}
// SAFETY: the driver synchronises calls on streams.
unsafe impl Sync for OnStream {}

impl OnStream {
    /// `stream`: a `CUstream` or `cudaStream_t`, null for the legacy default stream. It may be capturing.
    ///
    /// # Safety
    /// The stream belongs to the device's primary context and lives as long as this.
    pub unsafe fn new(cuda: Arc<Cuda>, stream: *mut c_void) -> Self {
        Self { cuda, stream: stream.cast() }
    }

    /// Waits for everything on the stream.
    ///
    /// # Errors
    /// Any error on the device up to here.
    pub fn synchronize(&self) -> Result<()> {
        self.cuda.link.enter()?;
        // SAFETY: the caller of `new` promised that the stream outlives this.
        let done = unsafe { stream::synchronize(self.stream) };
        self.cuda.link.check("waiting for the stream", done)
    }

    fn refused<T>(&self, what: &str) -> Result<T> {
        let help = "Operations on borrowed streams work in borrowed memory.";
        Err(Error::device(&self.cuda.link.label, what, "borrowed memory only", "memory of its own", help))
    }
}

impl Driver for OnStream {
    /// An address.
    type Memory = u64;
    type Graph = Graph;
    type Event = Event;

    fn alloc(&self, _bytes: usize) -> Result<u64> {
        self.refused("allocating")
    }

    fn address(&self, memory: &u64) -> u64 {
        *memory
    }

    fn write(&self, _to: u64, _bytes: &[u8]) -> Result<()> {
        self.refused("copying to the device")
    }

    fn read(&self, _from: u64, _bytes: &mut [u8]) -> Result<()> {
        self.refused("copying from the device")
    }

    fn zero(&self, at: u64, bytes: usize) -> Result<()> {
        self.cuda.link.enter()?;
        // SAFETY: `at` and `bytes` lie inside a borrowed buffer, whose owner promised that it outlives this work.
        let issued = unsafe { cudarc::driver::result::memset_d8_async(at, 0, bytes, self.stream) };
        self.cuda.link.check("zeroing memory", issued)
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        self.cuda.link.enter()?;
        self.cuda.enqueue(self.cuda.kernels.function(launch)?, launch, self.stream)
    }

    fn graph(&self, _launches: &[Launch]) -> Result<Option<Graph>> {
        Ok(None)
    }

    fn replay(&self, graph: &Graph) -> Result<()> {
        self.cuda.replay(graph)
    }

    fn event(&self) -> Result<Event> {
        Event::new(&self.cuda.link)
    }

    fn record(&self, event: &Event) -> Result<()> {
        event.record(self.stream)
    }

    fn elapsed(&self, from: &Event, to: &Event) -> Result<f64> {
        Event::elapsed(from, to)
    }

    fn multiprocessors(&self) -> u32 {
        self.cuda.multiprocessors()
    }

    fn speed(&self) -> Speed {
        self.cuda.speed()
    }

    fn description(&self) -> String {
        self.cuda.description()
    }
}

impl Gpu<OnStream> {
    fn borrow(&self, address: u64, len: usize) -> Result<Buffer<OnStream>> {
        self.driver().cuda.check_address(address)?;
        Ok(Buffer { memory: address, len })
    }

    /// `len` entries of the compute dtype at a device address, without copying.
    ///
    /// # Errors
    /// An address that is not in this GPU's memory, or not a multiple of 16.
    ///
    /// # Safety
    /// The memory must hold `len` entries, and stay allocated until all work issued with it is done.
    pub unsafe fn borrow_activations(&self, address: u64, len: usize) -> Result<Activations<OnStream>> {
        self.borrow(address, len).map(Activations)
    }

    /// As [`Gpu::borrow_activations`], float32.
    ///
    /// # Errors
    /// As [`Gpu::borrow_activations`].
    ///
    /// # Safety
    /// As [`Gpu::borrow_activations`].
    pub unsafe fn borrow_statistics(&self, address: u64, len: usize) -> Result<Statistics<OnStream>> {
        self.borrow(address, len).map(Statistics)
    }

    /// As [`Gpu::borrow_activations`], u32.
    ///
    /// # Errors
    /// As [`Gpu::borrow_activations`].
    ///
    /// # Safety
    /// As [`Gpu::borrow_activations`].
    pub unsafe fn borrow_indices(&self, address: u64, len: usize) -> Result<Indices<OnStream>> {
        self.borrow(address, len).map(Indices)
    }

    /// A weight (rows, columns) of the compute dtype, stored row by row; for [`WeightUse::Columns`], column by column.
    ///
    /// # Errors
    /// As [`Gpu::borrow_activations`].
    ///
    /// # Safety
    /// As [`Gpu::borrow_activations`].
    pub unsafe fn borrow_weight(
        &self,
        address: u64,
        [rows, columns]: [usize; 2],
        usage: WeightUse,
    ) -> Result<Weight<OnStream>> {
        let buffer = Arc::new(self.borrow(address, rows * columns)?);
        Ok(Weight { buffer, columns, usage })
    }
}
