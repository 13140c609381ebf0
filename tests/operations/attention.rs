//! `attention`: prefill and decode.

use probeprune::{
    Result,
    backend::{AttentionOperands, AttentionShape, Backend},
    prune::BatchShape,
};
use rand::RngExt;

use super::{
    Case, ElementBytes, Expected, Put, Ready, Traffic,
    near::{Near, Stored, UNIT},
    outputs,
    source::{Source, subset, wide},
};

#[derive(Clone, Debug)]
pub struct AttentionCase {
    pub queries: BatchShape,
    pub keys: usize,
    pub capacity: usize,
    pub head_dim: usize,
    /// The place of each query head's key/value head.
    pub kv_head_of: Vec<u32>,
    pub kv_heads: usize,
    /// Sample b begins with b times as many pads.
    pub pads: Option<usize>,
    pub window: Option<usize>,
    /// Keys are a probe's tokens, chosen from this many slots.
    pub probe_of: Option<usize>,
    pub scale: f32,
    /// Factor on q.
    pub magnitude: f32,
}

struct Input {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    mask: Option<Vec<u32>>,
    slots: Option<Vec<u32>>,
}

impl AttentionCase {
    /// The last `tokens` of `keys` tokens of one sample, with one head of 16 channels.
    pub fn new(tokens: usize, keys: usize) -> Self {
        Self {
            queries: BatchShape { samples: 1, tokens },
            keys,
            capacity: keys,
            head_dim: 16,
            kv_head_of: vec![0],
            kv_heads: 1,
            pads: None,
            window: None,
            probe_of: None,
            scale: 0.25,
            magnitude: 1.0,
        }
    }

    pub fn samples(mut self, samples: usize) -> Self {
        self.queries.samples = samples;
        self
    }

    /// Query heads by their key/value heads, of which there are `kv_heads`.
    pub fn heads(self, kv_head_of: &[u32], kv_heads: usize) -> Self {
        Self { kv_head_of: kv_head_of.to_vec(), kv_heads, ..self }
    }

    /// Rows of a key buffer.
    fn key_rows(&self) -> usize {
        self.queries.samples * self.capacity
    }

    /// Entries of q and of the output.
    fn len(&self) -> usize {
        self.queries.rows() * self.kv_head_of.len() * self.head_dim
    }

    fn input(&self, source: Source<'_>) -> Input {
        let mut stream = source.stream(3);
        let rows = self.key_rows();
        let width = self.kv_heads * self.head_dim;
        let mut q = stream.elements(self.len());
        let [mut k, mut v] = [(); 2].map(|()| stream.elements(rows * width));
        // What lies past the keys in a cache may be anything.
        for x in [&mut k, &mut v] {
            for sample in x.chunks_exact_mut(self.capacity * width) {
                sample[self.keys * width..].fill(f32::NAN);
            }
        }
        // With some holes, too.
        let rng = &mut stream.rng;
        let mask = self.pads.map(|pads| {
            let real = |i: usize| i % self.capacity >= i / self.capacity * pads;
            (0..rows).map(|i| u32::from(real(i) && rng.random_range(0..9) > 0)).collect()
        });
        let slots = self.probe_of.map(|slots| subset(rng, slots, self.keys));
        q.iter_mut().for_each(|x| *x = stream.rounded(*x * self.magnitude));
        Input { q, k, v, mask, slots }
    }

    /// Keys of a sample that a query sees.
    fn visible(&self, input: &Input, b: usize, query: usize) -> Vec<usize> {
        let at = self.keys - self.queries.tokens + query;
        let slot = |j: usize| input.slots.as_ref().map_or(j, |slots| slots[j] as usize);
        (0..=at)
            .filter(|&j| input.mask.as_ref().is_none_or(|mask| mask[b * self.capacity + j] != 0))
            .filter(|&j| self.window.is_none_or(|window| slot(at) - slot(j) < window))
            .collect()
    }
}

/// softmax(scores) · values (keys, d).
fn softmax_sum(scores: &[Near], values: &[&[f64]], d: usize, stored: Stored) -> Vec<Near> {
    let most = scores.iter().map(|score| score.value()).fold(f64::NEG_INFINITY, f64::max);
    // An infinite key also meets the zeros that a narrow head is padded with, and their product is NaN.
    if scores.iter().any(|score| score.value() == f64::NEG_INFINITY) {
        return vec![Near::ANY; d];
    }
    let weights: Vec<f64> = scores.iter().map(|score| (score.value() - most).exp()).collect();
    let total: f64 = weights.iter().sum();
    // The relative error of a weight: half its score's width, the exponent's rounding, and 2 units of the exponential.
    let errors: Vec<f64> = scores
        .iter()
        .zip(&weights)
        .map(|(score, weight)| {
            let exponent = 2.0 * (score.magnitude() + most.abs()) + 8.0;
            if *weight == 0.0 { 0.0 } else { weight * (score.width() / 2.0 + UNIT * exponent) }
        })
        .collect();
    let of_total = errors.iter().sum::<f64>() / total;
    // Where weights are rounded for the product: by a share of each, or of the smallest normal number.
    let (unit, least) = match stored {
        Stored::Float32 => (0.0, 0.0),
        Stored::Element(_) => (stored.unit(), stored.least()),
    };
    (0..d)
        .map(|c| {
            let terms = || values.iter().zip(&weights).map(|(v, weight)| v[c] * weight);
            let value = if scores.is_empty() { 0.0 } else { terms().sum::<f64>() / total };
            // Tiles end with copies of the last key, whose weights are 0.
            if value.is_infinite() {
                return Near::ANY;
            }
            let of_weights: f64 = values.iter().zip(&errors).map(|(v, error)| (v[c] * error).abs()).sum();
            // As likely up as down; see `Near::sum`.
            let roots = 4.0 * terms().map(|term| term * term).sum::<f64>().sqrt();
            let all: f64 = terms().map(f64::abs).sum();
            let rounding = unit * roots.min(all) + least * values.iter().map(|v| v[c].abs()).sum::<f64>();
            let sums = UNIT * (4.0 * (values.len() as f64).sqrt() + 4.0) * all;
            let error = (of_weights + rounding + sums) / total + value.abs() * of_total;
            // Nothing to see gives 0, exactly.
            Near::from(value).give(if scores.is_empty() { 0.0 } else { error }).stored(stored)
        })
        .collect()
}

