//! The CPU backend in plain Rust. It is the readable meaning of every operation, written independently of the CUDA kernels so
//! that a shared misreading cannot hide.
//!
//! Weights stay in the checkpoint's mapping and dtype; activations and statistics are f32.

mod adapt;
mod attention;
mod buffer;
mod elementwise;
mod factor;
mod linear;
mod math;
mod matrix;
mod probe;
mod product;
mod rates;
mod score;
mod threads;
mod tier;
mod vector;

use std::{sync::Mutex, time::Instant};

use rayon::prelude::*;

use crate::{
    backend::{
        AccumulateMomentsOperands, AccumulateProductOperands, AdaptOperands, ArgmaxOperands,
        AttentionOperands, Backend, CentreEnergyOperands, ChannelScoreOperands, CheckFiniteOperands,
        ColumnStatisticOperands, CrossEntropyOperands, EmbedOperands, EnergyOperands, GatedLinearOperands,
        GatherPrunedOperands, HistoryUpdateOperands, KeepKvHeadsOperands, LinearOperands, LogitsOperands,
        NormOperands, ProbeGatherOperands, ProbeSelectOperands, ProjectOperands, Rates, RopeCacheOperands,
        TopKKeepOperands, WeightUse,
    },
    checkpoint::Tensor,
    error::{Error, Result},
    memory,
};
pub use buffer::Buffer;
pub use matrix::Matrix;
use product::amx;
pub use tier::{TIER_VARIABLE, Tier};

/// Floats of a [`Scratch`]'s values and of its queries.
const SCRATCH_LEN: usize = 4096 * 64;

/// Conversion and accumulation buffers of one thread.
struct Scratch {
    /// Converted weights.
    panel: Buffer<f32>,
    /// Products on their way to the output.
    values: Buffer<f32>,
    /// Queries.
    queries: Buffer<f32>,
    /// What products by AMX need.
    tiles: amx::Buffers,
}

/// How the CPU multiplies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CpuDtype {
    /// To float32's accuracy.
    #[default]
    F32,
    /// With activations, queries, keys, values and attention's weights rounded to bfloat16, as a bfloat16 model on a GPU does.
    /// Sums, norms, softmax, residuals, statistics and history stay float32.
    Bf16,
}

impl CpuDtype {
    /// "f32" or "bf16".
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}

/// The CPU backend with its own pool of threads.
pub struct Cpu {
    pool: rayon::ThreadPool,
    /// After the pool: its threads end once that is gone.
    _threads: threads::Threads,
    scratch: Vec<Mutex<Scratch>>,
    /// Activations packed or rounded for products.
    tiles: Mutex<Vec<Vec<amx::Tile>>>,
    tier: Tier,
    arch: pulp::Arch,
    amx: Option<amx::Unit>,
    dtype: CpuDtype,
}

impl Cpu {
    /// Most threads that a backend takes.
    pub const MOST_THREADS: usize = 1024;

    /// A backend that works with `threads` threads and the [`Tier::chosen`] one; 0 takes every core.
    ///
    /// # Errors
    /// More than [`Self::MOST_THREADS`], threads that cannot be started, no memory for what they need, or a tier in the
    /// environment that this processor lacks.
    pub fn new(threads: usize) -> Result<Self> {
        Self::with_tier(threads, Tier::chosen()?)
    }

    /// As [`Self::new`], with this tier.
    ///
    /// # Errors
    /// As [`Self::new`], with a tier that this processor lacks.
    pub fn with_tier(threads: usize, tier: Tier) -> Result<Self> {
        if threads > Self::MOST_THREADS {
            let expected = format!("at most {}", Self::MOST_THREADS);
            return Err(Error::argument("threads", expected, threads, "0 takes every core."));
        }
        let count =
            if threads == 0 { std::thread::available_parallelism().map_or(1, usize::from) } else { threads };
        memory::check_addresses(count as u64 * threads::ADDRESSES)?;
        let arch = tier.arch().ok_or_else(|| tier::refused(tier))?;
        let amx = tier.amx();
        let (started, pool) = threads::pool(threads).map_err(|error| {
            Error::argument(
                "threads",
                "a number of threads that can be started",
                format!("{threads} ({error})"),
                "Ask for fewer.",
            )
        })?;
        let tiles = || if amx.is_some() { amx::Buffers::new() } else { amx::Buffers::none() };
        let new = |_| {
            Ok(Mutex::new(Scratch {
                panel: Buffer::zeros(product::PANELS_LEN)?,
                values: Buffer::zeros(SCRATCH_LEN)?,
                queries: Buffer::zeros(SCRATCH_LEN)?,
                tiles: tiles(),
            }))
        };
        let scratch = (0..pool.current_num_threads()).map(new).collect::<Result<_>>()?;
        let (tiles, dtype) = (Mutex::new(Vec::new()), CpuDtype::F32);
        Ok(Self { pool, _threads: started, scratch, tiles, tier, arch, amx, dtype })
    }

