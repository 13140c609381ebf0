//! Products with weights: rows of first projections, columns of last ones, dense or restricted to what is kept.
//! Few rows go to the matrix-vector kernels of [`super::gemv`].

use super::{
    Activations, Driver, Geometry, Gpu, Indices, PerDtype, Statistics,
    args::{LinearArgs, ProjectArgs},
    gemv, per_dtype,
};
use crate::{
    backend::{EnergyOf, Grid, KeptBlocks, Linear, WeightUse},
    config::Activation,
};

/// Kernels of a product by rows of their tiles.
type ByTile = [(usize, PerDtype); 2];

const LINEAR: ByTile = [(128, per_dtype!("linear", "linear_m128")), (64, per_dtype!("linear", "linear_m64"))];
const LOGITS: ByTile = [(128, per_dtype!("linear", "logits_m128")), (64, per_dtype!("linear", "logits_m64"))];
const GATED_LINEAR: ByTile = [
    (128, per_dtype!("gated_linear", "gated_linear_m128")),
    (64, per_dtype!("gated_linear", "gated_linear_m64")),
];
const PROJECT: ByTile =
    [(128, per_dtype!("project", "project_m128")), (64, per_dtype!("project", "project_m64"))];

/// How a product is cut into tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tiling {
    /// Kernels with this many rows to a tile: index into a [`ByTile`].
    pub which: usize,
    /// Tiles along the rows.
    pub m_tiles: usize,
    /// Samples of each slot that share a tile, for energies; 0 without.
    pub samples: usize,
    geometry: Geometry,
}

impl Tiling {
    /// The tiling with the least time: rounds that a device of so many multiprocessors, two tiles on each, takes, times
    /// what a tile of 128 or 64 rows costs. With `grid`, only tilings that have all samples of their slots.
    pub(super) fn new(rows: usize, n_tiles: usize, grid: Option<Grid>, multiprocessors: u32) -> Option<Self> {
        // Smaller tiles use what they load less often.
        const COST: [usize; 2] = [100, 58];
        let at_once = 2 * multiprocessors as usize;
        let tiling = |(which, &(tile_rows, _)): (usize, &(usize, PerDtype))| {
            let (m_tiles, samples) = match grid {
                None => (rows.div_ceil(tile_rows), 0),
                Some(Grid { samples, tokens }) => {
                    let slots = tile_rows / samples;
                    // A tile that is left empty in part costs as much as a full one: a pass of its own is cheaper.
                    if slots * samples * 100 < tile_rows * 95 {
                        return None;
                    }
                    (tokens.div_ceil(slots), samples)
                }
            };
            let shared = shared_bytes(tile_rows);
            let geometry = Geometry { grid: [(m_tiles * n_tiles) as u32, 1, 1], threads: 256, shared };
            let cost = (m_tiles * n_tiles).div_ceil(at_once) * COST[which];
            Some((cost, Self { which, m_tiles, samples, geometry }))
        };
        LINEAR.iter().enumerate().filter_map(tiling).min_by_key(|(cost, _)| *cost).map(|(_, tiling)| tiling)
    }

    pub(super) fn geometry(&self) -> Geometry {
        self.geometry
    }
}

/// Dynamic shared memory of a tile: a ring of four stages, or the sums as floats. See `cuda/gemm.cuh`.
fn shared_bytes(tile_rows: usize) -> u32 {
    let (ring, sums) = (4 * (tile_rows + 128) * 32 * 2, tile_rows * 136 * 4);
    (ring.max(sums) + 16) as u32
}

/// The numbers of `cuda/activation.cuh`.
pub(super) fn activation_number(activation: Option<Activation>) -> i32 {
    match activation {
        None => 0,
        Some(Activation::Silu) => 1,
        Some(Activation::Relu) => 2,
        Some(Activation::Gelu) => 3,
        Some(Activation::GeluTanh) => 4,
    }
}

/// Kept rows (columns of a last projection), of `all`.
pub(super) fn kept_len<I>(kept: Option<KeptBlocks<'_, I>>, all: usize) -> usize {
    kept.map_or(all, |kept| kept.channels())
}

