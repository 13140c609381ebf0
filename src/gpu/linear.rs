//! First projections and the head: rows of weights, all of them or the kept ones; tiled, or for few rows.

use super::{
    Activations, Driver, Gpu, Indices,
    args::{GatedLinearArgs, LinearArgs, LinearGemvArgs, LogitsArgs},
    gemv::{self, PerRows},
    per_dtype,
    tile::{PerTile, TILE_COLUMNS, Tile},
};
use crate::{
    backend::{
        EnergyOperands, EnergyOutput, GatedLinearOperands, KeptSet, Linear, LinearOperands, LogitsOperands,
        WeightUse,
    },
    config::Activation,
};

const LINEAR: PerTile =
    [per_dtype!("linear"), per_dtype!("linear", "linear_64"), per_dtype!("linear", "linear_32")];
const GATED_LINEAR: PerTile = [
    per_dtype!("gated_linear"),
    per_dtype!("gated_linear", "gated_linear_64"),
    per_dtype!("gated_linear", "gated_linear_32"),
];
const LOGITS: PerTile =
    [per_dtype!("linear", "logits"), per_dtype!("linear", "logits_64"), per_dtype!("linear", "logits_32")];
const LINEAR_GEMV: PerRows =
    [per_dtype!("linear_gemv", "linear_gemv_8"), per_dtype!("linear_gemv", "linear_gemv_16")];
const GATED_LINEAR_GEMV: PerRows = [
    per_dtype!("gated_linear_gemv", "gated_linear_gemv_8"),
    per_dtype!("gated_linear_gemv", "gated_linear_gemv_16"),
];

/// Output columns of a tile of gated_linear.
const GATED_TILE_COLUMNS: usize = TILE_COLUMNS / 2;
/// Weight rows of a block of linear_gemv.
const GEMV_ROWS: usize = 32;
/// Weight rows of a block of gated_linear_gemv, in each of both weights.
const GATED_GEMV_ROWS: usize = 16;

/// Arguments of a tiled product that leaves energies in its epilogue; all 0 for other products.
#[derive(Clone, Copy, Default)]
struct FusedEnergy {
    row_tiles: usize,
    samples: i32,
    tokens: i32,
    mask: u64,
    energy: u64,
    energy_only: bool,
}

/// The number by which kernels know an activation function (cuda/activation.cuh).
fn activation_number(activation: Option<Activation>) -> i32 {
    match activation {
        None => 0,
        Some(Activation::Silu) => 1,
        Some(Activation::Relu) => 2,
        Some(Activation::Gelu) => 3,
        Some(Activation::GeluTanh) => 4,
    }
}

impl<D: Driver> Gpu<D> {
    pub(super) fn linear_kernel(&self, operands: LinearOperands<'_, Self>) {
        debug_assert_eq!(operands.projection.weight.usage, WeightUse::Rows);
        if operands.rows <= gemv::MAX_ROWS {
            self.linear_few(operands);
        } else {
            self.linear_tiled(operands);
        }
    }

    fn linear_tiled(&self, operands: LinearOperands<'_, Self>) {
        let LinearOperands { x, rows, projection, kept, activation, scale, energy, out } = operands;
        let out_features = kept.map_or(projection.out_features, KeptSet::channels);
        let tile = self.tile_for(rows, out_features, TILE_COLUMNS);
        let fused = self.fused_energy(tile, rows, energy.as_ref());
        let FusedEnergy { samples, tokens, mask, energy: to, energy_only, .. } = fused.unwrap_or_default();
        let arguments = LinearArgs {
            x: self.elements(x),
            weight: self.address(&projection.weight.buffer),
            bias: self.optional_floats(projection.bias.as_ref()),
            kept: self.optional_words(kept.map(|kept| &kept.indices)),
            mask,
            out: if energy_only { 0 } else { self.elements(out) },
            energy: to,
            rows: rows as i32,
            out_features: out_features as i32,
            in_features: projection.in_features as i32,
            block_width: kept.map_or(1, |kept| kept.block_width) as i32,
            raster_group: tile.raster_group(),
            samples,
            tokens,
            activation: activation_number(activation),
            scale,
            reserved: 0,
        };
        let row_tiles = fused.map_or(rows.div_ceil(tile.rows()), |fused| fused.row_tiles);
        let geometry = tile.geometry(row_tiles, out_features.div_ceil(TILE_COLUMNS));
        self.launch(self.of_dtype(LINEAR[tile as usize]), geometry, &arguments);
        if fused.is_none() {
            self.separate_energy(energy, out, out_features);
        }
    }

