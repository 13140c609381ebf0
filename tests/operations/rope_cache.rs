//! `rope_cache`: rotary positions and the cache write.

use probeprune::{
    Result,
    backend::{Backend, CacheSlots, RopeCacheOperands},
    prune::BatchShape,
};
use rand::RngExt;

use super::{
    Case, ElementBytes, Expected, Put, Ready, Traffic,
    near::{Near, Stored},
    outputs,
    source::Source,
};

#[derive(Clone, Debug)]
pub struct RopeCase {
    pub shape: BatchShape,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub rotary: bool,
    /// Capacity and the first new slot.
    pub cache: Option<(usize, usize)>,
}

struct Input {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    table: Vec<f32>,
    positions: Vec<u32>,
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// Exact values.
fn near(values: &[f32]) -> Vec<Near> {
    values.iter().map(|&x| Near::from(x)).collect()
}

impl RopeCase {
    /// Rows of the rotary table.
    fn positions(&self) -> usize {
        self.shape.tokens.max(40)
    }

    /// Entries of k, and of a cache.
    fn kv_len(&self, rows: usize) -> usize {
        rows * self.kv_heads * self.head_dim
    }

    fn input(&self, source: Source<'_>) -> Input {
        let mut stream = source.stream(2);
        let rows = self.shape.rows();
        let cache = self.kv_len(self.cache.map_or(0, |(capacity, _)| self.shape.samples * capacity));
        let [q, k, v] = [rows * self.heads * self.head_dim, self.kv_len(rows), self.kv_len(rows)]
            .map(|len| stream.elements(len));
        // No real angles: a product with the wrong entry would show less.
        let table = stream.floats(-1.0..1.0, self.positions() * self.head_dim);
        let exact = stream.is_exact();
        let mut position = |row: usize| {
            if exact { stream.rng.random_range(0..self.positions()) } else { row % self.shape.tokens }
        };
        let positions = (0..rows).map(|row| position(row) as u32).collect();
        let [keys, values] = [(); 2].map(|()| stream.elements(cache));
        Input { q, k, v, table, positions, keys, values }
    }

    /// Rows of heads, rotated.
    fn rotated(&self, x: &[f32], heads: usize, input: &Input, stored: Stored) -> Vec<Near> {
        let mut out = near(x);
        if !self.rotary {
            return out;
        }
        let (d, half) = (self.head_dim, self.head_dim / 2);
        for (t, row) in out.chunks_exact_mut(heads * d).enumerate() {
            let angles = near(&input.table[input.positions[t] as usize * d..][..d]);
            for head in row.chunks_exact_mut(d) {
                for i in 0..half {
                    let (a, b) = (head[i], head[half + i]);
                    head[i] = (a * angles[i] - b * angles[half + i]).stored(stored);
                    head[half + i] = (b * angles[i] + a * angles[half + i]).stored(stored);
                }
            }
        }
        out
    }

    /// The cache with rows in their slots.
    fn placed(&self, cache: &[f32], rows: &[Near]) -> Vec<Near> {
        let mut out = near(cache);
        let (Some((capacity, at)), BatchShape { samples, tokens }) = (self.cache, self.shape) else {
            return out;
        };
        let width = self.kv_heads * self.head_dim;
        for b in 0..samples {
            let from = &rows[b * tokens * width..][..tokens * width];
            out[(b * capacity + at) * width..][..from.len()].copy_from_slice(from);
        }
        out
    }
}

impl Case for RopeCase {
    fn prepare<B: Backend>(&self, backend: &B, source: Source<'_>) -> Result<Ready<B>> {
        let input = self.input(source);
        let Self { shape, heads, kv_heads, head_dim, rotary, cache } = *self;
        let rows = shape.rows();
        let (q_len, kv_len) = (rows * heads * head_dim, self.kv_len(rows));
        let cache_len = self.kv_len(cache.map_or(0, |(capacity, _)| shape.samples * capacity));
        let mut q = backend.put_activations(q_len, &input.q)?;
        let mut k = backend.put_activations(kv_len, &input.k)?;
        let v = backend.put_activations(kv_len, &input.v)?;
        let table = backend.put_statistics(self.positions() * head_dim, &input.table)?;
        let positions = backend.put_indices(&input.positions)?;
        let mut keys = backend.put_activations(cache_len, &input.keys)?;
        let mut values = backend.put_activations(cache_len, &input.values)?;
        Ok(Box::new(move |backend, read| {
            backend.rope_cache(RopeCacheOperands {
                q: &mut q,
                k: &mut k,
                v: &v,
                shape,
                heads,
                kv_heads,
                head_dim,
                rotary: rotary.then_some((&table, &positions)),
                cache: cache.map(|(capacity, at)| CacheSlots {
                    keys: &mut keys,
                    values: &mut values,
                    capacity,
                    at,
                }),
            });
            outputs(read, || {
                [(&q, q_len), (&k, kv_len), (&v, kv_len), (&keys, cache_len), (&values, cache_len)]
                    .into_iter()
                    .map(|(x, len)| backend.read_activations(x, len))
                    .collect()
            })
        }))
    }

    fn expected(&self, source: Source<'_>, stored: Stored) -> Vec<Expected> {
        let input = self.input(source);
        let q = self.rotated(&input.q, self.heads, &input, stored);
        let k = self.rotated(&input.k, self.kv_heads, &input, stored);
        let v = near(&input.v);
        let (keys, values) = (self.placed(&input.keys, &k), self.placed(&input.values, &v));
        [q, k, v, keys, values].map(Expected::Floats).into()
    }

    fn bytes(&self, element: ElementBytes) -> usize {
        let rows = self.shape.rows();
        let rotated = 2 * (rows * self.heads * self.head_dim + self.kv_len(rows));
        // v is read; keys and values are written.
        let cached = if self.cache.is_some() { 3 * self.kv_len(rows) } else { 0 };
        let (rotated, table) =
            if self.rotary { (rotated, 4 * self.shape.tokens * self.head_dim) } else { (0, 0) };
        element.activation * (rotated + cached) + table
    }

    fn traffic(&self) -> Traffic {
        let (t, n, k, d) = (self.shape.rows(), self.heads, self.kv_heads, self.head_dim);
        let read = 2 * t * (n + 2 * k) * d + 8 * t * (8 * d + 32);
        Traffic::new("rope_cache", read, 2 * t * (n + 3 * k) * d)
    }
}
