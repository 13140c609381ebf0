//! Causal softmax attention with an online softmax over blocks of keys: nothing of size (S, S) is ever stored.

use super::{Buffer, Cpu, SCRATCH_LEN, Scratch, math};
use crate::backend::{AttentionOperands, AttentionShape};

/// Queries of one task.
const QUERY_TILE: usize = 64;
/// Keys of one step of the online softmax.
const KEY_BLOCK: usize = 1024;

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

/// Rows at a stride.
#[derive(Clone, Copy)]
struct Strided<'a> {
    values: &'a [f32],
    stride: usize,
}

impl<'a> Strided<'a> {
    #[inline(always)]
    fn row(self, i: usize, len: usize) -> &'a [f32] {
        &self.values[i * self.stride..][..len]
    }

    /// Whether `rows` rows of `len` values are there.
    #[inline(always)]
    fn holds(self, rows: usize, len: usize) -> bool {
        self.values.len() >= (rows - 1) * self.stride + len
    }
}

pub(super) fn attention(cpu: &Cpu, operands: AttentionOperands<'_, Cpu>) {
    let AttentionOperands { q, k, v, shape, kv_head_of, mask, slots, out } = operands;
    let inputs = Inputs { q, k, v, shape, kv_head_of, mask, slots };
    let tiles = shape.queries.tokens.div_ceil(QUERY_TILE);
    let (width, d) = (shape.heads * shape.head_dim, shape.head_dim);
    assert!(d * QUERY_TILE <= SCRATCH_LEN, "a tile of the output fits its buffer");
    // One task per (sample, tile): its rows of `out` are contiguous, and its heads follow one another.
    let rows: Vec<_> = out[..shape.queries.rows() * width]
        .chunks_exact_mut(shape.queries.tokens * width)
        .flat_map(|sample| sample.chunks_mut(QUERY_TILE * width))
        .map(std::sync::Mutex::new)
        .collect();
    // Heads are separate tasks too, because one sample of few tokens has to occupy every thread.
    cpu.tasks(rows.len() * shape.heads, |task, scratch| {
        let (tile, head) = (task / shape.heads, task % shape.heads);
        let (sample, first) = (tile / tiles, tile % tiles * QUERY_TILE);
        let len = QUERY_TILE.min(shape.queries.tokens - first);
        cpu.vectorized(
            #[inline(always)]
            || tile_of_head(&inputs, [sample, head], first, len, scratch),
        );
        let mut rows = rows[tile].lock().expect("no task panics while it copies");
        for (row, values) in rows.chunks_exact_mut(width).zip(scratch.values.chunks_exact(d)) {
            row[head * d..(head + 1) * d].copy_from_slice(values);
        }
    });
}

/// Leaves (len, D) in `scratch.values`.
#[inline(always)]
fn tile_of_head(
    inputs: &Inputs<'_>,
    [sample, head]: [usize; 2],
    first: usize,
    len: usize,
    scratch: &mut Scratch,
) {
    let shape = inputs.shape;
    let d = shape.head_dim;
    let (q_stride, kv_stride) = (shape.heads * d, shape.kv_heads * d);
    let q = &inputs.q[(sample * shape.queries.tokens + first) * q_stride + head * d..];
    let q = Strided { values: q, stride: q_stride };
    let kv_at = sample * shape.key_capacity * kv_stride + inputs.kv_head_of[head] as usize * d;
    let mask = inputs.mask.map(|mask| &mask[sample * shape.key_capacity..][..shape.keys]);
    let slot = |j: usize| inputs.slots.map_or(j, |slots| slots[j] as usize);
    // Index among the keys of the tile's first query.
    let query_at = shape.keys - shape.queries.tokens + first;
    let sums = &mut scratch.values[..len * d];
    sums.fill(0.0);
    let mut largest = [f32::NEG_INFINITY; QUERY_TILE];
    let mut total = [0.0f32; QUERY_TILE];
    for from in (0..query_at + len).step_by(KEY_BLOCK) {
        let keys = KEY_BLOCK.min(query_at + len - from);
        let [k, v] = [inputs.k, inputs.v]
            .map(|keys| Strided { values: &keys[kv_at + from * kv_stride..], stride: kv_stride });
        let scores = &mut scratch.panel[..len * keys];
        products(q, k, scores, len, keys, d);
        for (i, row) in scores.chunks_exact_mut(keys).enumerate() {
            let query = query_at + i;
            let visible = (query + 1).saturating_sub(from).min(keys);
            for (j, score) in row[..visible].iter_mut().enumerate() {
                *score *= shape.scale;
                let masked = mask.is_some_and(|mask| mask[from + j] == 0);
                let far = shape.window.is_some_and(|window| slot(query) - slot(from + j) >= window);
                if masked || far {
                    *score = f32::NEG_INFINITY;
                }
            }
            row[visible..].fill(0.0);
            let row = &mut row[..visible];
            let best = math::max(row);
            let best = if best > largest[i] { best } else { largest[i] };
            // Where no key has been seen, weights are 0; those of NaN have to stay NaN.
            let base = if best == f32::NEG_INFINITY { 0.0 } else { best };
            let shrink = math::exp(largest[i] - base);
            row.iter_mut().for_each(
                #[inline(always)]
                |x| *x = math::exp(*x - base),
            );
            total[i] = total[i] * shrink + math::sum(row, |x| x);
            largest[i] = best;
            if shrink != 1.0 {
                sums[i * d..(i + 1) * d].iter_mut().for_each(|x| *x *= shrink);
            }
        }
        weighted_sums(scores, v, sums, len, keys, d);
    }
    for (i, row) in sums.chunks_exact_mut(d).enumerate() {
        // A query that sees no key gives 0.
        let scale = if total[i] == 0.0 { 0.0 } else { 1.0 / total[i] };
        row.iter_mut().for_each(|x| *x *= scale);
    }
}

