//! Matrix-vector kernels for few rows, as in decoding: memory-bound, so every kept weight is read once and nothing else.

use super::{Driver, Geometry, Gpu, PerDtype};

/// Most rows that these kernels take; more go to the tiled ones.
pub(super) const MAX_ROWS: usize = 16;

/// Fewer blocks than this each get all the warps that the kernels take, or too few loads would be under way.
const FEW_BLOCKS: usize = 64;

/// The kernels for at most 8 rows and for at most 16.
pub(super) type PerRows = [PerDtype; 2];

/// Geometry for `outputs` columns of output, `tile` of them per block.
pub(super) fn geometry(outputs: usize, tile: usize) -> Geometry {
    let blocks = outputs.div_ceil(tile);
    let threads = if blocks < FEW_BLOCKS { 512 } else { 256 };
    Geometry { grid: [blocks as u32, 1, 1], threads, shared: 0 }
}

impl<D: Driver> Gpu<D> {
    pub(super) fn launch_gemv<A: bytemuck::NoUninit>(
        &self,
        kernels: PerRows,
        rows: usize,
        geometry: Geometry,
        arguments: &A,
    ) {
        debug_assert!(rows <= MAX_ROWS, "more rows are for the tiled kernels");
        if rows > 0 {
            self.launch(self.of_dtype(kernels[usize::from(rows > 8)]), geometry, arguments);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_blocks_get_all_warps() {
        let of = |outputs| (geometry(outputs, 16).grid, geometry(outputs, 16).threads);
        assert_eq!(of(1), ([1, 1, 1], 512));
        assert_eq!(of(16 * 63), ([63, 1, 1], 512));
        assert_eq!(of(16 * 63 + 1), ([64, 1, 1], 256));
    }
}