    fn linear_few(&self, operands: LinearOperands<'_, Self>) {
        let LinearOperands { x, rows, projection, kept, activation, scale, energy, out } = operands;
        let out_features = kept.map_or(projection.out_features, KeptSet::channels);
        let arguments = LinearGemvArgs {
            out: self.elements(out),
            activation: activation_number(activation),
            scale,
            ..self.gemv_arguments(x, rows, projection, kept)
        };
        self.launch_gemv(LINEAR_GEMV, rows, gemv::geometry(out_features, GEMV_ROWS), &arguments);
        self.separate_energy(energy, out, out_features);
    }

    pub(super) fn gated_linear_kernel(&self, operands: GatedLinearOperands<'_, Self>) {
        let GatedLinearOperands { gate, up, .. } = operands;
        debug_assert_eq!((gate.out_features, gate.in_features), (up.out_features, up.in_features));
        debug_assert_eq!([gate.weight.usage, up.weight.usage], [WeightUse::Rows; 2]);
        if operands.rows <= gemv::MAX_ROWS {
            self.gated_linear_few(operands);
        } else {
            self.gated_linear_tiled(operands);
        }
    }

    fn gated_linear_tiled(&self, operands: GatedLinearOperands<'_, Self>) {
        let GatedLinearOperands { x, rows, gate, up, kept, activation, energy, out } = operands;
        let out_features = kept.map_or(gate.out_features, KeptSet::channels);
        let tile = self.tile_for(rows, out_features, GATED_TILE_COLUMNS);
        let fused = self.fused_energy(tile, rows, energy.as_ref());
        let FusedEnergy { samples, tokens, mask, energy: to, energy_only, .. } = fused.unwrap_or_default();
        let arguments = GatedLinearArgs {
            x: self.elements(x),
            gate: self.address(&gate.weight.buffer),
            up: self.address(&up.weight.buffer),
            gate_bias: self.optional_floats(gate.bias.as_ref()),
            up_bias: self.optional_floats(up.bias.as_ref()),
            kept: self.optional_words(kept.map(|kept| &kept.indices)),
            mask,
            out: if energy_only { 0 } else { self.elements(out) },
            energy: to,
            rows: rows as i32,
            out_features: out_features as i32,
            in_features: gate.in_features as i32,
            block_width: kept.map_or(1, |kept| kept.block_width) as i32,
            raster_group: tile.raster_group(),
            samples,
            tokens,
            activation: activation_number(Some(activation)),
        };
        let row_tiles = fused.map_or(rows.div_ceil(tile.rows()), |fused| fused.row_tiles);
        let geometry = tile.geometry(row_tiles, out_features.div_ceil(GATED_TILE_COLUMNS));
        self.launch(self.of_dtype(GATED_LINEAR[tile as usize]), geometry, &arguments);
        if fused.is_none() {
            self.separate_energy(energy, out, out_features);
        }
    }