impl<D: Driver> Gpu<D> {
    pub(super) fn linear_kernel(
        &self,
        x: &Activations<D>,
        rows: usize,
        projection: &Linear<Self>,
        kept: Option<KeptBlocks<'_, Indices<D>>>,
        activation: Option<Activation>,
        scale: f32,
        energy: Option<EnergyOf<'_, Self>>,
        out: &Activations<D>,
    ) {
        let features = kept_len(kept, projection.out_features);
        if rows <= gemv::MAX_ROWS {
            self.linear_gemv(x, rows, projection, kept, activation, scale, out);
            return self.energy_pass(features, energy, out);
        }
        let arguments = LinearArgs {
            x: self.elements(x),
            weight: self.weight_of(projection, WeightUse::Rows),
            bias: self.optional_floats(projection.bias.as_ref()),
            kept: kept.map_or(0, |kept| self.words(&kept.set.indices)),
            out: self.elements(out),
            rows: rows as i32,
            features: features as i32,
            width: projection.in_features as i32,
            block: kept.map_or(1, |kept| kept.width) as i32,
            activation: activation_number(activation),
            scale,
            ..LinearArgs::default()
        };
        self.launch_first(LINEAR, arguments, features.div_ceil(128), energy, out);
    }

    pub(super) fn gated_linear_kernel(
        &self,
        x: &Activations<D>,
        rows: usize,
        gate: &Linear<Self>,
        up: &Linear<Self>,
        kept: Option<KeptBlocks<'_, Indices<D>>>,
        activation: Activation,
        energy: Option<EnergyOf<'_, Self>>,
        out: &Activations<D>,
    ) {
        debug_assert!(kept.is_none_or(|kept| kept.width == 1), "a gated MLP is pruned by channels");
        let features = kept_len(kept, gate.out_features);
        if rows <= gemv::MAX_ROWS {
            self.gated_linear_gemv(x, rows, gate, up, kept, activation, out);
            return self.energy_pass(features, energy, out);
        }
        let arguments = LinearArgs {
            x: self.elements(x),
            weight: self.weight_of(gate, WeightUse::Rows),
            up: self.weight_of(up, WeightUse::Rows),
            bias: self.optional_floats(gate.bias.as_ref()),
            up_bias: self.optional_floats(up.bias.as_ref()),
            kept: kept.map_or(0, |kept| self.words(&kept.set.indices)),
            out: self.elements(out),
            rows: rows as i32,
            features: features as i32,
            width: gate.in_features as i32,
            block: 1,
            activation: activation_number(Some(activation)),
            scale: 1.0,
            ..LinearArgs::default()
        };
        self.launch_first(GATED_LINEAR, arguments, features.div_ceil(64), energy, out);
    }

    /// Launches a first projection, with its energies in the epilogue where tiles can have all samples of their slots.
    fn launch_first(
        &self,
        kernels: ByTile,
        mut arguments: LinearArgs,
        n_tiles: usize,
        energy: Option<EnergyOf<'_, Self>>,
        out: &Activations<D>,
    ) {
        let (rows, features) = (arguments.rows as usize, arguments.features as usize);
        let sms = self.driver.multiprocessors();
        let fused = energy.as_ref().and_then(|energy| Tiling::new(rows, n_tiles, Some(energy.grid), sms));
        let plain = || Tiling::new(rows, n_tiles, None, sms).expect("any rows can be cut into tiles");
        let tiling = fused.unwrap_or_else(plain);
        arguments.m_tiles = tiling.m_tiles as i32;
        arguments.samples = tiling.samples as i32;
        if let (Some(energy), Some(_)) = (&energy, fused) {
            arguments.energy = self.floats(energy.out);
            arguments.mask = self.optional_words(energy.mask);
            if energy.alone {
                arguments.out = 0;
            }
        }
        self.launch(self.of_dtype(kernels[tiling.which].1), tiling.geometry, &arguments);
        self.energy_pass(features, energy.filter(|_| fused.is_none()), out);
    }

