//! Rotary positions with the cache write, and attention: prefill and decode.

use super::{
    Driver, Geometry, Gpu, PerDtype,
    args::{AttentionArgs, RopeCacheArgs},
    per_dtype,
};
use crate::{
    backend::{AttentionOperands, AttentionShape, RopeCacheOperands},
    prune::BatchShape,
};

const ROPE_CACHE: PerDtype = per_dtype!("rope_cache");

/// Kernels by head width; narrower heads are padded in shared memory or registers.
const DECODE: [(usize, PerDtype); 3] = [
    (64, per_dtype!("attention_decode", "attention_decode_d64")),
    (128, per_dtype!("attention_decode", "attention_decode_d128")),
    (256, per_dtype!("attention_decode", "attention_decode_d256")),
];
const QUERIES_64: [(usize, PerDtype); 4] = [
    (32, per_dtype!("attention", "attention_q64_d32")),
    (64, per_dtype!("attention", "attention_q64_d64")),
    (128, per_dtype!("attention", "attention_q64_d128")),
    (256, per_dtype!("attention", "attention_q64_d256")),
];
const QUERIES_128: [(usize, PerDtype); 3] = [
    (32, per_dtype!("attention", "attention_q128_d32")),
    (64, per_dtype!("attention", "attention_q128_d64")),
    (128, per_dtype!("attention", "attention_q128_d128")),
];

/// The widest head that the kernels take.
pub(crate) const WIDEST_HEAD: usize = 256;
/// Most samples of one launch: a grid has no more blocks in y and z.
const MOST_SAMPLES: usize = 65_535;
/// Most new tokens for the decode kernels: up to here a launch is bound by reading keys and values.
const DECODE_TOKENS: usize = 8;

/// The narrowest kernel that takes a head.
fn for_width(kernels: &[(usize, PerDtype)], head_dim: usize) -> Option<(usize, PerDtype)> {
    kernels.iter().copied().find(|&(width, _)| head_dim <= width)
}

/// Bytes of dynamic shared memory of a prefill kernel: the queries, a ring of three key and value tiles, a number per
/// query, each followed by the gap that `Carver` leaves (cuda/primitives.cuh).
fn prefill_shared(queries: usize, width: usize) -> u32 {
    let keys = if width == 256 { 32 } else { 64 };
    let tiles = (2 * queries * width + 16).next_multiple_of(128) + 3 * 2 * keys * width + 16;
    (tiles + 4 * queries + 16) as u32
}

/// The kernel and its geometry for a shape.
fn plan(shape: &AttentionShape, multiprocessors: usize) -> (PerDtype, Geometry) {
    let AttentionShape { queries, heads, kv_heads, head_dim, .. } = *shape;
    debug_assert!(head_dim <= WIDEST_HEAD, "heads of {head_dim} channels");
    let vectors = head_dim.is_multiple_of(8);
    let decode = for_width(&DECODE, head_dim).filter(|&(width, _)| vectors || width < WIDEST_HEAD);
    if let Some((_, kernel)) = decode
        && queries.tokens <= DECODE_TOKENS
    {
        let grid = [kv_heads as u32, queries.samples as u32, 1];
        return (kernel, Geometry { grid, threads: 256, shared: 0 });
    }
    let tiles = |rows: usize| queries.tokens.div_ceil(rows);
    // 128 queries read shared memory half as often, but need enough blocks for two on each multiprocessor.
    let many = tiles(128) * heads * queries.samples >= 2 * multiprocessors;
    let wide = (many && vectors).then(|| for_width(&QUERIES_128, head_dim)).flatten();
    let (rows, (width, kernel)) = match wide {
        Some(kernel) => (128, kernel),
        None => (64, for_width(&QUERIES_64, head_dim).expect("heads are not wider than the widest kernel")),
    };
    let grid = [heads as u32, tiles(rows) as u32, queries.samples as u32];
    (kernel, Geometry { grid, threads: 128, shared: prefill_shared(rows, width) })
}

