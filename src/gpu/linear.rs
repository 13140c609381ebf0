//! Products with weights: rows of first projections, columns of last ones, dense or restricted to what is kept.
//! Few rows go to the matrix-vector kernels of [`super::gemv`].

use super::{
    Activations, Driver, Geometry, Gpu, Indices, PerDtype, Statistics,
    args::{GatedLinearArgs, LinearArgs, LogitsArgs, ProjectArgs},
    gemv, per_dtype,
};
use crate::{
    backend::{Addition, EnergyOf, Grid, KeptBlocks, Linear, WeightUse},
    config::Activation,
};

/// One kernel per [`Tile`].
pub(super) type PerTile = [PerDtype; 3];

const LINEAR: PerTile =
    [per_dtype!("linear"), per_dtype!("linear", "linear_64"), per_dtype!("linear", "linear_32")];
const GATED_LINEAR: PerTile = [
    per_dtype!("gated_linear"),
    per_dtype!("gated_linear", "gated_linear_64"),
    per_dtype!("gated_linear", "gated_linear_32"),
];
const LOGITS: PerTile =
    [per_dtype!("linear", "logits"), per_dtype!("linear", "logits_64"), per_dtype!("linear", "logits_32")];
const PROJECT: PerTile =
    [per_dtype!("project"), per_dtype!("project", "project_64"), per_dtype!("project", "project_32")];

/// Output columns of a tile; gated products, whose tiles hold rows of two weights, have half.
pub(super) const TILE_COLUMNS: usize = 128;

/// Rows of a block's tile (`Tile` in cuda/gemm.cuh).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tile {
    Rows128,
    Rows64,
    Rows32,
}

impl Tile {
    const ALL: [Self; 3] = [Self::Rows128, Self::Rows64, Self::Rows32];

    pub(super) fn rows(self) -> usize {
        [128, 64, 32][self as usize]
    }

    /// The tile with which the busiest multiprocessor is done first. A smaller one has more blocks but takes longer per
    /// row, because each sum costs it more traffic between shared memory and the tensor cores.
    pub(super) fn choose(rows: usize, columns: usize, tile_columns: usize, multiprocessors: u32) -> Self {
        const TIME_PER_ROW: [usize; 3] = [20, 23, 33];
        let time = |tile: &Self| {
            let blocks = rows.div_ceil(tile.rows()) * columns.div_ceil(tile_columns);
            blocks.div_ceil(multiprocessors.max(1) as usize) * tile.rows() * TIME_PER_ROW[*tile as usize]
        };
        Self::ALL.into_iter().min_by_key(time).expect("there are three")
    }

    /// Geometry for so many tiles: 128 threads; the ring of stages and the staged sums share dynamic memory.
    pub(super) fn geometry(self, row_tiles: usize, column_tiles: usize) -> Geometry {
        let stages = [4, 6, 6][self as usize];
        let ring = stages * (self.rows() + 128) * 32 * 2;
        let sums = self.rows() * (128 + 8) * 4;
        Geometry {
            grid: [(row_tiles * column_tiles) as u32, 1, 1],
            threads: 128,
            shared: (ring.max(sums) + 16) as u32,
        }
    }

    /// Row tiles that a group of blocks goes down: as many rows as a wave of blocks has columns, about.
    pub(super) fn group(self) -> i32 {
        (2048 / self.rows()) as i32
    }

    /// Row tiles where each holds whole slots of all samples, so that energies come from the product itself; `None`
    /// where that would leave more than a twentieth of the work idle.
    fn slot_tiles(self, grid: Grid) -> Option<usize> {
        let slots = self.rows() / grid.samples;
        let tiles = (slots > 0).then(|| grid.tokens.div_ceil(slots))?;
        (tiles * 95 <= grid.rows().div_ceil(self.rows()) * 100).then_some(tiles)
    }
}

/// What a product does about energies.
struct Energies {
    row_tiles: usize,
    /// Arguments: 0 for rows in order.
    samples: i32,
    tokens: i32,
    mask: u64,
    energy: u64,
    /// 0 where the product stays unwritten.
    out: u64,
}