/// Fewer rows than this are done without the `gemm` crate, whose set-up would cost more than the work.
const FEW: usize = 5;

/// scores (len, keys) = q (len, D) · k (keys, D)ᵀ.
#[inline(always)]
fn products(q: Strided<'_>, k: Strided<'_>, scores: &mut [f32], len: usize, keys: usize, d: usize) {
    if len < FEW {
        for (i, row) in scores.chunks_exact_mut(keys).enumerate() {
            for (j, score) in row.iter_mut().enumerate() {
                *score = math::dot(q.row(i, d), k.row(j, d));
            }
        }
        return;
    }
    assert!(q.holds(len, d) && k.holds(keys, d) && scores.len() == len * keys);
    // SAFETY: the assertion above covers every element that the strides reach; `scores` is borrowed mutably.
    unsafe {
        let (factors, steps) = ([k.values.as_ptr(), q.values.as_ptr()], [[1, k.stride], [1, q.stride]]);
        product([keys, len, d], scores.as_mut_ptr(), keys, false, factors, steps);
    }
}

/// sums (len, D) += weights (len, keys) · v (keys, D).
#[inline(always)]
fn weighted_sums(weights: &[f32], v: Strided<'_>, sums: &mut [f32], len: usize, keys: usize, d: usize) {
    if len < FEW {
        for (weights, sums) in weights.chunks_exact(keys).zip(sums.chunks_exact_mut(d)) {
            for (j, &weight) in weights.iter().enumerate() {
                for (sum, v) in sums.iter_mut().zip(v.row(j, d)) {
                    *sum = weight.mul_add(*v, *sum);
                }
            }
        }
        return;
    }
    assert!(v.holds(keys, d) && weights.len() == len * keys && sums.len() == len * d);
    // SAFETY: the assertion above covers every element that the strides reach; `sums` is borrowed mutably.
    unsafe {
        let (factors, steps) = ([v.values.as_ptr(), weights.as_ptr()], [[v.stride, 1], [1, keys]]);
        product([d, len, keys], sums.as_mut_ptr(), d, true, factors, steps);
    }
}

/// dst\[j·stride + i\] = Σ_l a\[l·a_step_l + i·a_step_i\] · b\[l·b_step_l + j·b_step_j\] for i < m, j < n, l < k, added to
/// the values of `dst` if `accumulate`; `steps` = \[\[a_step_l, a_step_i\], \[b_step_l, b_step_j\]\].
///
/// # Safety
/// Every element that the steps reach is valid, and no other thread uses those of `dst`.
unsafe fn product(
    [m, n, k]: [usize; 3],
    dst: *mut f32,
    stride: usize,
    accumulate: bool,
    [a, b]: [*const f32; 2],
    steps: [[usize; 2]; 2],
) {
    let [[a_l, a_i], [b_l, b_j]] = steps.map(|steps| steps.map(|step| step as isize));
    let none = gemm::Parallelism::None;
    // SAFETY: the caller promises that every element reached by the steps is valid, and that those of `dst` are used by
    // this thread alone.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst,
            stride as isize,
            1,
            accumulate,
            a,
            a_l,
            a_i,
            b,
            b_j,
            b_l,
            1.0,
            1.0,
            false,
            false,
            false,
            none,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_with_gaps_need_no_gap_at_the_end() {
        let rows = Strided { values: &[0.0; 10], stride: 3 };
        assert!(rows.holds(3, 4) && rows.holds(1, 10));
        assert!(!rows.holds(3, 5) && !rows.holds(4, 2));
    }
}
