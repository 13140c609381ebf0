//! The GPU backend: one method per operation, each a launch of a hand-written kernel (`cuda/*.cu`).
//!
//! [`Gpu`] is written against [`Driver`]; [`Cuda`] drives a real device, and the tests bring an emulator. Weights and
//! activations are bfloat16 or float16, everything else float32; sums are float32 in a fixed order, so the same input
//! gives the same bits. Launches of a [`Backend::scope`] are collected and, from the second time on that the same ones
//! come, issued as one graph.

mod argmax;
mod args;
pub(crate) mod attention;
mod compensation;
mod cross_entropy;
pub mod cuda;
pub mod driver;
mod elementwise;
mod gemv;
mod issue;
mod linear;
mod memory;
mod probe;
mod score;

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

pub use cross_entropy::scratch as cross_entropy_scratch;
pub use cuda::{Cuda, OnStream};
pub use driver::{Driver, Geometry, Kernel, Launch};
pub use memory::{Activations, Buffer, Indices, Statistics, Weight, weights_on_gpu};

use crate::{
    backend::{
        Addition, AttentionShape, Backend, EnergyOf, Fusion, Grid, History, KeptBlocks, KeptSet, Linear,
        Moments, Norm, Placement, Probe, Unit, WeightUse,
    },
    checkpoint::{self, Checkpoint, Tensor},
    config::{Activation, ModelConfig},
    error::{Error, Result},
    prune::settings::{Metric, ProbeOrder},
    source::ModelSource,
};

/// The type that weights and activations have on the device; sums are float32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GpuDtype {
    /// bfloat16: float32's range.
    Bf16,
    /// float16: more precise, overflows above 65504.
    F16,
}

impl GpuDtype {
    /// What fits a checkpoint: float16 for float16, otherwise bfloat16.
    pub fn for_checkpoint(dtype: checkpoint::Dtype) -> Self {
        match dtype {
            checkpoint::Dtype::F16 => Self::F16,
            checkpoint::Dtype::BF16 | checkpoint::Dtype::F32 => Self::Bf16,
        }
    }

    /// What fits the checkpoint at `source`, without loading it.
    ///
    /// # Errors
    /// If its files cannot be read.
    pub fn for_source(source: &ModelSource) -> Result<Self> {
        let checkpoint = Checkpoint::open(source, true)?;
        let is_first = |name: &&str| name.ends_with("layers.0.self_attn.q_proj.weight");
        let first = checkpoint.names().find(is_first).and_then(|name| checkpoint.tensor(name));
        // Where it is missing, loading the model says so.
        Ok(first.map_or(Self::Bf16, |tensor| Self::for_checkpoint(tensor.dtype())))
    }

    /// "bf16" or "f16".
    pub fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }
}

/// A device with its kernels. See the [module](self).
#[derive(Debug)]
pub struct Gpu<D: Driver> {
    driver: D,
    dtype: GpuDtype,
    id: u64,
    /// The first thing that went wrong since the last download.
    error: Mutex<Option<Error>>,
    graphs: Mutex<issue::Graphs<D>>,
}

impl<D: Driver> Gpu<D> {
    /// A backend on a driver's device.
    pub fn new(driver: D, dtype: GpuDtype) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { driver, dtype, id, error: Mutex::new(None), graphs: Mutex::new(issue::Graphs::default()) }
    }

    /// The driver.
    pub fn driver(&self) -> &D {
        &self.driver
    }

    /// Type of weights and activations.
    pub fn dtype(&self) -> GpuDtype {
        self.dtype
    }
}

/// The bf16 and the f16 kernel of a module.
type PerDtype = [Kernel; 2];

/// `per_dtype!("norm")`: norm_bf16 and norm_f16 of cuda/norm.cu; `per_dtype!("linear", "logits")`: logits_… of linear.cu.
macro_rules! per_dtype {
    ($module:literal) => {
        per_dtype!($module, $module)
    };
    ($module:literal, $name:literal) => {
        [
            $crate::gpu::Kernel { module: $module, name: concat!($name, "_bf16") },
            $crate::gpu::Kernel { module: $module, name: concat!($name, "_f16") },
        ]
    };
}
use per_dtype;

impl<D: Driver> Backend for Gpu<D> {
    type Weight = Weight<D>;
    type Activations = Activations<D>;
    type Statistics = Statistics<D>;
    type Indices = Indices<D>;
    type Stamp = D::Event;

    fn scope<R: Send>(&self, operations: impl FnOnce() -> R + Send) -> R {
        self.collect(operations)
    }

    fn check_model(&self, config: &ModelConfig) -> Result<()> {
        if config.head_dim > attention::WIDEST_HEAD {
            let expected = format!("at most {} on a GPU", attention::WIDEST_HEAD);
            return Err(Error::argument(
                "head_dim",
                expected,
                config.head_dim,
                "Run it on the CPU (`device` cpu).",
            ));
        }
        Ok(())
    }

