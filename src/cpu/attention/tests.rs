//! Attention against f64 at ragged shapes, for every width of vectors and any number of threads.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::{cpu::math, prune::BatchShape};

const UNIT: f64 = 1.0 / (1 << 24) as f64;

/// One call and its operands.
struct Case {
    shape: AttentionShape,
    q: Buffer<f32>,
    k: Buffer<f32>,
    v: Buffer<f32>,
    kv_head_of: Buffer<u32>,
    mask: Option<Buffer<u32>>,
    slots: Option<Buffer<u32>>,
}

impl Case {
    /// Queries and keys per sample, key/value heads of each query head, D. What lies past the keys is NaN.
    fn new(samples: usize, [tokens, keys]: [usize; 2], kv_head_of: &[u32], head_dim: usize) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64((keys * 31 + tokens) as u64);
        let (heads, kv_heads) =
            (kv_head_of.len(), kv_head_of.iter().max().map_or(1, |&last| last as usize + 1));
        let shape = AttentionShape {
            queries: BatchShape { samples, tokens },
            keys,
            key_capacity: keys + 3,
            heads,
            kv_heads,
            head_dim,
            scale: 2.0 / (head_dim as f32).sqrt(),
            window: None,
        };
        let mut random = |len: usize| (0..len).map(|_| rng.random_range(-1.0f32..1.0)).collect::<Vec<_>>();
        let q = random(samples * tokens * heads * head_dim);
        let width = kv_heads * head_dim;
        let mut keys_of_cache = || {
            let mut cache = random(samples * shape.key_capacity * width);
            for sample in cache.chunks_exact_mut(shape.key_capacity * width) {
                sample[keys * width..].fill(f32::NAN);
            }
            cache
        };
        let (k, v) = (keys_of_cache(), keys_of_cache());
        let kv_head_of = kv_head_of.to_vec().into();
        Self { shape, q: q.into(), k: k.into(), v: v.into(), kv_head_of, mask: None, slots: None }
    }

    fn window(mut self, window: usize) -> Self {
        self.shape.window = Some(window);
        self
    }

    /// Hides keys: one after each 7th, and the first half of sample 0.
    fn masked(mut self) -> Self {
        let AttentionShape { queries, keys, key_capacity, .. } = self.shape;
        let real = |i: usize| {
            let (sample, key) = (i / key_capacity, i % key_capacity);
            key % 7 != 3 && (sample > 0 || key > keys / 2)
        };
        self.mask = Some((0..queries.samples * key_capacity).map(|i| u32::from(real(i))).collect());
        self
    }

    /// Keys of a probe, in slots that are up to 3 apart.
    fn probed(mut self) -> Self {
        self.slots = Some((0..self.shape.keys as u32).map(|j| j * 2 + j % 3 / 2).collect());
        self
    }

    fn run(&self, cpu: &Cpu) -> Vec<f32> {
        let mut out = Buffer::from(vec![f32::NAN; self.q.len()]);
        attention(
            cpu,
            AttentionOperands {
                q: &self.q,
                k: &self.k,
                v: &self.v,
                shape: self.shape,
                kv_head_of: &self.kv_head_of,
                mask: self.mask.as_ref(),
                slots: self.slots.as_ref(),
                out: &mut out,
            },
        );
        out.to_vec()
    }

    fn sees(&self, sample: usize, query: usize, key: usize) -> bool {
        let AttentionShape { queries, keys, key_capacity, window, .. } = self.shape;
        let at = keys - queries.tokens + query;
        let slot = |j: usize| self.slots.as_ref().map_or(j, |slots| slots[j] as usize);
        key <= at
            && window.is_none_or(|window| slot(at) - slot(key) < window)
            && self.mask.as_ref().is_none_or(|mask| mask[sample * key_capacity + key] != 0)
    }

    /// With queries, keys and values rounded to bf16.
    fn rounded(mut self) -> Self {
        for x in [&mut self.q, &mut self.k, &mut self.v] {
            math::round_to_bf16(x);
        }
        self
    }

    /// The outputs and the errors that they may have, in f64, if weights are rounded by at most `rounding`.
    fn expected(&self, rounding: f64) -> Vec<(f64, f64)> {
        let AttentionShape { queries, keys, key_capacity, heads, kv_heads, head_dim: d, scale, .. } =
            self.shape;
        let mut out = Vec::new();
        for row in 0..queries.rows() * heads {
            let (token, head) = (row / heads, row % heads);
            let (sample, query) = (token / queries.tokens, token % queries.tokens);
            let seen: Vec<usize> = (0..keys).filter(|&key| self.sees(sample, query, key)).collect();
            let at = |j: usize| ((sample * key_capacity + j) * kv_heads + self.kv_head_of[head] as usize) * d;
            let products = |j: usize| {
                let terms = self.q[row * d..][..d].iter().zip(&self.k[at(j)..]);
                terms.map(|(&q, &k)| f64::from(q) * f64::from(k) * f64::from(scale))
            };
            let scores: Vec<f64> = seen.iter().map(|&j| products(j).sum()).collect();
            let magnitude = seen.iter().map(|&j| products(j).map(f64::abs).sum()).fold(0.0, f64::max);
            let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
            let total: f64 = weights.iter().sum();
            for c in 0..d {
                let terms =
                    || seen.iter().zip(&weights).map(|(&j, weight)| weight * f64::from(self.v[at(j) + c]));
                // Weights err by what their scores do, and by the rounding of powers, sums and the last product.
                let error = UNIT * (2.0 * magnitude + 8.0) + rounding;
                let error = error * terms().map(f64::abs).sum::<f64>() / total;
                out.push(if seen.is_empty() { (0.0, 0.0) } else { (terms().sum::<f64>() / total, error) });
            }
        }
        out
    }
}

