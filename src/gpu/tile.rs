//! Tiles of the products on tensor cores (`Tile` in cuda/gemm.cuh): their sizes, and the choice among them.

use super::{Geometry, PerDtype};
use crate::prune::BatchShape;

/// One kernel per [`Tile`].
pub(super) type PerTile = [PerDtype; 3];

/// Output columns of a tile; gated products, whose tiles hold rows of two weights, have half.
pub(super) const TILE_COLUMNS: usize = 128;

/// Rows of the tile that a block of a product on tensor cores has; see [`Gpu::with_tile`](super::Gpu::with_tile).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tile {
    /// For products that fill the machine.
    Rows128,
    /// For half as many rows.
    Rows64,
    /// For few rows.
    Rows32,
}

impl Tile {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Rows128, Self::Rows64, Self::Rows32];

    /// How many rows these are.
    pub fn rows(self) -> usize {
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

    /// Geometry for `row_tiles` × `column_tiles` blocks of 128 threads; the ring of stages and the staged sums share
    /// dynamic memory.
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

    /// Row tiles that blocks go down before the next columns: about as many rows as a wave of blocks has columns.
    pub(super) fn raster_group(self) -> i32 {
        (2048 / self.rows()) as i32
    }

    /// Row tiles that each hold whole slots of all samples, so that energies come from the product itself; `None` if
    /// that left more than a twentieth of the work idle.
    pub(super) fn slot_tiles(self, shape: BatchShape) -> Option<usize> {
        let slots = self.rows() / shape.samples;
        let tiles = (slots > 0).then(|| shape.tokens.div_ceil(slots))?;
        (tiles * 95 <= shape.rows().div_ceil(self.rows()) * 100).then_some(tiles)
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
        let tiles = |samples, tokens| Tile::Rows128.slot_tiles(BatchShape { samples, tokens });
        assert_eq!(tiles(1, 300), Some(3));
        assert_eq!(tiles(4, 125), Some(4));
        assert_eq!(tiles(3, 1024), Some(25));
        assert_eq!(tiles(20, 1024), None);
        assert_eq!(tiles(127, 5), Some(5));
        assert_eq!(tiles(129, 5), None);
    }
}
