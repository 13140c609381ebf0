//! From what a launch does to how long it takes.

use std::{collections::HashMap, sync::OnceLock};

use probeprune::gpu::Launch;
use serde::Deserialize;

use super::machine::Machine;

/// What a launch does.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Bytes from and to memory.
    pub memory: f64,
    /// Bytes from L2, those included.
    pub l2: f64,
    /// On the tensor cores: of all blocks, and of the one that has most.
    pub flops: f64,
    pub longest: f64,
    /// What share of mma.sync's rate the loop reaches.
    pub rate: f64,
    /// Loads one after another in a block, each of which waits for L2 or for a barrier.
    pub depth: f64,
    /// Bytes that a thread has under way.
    pub under_way: f64,
}

impl Default for Work {
    fn default() -> Self {
        Self { memory: 0.0, l2: 0.0, flops: 0.0, longest: 0.0, rate: 1.0, depth: 2.0, under_way: 64.0 }
    }
}

/// Where the seconds of launches go.
#[derive(Clone, Copy, Debug, Default)]
pub struct Split {
    /// That memory traffic takes at the machine's rate.
    pub memory: f64,
    /// That the tensor cores take at theirs, where that is more.
    pub tensor: f64,
    /// What traffic with L2 takes above both.
    pub l2: f64,
    /// Above all of these: multiprocessors that wait for the last wave, loops slower than the tensor cores, latency.
    pub waves: f64,
    /// Between kernels.
    pub gaps: f64,
    pub launches: usize,
}

impl Split {
    /// In the kernels and between them.
    pub fn seconds(&self) -> f64 {
        self.kernels() + self.gaps
    }

    /// In the kernels.
    pub fn kernels(&self) -> f64 {
        self.memory + self.tensor + self.l2 + self.waves
    }

    pub fn add(&mut self, other: &Self) {
        self.memory += other.memory;
        self.tensor += other.tensor;
        self.l2 += other.l2;
        self.waves += other.waves;
        self.gaps += other.gaps;
        self.launches += other.launches;
    }
}

/// Registers of a thread and static shared memory, by cuda/resources.json.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Resources {
    registers: u32,
    static_shared: u32,
}

fn resources(kernel: &str, code: &str) -> Option<Resources> {
    #[derive(Deserialize)]
    struct Entry {
        sm_80: Resources,
        sm_90a: Resources,
    }
    static ALL: OnceLock<HashMap<String, Entry>> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        let text = include_str!("../../../cuda/resources.json");
        serde_json::from_str(text).expect("tools/kernels/cuda.sh writes what each kernel takes")
    });
    let entry = all.get(kernel)?;
    Some(if code == "sm_80" { entry.sm_80 } else { entry.sm_90a })
}

/// Blocks of a launch that fit on a multiprocessor together.
fn resident(machine: &Machine, launch: &Launch, taken: Resources) -> u32 {
    let threads = launch.geometry.threads.next_multiple_of(32);
    let registers = taken.registers.next_multiple_of(8) * threads;
    // The hardware keeps 1 KB of shared memory for each block.
    let shared = taken.static_shared + launch.geometry.shared + 1024;
    let most = [
        machine.threads / threads,
        machine.blocks,
        (1 << 16) / registers.max(1),
        (machine.shared + 1024) / shared,
    ];
    most.into_iter().min().unwrap_or(0).max(1)
}

/// How long a launch takes, the gap before it apart; `None` for a kernel that cuda/resources.json does not have.
pub fn split(machine: &Machine, launch: &Launch, work: &Work) -> Option<Split> {
    let taken = resources(launch.kernel.name, machine.code)?;
    let blocks = launch.geometry.grid.iter().map(|&count| f64::from(count)).product::<f64>();
    let multiprocessors = f64::from(machine.multiprocessors);
    let together = f64::from(resident(machine, launch, taken));
    let waves = (blocks / (multiprocessors * together)).ceil();

    // The busiest multiprocessor has so many blocks; one that is alone there has nobody to hide its waits.
    let on_one = (blocks / multiprocessors).ceil();
    let alone = if on_one < 2.0 { ALONE } else { 1.0 };
    let tensor_rate = machine.mma * work.rate;
    let evenly = work.flops / tensor_rate;
    let busiest = work.longest.max(work.flops / blocks * on_one) * multiprocessors / (tensor_rate * alone);
    let tensor = evenly.max(busiest);

    // What the threads that are there have under way arrives once in a latency.
    let threads = blocks.min(multiprocessors * together) * f64::from(launch.geometry.threads);
    let memory_rate = machine.reachable().min(threads * work.under_way / machine.latency);
    let memory = work.memory / memory_rate;
    let l2 = work.l2 / machine.l2_rate.min(threads * work.under_way / machine.l2_latency);
    let first = if work.memory > 0.0 { machine.latency } else { machine.l2_latency };
    let latency = first + work.depth * machine.l2_latency;
    let seconds = memory.max(l2).max(tensor).max((waves - 1.0) * latency) + latency;

    let [pure_memory, pure_tensor] = [work.memory / machine.reachable(), work.flops / machine.mma];
    let (memory, tensor) = if pure_memory >= pure_tensor { (pure_memory, 0.0) } else { (0.0, pure_tensor) };
    let most = memory + tensor;
    let l2 = (work.l2 / machine.l2_rate - most).max(0.0);
    Some(Split { memory, tensor, l2, waves: seconds - most - l2, gaps: 0.0, launches: 1 })
}

/// A block of four warps alone on a multiprocessor: what share of the rate of two it reaches. Assumed.
const ALONE: f64 = 0.75;
