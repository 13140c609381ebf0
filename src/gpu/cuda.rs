//! Real devices, through cudarc, which loads NVIDIA's driver at run time: programs build and start without CUDA.

mod borrow;
mod devices;
mod event;
mod functions;
mod kernels;
mod link;
mod on_stream;
mod staging;

use std::{
    ffi::c_void,
    sync::{Arc, Mutex, PoisonError},
};

use cudarc::driver::{
    CudaContext, CudaStream, DriverError,
    result::{self, graph, stream},
    sys::{
        self, CUdevice_attribute as Attribute, CUfunction, CUgraphExec, CUgraphInstantiate_flags, CUresult,
        CUstream,
    },
};
pub use devices::{Device, Survey, build, driver_is_installed, survey, version};
pub use event::Event;
use kernels::Kernels;
pub use kernels::Loading;
use link::Link;
pub use on_stream::OnStream;
use staging::Ring;

use super::{Driver, Launch, Speed};
use crate::error::{Error, Result};

/// Small writes (tokens, positions, masks) of a few forwards fit side by side, so that none waits for the device.
const SMALL: (usize, usize) = (16, 64 << 10);
/// Weights: one piece is copied by the host while the device takes the other.
const LARGE: (usize, usize) = (2, 8 << 20);

/// A GPU and one stream on it. See [`Driver`].
#[derive(Debug)]
pub struct Cuda {
    device: Device,
    driver: u32,
    speed: Speed,
    kernels: Arc<Kernels>,
    small: Mutex<Ring>,
    large: Mutex<Ring>,
    /// Graphs are captured on a stream of their own: a borrowed one may be the legacy stream, which does not capture.
    capture: Mutex<Arc<CudaStream>>,
    link: Arc<Link>,
}

/// Memory of a [`Cuda`].
#[derive(Debug)]
pub enum Memory {
    /// Freed when dropped.
    Owned(Allocation),
    /// Memory of another owner, by its address.
    Borrowed(u64),
}

/// Memory that is freed when dropped; an address of 0 for no memory.
#[derive(Debug)]
pub struct Allocation {
    address: u64,
    link: Arc<Link>,
}

impl Drop for Allocation {
    fn drop(&mut self) {
        if self.address == 0 {
            return;
        }
        self.link.enter_to_free();
        // SAFETY: `alloc` made the address, and only this frees it, once the stream has finished all work on it. On a
        // broken context both calls fail, and the memory goes with the process.
        unsafe {
            let _ = stream::synchronize(self.link.raw_stream());
            let _ = result::free_sync(self.address);
        }
    }
}

/// Launches that are issued together.
#[derive(Debug)]
pub struct Graph {
    handle: CUgraphExec,
    link: Arc<Link>,
    /// They must stay loaded.
    _kernels: Arc<Kernels>,
}

// SAFETY: CUDA allows a graph on any thread with its context current, one thread at a time: every use enters the context
// first, and `Graph` is not `Sync`.
unsafe impl Send for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        self.link.enter_to_free();
        // SAFETY: `Cuda::graph` instantiated the handle, and only this destroys it, once the stream has finished running it.
        unsafe {
            let _ = stream::synchronize(self.link.raw_stream());
            let _ = graph::exec_destroy(self.handle);
        }
    }
}

impl Cuda {
    /// GPU number `ordinal`, with a stream of its own.
    ///
    /// # Errors
    /// No driver, one that is too old or does not take the kernels, no such GPU, one that is too old.
    pub fn new(ordinal: usize) -> Result<Self> {
        Self::open(ordinal, CudaContext::new_stream)
    }

    /// GPU number `ordinal`, on the caller's stream: a `CUstream` or `cudaStream_t`, null for the legacy default stream.
    /// Work is ordered with everything else on that stream.
    ///
    /// # Errors
    /// As [`Cuda::new`].
    ///
    /// # Safety
    /// The stream must belong to the device's primary context (the one that the CUDA runtime uses), stay alive as long
    /// as this and everything made by it, and not be captured while this is used.
    pub unsafe fn on_stream(ordinal: usize, stream: *mut c_void) -> Result<Self> {
        // SAFETY: the caller promises a stream of the primary context, which `context` is, that outlives this.
        Self::open(ordinal, |context| Ok(unsafe { context.wrap_borrowed_stream(stream.cast()) }))
    }

