//! The left factor of a product, in the form that the tier multiplies.

use std::ops::Range;

use rayon::prelude::*;

use super::{
    Factors, GROUP_ROWS, PANELS_LEN, ROW_CHUNK,
    amx::{self, Packed, TILE_ROWS, Tile, Unit},
    few_rows::{self, MOST_ROWS},
    panel::{self, PANEL_FEATURES},
};
use crate::{
    checkpoint::Dtype,
    cpu::{Cpu, CpuDtype, math, matrix::Matrix},
};

/// Parts of a product per thread, so that threads end at about the same time.
const TASKS_PER_THREAD: usize = 2;
/// Rows of such a part at least: every part converts its weights anew.
const LEAST_ROWS: usize = 2 * GROUP_ROWS;

/// Activations (t, k).
#[derive(Clone, Copy)]
pub(super) enum Activations<'a> {
    Floats(&'a [f32]),
    /// Over all columns of the weight, for [`few_rows`].
    Spread(&'a [f32]),
    Tiles(Packed<'a>, Unit),
}

impl<'a> Factors<'a, Activations<'a>> {
    /// Most features that a task computes, whatever the number of threads.
    pub(super) fn features(self) -> usize {
        match self.x {
            Activations::Floats(_) => panel::shape(self.t)[0],
            Activations::Spread(_) => few_rows::FEATURES,
            Activations::Tiles(..) => amx::task_features(self.rows.len()),
        }
    }

    /// Features and rows that a task computes so that there is work for all threads.
    pub(super) fn cut(self, threads: usize) -> [usize; 2] {
        let (n, features) = (self.rows.len(), self.features());
        let Activations::Floats(_) = self.x else {
            return [features, self.t];
        };
        let enough = TASKS_PER_THREAD * threads;
        let features = if n.div_ceil(features) < enough { PANEL_FEATURES / 2 } else { features };
        let parts = enough.div_ceil(n.div_ceil(features)).min(self.t / LEAST_ROWS).max(1);
        [features, self.t.div_ceil(parts)]
    }

    /// The product of these rows of x alone.
    pub(super) fn of_rows(self, rows: Range<usize>) -> Self {
        if rows.len() == self.t {
            return self;
        }
        let (k, Activations::Floats(x)) = (self.columns.len(), self.x) else {
            unreachable!("only products of floats are cut into rows");
        };
        Self { x: Activations::Floats(&x[rows.start * k..rows.end * k]), t: rows.len(), ..self }
    }
}

/// Calls `f(factors, first row)` for at most `most` rows of x at a time, which will be multiplied with all of `weights`.
///
/// What x is turned into lies in a buffer of the backend, which grows to the largest product's need: for [`ROW_CHUNK`] rows, at
/// most 6 bytes per value.
pub(super) fn by_chunks(
    cpu: &Cpu,
    factors: Factors<'_>,
    weights: &[&Matrix],
    most: usize,
    mut f: impl FnMut(Factors<'_, Activations<'_>>, usize),
) {
    let Factors { x, t, weight, rows, columns } = factors;
    let k = columns.len();
    let in_bf16 = weights.iter().all(|weight| weight.tensor.dtype() == Dtype::BF16);
    // A single row is bound by reading W, which tiles do no faster.
    let unit = cpu.amx.filter(|_| in_bf16 && t > 1);
    let few = in_bf16 && unit.is_none() && t <= MOST_ROWS && (1..=PANELS_LEN).contains(&weight.columns);
    let rounds = cpu.dtype == CpuDtype::Bf16;
    let most = if unit.is_some() || rounds { most.min(ROW_CHUNK) } else { most };
    for at in (0..t).step_by(most.max(1)) {
        let t = most.min(t - at);
        let x = &x[at * k..(at + t) * k];
        if let Some(unit) = unit {
            let terms = if rounds { 1 } else { 3 };
            let of_16 = amx::tiles_of_16(k, terms);
            cpu.with_tiles(t.div_ceil(TILE_ROWS) * of_16, |tiles| {
                cpu.pool.install(|| {
                    let parts = tiles.par_chunks_exact_mut(of_16.max(1)).enumerate();
                    parts.for_each(|(block, tiles)| {
                        let first = block * TILE_ROWS;
                        let tokens = TILE_ROWS.min(t - first);
                        cpu.vectorized(
                            #[inline(always)]
                            || amx::pack(&x[first * k..], k, [tokens, k], terms, tiles),
                        );
                    });
                });
                let x = Activations::Tiles(Packed::new(tiles, [t, k], terms), unit);
                f(Factors { x, t, weight, rows, columns }, at);
            });
        } else if few {
            let width = weight.columns;
            cpu.with_floats(t * width, |spread| {
                cpu.vectorized(
                    #[inline(always)]
                    || {
                        for (row, to) in spread.chunks_exact_mut(width).enumerate() {
                            few_rows::spread(&x[row * k..][..k], columns, to);
                        }
                        if rounds {
                            math::round_to_bf16(spread);
                        }
                    },
                );
                f(Factors { x: Activations::Spread(spread), t, weight, rows, columns }, at);
            });
        } else if rounds {
            cpu.with_floats(t * k, |rounded| {
                cpu.rows(rounded, k, |row, to| {
                    to.copy_from_slice(&x[row * k..][..k]);
                    cpu.vectorized(
                        #[inline(always)]
                        || math::round_to_bf16(to),
                    );
                });
                f(Factors { x: Activations::Floats(rounded), t, weight, rows, columns }, at);
            });
        } else {
            f(Factors { x: Activations::Floats(x), t, weight, rows, columns }, at);
        }
    }
}

impl Cpu {
    /// As [`Self::with_tiles`], for floats.
    fn with_floats(&self, len: usize, f: impl FnOnce(&mut [f32])) {
        self.with_tiles((len * size_of::<f32>()).div_ceil(size_of::<Tile>()), |tiles| {
            f(&mut bytemuck::cast_slice_mut(tiles)[..len]);
        });
    }

    /// Calls `f` with a buffer of its own.
    fn with_tiles(&self, len: usize, f: impl FnOnce(&mut [Tile])) {
        // Taken out, not locked: while a product waits for its tasks, its thread may begin another session's product.
        let pool = || self.tiles.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut buffer = pool().pop().unwrap_or_default();
        if buffer.len() < len {
            buffer = bytemuck::zeroed_vec(len);
        }
        f(&mut buffer[..len]);
        pool().push(buffer);
    }
}
