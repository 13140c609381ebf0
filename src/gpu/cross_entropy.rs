//! Cross-entropy of the head's logits, which are never stored.

use super::{
    Driver, Geometry, Gpu, Kernel,
    args::{CrossEntropyArgs, CrossEntropyCombineArgs},
    per_dtype,
    tile::{PerTile, TILE_COLUMNS},
};
use crate::backend::{CrossEntropyOperands, WeightUse};

const CROSS_ENTROPY: PerTile = [
    per_dtype!("cross_entropy"),
    per_dtype!("cross_entropy", "cross_entropy_64"),
    per_dtype!("cross_entropy", "cross_entropy_32"),
];
const COMBINE: Kernel = Kernel { module: "cross_entropy", name: "cross_entropy_combine" };

/// Floats of scratch for `rows` rows: two per row and tile of columns, and the target's logit.
pub fn scratch(rows: usize, vocab_size: usize) -> usize {
    rows.saturating_mul(2 * vocab_size.div_ceil(TILE_COLUMNS) + 1)
}

impl<D: Driver> Gpu<D> {
    pub(super) fn cross_entropy_kernel(&self, operands: CrossEntropyOperands<'_, Self>) {
        let CrossEntropyOperands { x, rows, head, targets, scratch, out } = operands;
        debug_assert!(head.bias.is_none() && head.weight.usage == WeightUse::Rows);
        let tiles = head.out_features.div_ceil(TILE_COLUMNS);
        let tile = self.tile_for(rows, head.out_features, TILE_COLUMNS);
        let (partial, targets) = (self.floats(scratch), self.words(targets));
        let target_logits = partial + (rows * tiles * 2 * 4) as u64;
        let arguments = CrossEntropyArgs {
            x: self.elements(x),
            head: self.address(&head.weight.buffer),
            targets,
            partial,
            target_logits,
            rows: rows as i32,
            vocab_size: head.out_features as i32,
            in_features: head.in_features as i32,
            raster_group: tile.raster_group(),
        };
        let geometry = tile.geometry(rows.div_ceil(tile.rows()), tiles);
        self.launch(self.of_dtype(CROSS_ENTROPY[tile as usize]), geometry, &arguments);
        let arguments = CrossEntropyCombineArgs {
            partial,
            target_logits,
            targets,
            out: self.floats(out),
            rows: rows as i32,
            tiles: tiles as i32,
        };
        let geometry = Geometry { grid: [rows.div_ceil(32) as u32, 1, 1], threads: 256, shared: 0 };
        self.launch(COMBINE, geometry, &arguments);
    }
}
