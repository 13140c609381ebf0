//! What the model knows of GPUs.

/// A GPU. Rates are per second, of the whole device.
#[derive(Debug)]
pub struct Machine {
    /// On the command line.
    pub name: &'static str,
    /// In the driver's name of the device.
    pub called: &'static str,
    pub multiprocessors: u32,
    /// Of one multiprocessor: threads, blocks, bytes of shared memory.
    pub threads: u32,
    pub blocks: u32,
    pub shared: u32,
    /// The machine code that it runs: a key of cuda/resources.json.
    pub code: &'static str,
    /// Bytes of L2 cache.
    pub l2: f64,
    /// Bytes of memory traffic, by the datasheet, and what share of it a copy reaches.
    pub memory: f64,
    pub copy: f64,
    /// Bytes from L2.
    pub l2_rate: f64,
    /// Floating-point operations of mma.sync on bf16 with f32 sums.
    pub mma: f64,
    /// Of cuBLAS's large bf16 products.
    pub library: f64,
    /// Of causal flash attention, heads of 128, 1,024 tokens; by PyTorch's fastest.
    pub flash: f64,
    /// Seconds between two kernels of a graph, and between two that the host launches.
    pub gap: f64,
    pub launch: f64,
    /// Seconds until a load from memory is there, and from L2.
    pub latency: f64,
    pub l2_latency: f64,
}

/// NVIDIA H100 SXM5.
/// - Datasheet: 132 multiprocessors, 3.35 TB/s, 50 MB of L2, 989 TFLOP/s of dense bf16 by wgmma.
/// - mma: 62.9 % of that (Luo et al., arXiv 2402.13499, table of mma throughput).
/// - library: 716 TFLOP/s at 8192³ (the cuBLAS column of "Outperforming cuBLAS on H100", P. Shankhdhar, 2024).
/// - flash: 410 TFLOP/s, cuDNN at 1k, causal, d = 128 (FlashAttention-3 paper, figure 5); FlashAttention-2 reaches 260 there.
/// - gap and launch: 1.3 and 2.1 µs ("Look Ma, No Bubbles", Hazy Research, 2025).
/// - l2_rate: 5.5 TB/s as "Nvidia's H100: Funny L2, and Tons of Bandwidth" (Chips and Cheese, 2023) read with the 114
///   multiprocessors of an H100 PCIe, times 132 / 114. Latencies and copy are assumed.
const H100: Machine = Machine {
    name: "h100",
    called: "H100",
    multiprocessors: 132,
    threads: 2048,
    blocks: 32,
    shared: 227 << 10,
    code: "sm_90a",
    l2: 50e6,
    memory: 3.35e12,
    copy: 0.90,
    l2_rate: 5.5e12 * 132.0 / 114.0,
    mma: 0.629 * 989e12,
    library: 716e12,
    flash: 410e12,
    gap: 1.3e-6,
    launch: 2.1e-6,
    latency: 0.6e-6,
    l2_latency: 0.27e-6,
};

/// The GPUs that the model knows.
pub const MACHINES: [Machine; 4] = [
    H100,
    // Datasheet: an H100 with 4.8 TB/s.
    Machine { name: "h200", called: "H200", memory: 4.8e12, ..H100 },
    // Datasheet of the A100 SXM4 80 GB: 108 multiprocessors, 312 TFLOP/s of bf16, which is mma.sync's, 2.039 TB/s, 40 MB.
    // Assumed: library, 83 % of the peak; flash, half of what FlashAttention-2 reaches on an H100, as mma.sync does; gaps
    // and L2's rate as on an H100 at 1.41 in place of 1.83 GHz, about.
    Machine {
        name: "a100",
        called: "A100",
        multiprocessors: 108,
        shared: 163 << 10,
        code: "sm_80",
        l2: 40e6,
        memory: 2.039e12,
        l2_rate: 4.0e12,
        mma: 312e12,
        library: 260e12,
        flash: 130e12,
        gap: 1.6e-6,
        launch: 2.5e-6,
        ..H100
    },
    // NVIDIA's Ada whitepaper: 128 multiprocessors of 1,536 threads, 165 TFLOP/s of bf16 with f32 sums, which is mma.sync's,
    // 1.008 TB/s, 72 MB. library and flash: 95 % and 60 % of the peak, assumed; gap and launch as on an H100.
    Machine {
        name: "4090",
        called: "RTX 4090",
        multiprocessors: 128,
        threads: 1536,
        blocks: 24,
        shared: 99 << 10,
        code: "sm_80",
        l2: 72e6,
        memory: 1.008e12,
        copy: 0.92,
        l2_rate: 5.0e12,
        mma: 165e12,
        library: 157e12,
        flash: 100e12,
        ..H100
    },
];

impl Machine {
    /// Bytes of memory traffic that a kernel can have.
    pub fn reachable(&self) -> f64 {
        self.memory * self.copy
    }

    /// What of a buffer that was just written, or is read for the second time, comes from memory: nothing if L2 has room
    /// for it and for as much again.
    pub fn beyond_l2(&self, bytes: f64) -> f64 {
        if bytes <= self.l2 / 2.0 { 0.0 } else { bytes }
    }
}