    /// The same backend with products of this type.
    #[must_use]
    pub fn with_dtype(self, dtype: CpuDtype) -> Self {
        Self { dtype, ..self }
    }

    /// How it multiplies.
    pub fn dtype(&self) -> CpuDtype {
        self.dtype
    }

    /// Threads at work.
    pub fn threads(&self) -> usize {
        self.scratch.len()
    }

    /// The instruction set it works with.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// Calls `f` compiled for the vectors of the tier. `f` and all that it calls must be `#[inline(always)]`:
    /// only code inlined here gets them.
    #[inline(always)]
    fn vectorized<R>(&self, f: impl FnMut() -> R) -> R {
        struct Body<F>(F);
        impl<R, F: FnMut() -> R> pulp::NullaryFnOnce for Body<F> {
            type Output = R;
            #[inline(always)]
            fn call(mut self) -> R {
                // By `FnMut`: a closure called as `FnOnce` goes through a shim that is not inlined.
                (self.0)()
            }
        }
        self.arch.dispatch(Body(f))
    }

    /// Runs `count` tasks, each with its thread's scratch.
    fn tasks(&self, count: usize, task: impl Fn(usize, &mut Scratch) + Sync + Send) {
        self.pool.install(|| {
            (0..count).into_par_iter().for_each(|i| self.with_scratch(|scratch| task(i, scratch)))
        });
    }

    /// As [`Self::tasks`], collecting results in order.
    fn map_tasks<R: Send>(
        &self,
        count: usize,
        task: impl Fn(usize, &mut Scratch) -> R + Sync + Send,
    ) -> Vec<R> {
        self.pool.install(|| {
            (0..count).into_par_iter().map(|i| self.with_scratch(|scratch| task(i, scratch))).collect()
        })
    }

    /// Calls `f` with the scratch of the pool thread it runs on.
    fn with_scratch<R>(&self, f: impl FnOnce(&mut Scratch) -> R) -> R {
        let thread = self.pool.current_thread_index().expect("runs inside the pool");
        // Uncontended: a task holds its own thread's scratch and starts no other task while it does. After a panic in
        // a task the content is garbage, which every task overwrites before it reads.
        let mut scratch = self.scratch[thread].lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        f(&mut scratch)
    }
}

impl Backend for Cpu {
    type Weight = Matrix;
    type Activations = Buffer<f32>;
    type Statistics = Buffer<f32>;
    type Indices = Buffer<u32>;
    type Stamp = Instant;

    const TRANSPOSES_COLUMNS: bool = false;

    fn scope<R: Send>(&self, operations: impl FnOnce() -> R + Send) -> R {
        self.pool.install(operations)
    }

    fn rates(&self) -> Rates {
        self.tier.rates()
    }

    fn weight(&self, tensor: &Tensor, _usage: WeightUse) -> Result<Matrix> {
        let (rows, columns) = match *tensor.shape() {
            [rows, columns] => (rows, columns),
            _ => unreachable!("weights were checked to be matrices"),
        };
        Ok(Matrix { tensor: tensor.clone(), rows, columns })
    }

    fn adapt(&self, operands: AdaptOperands<'_, Self>) {
        adapt::adapt(self, operands);
    }

    fn download_weight(&self, weight: &Matrix) -> Result<Tensor> {
        Ok(weight.tensor.clone())
    }

    fn check_room(&self, elements: usize, words: usize) -> Result<()> {
        memory::check_room((elements as u64).saturating_add(words as u64).saturating_mul(4))
    }

    fn activations(&self, len: usize) -> Result<Buffer<f32>> {
        Buffer::zeros(len)
    }

    fn statistics(&self, len: usize) -> Result<Buffer<f32>> {
        Ok(memory::zeros(len)?.into())
    }

    fn indices(&self, len: usize) -> Result<Buffer<u32>> {
        Ok(memory::zeros(len)?.into())
    }

    fn upload_indices(&self, values: &[u32], out: &mut Buffer<u32>) {
        out[..values.len()].copy_from_slice(values);
    }

    fn upload_statistics(&self, values: &[f32], out: &mut Buffer<f32>) {
        out[..values.len()].copy_from_slice(values);
    }

    fn upload_activations(&self, values: &[f32], out: &mut Buffer<f32>) {
        out[..values.len()].copy_from_slice(values);
    }

