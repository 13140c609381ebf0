//! The GPU backend's interface to a device: memory, launches, and graphs of launches. [`super::cuda`] is the real one;
//! the tests bring an emulator, so that launch geometry, arguments and the order of operations are tested on any machine.

use std::fmt::Debug;

use super::Speed;
use crate::error::Result;

/// A kernel by its file in `cuda/` and its name there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// `cuda/<module>.cu`.
    pub module: &'static str,
    /// The `extern "C"` function.
    pub name: &'static str,
}

/// Geometry of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
}

/// Most bytes of a kernel's argument struct.
pub const MAX_ARGUMENT_BYTES: usize = 256;

/// One launch, ready to be issued: the argument struct is copied, so that a launch can be kept and compared.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Launch {
    /// Which kernel.
    pub kernel: Kernel,
    /// Its geometry.
    pub geometry: Geometry,
    arguments: [u64; MAX_ARGUMENT_BYTES / 8],
    argument_bytes: usize,
}

impl Launch {
    /// A launch of `kernel` with its argument struct.
    pub fn new<A: bytemuck::NoUninit>(kernel: Kernel, geometry: Geometry, arguments: &A) -> Self {
        let bytes = bytemuck::bytes_of(arguments);
        let mut words = [0; MAX_ARGUMENT_BYTES / 8];
        bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
        Self { kernel, geometry, arguments: words, argument_bytes: bytes.len() }
    }

    /// The argument struct; 8-byte aligned.
    pub fn arguments(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.arguments)[..self.argument_bytes]
    }
}

impl Debug for Launch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?}", self.kernel.name, self.geometry)
    }
}

/// A device and one stream on it: everything issued runs in order.
pub trait Driver: Debug + Send + Sync + 'static {
    /// An allocation, freed when dropped.
    type Memory: Debug + Send + Sync;
    /// Launches that are issued together.
    type Graph: Debug + Send;
    /// A moment in the stream.
    type Event: Debug + Send + Sync;

    /// Allocates zeroed memory, at least 256-byte aligned.
    ///
    /// # Errors
    /// If there is no room; names the bytes needed and free.
    fn alloc(&self, bytes: usize) -> Result<Self::Memory>;

    /// The device address of an allocation.
    fn address(&self, memory: &Self::Memory) -> u64;

    /// Copies to the device. The bytes may be changed as soon as this returns.
    ///
    /// # Errors
    /// A device that failed.
    fn write(&self, to: u64, bytes: &[u8]) -> Result<()>;

    /// Waits for everything issued and copies from the device.
    ///
    /// # Errors
    /// Any error on the device up to here.
    fn read(&self, from: u64, bytes: &mut [u8]) -> Result<()>;

    /// Sets memory to 0.
    ///
    /// # Errors
    /// A device that failed.
    fn zero(&self, at: u64, bytes: usize) -> Result<()>;

    /// Issues a launch.
    ///
    /// # Errors
    /// A kernel or architecture missing from this build, a device that failed.
    fn launch(&self, launch: &Launch) -> Result<()>;

    /// Makes launches into a graph; `None` where the driver has no graphs.
    ///
    /// # Errors
    /// A device that failed.
    fn graph(&self, launches: &[Launch]) -> Result<Option<Self::Graph>>;

    /// Issues a graph.
    ///
    /// # Errors
    /// A device that failed.
    fn replay(&self, graph: &Self::Graph) -> Result<()>;

    /// An event that was not recorded yet.
    ///
    /// # Errors
    /// A device that failed.
    fn event(&self) -> Result<Self::Event>;

    /// Records the moment when the stream gets here, in place of an earlier one.
    ///
    /// # Errors
    /// A device that failed.
    fn record(&self, event: &Self::Event) -> Result<()>;

    /// Seconds between two events that the stream has passed.
    ///
    /// # Errors
    /// A device that failed, an event that was not recorded or not yet passed.
    fn elapsed(&self, from: &Self::Event, to: &Self::Event) -> Result<f64>;

    /// Multiprocessors of the device, which launch geometry may depend on.
    fn multiprocessors(&self) -> u32;

    /// How fast the device is, by its attributes: which batches run dense may depend on it.
    fn speed(&self) -> Speed {
        Speed { multiprocessors: self.multiprocessors(), ..Speed::A100 }
    }

    /// The device's name and main properties.
    fn description(&self) -> String;
}