    fn weight(&self, tensor: &Tensor, usage: WeightUse) -> Result<Weight<D>> {
        self.upload_weight(tensor, usage)
    }

    fn activations(&self, len: usize) -> Result<Activations<D>> {
        Ok(Activations(self.buffer(len, 2)?))
    }

    fn statistics(&self, len: usize) -> Result<Statistics<D>> {
        Ok(Statistics(self.buffer(len, 4)?))
    }

    fn indices(&self, len: usize) -> Result<Indices<D>> {
        Ok(Indices(self.buffer(len, 4)?))
    }

    fn upload_indices(&self, values: &[u32], out: &mut Indices<D>) {
        self.upload(&out.0, bytemuck::cast_slice(values), 4);
    }

    fn upload_statistics(&self, values: &[f32], out: &mut Statistics<D>) {
        self.upload(&out.0, bytemuck::cast_slice(values), 4);
    }

    fn upload_activations(&self, values: &[f32], out: &mut Activations<D>) {
        self.upload(&out.0, &self.to_elements(values), 2);
    }

    fn clear_statistics(&self, values: &mut Statistics<D>, len: usize) {
        self.clear(&values.0, len * 4);
    }

    fn download_activations(&self, values: &Activations<D>, len: usize) -> Result<Vec<f32>> {
        Ok(self.values_of(&self.download(&values.0, len, 2)?))
    }

    fn download_statistics(&self, values: &Statistics<D>, len: usize) -> Result<Vec<f32>> {
        Ok(bytemuck::pod_collect_to_vec(&self.download(&values.0, len, 4)?))
    }

    fn download_indices(&self, values: &Indices<D>, len: usize) -> Result<Vec<u32>> {
        Ok(bytemuck::pod_collect_to_vec(&self.download(&values.0, len, 4)?))
    }

    fn stamp(&self) -> Result<D::Event> {
        self.driver.event()
    }

    fn take_stamp(&self, stamp: &mut D::Event) {
        self.record(stamp);
    }

    fn seconds_between(&self, from: &D::Event, to: &D::Event) -> Result<f64> {
        self.driver.elapsed(from, to)
    }

    fn column_statistic(&self, projection: &Linear<Self>, metric: Metric, out: &mut Statistics<D>) {
        self.column_statistic_kernel(projection, metric, out);
    }

    fn embed(
        &self,
        table: &Weight<D>,
        tokens: &Indices<D>,
        position_table: Option<(&Weight<D>, &Indices<D>)>,
        rows: usize,
        out: &mut Activations<D>,
    ) {
        self.embed_kernel(table, tokens, position_table, rows, out);
    }

    fn norm(
        &self,
        x: &Activations<D>,
        norm: Option<&Norm<Self>>,
        rows: usize,
        width: usize,
        out: &mut Activations<D>,
        sum_squares: &mut Statistics<D>,
    ) {
        self.norm_kernel(x, norm, rows, width, out, sum_squares);
    }

    fn probe_select(
        &self,
        sum_squares: &Statistics<D>,
        grid: Grid,
        order: ProbeOrder,
        positions: &Indices<D>,
        mask: Option<&Indices<D>>,
        leading_slot_limit: usize,
        probe: &mut Probe<Self>,
    ) {
        self.probe_select_kernel(sum_squares, grid, order, positions, mask, leading_slot_limit, probe);
    }

    fn probe_gather(
        &self,
        x: &Activations<D>,
        grid: Grid,
        width: usize,
        probe: &Probe<Self>,
        out: &mut Activations<D>,
    ) {
        self.probe_gather_kernel(x, grid, width, probe, out);
    }

    fn linear(
        &self,
        x: &Activations<D>,
        rows: usize,
        projection: &Linear<Self>,
        kept: Option<KeptBlocks<'_, Indices<D>>>,
        activation: Option<Activation>,
        scale: f32,
        energy: Option<EnergyOf<'_, Self>>,
        out: &mut Activations<D>,
    ) {
        self.linear_kernel(x, rows, projection, kept, activation, scale, energy, out);
    }

    fn gated_linear(
        &self,
        x: &Activations<D>,
        rows: usize,
        gate: &Linear<Self>,
        up: &Linear<Self>,
        kept: Option<KeptBlocks<'_, Indices<D>>>,
        activation: Activation,
        energy: Option<EnergyOf<'_, Self>>,
        out: &mut Activations<D>,
    ) {
        self.gated_linear_kernel(x, rows, gate, up, kept, activation, energy, out);
    }

    fn logits(&self, x: &Activations<D>, rows: usize, head: &Linear<Self>, out: &mut Statistics<D>) {
        self.logits_kernel(x, rows, head, out);
    }

