//! Last projections: columns of a weight, all of them or the kept ones; tiled, or for few rows.

use super::{
    Driver, Gpu,
    args::{ProjectArgs, ProjectGemvArgs},
    gemv::{self, PerRows},
    per_dtype,
    tile::{PerTile, TILE_COLUMNS},
};
use crate::backend::{KeptSet, ProjectOperands, WeightUse};

const PROJECT: PerTile =
    [per_dtype!("project"), per_dtype!("project", "project_64"), per_dtype!("project", "project_32")];
const PROJECT_GEMV: PerRows =
    [per_dtype!("project_gemv", "project_gemv_8"), per_dtype!("project_gemv", "project_gemv_16")];

/// Columns of a block of project_gemv.
const SLAB: usize = 32;

impl<D: Driver> Gpu<D> {
    pub(super) fn project_kernel(&self, operands: ProjectOperands<'_, Self>) {
        debug_assert_eq!(operands.projection.weight.usage, WeightUse::Columns);
        if operands.rows <= gemv::MAX_ROWS {
            self.project_few(operands);
        } else {
            self.project_tiled(operands);
        }
    }

    fn project_tiled(&self, operands: ProjectOperands<'_, Self>) {
        let ProjectOperands { a, rows, projection, kept, bias, low_rank, residual, out } = operands;
        let out_features = projection.out_features;
        let tile = self.tile_for(rows, out_features, TILE_COLUMNS);
        let arguments = ProjectArgs {
            a: self.elements(a),
            weight: self.address(&projection.weight.buffer),
            kept: self.optional_words(kept.map(|kept| &kept.indices)),
            bias: self.optional_floats(bias),
            residual: self.optional_elements(residual),
            z: self.optional_elements(low_rank.map(|low_rank| low_rank.z)),
            low_rank: self.optional_elements(low_rank.map(|low_rank| low_rank.weight)),
            out: self.elements(out),
            rows: rows as i32,
            out_features: out_features as i32,
            in_features: kept.map_or(projection.in_features, KeptSet::channels) as i32,
            block_width: kept.map_or(1, |kept| kept.block_width) as i32,
            raster_group: tile.raster_group(),
            rank: low_rank.map_or(0, |low_rank| low_rank.rank) as i32,
        };
        let geometry = tile.geometry(rows.div_ceil(tile.rows()), out_features.div_ceil(TILE_COLUMNS));
        self.launch(self.of_dtype(PROJECT[tile as usize]), geometry, &arguments);
    }

    fn project_few(&self, operands: ProjectOperands<'_, Self>) {
        let ProjectOperands { a, rows, projection, kept, bias, low_rank, residual, out } = operands;
        let arguments = ProjectGemvArgs {
            a: self.elements(a),
            weight: self.address(&projection.weight.buffer),
            kept: self.optional_words(kept.map(|kept| &kept.indices)),
            bias: self.optional_floats(bias),
            residual: self.optional_elements(residual),
            z: self.optional_elements(low_rank.map(|low_rank| low_rank.z)),
            low_rank: self.optional_elements(low_rank.map(|low_rank| low_rank.weight)),
            out: self.elements(out),
            rows: rows as i32,
            in_features: kept.map_or(projection.in_features, KeptSet::channels) as i32,
            out_features: projection.out_features as i32,
            block_width: kept.map_or(1, |kept| kept.block_width) as i32,
            rank: low_rank.map_or(0, |low_rank| low_rank.rank) as i32,
            reserved: 0,
        };
        self.launch_gemv(PROJECT_GEMV, rows, gemv::geometry(projection.out_features, SLAB), &arguments);
    }
}
