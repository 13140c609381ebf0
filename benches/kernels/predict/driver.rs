//! A driver that runs nothing: a launch advances a clock by its expected time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use probeprune::{
    Error, Result,
    gpu::{Driver, Launch},
};

use super::{
    cost::{self, Split},
    kernels,
    machine::Machine,
};

/// A GPU that is only calculated.
#[derive(Debug)]
pub struct Predicted {
    pub machine: &'static Machine,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Seconds.
    clock: f64,
    /// Since the event before.
    split: Split,
    kernels: Vec<&'static str>,
    /// Between neighbouring events: which kernels, and where their time goes.
    runs: Vec<(Vec<&'static str>, Split)>,
    taken: usize,
    next: u64,
}

/// Memory that is only counted.
#[derive(Debug)]
pub struct Memory {
    address: u64,
    bytes: usize,
    state: Arc<Mutex<State>>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Memory {
    fn drop(&mut self) {
        lock(&self.state).taken -= self.bytes;
    }
}

impl Predicted {
    /// An idle device of this kind.
    pub fn new(machine: &'static Machine) -> Self {
        Self { machine, state: Arc::default() }
    }

    /// Moves the clock on by what something else takes.
    pub fn pass(&self, seconds: f64) {
        lock(&self.state).clock += seconds;
    }

    /// Bytes that are allocated.
    pub fn taken(&self) -> usize {
        lock(&self.state).taken
    }

    /// Takes what ran between events: each sequence of kernels once, as it ran last.
    pub fn take_runs(&self) -> Vec<(Vec<&'static str>, Split)> {
        let mut last: Vec<(Vec<&'static str>, Split)> = Vec::new();
        for run in std::mem::take(&mut lock(&self.state).runs) {
            let is_same = |other: &(Vec<_>, Split)| other.0 == run.0 && other.1.kernels() == run.1.kernels();
            match last.iter().position(is_same) {
                Some(same) => last[same] = run,
                None => last.push(run),
            }
        }
        last
    }

    fn run(&self, launch: &Launch, gap: f64) -> Result<()> {
        let work = kernels::work(self.machine, launch);
        let split = work.and_then(|work| cost::split(self.machine, launch, &work));
        let mut split = split.ok_or_else(|| {
            let help = "Add it to benches/kernels/predict/kernels.rs and to cuda/resources.json.";
            Error::device("analytic model", "kernel", "one that it knows", launch.kernel.name, help)
        })?;
        split.gaps = gap;
        let mut state = lock(&self.state);
        state.clock += split.seconds();
        state.split.add(&split);
        state.kernels.push(launch.kernel.name);
        Ok(())
    }
}

impl Driver for Predicted {
    type Memory = Memory;
    type Graph = Vec<Launch>;
    type Event = Mutex<f64>;

    fn alloc(&self, bytes: usize) -> Result<Memory> {
        let mut state = lock(&self.state);
        let address = state.next.max(256);
        state.next = (address + bytes as u64).next_multiple_of(256);
        state.taken += bytes;
        Ok(Memory { address, bytes, state: Arc::clone(&self.state) })
    }

    fn address(&self, memory: &Memory) -> u64 {
        memory.address
    }

    fn write(&self, _to: u64, _bytes: &[u8]) -> Result<()> {
        Ok(())
    }

    /// Nothing was computed: zeros, which are no fault.
    fn read(&self, _from: u64, bytes: &mut [u8]) -> Result<()> {
        bytes.fill(0);
        Ok(())
    }

    /// Between two runs, to leave nothing of one in caches for the next: what was launched until here is of no run.
    fn zero(&self, _at: u64, bytes: usize) -> Result<()> {
        self.pass(bytes as f64 / self.machine.reachable());
        let mut state = lock(&self.state);
        state.kernels.clear();
        state.split = Split::default();
        Ok(())
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        self.run(launch, self.machine.launch)
    }

    fn graph(&self, launches: &[Launch]) -> Result<Option<Vec<Launch>>> {
        Ok(Some(launches.to_vec()))
    }

    fn replay(&self, graph: &Vec<Launch>) -> Result<()> {
        graph.iter().try_for_each(|launch| self.run(launch, self.machine.gap))
    }

    fn event(&self) -> Result<Mutex<f64>> {
        Ok(Mutex::default())
    }

    fn record(&self, event: &Mutex<f64>) -> Result<()> {
        let mut state = lock(&self.state);
        *event.lock().unwrap_or_else(PoisonError::into_inner) = state.clock;
        let run = (std::mem::take(&mut state.kernels), std::mem::take(&mut state.split));
        if !run.0.is_empty() {
            state.runs.push(run);
        }
        Ok(())
    }

    fn elapsed(&self, from: &Mutex<f64>, to: &Mutex<f64>) -> Result<f64> {
        let [from, to] = [from, to].map(|event| *event.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(to - from)
    }

    fn multiprocessors(&self) -> u32 {
        self.machine.multiprocessors
    }

    fn description(&self) -> String {
        format!("analytic model of {}", self.machine.called)
    }
}