    /// Energies by a kernel of their own.
    fn energy_pass(&self, features: usize, energy: Option<EnergyOf<'_, Self>>, product: &Activations<D>) {
        if let Some(EnergyOf { grid, mask, out, alone: _ }) = energy {
            self.energy_kernel(product, grid, features, mask, out);
        }
    }

    pub(super) fn logits_kernel(
        &self,
        x: &Activations<D>,
        rows: usize,
        head: &Linear<Self>,
        out: &Statistics<D>,
    ) {
        if rows <= gemv::MAX_ROWS {
            return self.logits_gemv(x, rows, head, out);
        }
        let n_tiles = head.out_features.div_ceil(128);
        let tiling = Tiling::new(rows, n_tiles, None, self.driver.multiprocessors());
        let tiling = tiling.expect("any rows can be cut into tiles");
        let arguments = LinearArgs {
            x: self.elements(x),
            weight: self.weight_of(head, WeightUse::Rows),
            bias: self.optional_floats(head.bias.as_ref()),
            out: self.floats(out),
            rows: rows as i32,
            features: head.out_features as i32,
            width: head.in_features as i32,
            block: 1,
            scale: 1.0,
            m_tiles: tiling.m_tiles as i32,
            ..LinearArgs::default()
        };
        self.launch(self.of_dtype(LOGITS[tiling.which].1), tiling.geometry, &arguments);
    }

    pub(super) fn project_kernel(
        &self,
        a: &Activations<D>,
        rows: usize,
        projection: &Linear<Self>,
        kept: Option<KeptBlocks<'_, Indices<D>>>,
        bias: Option<&Statistics<D>>,
        residual: Option<&Activations<D>>,
        out: &Activations<D>,
    ) {
        if rows <= gemv::MAX_ROWS {
            return self.project_gemv(a, rows, projection, kept, bias, residual, out);
        }
        let width = projection.out_features;
        let tiling = Tiling::new(rows, width.div_ceil(128), None, self.driver.multiprocessors());
        let tiling = tiling.expect("any rows can be cut into tiles");
        let arguments = ProjectArgs {
            a: self.elements(a),
            weight: self.weight_of(projection, WeightUse::Columns),
            kept: kept.map_or(0, |kept| self.words(&kept.set.indices)),
            bias: self.optional_floats(bias),
            residual: residual.map_or(0, |residual| self.elements(residual)),
            out: self.elements(out),
            rows: rows as i32,
            channels: kept_len(kept, projection.in_features) as i32,
            width: width as i32,
            block: kept.map_or(1, |kept| kept.width) as i32,
            m_tiles: tiling.m_tiles as i32,
            padding: 0,
        };
        self.launch(self.of_dtype(PROJECT[tiling.which].1), tiling.geometry, &arguments);
    }

    /// The address of a projection's weight, which has to be stored for this use.
    pub(super) fn weight_of(&self, projection: &Linear<Self>, usage: WeightUse) -> u64 {
        debug_assert_eq!(projection.weight.usage, usage, "weights are stored as they are used");
        self.address(&projection.weight.buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_fill_the_device() {
        let rows_of = |rows, n_tiles| LINEAR[Tiling::new(rows, n_tiles, None, 132).unwrap().which].0;
        assert_eq!(rows_of(20_480, 49), 128);
        // A probe of 512 rows: 4 × 32 tiles leave half of the places empty, 8 × 32 fill them.
        assert_eq!(rows_of(512, 32), 64);
        assert_eq!(rows_of(1, 86), 64);
    }

    #[test]
    fn tiles_have_all_samples_of_a_slot_or_leave_energies_to_another_kernel() {
        let tiling = |samples, tokens| Tiling::new(samples * tokens, 4, Some(Grid { samples, tokens }), 132);
        let samples_of = |tiling: Tiling| (tiling.samples, tiling.m_tiles, LINEAR[tiling.which].0);
        assert_eq!(tiling(1, 512).map(samples_of), Some((1, 8, 64)));
        assert_eq!(tiling(3, 42).map(samples_of), Some((3, 2, 64)));
        // 6 × 20 of 128 rows.
        assert_eq!(tiling(20, 1024), None);
        assert_eq!(tiling(200, 8), None);
    }
}