    fn clear_statistics(&self, values: &mut Buffer<f32>, len: usize) {
        values[..len].fill(0.0);
    }

    fn download_activations(&self, values: &Buffer<f32>, len: usize) -> Result<Vec<f32>> {
        memory::copy(&values[..len])
    }

    fn download_statistics(&self, values: &Buffer<f32>, len: usize) -> Result<Vec<f32>> {
        memory::copy(&values[..len])
    }

    fn take_statistics(&self, values: Buffer<f32>, len: usize) -> Result<Vec<f32>> {
        Ok(values.into_vec(len))
    }

    fn download_indices(&self, values: &Buffer<u32>, len: usize) -> Result<Vec<u32>> {
        Ok(values[..len].to_vec())
    }

    fn stamp(&self) -> Result<Instant> {
        Ok(Instant::now())
    }

    fn take_stamp(&self, stamp: &mut Instant) {
        *stamp = Instant::now();
    }

    fn seconds_between(&self, from: &Instant, to: &Instant) -> Result<f64> {
        Ok(to.duration_since(*from).as_secs_f64())
    }

    fn column_statistic(&self, operands: ColumnStatisticOperands<'_, Self>) {
        score::column_statistic(self, operands);
    }

    fn embed(&self, operands: EmbedOperands<'_, Self>) {
        elementwise::embed(self, operands);
    }

    fn norm(&self, operands: NormOperands<'_, Self>) {
        elementwise::norm(self, operands);
    }

    fn probe_select(&self, operands: ProbeSelectOperands<'_, Self>) {
        probe::select(operands);
    }

    fn probe_gather(&self, operands: ProbeGatherOperands<'_, Self>) {
        probe::gather(self, operands);
    }

    fn linear(&self, operands: LinearOperands<'_, Self>) {
        linear::linear(self, operands);
    }

    fn gated_linear(&self, operands: GatedLinearOperands<'_, Self>) {
        linear::gated_linear(self, operands);
    }

    fn logits(&self, LogitsOperands { x, rows, head, out }: LogitsOperands<'_, Self>) {
        self.linear(LinearOperands::new(x, rows, head, out));
    }

    fn project(&self, operands: ProjectOperands<'_, Self>) {
        linear::project(self, operands);
    }

    fn rope_cache(&self, operands: RopeCacheOperands<'_, Self>) {
        elementwise::rope_cache(self, operands);
    }

    fn attention(&self, operands: AttentionOperands<'_, Self>) {
        attention::attention(self, operands);
    }

    fn energy(&self, operands: EnergyOperands<'_, Self>) {
        probe::energy(self, operands);
    }

    fn centre_energy(&self, operands: CentreEnergyOperands<'_, Self>) {
        probe::centre_energy(self, operands);
    }

    fn gather_pruned(&self, operands: GatherPrunedOperands<'_, Self>) {
        probe::gather_pruned(operands);
    }

    fn channel_score(&self, operands: ChannelScoreOperands<'_, Self>) {
        score::channel_score(self, operands);
    }

    fn top_k_keep(&self, operands: TopKKeepOperands<'_, Self>) {
        score::top_k_keep(operands);
    }

    fn check_finite(&self, operands: CheckFiniteOperands<'_, Self>) {
        let CheckFiniteOperands { values, len, tag, fault } = operands;
        score::check_finite(&values[..len], tag, fault);
    }

    fn keep_kv_heads(&self, operands: KeepKvHeadsOperands<'_, Self>) {
        score::keep_kv_heads(operands);
    }

    fn history_update(&self, operands: HistoryUpdateOperands<'_, Self>) {
        score::history_update(self, operands);
    }

    fn accumulate_moments(&self, operands: AccumulateMomentsOperands<'_, Self>) {
        score::accumulate_moments(self, operands);
    }

    fn accumulate_product(&self, operands: AccumulateProductOperands<'_, Self>) {
        product::accumulate_product(self, operands);
    }

    fn argmax(&self, ArgmaxOperands { x, rows, vocab_size, out }: ArgmaxOperands<'_, Self>) {
        for (x, out) in x.chunks_exact(vocab_size).zip(&mut out[..rows]) {
            let best = probe::largest(x, 1)[0];
            *out = if x.iter().all(|x| x.is_finite()) { best } else { u32::MAX };
        }
    }

    fn cross_entropy_scratch(&self, _rows: usize, _vocab_size: usize) -> usize {
        0
    }

    fn cross_entropy(&self, operands: CrossEntropyOperands<'_, Self>) {
        elementwise::cross_entropy(self, operands);
    }
}