    fn gated_linear_few(&self, operands: GatedLinearOperands<'_, Self>) {
        let GatedLinearOperands { x, rows, gate, up, kept, activation, energy, out } = operands;
        let out_features = kept.map_or(gate.out_features, KeptSet::channels);
        let arguments = LinearGemvArgs {
            up: self.address(&up.weight.buffer),
            up_bias: self.optional_floats(up.bias.as_ref()),
            out: self.elements(out),
            activation: activation_number(Some(activation)),
            ..self.gemv_arguments(x, rows, gate, kept)
        };
        let geometry = gemv::geometry(out_features, GATED_GEMV_ROWS);
        self.launch_gemv(GATED_LINEAR_GEMV, rows, geometry, &arguments);
        self.separate_energy(energy, out, out_features);
    }

    pub(super) fn logits_kernel(&self, operands: LogitsOperands<'_, Self>) {
        debug_assert!(operands.head.bias.is_none() && operands.head.weight.usage == WeightUse::Rows);
        if operands.rows <= gemv::MAX_ROWS {
            self.logits_few(operands);
        } else {
            self.logits_tiled(operands);
        }
    }

    fn logits_tiled(&self, operands: LogitsOperands<'_, Self>) {
        let LogitsOperands { x, rows, head, out } = operands;
        let tile = self.tile_for(rows, head.out_features, TILE_COLUMNS);
        let arguments = LogitsArgs {
            x: self.elements(x),
            head: self.address(&head.weight.buffer),
            out: self.floats(out),
            rows: rows as i32,
            out_features: head.out_features as i32,
            in_features: head.in_features as i32,
            raster_group: tile.raster_group(),
        };
        let geometry = tile.geometry(rows.div_ceil(tile.rows()), head.out_features.div_ceil(TILE_COLUMNS));
        self.launch(self.of_dtype(LOGITS[tile as usize]), geometry, &arguments);
    }

    fn logits_few(&self, operands: LogitsOperands<'_, Self>) {
        let LogitsOperands { x, rows, head, out } = operands;
        let arguments = LinearGemvArgs {
            logits: self.floats(out),
            scale: 1.0,
            ..self.gemv_arguments(x, rows, head, None)
        };
        self.launch_gemv(LINEAR_GEMV, rows, gemv::geometry(head.out_features, GEMV_ROWS), &arguments);
    }

    /// The arguments that all products of few rows share.
    fn gemv_arguments(
        &self,
        x: &Activations<D>,
        rows: usize,
        projection: &Linear<Self>,
        kept: Option<&KeptSet<Indices<D>>>,
    ) -> LinearGemvArgs {
        LinearGemvArgs {
            x: self.elements(x),
            weight: self.address(&projection.weight.buffer),
            bias: self.optional_floats(projection.bias.as_ref()),
            kept: self.optional_words(kept.map(|kept| &kept.indices)),
            rows: rows as i32,
            in_features: projection.in_features as i32,
            out_features: kept.map_or(projection.out_features, KeptSet::channels) as i32,
            block_width: kept.map_or(1, |kept| kept.block_width) as i32,
            ..LinearGemvArgs::default()
        }
    }

    /// Fuses energies into a product whose tiles can hold whole slots.
    fn fused_energy(
        &self,
        tile: Tile,
        rows: usize,
        energy: Option<&EnergyOutput<'_, Self>>,
    ) -> Option<FusedEnergy> {
        let EnergyOutput { shape, mask, out, energy_only } = energy?;
        debug_assert_eq!(shape.rows(), rows);
        Some(FusedEnergy {
            row_tiles: tile.slot_tiles(*shape)?,
            samples: shape.samples as i32,
            tokens: shape.tokens as i32,
            mask: self.optional_words(*mask),
            energy: self.floats(out),
            energy_only: *energy_only,
        })
    }

    /// The energies of a product that did not leave them itself.
    fn separate_energy(
        &self,
        energy: Option<EnergyOutput<'_, Self>>,
        product: &Activations<D>,
        channels: usize,
    ) {
        if let Some(EnergyOutput { shape, mask, out, .. }) = energy {
            self.energy_kernel(EnergyOperands { a: product, shape, channels, mask, out, sums: None });
        }
    }
}