    fn open(
        ordinal: usize,
        stream: impl FnOnce(&Arc<CudaContext>) -> Result<Arc<CudaStream>, DriverError>,
    ) -> Result<Self> {
        let survey = survey()?;
        let device = survey.device(ordinal)?.clone();
        survey.supports(&device)?;
        let label = device.to_string();
        let opened = CudaContext::new(ordinal).and_then(|context| {
            let attribute = |attribute| Ok(context.attribute(attribute)?.unsigned_abs());
            let multiprocessors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
            let rates = [
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?,
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)?,
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)?,
            ];
            let speed = Speed::of(device.capability, multiprocessors, rates);
            let (stream, capture) = (stream(&context)?, context.new_stream()?);
            Ok((context, stream, capture, speed))
        });
        let (context, stream, capture, speed) = opened.map_err(|error| {
            let help = "Check nvidia-smi: other programs may use all of it. Or use the CPU (`device` cpu).";
            Error::device(&label, "context", "one more on this GPU", devices::describe(error), help)
        })?;
        let link = Arc::new(Link::new(context, stream, label));
        Ok(Self {
            kernels: Arc::new(Kernels::load(&link, &survey, &device)?),
            small: Mutex::new(Ring::new(&link, SMALL.0, SMALL.1)?),
            large: Mutex::new(Ring::new(&link, LARGE.0, LARGE.1)?),
            capture: Mutex::new(capture),
            driver: survey.driver,
            speed,
            device,
            link,
        })
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// How the kernels were loaded.
    pub fn loading(&self) -> Loading {
        self.kernels.loading
    }

    /// The stream's handle, a `CUstream`, to order other work with this one's.
    pub fn stream(&self) -> *mut c_void {
        self.link.raw_stream().cast()
    }

    /// Whether a fault broke the device: CUDA refuses everything else in this process.
    pub fn is_broken(&self) -> bool {
        self.link.is_broken()
    }

    /// Waits for everything issued.
    ///
    /// # Errors
    /// Any error on the device up to here.
    pub fn synchronize(&self) -> Result<()> {
        self.link.synchronize("waiting for the device")
    }

    fn no_room(&self, bytes: usize) -> Error {
        let (free, total) = result::mem_get_info().unwrap_or_default();
        Error::OutOfMemory {
            device: self.link.label.clone(),
            needed: bytes,
            free,
            total,
            help: "Use smaller batches or windows, `history_dtype` f16, a larger `history_bucket`, end other programs on \
                   this GPU, or use the CPU (`device` cpu)."
                .to_string(),
        }
    }

    fn enqueue(&self, function: CUfunction, launch: &Launch, stream: CUstream) -> Result<()> {
        let geometry = launch.geometry;
        let mut arguments = [launch.arguments().as_ptr().cast_mut().cast::<c_void>()];
        let [x, y, z] = geometry.grid;
        // SAFETY: the kernel takes one struct by value: `arguments` points to it, bindgen made its layout from the kernel's
        // own header, and the driver copies it before it returns. Operations hold the buffers whose addresses are in it.
        let launched = unsafe {
            let block = (geometry.threads, 1, 1);
            result::launch_kernel(function, (x, y, z), block, geometry.shared, stream, &mut arguments)
        };
        self.link.check(format_args!("launching {launch:?}"), launched)
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        // Kernels go next, and must not be in use.
        let _ = self.synchronize();
    }
}

impl Driver for Cuda {
    type Memory = Memory;
    type Graph = Graph;
    type Event = Event;

    fn alloc(&self, bytes: usize) -> Result<Memory> {
        self.link.enter()?;
        let mut allocation = Allocation { address: 0, link: Arc::clone(&self.link) };
        if bytes > 0 {
            // SAFETY: `enter` made the context current; the memory is zeroed below, before anything reads it.
            allocation.address = match unsafe { result::malloc_sync(bytes) } {
                Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => return Err(self.no_room(bytes)),
                address => self.link.check("allocating memory", address)?,
            };
            self.zero(allocation.address, bytes)?;
        }
        Ok(Memory::Owned(allocation))
    }