    fn project(
        &self,
        a: &Activations<D>,
        rows: usize,
        projection: &Linear<Self>,
        kept: Option<KeptBlocks<'_, Indices<D>>>,
        bias: Option<&Statistics<D>>,
        addition: Option<Addition<'_, Self>>,
        residual: Option<&Activations<D>>,
        out: &mut Activations<D>,
    ) {
        self.project_kernel(a, rows, projection, kept, bias, addition, residual, out);
    }

    fn place_qkv(
        &self,
        q: &mut Activations<D>,
        k: &mut Activations<D>,
        v: &Activations<D>,
        placement: Placement<'_, Self>,
    ) {
        self.place_qkv_kernel(q, k, v, placement);
    }

    fn attention(
        &self,
        q: &Activations<D>,
        k: &Activations<D>,
        v: &Activations<D>,
        shape: AttentionShape,
        kv_slots: &Indices<D>,
        mask: Option<&Indices<D>>,
        slots: Option<&Indices<D>>,
        out: &mut Activations<D>,
    ) {
        self.attention_kernel(q, k, v, shape, kv_slots, mask, slots, out);
    }

    fn energy(
        &self,
        a: &Activations<D>,
        grid: Grid,
        width: usize,
        mask: Option<&Indices<D>>,
        out: &mut Statistics<D>,
        sums: Option<&mut Statistics<D>>,
    ) {
        self.energy_kernel(a, grid, width, mask, out, sums.map(|sums| &*sums));
    }

    fn centre_energy(
        &self,
        p: &mut Statistics<D>,
        sums: &Statistics<D>,
        grid: Grid,
        width: usize,
        mask: Option<&Indices<D>>,
        prior: Option<(&Statistics<D>, f32)>,
        share: f32,
        mean: &mut Statistics<D>,
    ) {
        self.centre_energy_kernel(p, sums, grid, width, mask, prior, share, mean);
    }

    fn gather_pruned(
        &self,
        kept: KeptBlocks<'_, Indices<D>>,
        rows: Option<(&Statistics<D>, usize)>,
        last: &Statistics<D>,
        pruned: &mut KeptSet<Indices<D>>,
        out: &mut Activations<D>,
    ) {
        self.gather_pruned_kernel(kept, rows, last, pruned, out);
    }

    fn channel_score(
        &self,
        p: &Statistics<D>,
        tokens: usize,
        width: usize,
        fusion: Fusion<'_, Self>,
        metric: Metric,
        statistic: &Statistics<D>,
        unit: Unit,
        out: &mut Statistics<D>,
    ) {
        self.channel_score_kernel(p, tokens, width, fusion, metric, statistic, unit, out);
    }

    fn top_k_keep(
        &self,
        scores: &Statistics<D>,
        kept: &mut KeptSet<Indices<D>>,
        tag: u32,
        fault: &mut Indices<D>,
    ) {
        self.top_k_keep_kernel(scores, kept, tag, fault);
    }

    fn check_finite(&self, values: &Statistics<D>, len: usize, tag: u32, fault: &mut Indices<D>) {
        self.check_finite_kernel(values, len, tag, fault);
    }

    fn keep_kv_heads(
        &self,
        heads: &KeptSet<Indices<D>>,
        group: usize,
        kv_kept: &mut KeptSet<Indices<D>>,
        kv_slots: &mut Indices<D>,
    ) {
        self.keep_kv_heads_kernel(heads, group, kv_kept, kv_slots);
    }

    fn history_update(
        &self,
        p: &Statistics<D>,
        tokens: usize,
        at: usize,
        kept: KeptBlocks<'_, Indices<D>>,
        momentum: f64,
        history: &mut History<Self>,
    ) {
        self.history_update_kernel(p, tokens, at, kept, momentum, history);
    }

    fn accumulate_moments(
        &self,
        a: &Activations<D>,
        grid: Grid,
        width: usize,
        seen: usize,
        moments: &mut Moments<Self>,
    ) {
        self.accumulate_moments_kernel(a, grid, width, seen, moments);
    }

    fn accumulate_product(
        &self,
        a: &Activations<D>,
        b: &Activations<D>,
        rows: usize,
        widths: [usize; 2],
        out: &mut Statistics<D>,
    ) {
        self.accumulate_product_kernel(a, b, rows, widths, out);
    }

    fn argmax(&self, x: &Statistics<D>, rows: usize, width: usize, out: &mut Indices<D>) {
        self.argmax_kernel(x, rows, width, out);
    }

    fn cross_entropy_scratch(&self, rows: usize, vocab_size: usize) -> usize {
        cross_entropy::scratch(rows, vocab_size)
    }

    fn cross_entropy(
        &self,
        x: &Activations<D>,
        rows: usize,
        head: &Linear<Self>,
        targets: &Indices<D>,
        scratch: &mut Statistics<D>,
        out: &mut Statistics<D>,
    ) {
        self.cross_entropy_kernel(x, rows, head, targets, scratch, out);
    }
}
