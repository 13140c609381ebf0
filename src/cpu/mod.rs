//! The CPU backend: plain Rust and the `gemm` crate. It is the readable meaning of every operation, written
//! independently of the CUDA kernels so that a shared misreading cannot hide.
//!
//! Weights stay in the checkpoint's mapping and dtype; activations and statistics are f32.

mod attention;
mod buffer;
mod elementwise;
mod gemm;
mod math;
mod matrix;
mod probe;
mod score;
mod threads;

use std::{sync::Mutex, time::Instant};

use crate::{
    backend::{
        Addition, AttentionShape, Backend, CacheSlots, EnergyOf, Fusion, Grid, History, KeptBlocks, KeptSet,
        Linear, Moments, Norm, Placement, Probe, Unit, WeightUse,
    },
    checkpoint::Tensor,
    config::Activation,
    error::{Error, Result},
    prune::settings::{Metric, ProbeOrder},
};
pub use buffer::Buffer;
pub use matrix::Matrix;
use matrix::{Pick, picked, picked_bias, picked_rows};

/// Conversion and accumulation buffers of one thread.
struct Scratch {
    /// Converted weights.
    panel: Vec<f32>,
    /// Products on their way to the output.
    values: Vec<f32>,
    /// Weights on their way to the panel, or inputs spread out.
    tile: Vec<f32>,
}

/// The CPU backend with its own pool of threads.
pub struct Cpu {
    pool: rayon::ThreadPool,
    /// After the pool: its threads end once that is gone.
    _threads: threads::Threads,
    scratch: Vec<Mutex<Scratch>>,
    arch: pulp::Arch,
}

impl Cpu {
    /// A backend that works with `threads` threads; 0 takes every core.
    ///
    /// # Errors
    /// If the threads cannot be started.
    pub fn new(threads: usize) -> Result<Self> {
        let (pool, started) = threads::pool(threads).map_err(|error| {
            Error::argument(
                "threads",
                "a number of threads that can be started",
                format!("{threads} ({error})"),
                "Ask for fewer.",
            )
        })?;
        let new = || Scratch {
            panel: vec![0.0; gemm::PANEL_LEN],
            values: vec![0.0; gemm::PANEL_LEN],
            tile: vec![0.0; gemm::PANEL_LEN],
        };
        let scratch = (0..pool.current_num_threads()).map(|_| Mutex::new(new())).collect();
        Ok(Self { pool, _threads: started, scratch, arch: pulp::Arch::new() })
    }

    /// Threads at work.
    pub fn threads(&self) -> usize {
        self.scratch.len()
    }

    /// Calls `f` compiled for the widest vectors that this CPU has. `f` and what it calls must be `#[inline(always)]`:
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

