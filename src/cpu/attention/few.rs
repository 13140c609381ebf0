//! Few queries per sample (decoding), where reading the keys and values once is all that matters.

use std::ops::Range;

use rayon::prelude::*;

use super::{
    Inputs, Output, TASKS,
    tile::{Add, KEY_BLOCK, State, Tile},
};
use crate::{
    backend::AttentionShape,
    cpu::{Cpu, CpuDtype, SCRATCH_LEN, Scratch},
};

/// Keys that are worth a task of their own.
const RANGE_KEYS: usize = 256;
/// Tasks that are enough to give each of them all key/value heads.
const WHOLE_TASKS: usize = 8;
/// Floats of what tasks on ranges of keys leave behind.
const PARTS_LEN: usize = 16 * 1024;

/// How the work is cut: a task reads a range of keys of some key/value heads of a sample.
struct Cut {
    /// Key/value heads of a task: all of them, which lie one after another, or one where there would be too few tasks or no room
    /// for the states of all.
    kv_heads: usize,
    /// Ranges of keys.
    ranges: usize,
    /// Floats of the state of a task.
    len: usize,
}

impl Cut {
    fn new(shape: &AttentionShape, rows: usize) -> Self {
        let AttentionShape { queries, keys, heads, head_dim, window, .. } = *shape;
        let seen = window.map_or(keys, |window| keys.min(window.saturating_add(queries.tokens)));
        let most = seen / RANGE_KEYS;
        let together = queries.tokens * heads;
        let fit = State::len(together, head_dim) <= SCRATCH_LEN;
        let (kv_heads, rows) = if fit && queries.samples * most.max(1) >= WHOLE_TASKS {
            (shape.kv_heads, together)
        } else {
            (1, rows)
        };
        let len = State::len(rows, head_dim);
        let groups = queries.samples * shape.kv_heads / kv_heads;
        let ranges = TASKS.div_ceil(groups).min(most).min(PARTS_LEN / (groups * len)).max(1);
        Self { kv_heads, ranges, len }
    }
}

/// Attention of at most `rows` rows per key/value head.
pub(super) fn attention(cpu: &Cpu, inputs: &Inputs<'_>, rows: usize, out: &mut [f32]) {
    let shape = inputs.shape;
    let cut = Cut::new(&shape, rows);
    let groups = shape.kv_heads / cut.kv_heads;
    let group_of = |task: usize| {
        let first = task % groups * cut.kv_heads;
        (task / groups, first..first + cut.kv_heads)
    };
    if cut.ranges > 1 {
        return by_ranges(cpu, inputs, &cut, group_of, out);
    }
    let output = Output(out.as_mut_ptr());
    cpu.tasks(shape.queries.samples * groups, |task, scratch| {
        let (sample, kv_heads) = group_of(task);
        let Scratch { panel, values, queries: q, .. } = scratch;
        read(cpu, inputs, sample, kv_heads.clone(), 0..shape.keys, values, [panel, q]);
        for (state, kv_head) in states(inputs, kv_heads, values) {
            // SAFETY: a key/value head of a sample belongs to one task, and each of its rows to one key/value head.
            unsafe { output.finish(inputs, [sample, kv_head], 0..state.rows(), &state) };
        }
    });
}

/// Tasks leave the state of their range of keys, and the states of a row are added up in the order of its keys.
#[inline(never)]
fn by_ranges(
    cpu: &Cpu,
    inputs: &Inputs<'_>,
    cut: &Cut,
    group_of: impl Fn(usize) -> (usize, Range<usize>) + Sync,
    out: &mut [f32],
) {
    let AttentionShape { queries, keys, kv_heads, .. } = inputs.shape;
    let output = Output(out.as_mut_ptr());
    let &Cut { ranges, len, .. } = cut;
    let mut parts = [0.0; PARTS_LEN];
    let parts = &mut parts[..queries.samples * kv_heads / cut.kv_heads * ranges * len];
    let first = if inputs.slots.is_none() { inputs.first_key(0) } else { 0 };
    let each = (keys - first).div_ceil(ranges);
    cpu.pool.install(|| {
        parts.par_chunks_exact_mut(len).enumerate().for_each(|(task, part)| {
            let (sample, kv_heads) = group_of(task / ranges);
            let at = first + task % ranges * each;
            let keys = at.min(keys)..(at + each).min(keys);
            cpu.with_scratch(|Scratch { panel, queries: q, .. }| {
                read(cpu, inputs, sample, kv_heads, keys, part, [panel, q]);
            });
        });
    });
    for (group, parts) in parts.chunks_exact_mut(ranges * len).enumerate() {
        let (sample, kv_heads) = group_of(group);
        let (whole, later) = parts.split_at_mut(len);
        for part in later.chunks_exact_mut(len) {
            let parts = states(inputs, kv_heads.clone(), part);
            for ((mut whole, _), (part, _)) in states(inputs, kv_heads.clone(), whole).zip(parts) {
                cpu.arch.dispatch(Add { whole: &mut whole, part });
            }
        }
        for (state, kv_head) in states(inputs, kv_heads, whole) {
            // SAFETY: `out` has every row and is borrowed mutably; the tasks are done.
            unsafe { output.finish(inputs, [sample, kv_head], 0..state.rows(), &state) };
        }
    }
}

/// The states of these key/value heads, one after another in the memory.
fn states<'a>(
    inputs: &'a Inputs<'_>,
    kv_heads: Range<usize>,
    memory: &'a mut [f32],
) -> impl Iterator<Item = (State<'a>, usize)> {
    let mut rest = memory;
    kv_heads.map(move |kv_head| {
        let rows = inputs.heads(kv_head).count() * inputs.shape.queries.tokens;
        let (memory, later) = std::mem::take(&mut rest).split_at_mut(State::len(rows, inputs.shape.head_dim));
        rest = later;
        (State::of(memory, rows, inputs.shape.head_dim), kv_head)
    })
}

/// Leaves the states of these key/value heads over a range of keys in `memory`. Block by block all heads are done, so
/// that keys and values are read as they lie.
fn read(
    cpu: &Cpu,
    inputs: &Inputs<'_>,
    sample: usize,
    kv_heads: Range<usize>,
    keys: Range<usize>,
    memory: &mut [f32],
    [panel, q]: [&mut [f32]; 2],
) {
    states(inputs, kv_heads.clone(), memory).for_each(|(mut state, _)| state.clear());
    for from in keys.clone().step_by(KEY_BLOCK) {
        let keys = from..keys.end.min(from + KEY_BLOCK);
        for (mut state, kv_head) in states(inputs, kv_heads.clone(), memory) {
            let (rows, keys) = (0..state.rows(), keys.clone());
            if !rows.is_empty() {
                let state = &mut state;
                let rounds = cpu.dtype == CpuDtype::Bf16;
                cpu.arch.dispatch(Tile { inputs, sample, kv_head, rows, keys, state, panel, q, rounds });
            }
        }
    }
}