impl<D: Driver> Gpu<D> {
    pub(super) fn rope_cache_kernel(&self, operands: RopeCacheOperands<'_, Self>) {
        let RopeCacheOperands { q, k, v, shape, heads, kv_heads, head_dim, rotary, cache } = operands;
        // q and k are rotated, or k is only copied; v is only copied.
        let parts = match (&rotary, &cache) {
            (Some(_), Some(_)) => 3,
            (None, None) => 0,
            _ => 2,
        };
        let arguments = RopeCacheArgs {
            q: self.elements(q),
            k: self.elements(k),
            v: self.elements(v),
            table: self.optional_floats(rotary.map(|(table, _)| table)),
            positions: self.optional_words(rotary.map(|(_, positions)| positions)),
            cache_keys: cache.as_ref().map_or(0, |cache| self.elements(cache.keys)),
            cache_values: cache.as_ref().map_or(0, |cache| self.elements(cache.values)),
            tokens: shape.tokens as i32,
            heads: heads as i32,
            kv_heads: kv_heads as i32,
            head_dim: head_dim as i32,
            capacity: cache.as_ref().map_or(0, |cache| cache.capacity as i32),
            at: cache.as_ref().map_or(0, |cache| cache.at as i32),
        };
        let geometry = Geometry { grid: [shape.rows() as u32, parts, 1], threads: 128, shared: 0 };
        self.launch(self.of_dtype(ROPE_CACHE), geometry, &arguments);
    }

    pub(super) fn attention_kernel(&self, operands: AttentionOperands<'_, Self>) {
        let AttentionOperands { q, k, v, shape, kv_head_of, mask, slots, out } = operands;
        let AttentionShape { queries, key_capacity, heads, kv_heads, head_dim, .. } = shape;
        let (query_bytes, key_bytes) =
            (2 * queries.tokens * heads * head_dim, 2 * key_capacity * kv_heads * head_dim);
        for first in (0..queries.samples).step_by(MOST_SAMPLES) {
            let behind = |address: u64, bytes: usize| address + (first * bytes) as u64;
            let arguments = AttentionArgs {
                q: behind(self.elements(q), query_bytes),
                k: behind(self.elements(k), key_bytes),
                v: behind(self.elements(v), key_bytes),
                out: behind(self.elements(out), query_bytes),
                kv_head_of: self.words(kv_head_of),
                mask: mask.map_or(0, |mask| behind(self.words(mask), 4 * key_capacity)),
                slots: self.optional_words(slots),
                tokens: queries.tokens as i32,
                keys: shape.keys as i32,
                capacity: key_capacity as i32,
                heads: heads as i32,
                kv_heads: kv_heads as i32,
                head_dim: head_dim as i32,
                window: shape.window.map_or(i32::MAX, |window| i32::try_from(window).unwrap_or(i32::MAX)),
                scale: shape.scale,
            };
            let samples = (queries.samples - first).min(MOST_SAMPLES);
            let part = AttentionShape { queries: BatchShape { samples, ..queries }, ..shape };
            let (kernel, geometry) = plan(&part, self.driver.multiprocessors() as usize);
            self.launch(self.of_dtype(kernel), geometry, &arguments);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel's name without its dtype, and blocks in y.
    fn planned(tokens: usize, heads: usize, head_dim: usize, multiprocessors: usize) -> (&'static str, u32) {
        let queries = BatchShape { samples: 2, tokens };
        let (keys, scale) = (tokens, 1.0);
        let shape = AttentionShape {
            queries,
            keys,
            key_capacity: keys,
            heads,
            kv_heads: heads,
            head_dim,
            scale,
            window: None,
        };
        let (kernel, geometry) = plan(&shape, multiprocessors);
        (kernel[0].name.trim_end_matches("_bf16"), geometry.grid[1])
    }

    #[test]
    fn kernels_are_as_wide_as_heads() {
        for (head_dim, decode, prefill) in [
            (7, "attention_decode_d64", "attention_q64_d32"),
            (32, "attention_decode_d64", "attention_q128_d32"),
            (64, "attention_decode_d64", "attention_q128_d64"),
            (72, "attention_decode_d128", "attention_q128_d128"),
            (132, "attention_q64_d256", "attention_q64_d256"),
            (256, "attention_decode_d256", "attention_q64_d256"),
        ] {
            assert_eq!(planned(8, 4, head_dim, 1).0, decode);
            assert_eq!(planned(9, 4, head_dim, 1).0, prefill);
        }
    }

    #[test]
    fn tiles_are_large_where_there_are_two_for_each_multiprocessor() {
        // Two tiles of 128 queries, 4 heads, 2 samples.
        assert_eq!(planned(129, 4, 64, 8), ("attention_q128_d64", 2));
        assert_eq!(planned(129, 4, 64, 9), ("attention_q64_d64", 3));
        assert_eq!(planned(128, 4, 64, 5), ("attention_q64_d64", 2));
    }
}
