//! What a test's GPU backend runs on: the emulator or, in GPU-only mode, a real GPU.
//!
//! `PROBEPRUNE_TEST_DEVICE=cuda` is GPU-only mode: nothing runs on the emulator, and a GPU that is missing or cannot be used
//! fails the test. `PROBEPRUNE_TEST_SHAPES=reduced` asks for shapes that an emulated GPU has time for.

// Every test program compiles this module but uses only a part of it, and nothing outside it can reach it.
#![allow(dead_code, unreachable_pub)]

use std::{
    cell::RefCell,
    collections::BTreeSet,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use probeprune::{
    Result,
    gpu::{Cuda, Driver, Gpu, GpuDtype, Launch, cuda},
};
use ptx_emu::Settings;

use crate::emulator::Emulator;

/// The variable that asks for GPU-only mode.
pub const TEST_DEVICE: &str = "PROBEPRUNE_TEST_DEVICE";

/// Whether nothing may run on the emulator.
pub fn gpu_only() -> bool {
    match std::env::var(TEST_DEVICE) {
        Err(_) => false,
        Ok(device) if device == "cuda" => true,
        Ok(device) => panic!("{TEST_DEVICE}: expected cuda or nothing, got {device:?}"),
    }
}

/// Whether shapes are to be such that an emulated GPU has time for them.
pub fn reduced_shapes() -> bool {
    match std::env::var("PROBEPRUNE_TEST_SHAPES") {
        Err(_) => !gpu_only(),
        Ok(shapes) if shapes == "reduced" => true,
        Ok(shapes) => panic!("PROBEPRUNE_TEST_SHAPES: expected reduced or nothing, got {shapes:?}"),
    }
}

/// Whether the kernels are to run once per case, on nothing but the emulator's first schedule: enough for most mistakes that
/// tools/kernels/mutate.py plants.
pub fn kernels_once() -> bool {
    match std::env::var("PROBEPRUNE_TEST_KERNELS") {
        Err(_) => false,
        Ok(kernels) if kernels == "once" => true,
        Ok(kernels) => panic!("PROBEPRUNE_TEST_KERNELS: expected once or nothing, got {kernels:?}"),
    }
}

/// The real GPU, opened once in a process; none where there is none, unless it has to be there.
pub fn real_gpu() -> Option<&'static Cuda> {
    static GPU: OnceLock<Option<Cuda>> = OnceLock::new();
    let open = || {
        let usable = cuda::survey().and_then(|survey| survey.supports(survey.device(0)?));
        match usable {
            Err(reason) if gpu_only() => panic!("{TEST_DEVICE}=cuda, but no GPU can be used: {reason}"),
            Err(reason) => {
                eprintln!("kernels run on the emulator only. {reason}");
                None
            }
            // A GPU that could be used has to be: no error here may pass for an absent one.
            Ok(()) => Some(Cuda::new(0).unwrap()),
        }
    };
    GPU.get_or_init(open).as_ref()
}

/// A backend on [`TestDevice::unchecked`].
pub fn backend(dtype: GpuDtype) -> Gpu<TestDevice> {
    Gpu::new(TestDevice::unchecked(), dtype)
}

/// A driver: the emulator's or CUDA's.
#[derive(Debug)]
pub struct TestDevice {
    driver: Either,
    launches: AtomicUsize,
    /// In place of the device's own.
    multiprocessors: Option<u32>,
}

thread_local! {
    static LAUNCHED: RefCell<BTreeSet<&'static str>> = const { RefCell::new(BTreeSet::new()) };
}

/// The kernels that this thread has launched.
pub fn launched() -> BTreeSet<&'static str> {
    LAUNCHED.with_borrow(Clone::clone)
}

#[derive(Debug)]
enum Either {
    Emulated(Emulator),
    Real(&'static Cuda),
}

/// What belongs to one of the two drivers.
#[derive(Debug)]
pub enum Of<E, R> {
    Emulated(E),
    Real(R),
}

impl TestDevice {
    /// An emulator that runs launches as `settings` say; in GPU-only mode the GPU.
    pub fn new(settings: Settings) -> Self {
        if gpu_only() {
            return Self::real(real_gpu().expect("it was opened"));
        }
        Self::of(Either::Emulated(Emulator::new(settings)))
    }

    fn of(driver: Either) -> Self {
        Self { driver, launches: AtomicUsize::new(0), multiprocessors: None }
    }

    /// The same device, which says that it has this many multiprocessors: kernels are chosen by them.
    pub fn with_multiprocessors(self, multiprocessors: Option<u32>) -> Self {
        Self { multiprocessors, ..self }
    }

