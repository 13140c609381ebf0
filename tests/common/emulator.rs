//! A driver that runs the kernels' PTX on the CPU, with ptx-emu's race checker.

// Every test program compiles this module but uses only a part of it, and nothing outside it can reach it.
#![allow(dead_code, unreachable_pub)]

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock},
    time::Instant,
};

use probeprune::{
    Error, Result,
    gpu::driver::{Driver, Launch},
};
use ptx_emu::{Args, Counters, Device, Module, Settings};

/// An emulated device.
#[derive(Debug)]
pub struct Emulator {
    device: Arc<Mutex<Device>>,
    settings: Settings,
    /// Kernel names and counters of every launch so far.
    launches: Mutex<Vec<(&'static str, Counters)>>,
}

/// An allocation of an [`Emulator`].
#[derive(Debug)]
pub struct Memory {
    device: Arc<Mutex<Device>>,
    address: u64,
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.device.lock().unwrap().free(self.address).unwrap();
    }
}

impl Emulator {
    /// A device that runs launches as `settings` say.
    pub fn new(settings: Settings) -> Self {
        Self { device: Arc::default(), settings, launches: Mutex::default() }
    }

    /// Takes the names and counters of the launches since the last call.
    pub fn take_launches(&self) -> Vec<(&'static str, Counters)> {
        std::mem::take(&mut self.launches.lock().unwrap())
    }
}

/// A module, parsed once.
fn module(name: &'static str) -> Arc<Module> {
    static MODULES: OnceLock<Mutex<HashMap<&'static str, Arc<Module>>>> = OnceLock::new();
    let mut modules = MODULES.get_or_init(Mutex::default).lock().unwrap();
    let load = || {
        let path = ::emulated_cuda::ptx_folder().join(format!("{name}.ptx"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Arc::new(Module::parse(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
    };
    Arc::clone(modules.entry(name).or_insert_with(load))
}

fn failed(error: ptx_emu::Error) -> Error {
    Error::device("emulator", "operation", "no fault", error, "Fix the kernel or its launch.")
}

impl Driver for Emulator {
    type Memory = Memory;
    type Graph = Vec<Launch>;
    type Event = Mutex<Option<Instant>>;

    fn alloc(&self, bytes: usize) -> Result<Memory> {
        let mut device = self.device.lock().unwrap();
        let address = device.alloc("buffer", bytes).map_err(failed)?;
        device.fill(address, 0, bytes).map_err(failed)?;
        Ok(Memory { device: Arc::clone(&self.device), address })
    }

    fn address(&self, memory: &Memory) -> u64 {
        memory.address
    }

    fn write(&self, to: u64, bytes: &[u8]) -> Result<()> {
        self.device.lock().unwrap().write_bytes(to, bytes).map_err(failed)
    }

    fn read(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        let device = self.device.lock().unwrap();
        bytes.copy_from_slice(device.read_bytes(from, bytes.len()).map_err(failed)?);
        Ok(())
    }

    fn zero(&self, at: u64, bytes: usize) -> Result<()> {
        self.device.lock().unwrap().fill(at, 0, bytes).map_err(failed)
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        let geometry = ptx_emu::Launch {
            grid: launch.geometry.grid,
            block: [launch.geometry.threads, 1, 1],
            shared: launch.geometry.shared,
        };
        let arguments = Args::new().structure(launch.arguments(), 8);
        let module = module(launch.kernel.module);
        let mut device = self.device.lock().unwrap();
        let counters = device
            .launch(&module, launch.kernel.name, geometry, &arguments, &self.settings)
            .map_err(failed)?;
        self.launches.lock().unwrap().push((launch.kernel.name, counters));
        Ok(())
    }

    fn graph(&self, launches: &[Launch]) -> Result<Option<Vec<Launch>>> {
        Ok(Some(launches.to_vec()))
    }

    fn replay(&self, graph: &Vec<Launch>) -> Result<()> {
        graph.iter().try_for_each(|launch| self.launch(launch))
    }

    fn event(&self) -> Result<Mutex<Option<Instant>>> {
        Ok(Mutex::default())
    }

    fn record(&self, event: &Mutex<Option<Instant>>) -> Result<()> {
        *event.lock().unwrap() = Some(Instant::now());
        Ok(())
    }

    fn elapsed(&self, from: &Mutex<Option<Instant>>, to: &Mutex<Option<Instant>>) -> Result<f64> {
        let [from, to] = [from, to].map(|event| event.lock().unwrap().expect("the event was recorded"));
        Ok((to - from).as_secs_f64())
    }

    fn multiprocessors(&self) -> u32 {
        4
    }

    fn description(&self) -> String {
        "emulator".to_string()
    }
}