    fn address(&self, memory: &Memory) -> u64 {
        match memory {
            Memory::Owned(allocation) => allocation.address,
            Memory::Borrowed(address) => *address,
        }
    }

    fn write(&self, to: u64, bytes: &[u8]) -> Result<()> {
        self.link.enter()?;
        let ring = if bytes.len() <= SMALL.1 { &self.small } else { &self.large };
        let mut ring = ring.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: `Gpu::upload` and `Gpu::upload_weight` stay inside a buffer that they hold; its drop waits for the stream.
        let written = unsafe { ring.write(to, bytes, self.link.raw_stream()) };
        self.link.check("copying to the device", written)
    }

    fn read(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        self.link.enter()?;
        // SAFETY: `Gpu::download` checks that `bytes` lie inside a buffer that it holds; the copy is waited for below.
        let issued = unsafe { result::memcpy_dtoh_async(bytes, from, self.link.raw_stream()) };
        self.link.check("copying from the device", issued)?;
        self.link.synchronize("waiting for the device")
    }

    fn zero(&self, at: u64, bytes: usize) -> Result<()> {
        self.link.enter()?;
        // SAFETY: `at` and `bytes` lie inside a buffer that the caller holds; its drop waits for the stream.
        let issued = unsafe { result::memset_d8_async(at, 0, bytes, self.link.raw_stream()) };
        self.link.check("zeroing memory", issued)
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        self.link.enter()?;
        self.enqueue(self.kernels.function(launch)?, launch, self.link.raw_stream())
    }

    fn graph(&self, launches: &[Launch]) -> Result<Option<Graph>> {
        self.link.enter()?;
        let functions =
            launches.iter().map(|launch| self.kernels.function(launch)).collect::<Result<Vec<_>>>()?;
        let capture = self.capture.lock().unwrap_or_else(PoisonError::into_inner);
        let capturing = capture.cu_stream();
        // Other threads may allocate in the meantime; this one only launches.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is this `Cuda`'s own, and the lock keeps other threads off it.
        self.link.check("capturing a graph", unsafe { stream::begin_capture(capturing, mode) })?;
        let mut captured = functions.iter().zip(launches);
        let captured = captured.try_for_each(|(&function, launch)| self.enqueue(function, launch, capturing));
        // SAFETY: ends the capture that began above on the same stream, also after a failed launch.
        let template = unsafe { stream::end_capture(capturing) };
        drop(capture);
        captured?;
        let template = self.link.check("capturing a graph", template)?;
        // SAFETY: `template` was just captured and is destroyed once; an instantiated graph does not refer to it.
        let made = unsafe {
            let made = graph::instantiate(template, CUgraphInstantiate_flags(0));
            let _ = graph::destroy(template);
            made
        };
        match made {
            // A graph takes memory of its own; without it the same launches are issued one by one.
            Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => Ok(None),
            made => {
                let handle = self.link.check("making a graph", made)?;
                Ok(Some(Graph { handle, link: Arc::clone(&self.link), _kernels: Arc::clone(&self.kernels) }))
            }
        }
    }

    fn replay(&self, graph: &Graph) -> Result<()> {
        self.link.enter()?;
        // SAFETY: `graph` owns the handle; `Gpu::issue` replays it only for equal launches, whose buffers are held now.
        let issued = unsafe { graph::launch(graph.handle, self.link.raw_stream()) };
        self.link.check("launching a graph", issued)
    }

    fn event(&self) -> Result<Event> {
        Event::new(&self.link)
    }

    fn record(&self, event: &Event) -> Result<()> {
        event.record(self.link.raw_stream())
    }

    fn elapsed(&self, from: &Event, to: &Event) -> Result<f64> {
        Event::elapsed(from, to)
    }

    fn multiprocessors(&self) -> u32 {
        self.speed.multiprocessors
    }

    fn speed(&self) -> Speed {
        self.speed
    }

    fn description(&self) -> String {
        let ((major, minor), gigabytes) = (self.device.capability, self.device.memory as f64 / 1e9);
        format!(
            "{}, compute capability {major}.{minor}, {gigabytes:.1} GB, driver for CUDA {}",
            self.link.label,
            version(self.driver)
        )
    }
}
