//! `attention`: prefill and decode.

use probeprune::{
    Result,
    backend::{AttentionShape, Backend, Grid},
    gpu::{Driver, Gpu, GpuDtype},
};
use rand::RngExt;

use crate::case::{
    Case, DTYPES, Expected, Output, Put, check, check_once, check_traffic, elements, rng, rounded, subset,
    unit_roundoff, wide,
};

#[derive(Debug, Clone)]
struct AttentionCase {
    dtype: GpuDtype,
    samples: usize,
    tokens: usize,
    keys: usize,
    capacity: usize,
    head_dim: usize,
    /// The key/value slot of each query head.
    kv_slots: &'static [u32],
    kv_heads: usize,
    /// Sample b begins with b times so many pads.
    pads: Option<usize>,
    window: Option<usize>,
    /// Keys are a probe's tokens, chosen from so many slots.
    probe_of: Option<usize>,
    scale: f32,
    /// Factor on q.
    magnitude: f32,
}

const BASE: AttentionCase = AttentionCase {
    dtype: GpuDtype::Bf16,
    samples: 1,
    tokens: 1,
    keys: 1,
    capacity: 1,
    head_dim: 16,
    kv_slots: &[0],
    kv_heads: 1,
    pads: None,
    window: None,
    probe_of: None,
    scale: 0.25,
    magnitude: 1.0,
};

/// S tokens that attend to one another.
fn square(tokens: usize) -> AttentionCase {
    AttentionCase { tokens, keys: tokens, capacity: tokens, ..BASE }
}

struct Input {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    mask: Option<Vec<u32>>,
    slots: Option<Vec<u32>>,
}

impl AttentionCase {
    fn input(&self) -> Input {
        let mut rng = rng(3);
        let rows = self.samples * self.capacity;
        let q = elements(&mut rng, self.dtype, self.samples * self.tokens * self.heads() * self.head_dim);
        let mut kv = || elements(&mut rng, self.dtype, rows * self.kv_heads * self.head_dim);
        let (mut k, mut v) = (kv(), kv());
        // What lies past the keys in a cache may be anything.
        let width = self.kv_heads * self.head_dim;
        for x in [&mut k, &mut v] {
            for sample in x.chunks_exact_mut(self.capacity * width) {
                sample[self.keys * width..].fill(f32::NAN);
            }
        }
        // With some holes, too.
        let mask = self.pads.map(|pads| {
            (0..rows)
                .map(|i| {
                    u32::from(i % self.capacity >= i / self.capacity * pads && rng.random_range(0..9) > 0)
                })
                .collect()
        });
        Input {
            q: q.into_iter().map(|x| rounded(self.dtype, x * self.magnitude)).collect(),
            k,
            v,
            mask,
            slots: self.probe_of.map(|slots| subset(&mut rng, slots, self.keys)),
        }
    }

    fn heads(&self) -> usize {
        self.kv_slots.len()
    }

    /// Keys of a sample that a query sees.
    fn visible(&self, input: &Input, b: usize, query: usize) -> Vec<usize> {
        let at = self.keys - self.tokens + query;
        let slot = |j: usize| input.slots.as_ref().map_or(j, |slots| slots[j] as usize);
        (0..=at)
            .filter(|&j| input.mask.as_ref().is_none_or(|mask| mask[b * self.capacity + j] != 0))
            .filter(|&j| self.window.is_none_or(|window| slot(at) - slot(j) < window))
            .collect()
    }
}

impl Case for AttentionCase {
    fn run<D: Driver>(&self, gpu: &Gpu<D>) -> Result<Vec<Output>> {
        let input = self.input();
        let len = input.q.len();
        let [q, k, v] = [&input.q, &input.k, &input.v].map(|x| gpu.put_activations(x));
        let [mask, slots] = [&input.mask, &input.slots].map(|x| x.as_ref().map(|x| gpu.put_indices(x)));
        let kv_slots = gpu.put_indices(self.kv_slots);
        let mut out = gpu.put_activations(&vec![7.0; len]);
        let shape = AttentionShape {
            queries: Grid { samples: self.samples, tokens: self.tokens },
            keys: self.keys,
            key_capacity: self.capacity,
            heads: self.heads(),
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            scale: self.scale,
            window: self.window,
        };
        gpu.attention(&q, &k, &v, shape, &kv_slots, mask.as_ref(), slots.as_ref(), &mut out);
        Ok(vec![Output::Floats(gpu.download_activations(&out, len)?)])
    }

