//! The operations of a device: about thirty, each fused and meaningful to the method.
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

mod operands;
mod rates;
mod types;

pub use operands::*;
pub use rates::Rates;
pub use types::*;

use crate::{checkpoint::Tensor, config::ModelConfig, error::Result};

/// A device with the operations of a decoder block. Each takes one struct of operands.
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

    /// Whether weights of [`WeightUse::Columns`], and their float32 copies, lie transposed: (in_features, out_features).
    const TRANSPOSES_COLUMNS: bool;

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

    /// Refuses sizes, with their names, that are more than the backend's operations can count.
    ///
    /// # Errors
    /// [`crate::Error::Argument`] naming the first such size.
    fn check_sizes(&self, _sizes: &[(&str, usize)]) -> Result<()> {
        Ok(())
    }

    /// Refuses a session whose buffers, of so many activations and 32-bit words in all, the device cannot hold. A device that
    /// promises no more memory than it has need not look.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    fn check_room(&self, _elements: usize, _words: usize) -> Result<()> {
        Ok(())
    }

    /// What the device's work costs.
    fn rates(&self) -> Rates;

    /// Puts a checkpoint tensor (rows, columns) on the device.
    ///
    /// # Errors
    /// If the device has no room for it.
    fn weight(&self, tensor: &Tensor, usage: WeightUse) -> Result<Self::Weight>;
    /// A weight as a tensor (rows, columns) on the host, in the dtype that it has on the device.
    ///
    /// # Errors
    /// A device that failed.
    fn download_weight(&self, weight: &Self::Weight) -> Result<Tensor>;
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
    /// Whatever went wrong on the device since the last download; other operations only record it.
    fn download_activations(&self, values: &Self::Activations, len: usize) -> Result<Vec<f32>>;
    /// Device to host: the first `len` entries, once all work on them is done.
    ///
    /// # Errors
    /// Whatever went wrong on the device since the last download; other operations only record it.
    fn download_statistics(&self, values: &Self::Statistics, len: usize) -> Result<Vec<f32>>;
    /// As [`Self::download_statistics`], for a buffer that is not needed any more: where it is on the host it need not be copied.
    ///
    /// # Errors
    /// As there.
    fn take_statistics(&self, values: Self::Statistics, len: usize) -> Result<Vec<f32>> {
        self.download_statistics(&values, len)
    }
    /// Device to host: the first `len` entries, once all work on them is done.
    ///
    /// # Errors
    /// Whatever went wrong on the device since the last download; other operations only record it.
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

    /// Σ_o |W|, Σ_o W² or sqrt(Σ_o W⁴) of every column of a last projection (docs/method.md, section 4).
    fn column_statistic(&self, operands: ColumnStatisticOperands<'_, Self>);

    /// Corrects a folded projection by its error on a probe: recursive least squares (docs/method.md, section 13). Values
    /// that are not finite correct nothing.
    fn adapt(&self, operands: AdaptOperands<'_, Self>);

    /// out\[t\] = table\[tokens\[t\]\] (+ position_table\[positions\[t\]\]).
    fn embed(&self, operands: EmbedOperands<'_, Self>);

    /// out = norm(x) and sum_squares\[t\] = Σ x², the residual importance that the norm computes anyway.
    fn norm(&self, operands: NormOperands<'_, Self>);

    /// Chooses the probe's tokens and samples by residual importance (docs/method.md, section 1) and gathers their
    /// positions and mask.
    fn probe_select(&self, operands: ProbeSelectOperands<'_, Self>);

    /// out = the probe's rows of x.
    fn probe_gather(&self, operands: ProbeGatherOperands<'_, Self>);

    /// out = activation(x·W\[kept rows\]ᵀ + bias\[kept rows\]) · scale.
    fn linear(&self, operands: LinearOperands<'_, Self>);

    /// out = activation(x·gateᵀ) · (x·upᵀ), on the kept rows of both weights.
    fn gated_linear(&self, operands: GatedLinearOperands<'_, Self>);

    /// out = x·headᵀ in float32.
    fn logits(&self, operands: LogitsOperands<'_, Self>);

    /// out = residual + a·W\[:, kept\]ᵀ + bias + z·low_rank\[..r\] + low_rank\[r\].
    fn project(&self, operands: ProjectOperands<'_, Self>);

    /// Rotates q and k in place and copies k and v to their slots of the cache.
    fn rope_cache(&self, operands: RopeCacheOperands<'_, Self>);

    /// Causal softmax attention. A query without any visible key gives 0.
    fn attention(&self, operands: AttentionOperands<'_, Self>);

    /// out = mean over samples of a². With a mask, pads are left out and the divisor at a slot is its number of tokens
    /// + 1e-3.
    fn energy(&self, operands: EnergyOperands<'_, Self>);

    /// Moves energies to a share of the mean: p\[s,c\] = mean over samples of (a − share·mean\[c\])², with the divisors of
    /// [`Backend::energy`], where mean\[c\] = m, the mean of a over all tokens that are not pads, or with a prior of weight
    /// w, prior\[c\] + w·(m − prior\[c\]).
    fn centre_energy(&self, operands: CentreEnergyOperands<'_, Self>);

    /// Lists the pruned blocks, and gathers the pruned columns of `coefficients` and, in the last row, of `mean`.
    fn gather_pruned(&self, operands: GatherPrunedOperands<'_, Self>);

    /// Scores from energies: fusion with history, Σ over tokens, × column statistic, one for each
    /// [`crate::prune::Unit`] (docs/method.md, sections 3 and 4).
    fn channel_score(&self, operands: ChannelScoreOperands<'_, Self>);

    /// Keeps the highest scores; ties go to the lower index. A score that is not finite writes `tag` to `fault\[0\]` unless
    /// a fault is there already.
    fn top_k_keep(&self, operands: TopKKeepOperands<'_, Self>);

    /// Writes `tag` to `fault\[0\]` if a value is not finite and no fault is there already.
    fn check_finite(&self, operands: CheckFiniteOperands<'_, Self>);

    /// The key/value heads that kept query heads use.
    fn keep_kv_heads(&self, operands: KeepKvHeadsOperands<'_, Self>);

    /// h\[s,c\] ← momentum·h\[s,c\] + (1−momentum)·p\[s,j\] for slots `at .. at+tokens`, as far as `history` has them, and
    /// the kept channels c (j-th kept). Where a row holds a bucket of slots, p is the mean over those of them that are
    /// updated. Pruned channels, and where p is not finite, h stays as it is.
    fn history_update(&self, operands: HistoryUpdateOperands<'_, Self>);

    /// Adds a batch of intermediate states to running moments.
    fn accumulate_moments(&self, operands: AccumulateMomentsOperands<'_, Self>);

    /// out += aᵀ·b: second moments for calibration.
    fn accumulate_product(&self, operands: AccumulateProductOperands<'_, Self>);

    /// out\[t\] = the index of the largest of row t of x, the lowest of equal ones; `u32::MAX` if a value of the row is not
    /// finite.
    fn argmax(&self, operands: ArgmaxOperands<'_, Self>);

    /// Entries of scratch that [`Backend::cross_entropy`] needs for `rows` rows.
    fn cross_entropy_scratch(&self, rows: usize, vocab_size: usize) -> usize;

    /// out\[t\] = −log softmax(x\[t\]·headᵀ)\[targets\[t\]\], without storing the (T, V) logits. A row without a target gives 0.
    fn cross_entropy(&self, operands: CrossEntropyOperands<'_, Self>);
}
