//! What a device has to be able to do: about thirty semantic, fused operations.
//!
//! The model ([`crate::model`]) and the method ([`crate::prune`]) are written against [`Backend`] alone. Three rules
//! make the same code fit a CPU and a captured CUDA graph:
//!
//! - outputs are caller-owned: a session allocates its scratch once and no operation allocates;
//! - a selection stays on the device: [`KeptSet`] has its length on the host (known from settings alone) and its
//!   indices on the device, so nothing about a selection travels to the host inside a forward;
//! - operations are deterministic: the same input gives the same bits, for any number of threads.
//!
//! Letters in shapes: B samples, S tokens per sample, T = B·S rows, H `hidden_size`, I `intermediate_size`,
//! N query heads, K key/value heads, D `head_dim`, C channels (N·D or I), V vocabulary. A subscript p means the
//! probe's. All matrices are row-major; rows of a (B, S, ·) tensor are ordered sample by sample.

mod types;

pub use types::*;

use crate::{
    checkpoint::Tensor,
    config::{Activation, ModelConfig},
    error::Result,
    prune::settings::{Metric, ProbeOrder},
};

/// A device with the operations of a decoder block. Methods that take `kept: None` work on everything.
pub trait Backend: Sized + Send + Sync + 'static {
    /// A weight matrix on the device. Clones share its memory, as a tied head does the embedding's.
    type Weight: Clone + Send + Sync + std::fmt::Debug;
    /// Activations: hidden states, q, k, v, intermediate states.
    type Activations: Send + Sync + std::fmt::Debug;
    /// Float32 vectors and tables: norm weights, energies, scores, history, losses.
    type Statistics: Send + Sync + std::fmt::Debug;
    /// Unsigned 32-bit integers: tokens, positions, masks, kept indices.
    type Indices: Send + Sync + std::fmt::Debug;
    /// A moment in the device's work; see [`crate::model::timeline`].
    type Stamp: Send + Sync + std::fmt::Debug;

    /// Runs a sequence of operations; a backend with a pool of threads enters it once here instead of in each of them.
    fn scope<R: Send>(&self, operations: impl FnOnce() -> R + Send) -> R {
        operations()
    }

    /// Refuses a model that the backend has no operations for.
    ///
    /// # Errors
    /// [`crate::Error::Argument`] naming the field of config.json.
    fn check_model(&self, _config: &ModelConfig) -> Result<()> {
        Ok(())
    }

    /// Puts a checkpoint tensor (rows, columns) on the device.
    ///
    /// # Errors
    /// If the device has no room for it.
    fn weight(&self, tensor: &Tensor, usage: WeightUse) -> Result<Self::Weight>;
    /// Zeroed activations. Called while a session is made, never inside a forward.
    ///
    /// # Errors
    /// If the device has no room for them.
    fn activations(&self, len: usize) -> Result<Self::Activations>;
    /// Zeroed statistics.
    ///
    /// # Errors
    /// If the device has no room for them.
    fn statistics(&self, len: usize) -> Result<Self::Statistics>;
    /// Zeroed indices.
    ///
    /// # Errors
    /// If the device has no room for them.
    fn indices(&self, len: usize) -> Result<Self::Indices>;
    /// Host to device, into the first `values.len()` entries.
    fn upload_indices(&self, values: &[u32], out: &mut Self::Indices);
    /// Host to device, into the first `values.len()` entries.
    fn upload_statistics(&self, values: &[f32], out: &mut Self::Statistics);
    /// Host to device, into the first `values.len()` entries.
    fn upload_activations(&self, values: &[f32], out: &mut Self::Activations);
    /// Sets the first `len` entries to 0.
    fn clear_statistics(&self, values: &mut Self::Statistics, len: usize);
    /// Device to host: the first `len` entries, once all work on them is done.
    ///
    /// # Errors
    /// Whatever went wrong on the device since the last download; other operations only take note of it.
    fn download_activations(&self, values: &Self::Activations, len: usize) -> Result<Vec<f32>>;
    /// Device to host: the first `len` entries, once all work on them is done.
    ///
    /// # Errors
    /// Whatever went wrong on the device since the last download; other operations only take note of it.
    fn download_statistics(&self, values: &Self::Statistics, len: usize) -> Result<Vec<f32>>;
    /// Device to host: the first `len` entries, once all work on them is done.
    ///
    /// # Errors
    /// Whatever went wrong on the device since the last download; other operations only take note of it.
    fn download_indices(&self, values: &Self::Indices, len: usize) -> Result<Vec<u32>>;

    /// A stamp, to be taken later. Like memory, made beforehand and never inside a forward.
    ///
    /// # Errors
    /// If the device has no more of them.
    fn stamp(&self) -> Result<Self::Stamp>;
    /// Marks the moment between the operations before and those after; waits for nothing.
    fn take_stamp(&self, stamp: &mut Self::Stamp);
    /// Seconds from one stamp to a later one, once all operations before both are done.
    ///
    /// # Errors
    /// A device that failed.
    fn seconds_between(&self, from: &Self::Stamp, to: &Self::Stamp) -> Result<f64>;

    /// Σ_o |W|, Σ_o W² or sqrt(Σ_o W⁴) of every column of a last projection (spec section 4): out (in_features).
    fn column_statistic(&self, projection: &Linear<Self>, metric: Metric, out: &mut Self::Statistics);

    /// out\[t\] = table\[tokens\[t\]\] (+ position_table\[positions\[t\]\]): (T, width).
    fn embed(
        &self,
        table: &Self::Weight,
        tokens: &Self::Indices,
        position_table: Option<(&Self::Weight, &Self::Indices)>,
        rows: usize,
        out: &mut Self::Activations,
    );

    /// out = norm(x) (T, H) and sum_squares\[t\] = Σ x², the residual importance that the norm computes anyway.
    /// `norm` of `None` (post-norm OPT) copies x.
    fn norm(
        &self,
        x: &Self::Activations,
        norm: Option<&Norm<Self>>,
        rows: usize,
        width: usize,
        out: &mut Self::Activations,
        sum_squares: &mut Self::Statistics,
    );

    /// Chooses the probe's tokens and samples by residual importance (spec section 1) and gathers their positions
    /// and mask. `probe.grid` holds the counts; `leading_slot_limit`: with at most so many tokens the first kept slot
    /// becomes the first one that is not a pad in every sample.
    fn probe_select(
        &self,
        sum_squares: &Self::Statistics,
        grid: Grid,
        order: ProbeOrder,
        positions: &Self::Indices,
        mask: Option<&Self::Indices>,
        leading_slot_limit: usize,
        probe: &mut Probe<Self>,
    );

    /// out (B_p·S_p, width) = the probe's rows of x (T, width).
    fn probe_gather(
        &self,
        x: &Self::Activations,
        grid: Grid,
        width: usize,
        probe: &Probe<Self>,
        out: &mut Self::Activations,
    );

    /// out (T, kept rows) = activation(x·W\[kept rows\]ᵀ + bias\[kept rows\]) · scale.
    fn linear(
        &self,
        x: &Self::Activations,
        rows: usize,
        projection: &Linear<Self>,
        kept: Option<KeptBlocks<'_, Self::Indices>>,
        activation: Option<Activation>,
        scale: f32,
        energy: Option<EnergyOf<'_, Self>>,
        out: &mut Self::Activations,
    );

    /// out (T, kept rows) = activation(x·gateᵀ) · (x·upᵀ), rows of both restricted to the kept channels.
    fn gated_linear(
        &self,
        x: &Self::Activations,
        rows: usize,
        gate: &Linear<Self>,
        up: &Linear<Self>,
        kept: Option<KeptBlocks<'_, Self::Indices>>,
        activation: Activation,
        energy: Option<EnergyOf<'_, Self>>,
        out: &mut Self::Activations,
    );

    /// out (T, V) = x·headᵀ in float32.
    fn logits(&self, x: &Self::Activations, rows: usize, head: &Linear<Self>, out: &mut Self::Statistics);

    /// out (T, H) = residual + a·W\[:, kept\]ᵀ + bias, where a (T, kept columns) is compact and `bias` stands in for
    /// the projection's own; with an addition, + z·weight\[..r\] + weight\[r\].
    fn project(
        &self,
        a: &Self::Activations,
        rows: usize,
        projection: &Linear<Self>,
        kept: Option<KeptBlocks<'_, Self::Indices>>,
        bias: Option<&Self::Statistics>,
        addition: Option<Addition<'_, Self>>,
        residual: Option<&Self::Activations>,
        out: &mut Self::Activations,
    );

    /// Rotates q (T, N·D) and k (T, K·D) in place and copies k and v (T, K·D) to their slots of the cache.
    fn place_qkv(
        &self,
        q: &mut Self::Activations,
        k: &mut Self::Activations,
        v: &Self::Activations,
        placement: Placement<'_, Self>,
    );

    /// Causal softmax attention, out (T, heads, D). `kv_slots` (heads): the key/value slot of each query head.
    /// `mask` (B, key_capacity): 0 hides a key. `slots` (keys): the slots of a probe's tokens, for `window`.
    /// A query row without any visible key gives 0.
    fn attention(
        &self,
        q: &Self::Activations,
        k: &Self::Activations,
        v: &Self::Activations,
        shape: AttentionShape,
        kv_slots: &Self::Indices,
        mask: Option<&Self::Indices>,
        slots: Option<&Self::Indices>,
        out: &mut Self::Activations,
    );

    /// out (S, C) = mean over samples of a², a (B, S, C). With a mask, pads are left out and the divisor at a slot is
    /// its number of tokens + 1e-3. `sums` (S, C) = Σ over samples of a, pads left out.
    fn energy(
        &self,
        a: &Self::Activations,
        grid: Grid,
        width: usize,
        mask: Option<&Self::Indices>,
        out: &mut Self::Statistics,
        sums: Option<&mut Self::Statistics>,
    );

    /// Moves energies and sums (S, C) of [`Backend::energy`] to a share of the mean: p\[s,c\] = mean over samples of
    /// (a − share·mean\[c\])², with the divisors of `energy`, where mean\[c\] = m, the mean of a over all tokens that are not
    /// pads, or with a prior (C) and a weight w in \[0, 1\], prior\[c\] + w·(m − prior\[c\]).
    fn centre_energy(
        &self,
        p: &mut Self::Statistics,
        sums: &Self::Statistics,
        grid: Grid,
        width: usize,
        mask: Option<&Self::Indices>,
        prior: Option<(&Self::Statistics, f32)>,
        share: f32,
        mean: &mut Self::Statistics,
    );

    /// What is not kept: `pruned.indices` = the `pruned.len` units of `kept.set.of` that are not in `kept`, ascending, and
    /// out (r + 1, pruned channels) = these columns of `rows` (r, C) and, in the last row, of `last` (C).
    fn gather_pruned(
        &self,
        kept: KeptBlocks<'_, Self::Indices>,
        rows: Option<(&Self::Statistics, usize)>,
        last: &Self::Statistics,
        pruned: &mut KeptSet<Self::Indices>,
        out: &mut Self::Activations,
    );

    /// Scores from energies p (tokens, C): fusion with history, Σ over tokens, × column statistic, one for each
    /// [`Unit`]: out (C / unit width).
    fn channel_score(
        &self,
        p: &Self::Statistics,
        tokens: usize,
        width: usize,
        fusion: Fusion<'_, Self>,
        metric: Metric,
        statistic: &Self::Statistics,
        unit: Unit,
        out: &mut Self::Statistics,
    );

    /// The `kept.len` highest scores (`kept.of` of them), ascending indices, ties to the lower index. A score that is
    /// not finite writes `tag` to `fault\[0\]` unless a fault is there already.
    fn top_k_keep(
        &self,
        scores: &Self::Statistics,
        kept: &mut KeptSet<Self::Indices>,
        tag: u32,
        fault: &mut Self::Indices,
    );

    /// Writes `tag` to `fault\[0\]` if a value is not finite and no fault is there already.
    fn check_finite(&self, values: &Self::Statistics, len: usize, tag: u32, fault: &mut Self::Indices);

    /// The key/value heads that kept query heads use: `kv_kept.indices` ascending, and per kept query head the slot of
    /// its key/value head in that list. Entries of `kv_kept` past the last used one are `u32::MAX` and are skipped.
    fn keep_kv_heads(
        &self,
        heads: &KeptSet<Self::Indices>,
        group: usize,
        kv_kept: &mut KeptSet<Self::Indices>,
        kv_slots: &mut Self::Indices,
    );

    /// h\[s,c\] ← momentum·h\[s,c\] + (1−momentum)·p\[s,j\] for slots `at .. at+tokens`, as far as `history` has them, and
    /// the kept channels c (j-th kept). Where a row holds a bucket of slots, p is the mean over those of them that are
    /// updated. Pruned channels, and where p is not finite, h stays as it is.
    fn history_update(
        &self,
        p: &Self::Statistics,
        tokens: usize,
        at: usize,
        kept: KeptBlocks<'_, Self::Indices>,
        momentum: f64,
        history: &mut History<Self>,
    );

    /// Adds a batch of intermediate states a (B, S, C) to the running moments that have seen `seen` samples.
    fn accumulate_moments(
        &self,
        a: &Self::Activations,
        grid: Grid,
        width: usize,
        seen: usize,
        moments: &mut Moments<Self>,
    );

    /// out (M, N) += aᵀ·b for a (T, M) and b (T, N): second moments for calibration.
    fn accumulate_product(
        &self,
        a: &Self::Activations,
        b: &Self::Activations,
        rows: usize,
        widths: [usize; 2],
        out: &mut Self::Statistics,
    );

    /// out\[t\] = the index of the largest of row t of x (T, width), the lowest of equal ones; `u32::MAX` if a value of
    /// the row is not finite.
    fn argmax(&self, x: &Self::Statistics, rows: usize, width: usize, out: &mut Self::Indices);

    /// Entries of scratch that [`Backend::cross_entropy`] needs for so many rows.
    fn cross_entropy_scratch(&self, rows: usize, vocab_size: usize) -> usize;

    /// out\[t\] = −log softmax(x\[t\]·headᵀ)\[targets\[t\]\] for T rows, without storing the (T, V) logits.
    /// A target of `u32::MAX` gives 0.
    fn cross_entropy(
        &self,
        x: &Self::Activations,
        rows: usize,
        head: &Linear<Self>,
        targets: &Self::Indices,
        scratch: &mut Self::Statistics,
        out: &mut Self::Statistics,
    );
}
