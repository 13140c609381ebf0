//! `place_qkv`: rotary positions and the cache write.

use probeprune::{
    Result,
    backend::{Backend, CacheSlots, Grid, Placement},
    gpu::{Driver, Gpu, GpuDtype},
};
use rand::RngExt;

use crate::{
    case::{
        Case, DTYPES, Expected, Output, Put, check, check_once, check_traffic, elements, floats, rng,
        unit_roundoff, wide,
    },
    device::backend,
};

#[derive(Debug, Clone)]
struct RopeCase {
    dtype: GpuDtype,
    grid: (usize, usize),
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    rotary: bool,
    /// Capacity and the first new slot.
    cache: Option<(usize, usize)>,
}

/// Rows of the rotary table.
const POSITIONS: usize = 40;

struct Input {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    table: Vec<f32>,
    positions: Vec<u32>,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl RopeCase {
    fn input(&self) -> Input {
        let mut rng = rng(2);
        let rows = self.grid.0 * self.grid.1;
        let kv_width = self.kv_heads * self.head_dim;
        let cache = self.cache.map_or(0, |(capacity, _)| self.grid.0 * capacity * kv_width);
        Input {
            q: elements(&mut rng, self.dtype, rows * self.heads * self.head_dim),
            k: elements(&mut rng, self.dtype, rows * kv_width),
            v: elements(&mut rng, self.dtype, rows * kv_width),
            // No real angles: a product with the wrong entry would show less.
            table: floats(&mut rng, -1.0..1.0, POSITIONS * self.head_dim),
            positions: (0..rows).map(|_| rng.random_range(0..POSITIONS as u32)).collect(),
            keys: elements(&mut rng, self.dtype, cache),
            values: elements(&mut rng, self.dtype, cache),
        }
    }

    /// Rows of heads, rotated.
    fn rotated(&self, x: &[f32], heads: usize, input: &Input) -> Vec<f64> {
        let mut out = wide(x);
        if !self.rotary {
            return out;
        }
        let (d, half) = (self.head_dim, self.head_dim / 2);
        for (t, row) in out.chunks_exact_mut(heads * d).enumerate() {
            let angles = wide(&input.table[input.positions[t] as usize * d..][..d]);
            for head in row.chunks_exact_mut(d) {
                for i in 0..half {
                    let (a, b) = (head[i], head[half + i]);
                    head[i] = a * angles[i] - b * angles[half + i];
                    head[half + i] = b * angles[i] + a * angles[half + i];
                }
            }
        }
        out
    }

    /// The cache with rows in their slots.
    fn placed(&self, cache: &[f32], rows: &[f64]) -> Vec<f64> {
        let mut out = wide(cache);
        let (Some((capacity, at)), (samples, tokens)) = (self.cache, self.grid) else { return out };
        let width = self.kv_heads * self.head_dim;
        for b in 0..samples {
            let from = &rows[b * tokens * width..][..tokens * width];
            out[(b * capacity + at) * width..][..from.len()].copy_from_slice(from);
        }
        out
    }
}

impl Case for RopeCase {
    fn run<D: Driver>(&self, gpu: &Gpu<D>) -> Result<Vec<Output>> {
        let input = self.input();
        let [mut q, mut k, v] = [&input.q, &input.k, &input.v].map(|x| gpu.put_activations(x));
        let (table, positions) = (gpu.put_statistics(&input.table), gpu.put_indices(&input.positions));
        let [mut keys, mut values] = [&input.keys, &input.values].map(|x| gpu.put_activations(x));
        let cache = self.cache.map(|(capacity, at)| CacheSlots {
            keys: &mut keys,
            values: &mut values,
            capacity,
            at,
        });
        let placement = Placement {
            grid: Grid { samples: self.grid.0, tokens: self.grid.1 },
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            rotary: self.rotary.then_some((&table, &positions)),
            cache,
        };
        gpu.place_qkv(&mut q, &mut k, &v, placement);
        let mut outputs = Vec::new();
        for (x, from) in
            [(&q, &input.q), (&k, &input.k), (&v, &input.v), (&keys, &input.keys), (&values, &input.values)]
        {
            outputs.push(Output::Floats(gpu.download_activations(x, from.len())?));
        }
        Ok(outputs)
    }

    fn expected(&self) -> Vec<Expected> {
        let input = self.input();
        let q = self.rotated(&input.q, self.heads, &input);
        let k = self.rotated(&input.k, self.kv_heads, &input);
        let v = wide(&input.v);
        let (keys, values) = (self.placed(&input.keys, &k), self.placed(&input.values, &v));
        // One rounding to the dtype of values up to about 4 rms; copies are exact.
        let rotated = if self.rotary { 5.0 * unit_roundoff(self.dtype) } else { 0.0 };
        [(q, rotated), (k, rotated), (v, 0.0), (keys, rotated), (values, 0.0)]
            .map(|(values, tolerance)| Expected::Floats { values, tolerance })
            .into()
    }

    fn dtype(&self) -> GpuDtype {
        self.dtype
    }
}

const BASE: RopeCase = RopeCase {
    dtype: GpuDtype::Bf16,
    grid: (2, 3),
    heads: 3,
    kv_heads: 3,
    head_dim: 16,
    rotary: true,
    cache: None,
};

#[test]
fn rope_cache() {
    for dtype in DTYPES {
        for (heads, kv_heads, head_dim) in
            [(3, 3, 16), (4, 2, 6), (3, 1, 10), (5, 5, 80), (33, 3, 32), (2, 1, 128), (1, 1, 2), (1, 1, 258)]
        {
            let base = RopeCase { dtype, heads, kv_heads, head_dim, ..BASE };
            for cache in [None, Some((3, 0)), Some((7, 2))] {
                check(&RopeCase { cache, ..base.clone() });
            }
            check(&RopeCase { rotary: false, cache: Some((5, 2)), ..base.clone() });
            check(&RopeCase { grid: (1, 1), cache: Some((9, 8)), ..base });
        }
        // Heads of odd width exist without rotary positions only.
        check(&RopeCase { dtype, head_dim: 5, rotary: false, cache: Some((4, 1)), ..BASE });
        check_once(&RopeCase {
            dtype,
            grid: (2, 5),
            heads: 32,
            kv_heads: 8,
            head_dim: 128,
            cache: Some((9, 3)),
            ..BASE
        });
        check_once(&RopeCase { dtype, grid: (1, 2), heads: 4, kv_heads: 4, head_dim: 4096, ..BASE });
    }
}

#[test]
fn rope_cache_moves_what_its_header_says() {
    let case = RopeCase { grid: (2, 4), heads: 32, kv_heads: 32, head_dim: 128, cache: Some((8, 2)), ..BASE };
    let (t, n, k, d) = (8, case.heads, case.kv_heads, case.head_dim);
    check_traffic(
        &case,
        "rope_cache",
        2 * t * (n + 2 * k) * d + 8 * t * (8 * d + 32),
        2 * t * (n + 3 * k) * d,
    );
}

#[test]
fn nothing_to_do_launches_nothing() {
    let gpu = backend(GpuDtype::Bf16);
    RopeCase { rotary: false, ..BASE }.run(&gpu).unwrap();
    assert_eq!(gpu.driver().launches(), 0);
}