impl Case for AttentionCase {
    fn prepare<B: Backend>(&self, backend: &B, source: Source<'_>) -> Result<Ready<B>> {
        let input = self.input(source);
        let (len, kv_len) = (self.len(), self.key_rows() * self.kv_heads * self.head_dim);
        let q = backend.put_activations(len, &input.q)?;
        let k = backend.put_activations(kv_len, &input.k)?;
        let v = backend.put_activations(kv_len, &input.v)?;
        let mask = input.mask.map(|mask| backend.put_indices(&mask)).transpose()?;
        let slots = input.slots.map(|slots| backend.put_indices(&slots)).transpose()?;
        let kv_head_of = backend.put_indices(&self.kv_head_of)?;
        let mut out = backend.put_activations(len, &source.stream(0).nans(len))?;
        let shape = AttentionShape {
            queries: self.queries,
            keys: self.keys,
            key_capacity: self.capacity,
            heads: self.kv_head_of.len(),
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            scale: self.scale,
            window: self.window,
        };
        Ok(Box::new(move |backend, read| {
            backend.attention(AttentionOperands {
                q: &q,
                k: &k,
                v: &v,
                shape,
                kv_head_of: &kv_head_of,
                mask: mask.as_ref(),
                slots: slots.as_ref(),
                out: &mut out,
            });
            outputs(read, || Ok(vec![backend.read_activations(&out, len)?]))
        }))
    }

    fn expected(&self, source: Source<'_>, stored: Stored) -> Vec<Expected> {
        let input = self.input(source);
        let [q, k, v] = [&input.q, &input.k, &input.v].map(|x| wide(x));
        let (d, heads) = (self.head_dim, self.kv_head_of.len());
        let mut out = Vec::new();
        for (row, q) in q.chunks_exact(d).enumerate() {
            let (token, head) = (row / heads, row % heads);
            let (b, query) = (token / self.queries.tokens, token % self.queries.tokens);
            let at =
                |j: usize| ((b * self.capacity + j) * self.kv_heads + self.kv_head_of[head] as usize) * d;
            let seen = self.visible(&input, b, query);
            let scores: Vec<Near> = seen
                .iter()
                .map(|&j| {
                    let score = Near::dot(q.iter().copied().zip(k[at(j)..].iter().copied()));
                    score * Near::from(self.scale)
                })
                .collect();
            let values: Vec<&[f64]> = seen.iter().map(|&j| &v[at(j)..][..d]).collect();
            // A hidden key has the weight 0, and 0 times infinity is NaN.
            let hidden_spreads = (0..self.keys)
                .filter(|j| !seen.contains(j))
                .any(|j| v[at(j)..][..d].iter().any(|x| !x.is_finite()));
            let row = softmax_sum(&scores, &values, d, stored);
            out.extend(row.into_iter().map(|x| if hidden_spreads { Near::ANY } else { x }));
        }
        vec![Expected::Floats(out)]
    }

    fn bytes(&self, element: ElementBytes) -> usize {
        let keys = self.queries.samples * self.keys * self.kv_heads * self.head_dim;
        element.activation * 2 * (self.len() + keys)
    }

    fn traffic(&self) -> Traffic {
        let (BatchShape { samples: b, tokens }, keys, d) = (self.queries, self.keys, self.head_dim);
        let n = self.kv_head_of.len();
        let q = 2 * self.len();
        let mask = usize::from(self.pads.is_some());
        // The first key of the tiles that a query's window reaches into.
        let start = |query: usize, tile: usize| {
            let hidden = self.window.map_or(0, |window| (keys - tokens + query + 1).saturating_sub(window));
            hidden / tile * tile
        };
        if tokens <= 8 {
            let keys = keys - start(0, 16);
            let heads = |kv_head| self.kv_head_of.iter().filter(|&&of| of as usize == kv_head).count();
            let passes =
                (0..self.kv_heads).map(|kv_head| (tokens * heads(kv_head)).div_ceil(16)).sum::<usize>();
            let read = b * passes * (4 * keys * d + 4 * n + mask * 4 * keys) + q;
            return Traffic::new(&format!("attention_decode_d{d}"), read, q);
        }
        let (rows, tile) = if d > 128 { (64, 32) } else { (128, 64) };
        let block = |first: usize| {
            let start = start(first, tile);
            let seen = keys - tokens + first + rows - start;
            4 * d * seen + mask * 16 * (keys - start).min(seen.next_multiple_of(tile) + tile) + 128
        };
        let read = q + b * n * (0..tokens).step_by(rows).map(block).sum::<usize>();
        Traffic::new(&format!("attention_q{rows}_d{d}"), read, q)
    }

    fn flops(&self) -> Option<f64> {
        let BatchShape { samples, tokens } = self.queries;
        // Two products over the causal part.
        let pairs = tokens * (self.keys - tokens) * 2 + tokens * (tokens + 1);
        let pairs = samples as f64 * pairs as f64 / 2.0;
        Some(4.0 * pairs * (self.kv_head_of.len() * self.head_dim) as f64)
    }
}