    /// The energies of a product (T, width).
    fn energy_of(&self, product: &[f32], width: usize, energy: Option<EnergyOf<'_, Self>>) {
        if let Some(EnergyOf { grid, mask, out, alone: _ }) = energy {
            probe::energy(self, product, grid, width, mask, out, None);
        }
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

    fn scope<R: Send>(&self, operations: impl FnOnce() -> R + Send) -> R {
        self.pool.install(operations)
    }

    fn weight(&self, tensor: &Tensor, _usage: WeightUse) -> Result<Matrix> {
        let (rows, columns) = match *tensor.shape() {
            [rows, columns] => (rows, columns),
            _ => unreachable!("weights were checked to be matrices"),
        };
        Ok(Matrix { tensor: tensor.clone(), rows, columns })
    }

    fn activations(&self, len: usize) -> Result<Buffer<f32>> {
        Ok(vec![0.0; len].into())
    }

    fn statistics(&self, len: usize) -> Result<Buffer<f32>> {
        Ok(vec![0.0; len].into())
    }

    fn indices(&self, len: usize) -> Result<Buffer<u32>> {
        Ok(vec![0; len].into())
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
        Ok(values[..len].to_vec())
    }

    fn download_statistics(&self, values: &Buffer<f32>, len: usize) -> Result<Vec<f32>> {
        Ok(values[..len].to_vec())
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

    fn column_statistic(&self, projection: &Linear<Self>, metric: Metric, out: &mut Buffer<f32>) {
        score::column_statistic(self, &projection.weight, metric, out);
    }

    fn embed(
        &self,
        table: &Matrix,
        tokens: &Buffer<u32>,
        position_table: Option<(&Matrix, &Buffer<u32>)>,
        rows: usize,
        out: &mut Buffer<f32>,
    ) {
        elementwise::embed(self, table, tokens, position_table, rows, out);
    }

    fn norm(
        &self,
        x: &Buffer<f32>,
        norm: Option<&Norm<Self>>,
        rows: usize,
        width: usize,
        out: &mut Buffer<f32>,
        sum_squares: &mut Buffer<f32>,
    ) {
        elementwise::norm(self, x, norm, rows, width, out, sum_squares);
    }

    fn probe_select(
        &self,
        sum_squares: &Buffer<f32>,
        grid: Grid,
        order: ProbeOrder,
        positions: &Buffer<u32>,
        mask: Option<&Buffer<u32>>,
        leading_slot_limit: usize,
        probe: &mut Probe<Self>,
    ) {
        probe::select(sum_squares, grid, order, positions, mask, leading_slot_limit, probe);
    }

    fn probe_gather(
        &self,
        x: &Buffer<f32>,
        grid: Grid,
        width: usize,
        probe: &Probe<Self>,
        out: &mut Buffer<f32>,
    ) {
        probe::gather(self, x, grid, width, probe, out);
    }

    fn linear(
        &self,
        x: &Buffer<f32>,
        rows: usize,
        projection: &Linear<Self>,
        kept: Option<KeptBlocks<'_, Buffer<u32>>>,
        activation: Option<Activation>,
        scale: f32,
        energy: Option<EnergyOf<'_, Self>>,
        out: &mut Buffer<f32>,
    ) {
        let pick = picked_rows(kept, projection.out_features);
        let columns = Pick::All(projection.in_features);
        let bias = picked_bias(projection.bias.as_ref(), pick);
        gemm::multiply(
            self,
            x,
            rows,
            &projection.weight,
            pick,
            columns,
            None,
            out,
            #[inline(always)]
            |values, _, first| {
                elementwise::bias_activation_scale(values, bias.as_deref(), first, activation, scale);
            },
        );
        self.energy_of(out, pick.len(), energy);
    }

    fn logits(&self, x: &Buffer<f32>, rows: usize, head: &Linear<Self>, out: &mut Buffer<f32>) {
        self.linear(x, rows, head, None, None, 1.0, None, out);
    }

    fn gated_linear(
        &self,
        x: &Buffer<f32>,
        rows: usize,
        gate: &Linear<Self>,
        up: &Linear<Self>,
        kept: Option<KeptBlocks<'_, Buffer<u32>>>,
        activation: Activation,
        energy: Option<EnergyOf<'_, Self>>,
        out: &mut Buffer<f32>,
    ) {
        let pick = picked_rows(kept, gate.out_features);
        let [gate_bias, up_bias] = [gate, up].map(|linear| picked_bias(linear.bias.as_ref(), pick));
        gemm::multiply_pair(
            self,
            x,
            rows,
            [&gate.weight, &up.weight],
            pick,
            out,
            #[inline(always)]
            |gate, up, first| {
                elementwise::bias_activation_scale(up, up_bias.as_deref(), first, None, 1.0);
                elementwise::bias_activation_scale(gate, gate_bias.as_deref(), first, Some(activation), 1.0);
                for (gate, up) in gate.iter_mut().zip(up) {
                    *gate *= *up;
                }
            },
        );
        self.energy_of(out, pick.len(), energy);
    }

    fn project(
        &self,
        a: &Buffer<f32>,
        rows: usize,
        projection: &Linear<Self>,
        kept: Option<KeptBlocks<'_, Buffer<u32>>>,
        bias: Option<&Buffer<f32>>,
        addition: Option<Addition<'_, Self>>,
        residual: Option<&Buffer<f32>>,
        out: &mut Buffer<f32>,
    ) {
        let columns = picked(kept, projection.in_features);
        let width = projection.out_features;
        let added = addition.map(|Addition { z, rank, weight }| gemm::Added { z, rank, weight });
        let constant = addition.map(|Addition { rank, weight, .. }| &weight[rank * width..]);
        gemm::multiply(
            self,
            a,
            rows,
            &projection.weight,
            Pick::All(width),
            columns,
            added,
            out,
            #[inline(always)]
            |values, row, first| {
                if let Some(bias) = bias {
                    elementwise::add(values, &bias[first..]);
                }
                if let Some(constant) = constant {
                    elementwise::add(values, &constant[first..]);
                }
                if let Some(residual) = residual {
                    elementwise::add(values, &residual[row * width + first..]);
                }
            },
        );
    }

    fn place_qkv(
        &self,
        q: &mut Buffer<f32>,
        k: &mut Buffer<f32>,
        v: &Buffer<f32>,
        placement: Placement<'_, Self>,
    ) {
        let Placement { grid, heads, kv_heads, head_dim, rotary, cache } = placement;
        if let Some((table, positions)) = rotary {
            elementwise::rope(self, q, grid.rows(), heads, head_dim, table, positions);
            elementwise::rope(self, k, grid.rows(), kv_heads, head_dim, table, positions);
        }
        if let Some(CacheSlots { keys, values, capacity, at }) = cache {
            let width = kv_heads * head_dim;
            for (from, to) in [(&*k, keys), (v, values)] {
                let samples = from.chunks_exact(grid.tokens * width).take(grid.samples);
                for (from, to) in samples.zip(to.chunks_exact_mut(capacity * width)) {
                    to[at * width..][..from.len()].copy_from_slice(from);
                }
            }
        }
    }

    fn attention(
        &self,
        q: &Buffer<f32>,
        k: &Buffer<f32>,
        v: &Buffer<f32>,
        shape: AttentionShape,
        kv_slots: &Buffer<u32>,
        mask: Option<&Buffer<u32>>,
        slots: Option<&Buffer<u32>>,
        out: &mut Buffer<f32>,
    ) {
        attention::attention(self, q, k, v, shape, kv_slots, mask, slots, out);
    }

    fn energy(
        &self,
        a: &Buffer<f32>,
        grid: Grid,
        width: usize,
        mask: Option<&Buffer<u32>>,
        out: &mut Buffer<f32>,
        sums: Option<&mut Buffer<f32>>,
    ) {
        probe::energy(self, a, grid, width, mask, out, sums);
    }

    fn centre_energy(
        &self,
        p: &mut Buffer<f32>,
        sums: &Buffer<f32>,
        grid: Grid,
        width: usize,
        mask: Option<&Buffer<u32>>,
        prior: Option<(&Buffer<f32>, f32)>,
        share: f32,
        mean: &mut Buffer<f32>,
    ) {
        probe::centre_energy(self, p, sums, grid, width, mask, prior, share, mean);
    }

    fn gather_pruned(
        &self,
        kept: KeptBlocks<'_, Buffer<u32>>,
        rows: Option<(&Buffer<f32>, usize)>,
        last: &Buffer<f32>,
        pruned: &mut KeptSet<Buffer<u32>>,
        out: &mut Buffer<f32>,
    ) {
        probe::gather_pruned(kept, rows, last, pruned, out);
    }

    fn channel_score(
        &self,
        p: &Buffer<f32>,
        tokens: usize,
        width: usize,
        fusion: Fusion<'_, Self>,
        metric: Metric,
        statistic: &Buffer<f32>,
        unit: Unit,
        out: &mut Buffer<f32>,
    ) {
        score::channel_score(self, p, tokens, width, fusion, metric, statistic, unit, out);
    }

    fn top_k_keep(
        &self,
        scores: &Buffer<f32>,
        kept: &mut KeptSet<Buffer<u32>>,
        tag: u32,
        fault: &mut Buffer<u32>,
    ) {
        score::top_k_keep(scores, kept, tag, fault);
    }

    fn check_finite(&self, values: &Buffer<f32>, len: usize, tag: u32, fault: &mut Buffer<u32>) {
        score::check_finite(&values[..len], tag, fault);
    }

    fn keep_kv_heads(
        &self,
        heads: &KeptSet<Buffer<u32>>,
        group: usize,
        kv_kept: &mut KeptSet<Buffer<u32>>,
        kv_slots: &mut Buffer<u32>,
    ) {
        score::keep_kv_heads(heads, group, kv_kept, kv_slots);
    }

    fn history_update(
        &self,
        p: &Buffer<f32>,
        tokens: usize,
        at: usize,
        kept: KeptBlocks<'_, Buffer<u32>>,
        momentum: f64,
        history: &mut History<Self>,
    ) {
        score::history_update(self, p, tokens, at, kept, momentum, history);
    }

    fn accumulate_moments(
        &self,
        a: &Buffer<f32>,
        grid: Grid,
        width: usize,
        seen: usize,
        moments: &mut Moments<Self>,
    ) {
        score::accumulate_moments(self, a, grid, width, seen, moments);
    }

    fn accumulate_product(
        &self,
        a: &Buffer<f32>,
        b: &Buffer<f32>,
        rows: usize,
        widths: [usize; 2],
        out: &mut Buffer<f32>,
    ) {
        gemm::accumulate_product(self, a, b, rows, widths, out);
    }

    fn argmax(&self, x: &Buffer<f32>, rows: usize, width: usize, out: &mut Buffer<u32>) {
        for (x, out) in x.chunks_exact(width).zip(&mut out[..rows]) {
            let best = probe::largest(x, 1)[0];
            *out = if x.iter().all(|x| x.is_finite()) { best } else { u32::MAX };
        }
    }

    fn cross_entropy_scratch(&self, _rows: usize, _vocab_size: usize) -> usize {
        0
    }

    fn cross_entropy(
        &self,
        x: &Buffer<f32>,
        rows: usize,
        head: &Linear<Self>,
        targets: &Buffer<u32>,
        _scratch: &mut Buffer<f32>,
        out: &mut Buffer<f32>,
    ) {
        elementwise::cross_entropy(self, x, rows, &head.weight, targets, out);
    }
}