/// Backends for every width of vectors.
fn backends() -> Vec<Cpu> {
    let mut archs = vec![pulp::Arch::new(), pulp::Arch::Scalar];
    #[cfg(target_arch = "x86_64")]
    archs.extend(pulp::x86::V3::try_new().map(pulp::Arch::V3));
    let with = |arch| {
        let mut cpu = Cpu::new(2).unwrap();
        cpu.arch = arch;
        cpu
    };
    archs.into_iter().map(with).collect()
}

const MANY: [u32; 9] = [0, 0, 0, 1, 1, 1, 2, 2, 2];

/// Of every path: tiles, few rows, ranges of keys, steps at the ends of blocks.
fn cases() -> Vec<Case> {
    let heads_of = |group: usize| -> Vec<u32> { (0..2 * group).map(|head| (head / group) as u32).collect() };
    let mut cases = Vec::new();
    for (tokens, keys) in [(1, 1), (2, 2), (5, 9), (63, 63), (65, 65), (130, 130), (130, 259)] {
        for (group, d) in [(1, 16), (3, 20), (4, 64), (1, 80), (3, 128)] {
            cases.push(Case::new(1, [tokens, keys], &heads_of(group), d));
        }
        cases.push(Case::new(2, [tokens, keys], &heads_of(3), 16).masked());
        cases.push(Case::new(1, [tokens, keys], &heads_of(1), 20).window(tokens.div_ceil(3)));
        cases.push(Case::new(2, [tokens, keys], &heads_of(4), 16).window(11).probed());
        cases.push(Case::new(2, [tokens, keys], &heads_of(1), 16).window(40).probed().masked());
    }
    for (tokens, keys) in [(1, 255), (1, 1030), (2, 2311), (5, 1300), (65, 1029)] {
        cases.push(Case::new(1, [tokens, keys], &heads_of(1), 64));
        cases.push(Case::new(1, [tokens, keys], &heads_of(4), 16).masked());
        cases.push(Case::new(1, [tokens, keys], &MANY, 20).window(700));
        cases.push(Case::new(2, [tokens, keys], &heads_of(3), 16).window(900).probed().masked());
    }
    // One head for each of many key/value heads, kept heads in groups of different sizes, many heads for one.
    cases.push(Case::new(9, [3, 300], &[0, 1, 2], 24));
    cases.push(Case::new(2, [70, 300], &[0, 2, 2, 2, 3], 16));
    cases.push(Case::new(1, [1, 2000], &[1, 1, 2], 16));
    cases.push(Case::new(2, [40, 40], &[0; 50], 16));
    cases.push(Case::new(1, [9, 600], &[0, 0], 1100));
    // More than a task has room for.
    cases.push(Case::new(8, [20, 20], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], 1100));
    cases
}

/// Checks every case. Returned is the largest error as a share of what it may be: a bound that is nearly reached hides
/// nothing.
fn check(backends: &[Cpu], case_of: impl Fn(Case) -> Case, rounding: f64) -> f64 {
    let mut worst = 0.0f64;
    for case in cases() {
        let (shape, results) = (case.shape, backends.iter().map(|cpu| case.run(cpu)).collect::<Vec<_>>());
        let expected = case_of(case).expected(rounding);
        for got in results {
            for (i, (got, &(want, error))) in got.into_iter().zip(&expected).enumerate() {
                let have = (f64::from(got) - want).abs();
                assert!(have <= error, "{shape:?}: {i} is {got}, expected {want} ± {error:e}");
                worst = worst.max(have / error.max(f64::MIN_POSITIVE));
            }
        }
    }
    worst
}

