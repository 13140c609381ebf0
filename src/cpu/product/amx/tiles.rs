//! Tile registers: what a product needs of them, and its inner loop.
//!
//! There are eight: 0–3 hold sums, 4 and 5 rows of W, 6 and 7 columns of xᵀ, so that 32 features × 32 tokens are summed at
//! a time and each tile that is loaded takes part in two products.

/// A tile in memory: 16 rows of 64 bytes, here of bf16.
#[repr(C, align(64))]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(in crate::cpu) struct Tile(pub(super) [u16; 512]);

/// A tile of f32 sums: (features, tokens) = (16, 16).
#[repr(C, align(64))]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Sums(pub(super) [f32; 256]);

/// Bytes of a tile's row.
pub(super) const ROW_BYTES: usize = 64;
/// Rows of a tile, unless it is configured for fewer.
pub(in crate::cpu::product) const TILE_ROWS: usize = 16;
/// Columns of W, in bf16, that one tile holds.
pub(super) const TILE_COLUMNS: usize = 32;

/// The tile instructions: the processor's own, or emulated ones. A value stands for registers that are configured.
pub(super) trait Tiles {
    /// From here on tiles 0–5 have `rows` rows (8 or 16), 6 and 7 have 16; what they hold is lost.
    fn configure(&mut self, rows: usize);

    /// Tile D = 0.
    fn zero<const D: usize>(&mut self);

    /// Tile D = its rows at `from`, `from + stride`, …; the stride is in bytes.
    ///
    /// # Safety
    /// Each row's 64 bytes are readable.
    unsafe fn load<const D: usize>(&mut self, from: *const u8, stride: usize);

    /// The reverse of [`Self::load`].
    ///
    /// # Safety
    /// Each row's 64 bytes are writable.
    unsafe fn store<const S: usize>(&mut self, to: *mut u8, stride: usize);

    /// Tile D (m, n; f32) += A (m, k) · B (k, n) for bf16 A and B, where row i of B's tile holds rows 2i and 2i+1 in pairs.
    fn multiply_add<const D: usize, const A: usize, const B: usize>(&mut self);
}

/// Rows of W in memory, of which a tile takes 32 columns per step.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub(super) start: *const u16,
    /// Bytes from one row to the next.
    pub(super) stride: usize,
    /// Elements from one step to the next.
    pub(super) step: usize,
}

/// Sums of F strips of rows × N tiles of tokens start at 0, or at the values of `from`.
///
/// # Safety
/// `from` points to F rows of N tiles of sums, one row `pitch` tiles after the other.
#[inline(always)]
pub(super) unsafe fn start<T: Tiles, const F: usize, const N: usize>(
    tiles: &mut T,
    from: Option<*const Sums>,
    pitch: usize,
) {
    let Some(from) = from else {
        tiles.zero::<0>();
        tiles.zero::<1>();
        tiles.zero::<2>();
        tiles.zero::<3>();
        return;
    };
    // SAFETY: the caller promises F × N tiles.
    unsafe {
        tiles.load::<0>(from.cast(), ROW_BYTES);
        if N == 2 {
            tiles.load::<1>(from.add(1).cast(), ROW_BYTES);
        }
        if F == 2 {
            tiles.load::<2>(from.add(pitch).cast(), ROW_BYTES);
        }
        if F == 2 && N == 2 {
            tiles.load::<3>(from.add(pitch + 1).cast(), ROW_BYTES);
        }
    }
}

/// Adds `steps` × 32 columns of F strips of W times N tiles of tokens, each token being the sum of `terms` terms.
///
/// # Safety
/// The steps of `weights` are readable, as many rows as tiles 4 and 5 have, and so are steps × terms tiles from each of
/// `x` on.
#[inline(always)]
pub(super) unsafe fn accumulate<T: Tiles, const F: usize, const N: usize>(
    tiles: &mut T,
    weights: [Rows; F],
    x: [*const Tile; N],
    steps: usize,
    terms: usize,
) {
    for step in 0..steps {
        // SAFETY: the caller promises that these steps and tiles are readable.
        unsafe {
            let start = |rows: Rows| rows.start.add(step * rows.step).cast();
            tiles.load::<4>(start(weights[0]), weights[0].stride);
            if F == 2 {
                tiles.load::<5>(start(weights[F - 1]), weights[F - 1].stride);
            }
            for term in step * terms..(step + 1) * terms {
                tiles.load::<6>(x[0].add(term).cast(), ROW_BYTES);
                if N == 2 {
                    tiles.load::<7>(x[N - 1].add(term).cast(), ROW_BYTES);
                }
                tiles.multiply_add::<0, 4, 6>();
                if N == 2 {
                    tiles.multiply_add::<1, 4, 7>();
                }
                if F == 2 {
                    tiles.multiply_add::<2, 5, 6>();
                }
                if F == 2 && N == 2 {
                    tiles.multiply_add::<3, 5, 7>();
                }
            }
        }
    }
}

/// The reverse of [`start`].
///
/// # Safety
/// `to` points to F rows of N tiles of sums, one row `pitch` tiles after the other.
#[inline(always)]
pub(super) unsafe fn finish<T: Tiles, const F: usize, const N: usize>(
    tiles: &mut T,
    to: *mut Sums,
    pitch: usize,
) {
    // SAFETY: the caller promises F × N tiles.
    unsafe {
        tiles.store::<0>(to.cast(), ROW_BYTES);
        if N == 2 {
            tiles.store::<1>(to.add(1).cast(), ROW_BYTES);
        }
        if F == 2 {
            tiles.store::<2>(to.add(pitch).cast(), ROW_BYTES);
        }
        if F == 2 && N == 2 {
            tiles.store::<3>(to.add(pitch + 1).cast(), ROW_BYTES);
        }
    }
}