    fn expected(&self) -> Vec<Expected> {
        let input = self.input();
        let [q, k, v] = [&input.q, &input.k, &input.v].map(|x| wide(x));
        let d = self.head_dim;
        let mut out = Vec::new();
        for (row, q) in q.chunks_exact(d).enumerate() {
            let (token, head) = (row / self.heads(), row % self.heads());
            let (b, query) = (token / self.tokens, token % self.tokens);
            let at = |j: usize| ((b * self.capacity + j) * self.kv_heads + self.kv_slots[head] as usize) * d;
            let seen = self.visible(&input, b, query);
            let scores: Vec<f64> = seen
                .iter()
                .map(|&j| q.iter().zip(&k[at(j)..]).map(|(a, b)| a * b).sum::<f64>() * f64::from(self.scale))
                .collect();
            let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
            let total: f64 = weights.iter().sum();
            let mut sums = vec![0.0; d];
            for (&j, weight) in seen.iter().zip(&weights) {
                sums.iter_mut().zip(&v[at(j)..]).for_each(|(sum, v)| *sum += weight / total * v);
            }
            out.extend(sums);
        }
        // Rounding the result and every probability to the dtype moves it by at most a unit roundoff of |v| <= 1 each;
        // f32 scores err by some 2^-23 of their largest term, and so do the probabilities. That is absolute, not
        // relative to rms.
        let rms = (out.iter().map(|x| x * x).sum::<f64>() / out.len() as f64).sqrt();
        let error = 2.0 * unit_roundoff(self.dtype) + 2e-6 * f64::from(self.magnitude.max(1.0));
        let tolerance = error / rms.max(1e-9);
        vec![Expected::Floats { values: out, tolerance }]
    }

    fn dtype(&self) -> GpuDtype {
        self.dtype
    }
}

/// Both dtypes.
fn check_both(case: &AttentionCase) {
    for dtype in DTYPES {
        check(&AttentionCase { dtype, ..case.clone() });
    }
}

#[test]
fn lengths() {
    for tokens in [1, 2, 8, 9, 31, 33, 64, 65, 130] {
        check_both(&square(tokens));
    }
}

#[test]
fn head_widths() {
    for head_dim in [1, 6, 13, 32, 40, 64, 65, 80, 128, 132, 256] {
        for tokens in [3, 34] {
            check_both(&AttentionCase { head_dim, ..square(tokens) });
        }
    }
}