fn code(activation: Option<Activation>) -> i32 {
    match activation {
        None => 0,
        Some(Activation::Silu) => 1,
        Some(Activation::Relu) => 2,
        Some(Activation::Gelu) => 3,
        Some(Activation::GeluTanh) => 4,
    }
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
        debug_assert_eq!(projection.weight.usage, WeightUse::Rows);
        let columns = kept.map_or(projection.out_features, |kept| kept.channels());
        if rows <= gemv::MAX_ROWS {
            self.linear_gemv(x, rows, projection, kept, activation, scale, out);
            return self.separate_energy(0, columns, energy, out);
        }
        let tile = Tile::choose(rows, columns, TILE_COLUMNS, self.driver.multiprocessors());
        let Energies { row_tiles, samples, tokens, mask, energy: to, out: product } =
            self.energies(tile, rows, energy.as_ref(), out);
        let arguments = LinearArgs {
            x: self.elements(x),
            weight: self.address(&projection.weight.buffer),
            bias: self.optional_floats(projection.bias.as_ref()),
            kept: self.optional_words(kept.map(|kept| &kept.set.indices)),
            mask,
            out: product,
            energy: to,
            rows: rows as i32,
            columns: columns as i32,
            depth: projection.in_features as i32,
            width: kept.map_or(1, |kept| kept.width as i32),
            group: tile.group(),
            samples,
            tokens,
            activation: code(activation),
            scale,
            unused: 0,
        };
        let geometry = tile.geometry(row_tiles, columns.div_ceil(TILE_COLUMNS));
        self.launch(self.of_dtype(LINEAR[tile as usize]), geometry, &arguments);
        self.separate_energy(samples, columns, energy, out);
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
        debug_assert_eq!((gate.out_features, gate.in_features), (up.out_features, up.in_features));
        debug_assert_eq!([gate.weight.usage, up.weight.usage], [WeightUse::Rows; 2]);
        let columns = kept.map_or(gate.out_features, |kept| kept.channels());
        if rows <= gemv::MAX_ROWS {
            self.gated_linear_gemv(x, rows, gate, up, kept, activation, out);
            return self.separate_energy(0, columns, energy, out);
        }
        let tile = Tile::choose(rows, columns, TILE_COLUMNS / 2, self.driver.multiprocessors());
        let Energies { row_tiles, samples, tokens, mask, energy: to, out: product } =
            self.energies(tile, rows, energy.as_ref(), out);
        let arguments = GatedLinearArgs {
            x: self.elements(x),
            gate: self.address(&gate.weight.buffer),
            up: self.address(&up.weight.buffer),
            gate_bias: self.optional_floats(gate.bias.as_ref()),
            up_bias: self.optional_floats(up.bias.as_ref()),
            kept: self.optional_words(kept.map(|kept| &kept.set.indices)),
            mask,
            out: product,
            energy: to,
            rows: rows as i32,
            columns: columns as i32,
            depth: gate.in_features as i32,
            width: kept.map_or(1, |kept| kept.width as i32),
            group: tile.group(),
            samples,
            tokens,
            activation: code(Some(activation)),
        };
        let geometry = tile.geometry(row_tiles, columns.div_ceil(TILE_COLUMNS / 2));
        self.launch(self.of_dtype(GATED_LINEAR[tile as usize]), geometry, &arguments);
        self.separate_energy(samples, columns, energy, out);
    }

    /// How a product with this tile leaves its energies: in its epilogue, or to [`Self::separate_energy`].
    fn energies(
        &self,
        tile: Tile,
        rows: usize,
        energy: Option<&EnergyOf<'_, Self>>,
        out: &Activations<D>,
    ) -> Energies {
        let out = self.elements(out);
        let in_order = Energies {
            row_tiles: rows.div_ceil(tile.rows()),
            samples: 0,
            tokens: 0,
            mask: 0,
            energy: 0,
            out,
        };
        let Some(energy) = energy else { return in_order };
        debug_assert_eq!(energy.grid.rows(), rows);
        let Some(row_tiles) = tile.slot_tiles(energy.grid) else { return in_order };
        Energies {
            row_tiles,
            samples: energy.grid.samples as i32,
            tokens: energy.grid.tokens as i32,
            mask: self.optional_words(energy.mask),
            energy: self.floats(energy.out),
            out: if energy.alone { 0 } else { out },
        }
    }

    /// The energies of a product that did not leave them itself (`samples` of its arguments is 0).
    fn separate_energy(
        &self,
        samples: i32,
        columns: usize,
        energy: Option<EnergyOf<'_, Self>>,
        out: &Activations<D>,
    ) {
        if let Some(EnergyOf { grid, mask, out: to, .. }) = energy
            && samples == 0
        {
            self.energy_kernel(out, grid, columns, mask, to, None);
        }
    }

    pub(super) fn logits_kernel(
        &self,
        x: &Activations<D>,
        rows: usize,
        head: &Linear<Self>,
        out: &Statistics<D>,
    ) {
        debug_assert!(head.bias.is_none() && head.weight.usage == WeightUse::Rows);
        if rows <= gemv::MAX_ROWS {
            return self.logits_gemv(x, rows, head, out);
        }
        let columns = head.out_features;
        let tile = Tile::choose(rows, columns, TILE_COLUMNS, self.driver.multiprocessors());
        let arguments = LogitsArgs {
            x: self.elements(x),
            head: self.address(&head.weight.buffer),
            out: self.floats(out),
            rows: rows as i32,
            columns: columns as i32,
            depth: head.in_features as i32,
            group: tile.group(),
        };
        let geometry = tile.geometry(rows.div_ceil(tile.rows()), columns.div_ceil(TILE_COLUMNS));
        self.launch(self.of_dtype(LOGITS[tile as usize]), geometry, &arguments);
    }

    pub(super) fn project_kernel(
        &self,
        a: &Activations<D>,
        rows: usize,
        projection: &Linear<Self>,
        kept: Option<KeptBlocks<'_, Indices<D>>>,
        bias: Option<&Statistics<D>>,
        addition: Option<Addition<'_, Self>>,
        residual: Option<&Activations<D>>,
        out: &Activations<D>,
    ) {
        debug_assert_eq!(projection.weight.usage, WeightUse::Columns);
        if rows <= gemv::MAX_ROWS {
            return self.project_gemv(a, rows, projection, kept, bias, addition, residual, out);
        }
        let columns = projection.out_features;
        let tile = Tile::choose(rows, columns, TILE_COLUMNS, self.driver.multiprocessors());
        let arguments = ProjectArgs {
            a: self.elements(a),
            weight: self.address(&projection.weight.buffer),
            kept: self.optional_words(kept.map(|kept| &kept.set.indices)),
            bias: self.optional_floats(bias),
            residual: residual.map_or(0, |residual| self.elements(residual)),
            z: addition.map_or(0, |addition| self.elements(addition.z)),
            addition: addition.map_or(0, |addition| self.elements(addition.weight)),
            out: self.elements(out),
            rows: rows as i32,
            columns: columns as i32,
            depth: kept.map_or(projection.in_features, |kept| kept.channels()) as i32,
            width: kept.map_or(1, |kept| kept.width as i32),
            group: tile.group(),
            rank: addition.map_or(0, |addition| addition.rank as i32),
        };
        let geometry = tile.geometry(rows.div_ceil(tile.rows()), columns.div_ceil(TILE_COLUMNS));
        self.launch(self.of_dtype(PROJECT[tile as usize]), geometry, &arguments);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_shrink_until_the_machine_is_full() {
        let choose = |rows, columns| Tile::choose(rows, columns, TILE_COLUMNS, 108);
        assert_eq!(choose(20480, 4096), Tile::Rows128);
        assert_eq!(choose(512, 11008), Tile::Rows128);
        assert_eq!(choose(100, 4096), Tile::Rows64);
        assert_eq!(choose(32, 4096), Tile::Rows32);
        assert_eq!(choose(1, 32000), Tile::Rows32);
    }

    #[test]
    fn energies_are_fused_where_samples_fill_the_tiles() {
        let tiles = |samples, tokens| Tile::Rows128.slot_tiles(Grid { samples, tokens });
        assert_eq!(tiles(1, 300), Some(3));
        assert_eq!(tiles(4, 125), Some(4));
        assert_eq!(tiles(3, 1024), Some(25));
        assert_eq!(tiles(20, 1024), None);
        assert_eq!(tiles(127, 5), Some(5));
        assert_eq!(tiles(129, 5), None);
    }
}
