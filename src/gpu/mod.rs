//! The GPU backend: one method per operation, each a launch of a hand-written kernel (`cuda/*.cu`).
//!
//! [`Gpu`] is written against [`Driver`]; [`Cuda`] drives a real device, and the tests bring an emulator. Weights and
//! activations are bfloat16 or float16, everything else float32; sums are float32 in a fixed order, so the same input
//! gives the same bits. Launches of a [`Backend::scope`] are collected; a repeated sequence is issued as one graph.

mod adapt;
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
mod limits;
mod linear;
mod memory;
mod probe;
mod project;
mod rates;
mod score;
mod tile;

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

pub use cross_entropy::scratch as cross_entropy_scratch;
pub use cuda::{Cuda, OnStream};
pub use driver::{Driver, Geometry, Kernel, Launch};
pub use limits::LARGEST_SIZE;
pub use memory::{Activations, Buffer, Indices, Statistics, Weight, weights_on_gpu};
pub use rates::Speed;
pub use tile::Tile;

use crate::{
    backend::{
        AccumulateMomentsOperands, AccumulateProductOperands, AdaptOperands, ArgmaxOperands,
        AttentionOperands, Backend, CentreEnergyOperands, ChannelScoreOperands, CheckFiniteOperands,
        ColumnStatisticOperands, CrossEntropyOperands, EmbedOperands, EnergyOperands, GatedLinearOperands,
        GatherPrunedOperands, HistoryUpdateOperands, KeepKvHeadsOperands, LinearOperands, LogitsOperands,
        NormOperands, ProbeGatherOperands, ProbeSelectOperands, ProjectOperands, Rates, RopeCacheOperands,
        TopKKeepOperands, WeightUse,
    },
    checkpoint::{self, Checkpoint, Tensor},
    config::ModelConfig,
    error::{Error, Result},
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
    /// The type for a checkpoint: float16 for float16, otherwise bfloat16.
    pub fn for_checkpoint(dtype: checkpoint::Dtype) -> Self {
        match dtype {
            checkpoint::Dtype::F16 => Self::F16,
            checkpoint::Dtype::BF16 | checkpoint::Dtype::F32 => Self::Bf16,
        }
    }

    /// The type for the weights of `checkpoint`.
    pub fn for_weights(checkpoint: &Checkpoint) -> Self {
        let is_first = |name: &&str| name.ends_with("layers.0.self_attn.q_proj.weight");
        let first = checkpoint.names().find(is_first).and_then(|name| checkpoint.tensor(name));
        // A missing one is reported when the model is loaded.
        first.map_or(Self::Bf16, |tensor| Self::for_checkpoint(tensor.dtype()))
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
    /// The tile of all products on tensor cores; `None` for the one that suits each.
    tile: Option<Tile>,
    id: u64,
    /// The first error since the last download.
    error: Mutex<Option<Error>>,
    graphs: Mutex<issue::Graphs<D>>,
}

impl<D: Driver> Gpu<D> {
    /// A backend on a driver's device.
    pub fn new(driver: D, dtype: GpuDtype) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let (error, graphs) = (Mutex::new(None), Mutex::new(issue::Graphs::default()));
        Self { driver, dtype, tile: None, id, error, graphs }
    }

    /// Takes this tile for every product on tensor cores, not the one that is fastest for its shape: for measurements and
    /// tests.
    pub fn with_tile(self, tile: Tile) -> Self {
        Self { tile: Some(tile), ..self }
    }

    /// The tile of a product with this many rows and columns.
    fn tile_for(&self, rows: usize, columns: usize, tile_columns: usize) -> Tile {
        self.tile.unwrap_or_else(|| Tile::choose(rows, columns, tile_columns, self.driver.multiprocessors()))
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

/// `per_dtype!("norm")`: norm_bf16 and norm_f16 of cuda/norm.cu; `per_dtype!("linear", "logits")`: logits_… of
/// linear.cu.
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

    const TRANSPOSES_COLUMNS: bool = true;

    fn scope<R: Send>(&self, operations: impl FnOnce() -> R + Send) -> R {
        self.collect(operations)
    }

    fn check_model(&self, config: &ModelConfig) -> Result<()> {
        limits::check_model(config)
    }

    fn check_sizes(&self, sizes: &[(&str, usize)]) -> Result<()> {
        limits::check_sizes(sizes)
    }

    fn rates(&self) -> Rates {
        self.driver.speed().rates()
    }

    fn weight(&self, tensor: &Tensor, usage: WeightUse) -> Result<Weight<D>> {
        self.upload_weight(tensor, usage)
    }

    fn download_weight(&self, weight: &Weight<D>) -> Result<Tensor> {
        self.weight_as_tensor(weight)
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

    fn column_statistic(&self, operands: ColumnStatisticOperands<'_, Self>) {
        self.column_statistic_kernel(operands);
    }

    fn embed(&self, operands: EmbedOperands<'_, Self>) {
        self.embed_kernel(operands);
    }

    fn norm(&self, operands: NormOperands<'_, Self>) {
        self.norm_kernel(operands);
    }

    fn probe_select(&self, operands: ProbeSelectOperands<'_, Self>) {
        self.probe_select_kernel(operands);
    }

    fn probe_gather(&self, operands: ProbeGatherOperands<'_, Self>) {
        self.probe_gather_kernel(operands);
    }

    fn linear(&self, operands: LinearOperands<'_, Self>) {
        self.linear_kernel(operands);
    }

    fn gated_linear(&self, operands: GatedLinearOperands<'_, Self>) {
        self.gated_linear_kernel(operands);
    }

    fn logits(&self, operands: LogitsOperands<'_, Self>) {
        self.logits_kernel(operands);
    }

    fn project(&self, operands: ProjectOperands<'_, Self>) {
        self.project_kernel(operands);
    }

    fn rope_cache(&self, operands: RopeCacheOperands<'_, Self>) {
        self.rope_cache_kernel(operands);
    }

    fn attention(&self, operands: AttentionOperands<'_, Self>) {
        self.attention_kernel(operands);
    }

    fn energy(&self, operands: EnergyOperands<'_, Self>) {
        self.energy_kernel(operands);
    }

    fn centre_energy(&self, operands: CentreEnergyOperands<'_, Self>) {
        self.centre_energy_kernel(operands);
    }

    fn gather_pruned(&self, operands: GatherPrunedOperands<'_, Self>) {
        self.gather_pruned_kernel(operands);
    }

    fn channel_score(&self, operands: ChannelScoreOperands<'_, Self>) {
        self.channel_score_kernel(operands);
    }

    fn top_k_keep(&self, operands: TopKKeepOperands<'_, Self>) {
        self.top_k_keep_kernel(operands);
    }

    fn check_finite(&self, operands: CheckFiniteOperands<'_, Self>) {
        self.check_finite_kernel(operands);
    }

    fn keep_kv_heads(&self, operands: KeepKvHeadsOperands<'_, Self>) {
        self.keep_kv_heads_kernel(operands);
    }

    fn history_update(&self, operands: HistoryUpdateOperands<'_, Self>) {
        self.history_update_kernel(operands);
    }

    fn accumulate_moments(&self, operands: AccumulateMomentsOperands<'_, Self>) {
        self.accumulate_moments_kernel(operands);
    }

    fn accumulate_product(&self, operands: AccumulateProductOperands<'_, Self>) {
        self.accumulate_product_kernel(operands);
    }

    fn adapt(&self, operands: AdaptOperands<'_, Self>) {
        self.adapt_kernels(operands);
    }

    fn argmax(&self, operands: ArgmaxOperands<'_, Self>) {
        self.argmax_kernel(operands);
    }

    fn cross_entropy_scratch(&self, rows: usize, vocab_size: usize) -> usize {
        cross_entropy::scratch(rows, vocab_size)
    }

    fn cross_entropy(&self, operands: CrossEntropyOperands<'_, Self>) {
        self.cross_entropy_kernel(operands);
    }
}