#[test]
fn attention_agrees_with_f64_at_ragged_shapes() {
    let worst = check(&backends(), |case| case, 0.0);
    assert!(worst > 0.2, "{worst}");
}

/// In bf16, queries, keys and values are rounded, and weights by at most 2⁻⁸.
#[test]
fn attention_in_bf16_agrees_with_f64_on_rounded_inputs() {
    let backends: Vec<Cpu> = backends().into_iter().map(|cpu| cpu.with_dtype(CpuDtype::Bf16)).collect();
    let worst = check(&backends, Case::rounded, 2f64.powi(-8));
    assert!(worst > 0.2, "{worst}");
}

#[test]
fn one_two_and_three_threads_give_the_same_bits() {
    let backends = [1, 2, 3].map(|threads| Cpu::new(threads).unwrap());
    for case in cases() {
        let [one, two, three] = [0, 1, 2].map(|i| case.run(&backends[i]));
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert!(bits(&one) == bits(&two) && bits(&one) == bits(&three), "{:?}", case.shape);
    }
}

#[test]
fn a_query_that_sees_no_key_gives_0() {
    for cpu in backends() {
        for (tokens, keys) in [(1, 1), (1, 900), (3, 900), (70, 300)] {
            let mut case = Case::new(2, [tokens, keys], &[0, 0, 1], 20);
            let capacity = case.shape.key_capacity;
            let hidden = |i: usize| i / capacity == 1 || i % capacity < keys - 1;
            case.mask = Some((0..2 * capacity).map(|i| u32::from(!hidden(i))).collect());
            let out = case.run(&cpu);
            let d = 3 * case.shape.head_dim;
            for (row, out) in out.chunks_exact(d).enumerate() {
                let sees = row == tokens - 1;
                assert!(out.iter().all(|&x| (x != 0.0) == sees), "{tokens} of {keys}, row {row}");
            }
        }
    }
}

#[test]
fn what_is_not_finite_shows_where_it_is_seen() {
    for cpu in backends() {
        for (tokens, keys) in [(1, 1), (1, 1500), (4, 20), (9, 1100), (70, 600)] {
            let clean = Case::new(1, [tokens, keys], &[0, 0, 1], 20);
            let want = clean.run(&cpu);
            let d = clean.shape.head_dim;
            // Rows (token, head) that are NaN; the others keep their values.
            let spoiled = |case: &Case, what: &str, spoiled: &dyn Fn(usize, usize) -> bool| {
                let out = case.run(&cpu);
                for (row, (out, want)) in out.chunks_exact(d).zip(want.chunks_exact(d)).enumerate() {
                    let nan = spoiled(row / 3, row % 3);
                    let same = out.iter().zip(want).all(|(out, want)| (out - want).abs() < 1e-5);
                    let right = if nan { out.iter().all(|x| x.is_nan()) } else { same };
                    assert!(right, "{what}, {tokens} of {keys}, row {row}");
                }
            };
            let with = |change: &dyn Fn(&mut Case)| {
                let mut case = Case::new(1, [tokens, keys], &[0, 0, 1], d);
                change(&mut case);
                case
            };
            let last = |token: usize| token == tokens - 1;
            for bad in [f32::NAN, f32::INFINITY] {
                // The last key of key/value head 0: seen by the last query of heads 0 and 1. Its sign decides of infinity.
                let case = with(&|case| {
                    let at = (keys - 1) * 2 * d;
                    case.k[at..at + d].fill(0.0);
                    case.k[at] = bad;
                    for head in 0..2 {
                        case.q[((tokens - 1) * 3 + head) * d] = 1.0;
                    }
                });
                spoiled(&case, "key", &|token, head| last(token) && head < 2);
            }
            let case = with(&|case| case.q[(tokens * 3 - 2) * d + 1] = f32::NAN);
            spoiled(&case, "query", &|token, head| last(token) && head == 1);
            // Key 0, which all see.
            let case = with(&|case| case.k[d + 3] = f32::NAN);
            spoiled(&case, "first key", &|_, head| head == 2);
            let case = with(&|case| case.v[..d].fill(f32::NAN));
            spoiled(&case, "first value", &|_, head| head < 2);
        }
    }
}