    /// As [`TestDevice::new`], without the race checker: gpu_ops looks for races, operation by operation.
    pub fn unchecked() -> Self {
        Self::new(Settings::unchecked())
    }

    /// A real GPU.
    pub fn real(cuda: &'static Cuda) -> Self {
        Self::of(Either::Real(cuda))
    }

    /// Launches so far, those of graphs counted when they are made.
    pub fn launches(&self) -> usize {
        self.launches.load(Ordering::Relaxed)
    }
}

/// Calls the same method of either driver.
macro_rules! either {
    ($device:expr, $driver:ident => $call:expr) => {
        match &$device.driver {
            Either::Emulated($driver) => $call,
            Either::Real($driver) => $call,
        }
    };
}

/// As [`either!`], of what belongs to the driver too.
macro_rules! either_with {
    ($device:expr, $($thing:ident),+; $driver:ident => $call:expr) => {
        match (&$device.driver, $($thing),+) {
            (Either::Emulated($driver), $(Of::Emulated($thing)),+) => $call,
            (Either::Real($driver), $(Of::Real($thing)),+) => $call,
            _ => unreachable!("it belongs to the other driver"),
        }
    };
}

/// As [`either!`], which makes something.
macro_rules! either_makes {
    ($device:expr, $driver:ident => $call:expr) => {
        match &$device.driver {
            Either::Emulated($driver) => $call.map(Of::Emulated),
            Either::Real($driver) => $call.map(Of::Real),
        }
    };
}

impl Driver for TestDevice {
    type Memory = Of<<Emulator as Driver>::Memory, <Cuda as Driver>::Memory>;
    type Graph = Of<<Emulator as Driver>::Graph, <Cuda as Driver>::Graph>;
    type Event = Of<<Emulator as Driver>::Event, <Cuda as Driver>::Event>;

    fn alloc(&self, bytes: usize) -> Result<Self::Memory> {
        either_makes!(self, driver => driver.alloc(bytes))
    }

    fn address(&self, memory: &Self::Memory) -> u64 {
        either_with!(self, memory; driver => driver.address(memory))
    }

    fn write(&self, to: u64, bytes: &[u8]) -> Result<()> {
        either!(self, driver => driver.write(to, bytes))
    }

    fn read(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        either!(self, driver => driver.read(from, bytes))
    }

    fn zero(&self, at: u64, bytes: usize) -> Result<()> {
        either!(self, driver => driver.zero(at, bytes))
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        self.launches.fetch_add(1, Ordering::Relaxed);
        LAUNCHED.with_borrow_mut(|launched| launched.insert(launch.kernel.name));
        either!(self, driver => driver.launch(launch))
    }

    fn graph(&self, launches: &[Launch]) -> Result<Option<Self::Graph>> {
        self.launches.fetch_add(launches.len(), Ordering::Relaxed);
        match &self.driver {
            Either::Emulated(driver) => Ok(driver.graph(launches)?.map(Of::Emulated)),
            Either::Real(driver) => Ok(driver.graph(launches)?.map(Of::Real)),
        }
    }

    fn replay(&self, graph: &Self::Graph) -> Result<()> {
        either_with!(self, graph; driver => driver.replay(graph))
    }

    fn event(&self) -> Result<Self::Event> {
        either_makes!(self, driver => driver.event())
    }

    fn record(&self, event: &Self::Event) -> Result<()> {
        either_with!(self, event; driver => driver.record(event))
    }

    fn elapsed(&self, from: &Self::Event, to: &Self::Event) -> Result<f64> {
        either_with!(self, from, to; driver => driver.elapsed(from, to))
    }

    fn multiprocessors(&self) -> u32 {
        self.multiprocessors.unwrap_or_else(|| either!(self, driver => driver.multiprocessors()))
    }

    fn description(&self) -> String {
        either!(self, driver => driver.description())
    }
}

/// Runs one test of this program in GPU-only mode where no GPU can be found, and asserts that it fails and says why: a GPU
/// that is missing must never look like one that passed.
pub fn assert_fails_without_a_gpu(test: &str) {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(TEST_DEVICE, "cuda")
        // Hides every GPU, a real one as the emulated driver's.
        .env("CUDA_VISIBLE_DEVICES", "-1")
        .env("EMULATED_CUDA_DEVICES", "0")
        .output()
        .unwrap();
    let said =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(!output.status.success() && said.contains("1 failed"), "{test} did not fail: {said}");
    assert!(said.contains("no GPU can be used"), "{said}");
}