/// Grouped heads, kept ones in uneven groups, with slots that none of them uses.
#[test]
fn groups() {
    let kinds: [(&'static [u32], usize); 4] =
        [(&[0, 0, 1, 1], 2), (&[0, 1, 2], 3), (&[0, 0, 0, 2], 4), (&[1; 35], 2)];
    for (kv_slots, kv_heads) in kinds {
        for tokens in [1, 3, 17] {
            let case = AttentionCase { samples: 2, kv_slots, kv_heads, ..square(tokens) };
            check(&case);
            check(&AttentionCase { dtype: GpuDtype::F16, head_dim: 12, ..case });
        }
    }
}

#[test]
fn padding() {
    for (tokens, pads) in [(5, 2), (40, 13), (40, 40), (70, 35), (130, 66)] {
        check_both(&AttentionCase { samples: 3, pads: Some(pads), ..square(tokens) });
    }
}

#[test]
fn caches() {
    for (tokens, keys, capacity) in
        [(1, 7, 9), (1, 300, 301), (3, 130, 140), (9, 20, 33), (33, 100, 128), (66, 70, 71), (20, 82, 82)]
    {
        let case =
            AttentionCase { samples: 2, tokens, keys, capacity, kv_slots: &[0, 1, 1], kv_heads: 2, ..BASE };
        check_both(&case);
        check(&AttentionCase { pads: Some(keys / 2), ..case });
    }
}

#[test]
fn windows() {
    for (tokens, keys, window) in [
        (1, 40, 9),
        (40, 40, 1),
        (40, 40, 0),
        (2, 200, 33),
        (100, 200, 20),
        (130, 130, 70),
        (20, 120, 38),
        (65, 128, 0),
        (10, 10, 500),
    ] {
        let case = AttentionCase { tokens, keys, capacity: keys, window: Some(window), ..BASE };
        check_both(&case);
        check(&AttentionCase { samples: 2, pads: Some(keys / 3), ..case });
    }
}

/// A probe's tokens: the window is in slots of the batch.
#[test]
fn probes() {
    for (tokens, slots, window) in [(4, 9, 3), (40, 400, 50), (130, 260, 140), (40, 40, 7)] {
        let case = AttentionCase { probe_of: Some(slots), window: Some(window), ..square(tokens) };
        check_both(&case);
        check(&AttentionCase { window: None, ..case.clone() });
        check(&AttentionCase { samples: 2, pads: Some(tokens / 2), ..case });
    }
}

/// Scores of about 80 and -80: probabilities underflow, nothing overflows.
#[test]
fn large_scores() {
    for tokens in [3, 70] {
        check_both(&AttentionCase { scale: 1.0, magnitude: 40.0, ..square(tokens) });
    }
}

/// 128 queries per block: enough heads for the planner, every width, and key tiles that go round the ring twice.
#[test]
fn many_queries() {
    const SLOTS: &[u32] = &[0, 0, 0, 0, 1, 1, 1, 1];
    for (head_dim, tokens) in [(16, 65), (64, 33), (96, 130), (128, 20)] {
        let case = AttentionCase { head_dim, kv_slots: SLOTS, kv_heads: 2, ..square(tokens) };
        check_both(&case);
    }
    for head_dim in [32, 64, 128] {
        let case = AttentionCase { head_dim, kv_slots: SLOTS, kv_heads: 2, ..square(450) };
        check_once(&case);
        check_once(&AttentionCase { samples: 2, pads: Some(200), window: Some(300), ..case });
    }
}

#[test]
fn long() {
    for head_dim in [64, 128, 256] {
        check_once(&AttentionCase { head_dim, ..square(450) });
        check_once(&AttentionCase { head_dim, tokens: 1, keys: 1500, capacity: 1500, ..BASE });
    }
}

/// Grouped heads of two samples with a mask.
fn traffic_case(tokens: usize, head_dim: usize) -> AttentionCase {
    const SLOTS: &[u32] = &[0, 0, 0, 0, 1, 1, 1, 1];
    let (keys, capacity) = (512, 512);
    AttentionCase {
        samples: 2,
        tokens,
        keys,
        capacity,
        head_dim,
        kv_slots: SLOTS,
        kv_heads: 2,
        pads: Some(3),
        ..BASE
    }
}

#[test]
fn prefill_moves_what_its_header_says() {
    for (rows, tokens, head_dim, tile) in
        [(128, 512, 32, 64), (128, 512, 64, 64), (128, 256, 128, 64), (64, 256, 256, 32)]
    {
        let case = traffic_case(tokens, head_dim);
        let (b, n) = (case.samples, case.heads());
        let block = |first: usize| {
            let end = case.keys - tokens + first + rows;
            4 * head_dim * end + 16 * case.keys.min(end.next_multiple_of(tile) + tile) + 128
        };
        let q = 2 * b * tokens * n * head_dim;
        let read = q + b * n * (0..tokens).step_by(rows).map(block).sum::<usize>();
        check_traffic(&case, &format!("attention_q{rows}_d{head_dim}"), read, q);
    }
}

#[test]
fn decode_moves_what_its_header_says() {
    for (tokens, head_dim) in [(1, 64), (2, 128), (4, 256)] {
        let case = traffic_case(tokens, head_dim);
        let (b, n, k) = (case.samples, case.heads(), case.kv_heads);
        let q = 2 * b * tokens * n * head_dim;
        let read = b * k * (4 * case.keys * (head_dim + 1) + 4 * n) + q;
        check_traffic(&case, &format!("attention_decode_d{head_dim}"), read, q);
    }
}
