//! Cross-entropy of the head's logits, which are never stored.

use super::{
    Activations, Driver, Geometry, Gpu, Indices, Kernel, PerDtype, Statistics,
    args::{CrossEntropyArgs, CrossEntropyCombineArgs},
    linear::Tiling,
    per_dtype,
};
use crate::backend::{Linear, WeightUse};

const CROSS_ENTROPY: [PerDtype; 2] =
    [per_dtype!("cross_entropy", "cross_entropy_m128"), per_dtype!("cross_entropy", "cross_entropy_m64")];
const COMBINE: Kernel = Kernel { module: "cross_entropy", name: "cross_entropy_combine" };

/// Floats of scratch for so many rows: a pair for each tile of 128 tokens, and the target's logit.
pub fn scratch(rows: usize, vocab_size: usize) -> usize {
    rows * (2 * vocab_size.div_ceil(128) + 1)
}

impl<D: Driver> Gpu<D> {
    pub(super) fn cross_entropy_kernel(
        &self,
        x: &Activations<D>,
        rows: usize,
        head: &Linear<Self>,
        targets: &Indices<D>,
        scratch: &Statistics<D>,
        out: &Statistics<D>,
    ) {
        let tiles = head.out_features.div_ceil(128);
        let tiling = Tiling::new(rows, tiles, None, self.driver.multiprocessors());
        let tiling = tiling.expect("any rows can be cut into tiles");
        let (targets, partial) = (self.words(targets), self.floats(scratch));
        let target_logits = partial + (rows * 2 * tiles * 4) as u64;
        let arguments = CrossEntropyArgs {
            x: self.elements(x),
            weight: self.weight_of(head, WeightUse::Rows),
            targets,
            partial,
            target_logits,
            rows: rows as i32,
            vocab: head.out_features as i32,
            width: head.in_features as i32,
            m_tiles: tiling.m_tiles as i32,
        };
        self.launch(self.of_dtype(CROSS_ENTROPY[tiling.which]), tiling.geometry(), &arguments);
        let (rows, tiles) = (rows as i32, tiles as i32);
        let arguments = CrossEntropyCombineArgs {
            partial,
            target_logits,
            targets,
            losses: self.floats(out),
            rows,
            tiles,
        };
        let geometry = Geometry { grid: [rows as u32, 1, 1], threads: 32, shared: 0 };
        self.launch(COMBINE, geometry, &arguments);
    }
}
