//! Causal softmax attention with an online softmax over blocks of keys: nothing of size (S, S) is ever stored.
//!
//! A row is a query of one query head. Rows of all query heads that share a key/value head follow one another, query by
//! query, because they see the same keys: a task is a tile of them. How work is cut depends on shapes alone.

mod few;
mod softmax;
#[cfg(test)]
mod tests;
mod tile;

use std::ops::Range;

use super::{Buffer, Cpu, CpuDtype, Scratch};
use crate::backend::{AttentionOperands, AttentionShape};
use tile::{State, Tile};

/// Tasks that are enough for the threads to end together.
const TASKS: usize = 24;
/// Rows of a task: few where there would be too few tasks otherwise.
const TILE_ROWS: [usize; 4] = [384, 192, 96, 48];
/// The inputs of every task.
struct Inputs<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    shape: AttentionShape,
    kv_head_of: &'a [u32],
    mask: Option<&'a Buffer<u32>>,
    slots: Option<&'a Buffer<u32>>,
}

impl Inputs<'_> {
    /// The query heads of a key/value head, ascending.
    fn heads(&self, kv_head: usize) -> impl Iterator<Item = usize> {
        (0..self.shape.heads).filter(move |&head| self.kv_head_of[head] as usize == kv_head)
    }

    /// The queries and query heads of these rows of a key/value head.
    fn rows(&self, kv_head: usize, rows: Range<usize>) -> impl Iterator<Item = (usize, usize)> {
        let group = self.heads(kv_head).count().max(1);
        (rows.start / group..self.shape.queries.tokens)
            .flat_map(move |query| self.heads(kv_head).map(move |head| (query, head)))
            .skip(rows.start % group)
            .take(rows.len())
    }

    /// Where a query head's channels start in q and in the output.
    fn at(&self, sample: usize, query: usize, head: usize) -> usize {
        ((sample * self.shape.queries.tokens + query) * self.shape.heads + head) * self.shape.head_dim
    }

    /// Index among the keys of a query.
    fn slot_of(&self, query: usize) -> usize {
        self.shape.keys - self.shape.queries.tokens + query
    }

    /// The first key in a query's window; slots ascend.
    fn first_key(&self, query: usize) -> usize {
        let last = self.slot_of(query);
        match (self.shape.window, self.slots) {
            (None, _) => 0,
            (Some(window), None) => (last + 1).saturating_sub(window),
            (Some(window), Some(slots)) => {
                slots[..=last].partition_point(|&slot| (slots[last] - slot) as usize >= window)
            }
        }
    }
}

/// The output, which several tasks write.
struct Output(*mut f32);
// SAFETY: every task writes channels of its own, within the borrow of the output.
unsafe impl Sync for Output {}

impl Output {
    /// Writes what these rows of a key/value head have come to.
    ///
    /// # Safety
    /// The output has the inputs' queries and heads, and no other task uses these rows.
    unsafe fn finish(
        &self,
        inputs: &Inputs<'_>,
        [sample, kv_head]: [usize; 2],
        rows: Range<usize>,
        state: &State<'_>,
    ) {
        let d = inputs.shape.head_dim;
        for (i, (query, head)) in inputs.rows(kv_head, rows).enumerate() {
            // SAFETY: the caller's promise.
            let out =
                unsafe { std::slice::from_raw_parts_mut(self.0.add(inputs.at(sample, query, head)), d) };
            state.finish(i, out);
        }
    }
}

pub(super) fn attention(cpu: &Cpu, operands: AttentionOperands<'_, Cpu>) {
    let AttentionOperands { q, k, v, shape, kv_head_of, mask, slots, out } = operands;
    let inputs = Inputs { q, k, v, shape, kv_head_of, mask, slots };
    let d = shape.head_dim;
    let out = &mut out[..shape.queries.rows() * shape.heads * d];
    let group = (0..shape.kv_heads).map(|kv_head| inputs.heads(kv_head).count()).max().unwrap_or(0);
    let rows = shape.queries.tokens * group;
    let pairs = shape.queries.samples * shape.kv_heads;
    if pairs * rows == 0 {
        return;
    }
    if rows <= tile::STEP_ROWS {
        return few::attention(cpu, &inputs, rows, out);
    }
    let most = tile::most_rows(d);
    let enough = |&tile: &usize| tile <= most && pairs * rows.div_ceil(tile) >= TASKS;
    let height = TILE_ROWS.into_iter().find(enough).unwrap_or(most.min(TILE_ROWS[TILE_ROWS.len() - 1]));
    let tiles = rows.div_ceil(height);
    let output = Output(out.as_mut_ptr());
    cpu.tasks(pairs * tiles, |task, scratch| {
        let (pair, tile) = (task / tiles, task % tiles);
        let (sample, kv_head) = (pair / shape.kv_heads, pair % shape.kv_heads);
        let rows = inputs.heads(kv_head).count() * shape.queries.tokens;
        let rows = (tile * height).min(rows)..((tile + 1) * height).min(rows);
        if rows.is_empty() {
            return;
        }
        let Scratch { panel, values, queries: q, .. } = scratch;
        let mut state = State::of(values, rows.len(), d);
        state.clear();
        let keys = 0..shape.keys;
        cpu.arch.dispatch(Tile {
            inputs: &inputs,
            sample,
            kv_head,
            rows: rows.clone(),
            keys,
            state: &mut state,
            panel,
            q,
            rounds: cpu.dtype == CpuDtype::Bf16,
        });
        // SAFETY: the query head of a query is a row of one task.
        unsafe { output.finish(&inputs, [sample, kv_head], rows, &state) };
    });
}
