//! Strips of W: up to 16 picked rows, read where they lie if they follow each other there, or else from a panel.

use std::ops::Range;

use super::{
    Factors, Packed,
    tiles::{ROW_BYTES, Rows, TILE_COLUMNS, Tile},
};
use crate::cpu::matrix::Pick;

/// The rows of a few features.
#[derive(Clone, Copy)]
pub(super) struct Strip {
    /// Whole steps of 32 columns.
    pub(super) whole: Rows,
    /// The columns after them, padded with zeros.
    pub(super) tail: Rows,
    /// Features. Rows after them and those of skipped ones hold anything.
    pub(super) len: usize,
    /// Bit i tells that feature i is skipped.
    skipped: u16,
}

impl Strip {
    /// The strip of `features` and the picked columns `inputs`, as `height` rows. `panel` gets the columns that cannot be
    /// read where they lie, one tile for 32 of them; `elements` are the weight's.
    #[inline(always)]
    pub(super) fn new(
        panel: &mut [Tile],
        elements: &[u16],
        factors: Factors<'_, Packed<'_>>,
        (features, height): (Range<usize>, usize),
        inputs: Range<usize>,
    ) -> Self {
        let Factors { weight, rows, columns, .. } = factors;
        let (first, len, whole) = (features.start, features.len(), inputs.len() / TILE_COLUMNS);
        let skipped = (0..len).filter(|i| rows.index(first + i).is_none()).fold(0, |bits, i| bits | 1 << i);
        let in_place = match columns {
            Pick::All(_) if len == height => consecutive(rows, features),
            _ => None,
        };
        let copied = if in_place.is_some() { whole } else { 0 };
        for i in 0..len {
            // What other rows hold is no matter: none of it reaches the output.
            let Some(row) = rows.index(first + i) else { continue };
            let row = &elements[row * weight.columns..][..weight.columns];
            for (step, at) in inputs.clone().step_by(TILE_COLUMNS).enumerate().skip(copied) {
                let to = &mut panel[step].0[i * TILE_COLUMNS..][..TILE_COLUMNS];
                let (to, padding) = to.split_at_mut(TILE_COLUMNS.min(inputs.end - at));
                copy_picked(row, columns, at, to);
                padding.fill(0);
            }
        }
        let panel = |step: usize| Rows {
            start: panel[step..].as_ptr().cast(),
            stride: ROW_BYTES,
            step: size_of::<Tile>() / size_of::<u16>(),
        };
        let in_place = in_place.map(|first| {
            let rows = &elements[first * weight.columns..(first + height) * weight.columns];
            Rows {
                start: rows[inputs.start..].as_ptr(),
                stride: weight.columns * size_of::<u16>(),
                step: TILE_COLUMNS,
            }
        });
        Self { whole: in_place.unwrap_or(panel(0)), tail: panel(whole), len, skipped }
    }

    /// Whether no feature takes part.
    pub(super) fn is_idle(&self) -> bool {
        self.skipped.count_ones() as usize == self.len
    }

    /// Puts 0 into the skipped features' sums (features, tokens).
    pub(super) fn clear_skipped(&self, sums: &mut [f32; 256]) {
        if self.skipped == 0 {
            return;
        }
        for (i, sums) in sums.chunks_exact_mut(16).enumerate() {
            if self.skipped >> i & 1 == 1 {
                sums.fill(0.0);
            }
        }
    }
}

/// The weight's row of the first feature, if those of the others follow it.
fn consecutive(rows: Pick<'_>, mut features: Range<usize>) -> Option<usize> {
    let (start, first) = (features.start, rows.index(features.start)?);
    features.all(|feature| rows.index(feature) == Some(first + feature - start)).then_some(first)
}

/// Copies the picked columns from the `from`-th on.
#[inline(always)]
fn copy_picked(row: &[u16], columns: Pick<'_>, from: usize, to: &mut [u16]) {
    match columns {
        Pick::All(_) => match <&mut [u16; TILE_COLUMNS]>::try_from(&mut *to) {
            // By a known length: a call of memcpy would take longer than the copy.
            Ok(to) => to.copy_from_slice(&row[from..][..TILE_COLUMNS]),
            Err(_) => to.copy_from_slice(&row[from..][..to.len()]),
        },
        Pick::Blocks { indices, block_width: 1 } => {
            for (to, &column) in to.iter_mut().zip(&indices[from..]) {
                // SAFETY: `picked`, the only place that makes blocks of columns, has checked that they lie in the
                // matrix. A check here would cost more than the move.
                *to = unsafe { *row.get_unchecked(column as usize) };
            }
        }
        Pick::Blocks { .. } => columns.runs(from, from + to.len(), |picked, column, length| {
            to[picked - from..][..length].copy_from_slice(&row[column..][..length]);
        }),
    }
}
