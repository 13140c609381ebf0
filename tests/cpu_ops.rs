//! The CPU backend's products and attention against plain f64 loops, at shapes that are no multiples of anything, and
//! the same bits for any number of threads.

use half::{bf16, f16};
use probeprune::{
    backend::{
        AttentionOperands, AttentionShape, Backend, CrossEntropyOperands, GatedLinearOperands, KeptSet,
        Linear, LinearOperands, LowRank, ProjectOperands, WeightUse,
    },
    checkpoint::{Checkpoint, Tensor},
    config::Activation,
    cpu::{Buffer, Cpu, CpuDtype, Tier},
    prune::BatchShape,
    source::ModelSource,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::{Dtype, tensor::TensorView};

/// A backend for every instruction set that this processor has.
fn every_tier() -> impl Iterator<Item = Cpu> {
    Tier::available().into_iter().map(|tier| Cpu::with_tier(2, tier).unwrap())
}

fn random(rng: &mut ChaCha8Rng, n: usize) -> Buffer<f32> {
    (0..n).map(|_| rng.random_range(-1.0f32..1.0)).collect()
}

/// The values as a tensor of `dtype`, through a file, and as that dtype rounds them.
fn tensor(dtype: Dtype, rows: usize, columns: usize, values: &[f32]) -> (Tensor, Vec<f32>) {
    let (bytes, rounded): (Vec<u8>, Vec<f32>) = match dtype {
        Dtype::BF16 => (
            values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
            values.iter().map(|&x| bf16::from_f32(x).to_f32()).collect(),
        ),
        Dtype::F16 => (
            values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
            values.iter().map(|&x| f16::from_f32(x).to_f32()).collect(),
        ),
        _ => (values.iter().flat_map(|x| x.to_le_bytes()).collect(), values.to_vec()),
    };
    let folder = tempfile::tempdir().unwrap();
    let view = TensorView::new(dtype, vec![rows, columns], &bytes).unwrap();
    safetensors::serialize_to_file([("w", view)], None, &folder.path().join("model.safetensors")).unwrap();
    let checkpoint = Checkpoint::open(&ModelSource::Folder(folder.path().into()), false).unwrap();
    (checkpoint.require("w").unwrap(), rounded)
}

fn linear(cpu: &Cpu, tensor: &Tensor, bias: Option<Buffer<f32>>) -> Linear<Cpu> {
    let &[out_features, in_features] = tensor.shape() else { panic!("a matrix") };
    Linear { weight: cpu.weight(tensor, WeightUse::Rows).unwrap(), bias, out_features, in_features }
}

/// `len` of `of` indices, ascending.
fn subset(rng: &mut ChaCha8Rng, of: usize, len: usize) -> KeptSet<Buffer<u32>> {
    let mut all: Vec<u32> = (0..of as u32).collect();
    while all.len() > len {
        all.remove(rng.random_range(0..all.len()));
    }
    KeptSet { indices: all.into(), len, of, block_width: 1 }
}

fn assert_close(got: &[f32], expected: &[f64], what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let scale = expected.iter().map(|x| x * x).sum::<f64>().sqrt() / (expected.len() as f64).sqrt() + 1e-30;
    for (i, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(got) - expected).abs() / scale;
        // f32 sums of up to 5,000 products of unit size: errors grow like the square root of their number.
        assert!(error < 2e-5, "{what}: element {i} is {got}, expected {expected}");
    }
}

/// Row counts around the blocks of the micro-kernel, features and depths around the panel sizes.
const SHAPES: [(usize, usize, usize); 9] = [
    (1, 1, 1),
    (1, 33, 130),
    (3, 65, 31),
    (16, 48, 64),
    (17, 100, 72),
    (31, 129, 200),
    (64, 7, 65),
    (1030, 50, 40),
    (20, 66, 4130),
];

#[test]
fn products_agree_with_f64_loops_for_any_dtype_shape_and_selection() {
    for cpu in every_tier() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for (t, n, k) in SHAPES {
            for dtype in [Dtype::F32, Dtype::BF16, Dtype::F16] {
                let (x, w) = (random(&mut rng, t * k), random(&mut rng, n * k));
                let (tensor, w) = tensor(dtype, n, k, &w);
                let bias = random(&mut rng, n);
                let what = format!("{t}×{k} · {n}×{k} {dtype:?}");
                let dense = linear(&cpu, &tensor, Some(bias.clone()));
                let at = |row: usize, x: &[f32]| -> f64 {
                    x.iter().zip(&w[row * k..]).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum()
                };

                // Kept rows, with bias and scale.
                let rows = subset(&mut rng, n, n.div_ceil(2));
                let kept = Some(&rows);
                let mut out = vec![f32::NAN; t * rows.len].into();
                cpu.linear(LinearOperands {
                    kept,
                    scale: 0.5,
                    ..LinearOperands::new(&x, t, &dense, &mut out)
                });
                let expected: Vec<f64> = x
                    .chunks(k)
                    .flat_map(|x| rows.indices.iter().map(move |&r| (x, r as usize)))
                    .map(|(x, r)| 0.5 * (at(r, x) + f64::from(bias[r])))
                    .collect();
                assert_close(&out, &expected, &format!("{what}, kept rows"));

                // Gate and up on all rows.
                let mut out = vec![f32::NAN; t * n].into();
                cpu.gated_linear(GatedLinearOperands {
                    x: &x,
                    rows: t,
                    gate: &dense,
                    up: &linear(&cpu, &tensor, None),
                    kept: None,
                    activation: Activation::Silu,
                    energy: None,
                    out: &mut out,
                });
                let silu = |x: f64| x / (1.0 + (-x).exp());
                let expected: Vec<f64> = x
                    .chunks(k)
                    .flat_map(|x| (0..n).map(move |r| (x, r)))
                    .map(|(x, r)| silu(at(r, x) + f64::from(bias[r])) * at(r, x))
                    .collect();
                assert_close(&out, &expected, &format!("{what}, gated"));

                // Kept columns, with residual.
                let columns = subset(&mut rng, k, k.div_ceil(2));
                let kept = Some(&columns);
                let residual = random(&mut rng, t * n);
                let a: Buffer<f32> =
                    x.chunks(k).flat_map(|x| columns.indices.iter().map(|&c| x[c as usize])).collect();
                let mut out = vec![f32::NAN; t * n].into();
                cpu.project(ProjectOperands {
                    kept,
                    bias: Some(&bias),
                    residual: Some(&residual),
                    ..ProjectOperands::new(&a, t, &dense, &mut out)
                });
                let expected: Vec<f64> = (0..t * n)
                    .map(|i| {
                        let x: Vec<f32> =
                            (0..k)
                                .map(|c| {
                                    if columns.indices.contains(&(c as u32)) { x[i / n * k + c] } else { 0.0 }
                                })
                                .collect();
                        at(i % n, &x) + f64::from(bias[i % n]) + f64::from(residual[i])
                    })
                    .collect();
                assert_close(&out, &expected, &format!("{what}, kept columns"));
            }
        }
    }
}

#[test]
fn weights_that_are_not_kept_have_no_say() {
    for cpu in every_tier() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        for (t, n, k, block_width) in
            [(1, 33, 130, 1), (3, 65, 32, 4), (16, 48, 64, 16), (17, 100, 72, 1), (40, 66, 4136, 8)]
        {
            for dtype in [Dtype::F32, Dtype::BF16, Dtype::F16] {
                let kept = |rng: &mut _, of: usize| KeptSet {
                    block_width,
                    ..subset(rng, of / block_width, (of / block_width).div_ceil(2))
                };
                let (rows, columns) = (kept(&mut rng, n / block_width * block_width), kept(&mut rng, k));
                let (x, w) = (random(&mut rng, t * k), random(&mut rng, n * k));
                let is_kept = |set: &KeptSet<Buffer<u32>>, i: usize| {
                    set.indices[..set.len].contains(&((i / block_width) as u32))
                };
                // Products with kept rows or columns, where the other weights are `others`, and one that is kept is `first`.
                let run = |by_rows: bool, others: [f32; 3], first: Option<f32>| {
                    let unused =
                        |i: usize| !if by_rows { is_kept(&rows, i / k) } else { is_kept(&columns, i % k) };
                    let mut w: Vec<f32> = w
                        .iter()
                        .enumerate()
                        .map(|(i, &w)| if unused(i) { others[i % 3] } else { w })
                        .collect();
                    if let Some(first) = first {
                        let at = (0..n * k).find(|&i| !unused(i)).unwrap();
                        w[at] = first;
                    }
                    let linear = linear(&cpu, &tensor(dtype, n, k, &w).0, None);
                    let mut out = vec![f32::NAN; t * if by_rows { rows.channels() } else { n }].into();
                    if by_rows {
                        let kept = Some(&rows);
                        cpu.linear(LinearOperands { kept, ..LinearOperands::new(&x, t, &linear, &mut out) });
                    } else {
                        let kept = Some(&columns);
                        cpu.project(ProjectOperands {
                            kept,
                            ..ProjectOperands::new(&x, t, &linear, &mut out)
                        });
                    }
                    out
                };
                for by_rows in [true, false] {
                    let what = format!("{t}×{k} · {n}×{k} {dtype:?}, rows {by_rows}");
                    let want = run(by_rows, [1.0, -2.0, 0.5], None);
                    assert!(want.iter().all(|x| x.is_finite()), "{what}");
                    let got = run(by_rows, [f32::NAN, f32::INFINITY, f32::NEG_INFINITY], None);
                    assert!(got == want, "{what}");
                    // One that is kept has: in one feature of every row.
                    for others in [[1.0, -2.0, 0.5], [f32::NAN; 3]] {
                        let got = run(by_rows, others, Some(f32::NAN));
                        let spoiled = got.iter().zip(&want).filter(|(got, want)| got.is_nan() || got != want);
                        assert_eq!(spoiled.count(), t, "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn cross_entropy_agrees_with_stored_logits() {
    for cpu in every_tier() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        for (t, n, k) in [(1, 3, 5), (40, 150, 33), (1030, 70, 9)] {
            let (x, w) = (random(&mut rng, t * k), random(&mut rng, n * k));
            let (tensor, _) = tensor(Dtype::F32, n, k, &w);
            let head = linear(&cpu, &tensor, None);
            let targets: Buffer<u32> =
                (0..t).map(|i| if i % 7 == 3 { u32::MAX } else { (i * 31 % n) as u32 }).collect();
            let mut losses = vec![f32::NAN; t].into();
            cpu.cross_entropy(CrossEntropyOperands {
                x: &x,
                rows: t,
                head: &head,
                targets: &targets,
                scratch: &mut Vec::new().into(),
                out: &mut losses,
            });
            let expected: Vec<f64> = (0..t)
                .map(|i| {
                    let logit = |r: usize| -> f64 {
                        (0..k).map(|c| f64::from(x[i * k + c]) * f64::from(w[r * k + c])).sum()
                    };
                    let total: f64 = (0..n).map(|r| logit(r).exp()).sum();
                    if targets[i] == u32::MAX { 0.0 } else { total.ln() - logit(targets[i] as usize) }
                })
                .collect();
            assert_close(&losses, &expected, &format!("{t} rows, {n} tokens"));
        }
    }
}

/// Plain softmax attention in f64; (T, heads, D).
fn attention(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    s: AttentionShape,
    kv_head_of: &[u32],
    mask: Option<&Buffer<u32>>,
    slots: Option<&Buffer<u32>>,
) -> Vec<f64> {
    let d = s.head_dim;
    let slot = |j: usize| slots.map_or(j, |slots| slots[j] as usize);
    let mut out = Vec::new();
    for (b, i, head) in (0..s.queries.samples)
        .flat_map(|b| (0..s.queries.tokens).map(move |i| (b, i)))
        .flat_map(|(b, i)| (0..s.heads).map(move |head| (b, i, head)))
    {
        let query = s.keys - s.queries.tokens + i;
        let key_at = |j: usize| ((b * s.key_capacity + j) * s.kv_heads + kv_head_of[head] as usize) * d;
        let visible: Vec<usize> = (0..=query)
            .filter(|j| mask.is_none_or(|mask| mask[b * s.key_capacity + j] != 0))
            .filter(|&j| s.window.is_none_or(|window| slot(query) - slot(j) < window))
            .collect();
        let q = &q[((b * s.queries.tokens + i) * s.heads + head) * d..][..d];
        let weight = |j: usize| {
            let dot: f64 = q.iter().zip(&k[key_at(j)..]).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum();
            (dot * f64::from(s.scale)).exp()
        };
        let total: f64 = visible.iter().map(|&j| weight(j)).sum();
        for c in 0..d {
            let sum: f64 = visible.iter().map(|&j| weight(j) * f64::from(v[key_at(j) + c])).sum();
            out.push(if visible.is_empty() { 0.0 } else { sum / total });
        }
    }
    out
}

#[test]
fn attention_agrees_with_f64_loops() {
    for cpu in every_tier() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        // (samples, queries, keys, capacity, heads, kv heads, D, window, padded)
        let cases = [
            (1, 1, 1, 1, 1, 1, 2, None, false),
            (2, 33, 33, 33, 3, 1, 6, None, true),
            (2, 70, 70, 70, 4, 2, 16, Some(9), false),
            (3, 1, 21, 40, 6, 3, 8, None, true),
            (2, 5, 20, 20, 2, 2, 10, Some(4), true),
            (1, 65, 1100, 1200, 1, 1, 4, None, false),
            // Sample 0 has more pads than there are keys in a step of the online softmax.
            (2, 3, 2100, 2200, 2, 1, 4, None, true),
            (1, 70, 2300, 2300, 2, 2, 4, Some(1500), true),
        ];
        for (samples, queries, keys, key_capacity, heads, kv_heads, head_dim, window, padded) in cases {
            let shape = AttentionShape {
                queries: BatchShape { samples, tokens: queries },
                keys,
                key_capacity,
                heads,
                kv_heads,
                head_dim,
                scale: 0.7,
                window,
            };
            let mut q = random(&mut rng, samples * queries * heads * head_dim);
            let mut k = random(&mut rng, samples * key_capacity * kv_heads * head_dim);
            // Later keys have larger scores, so that sums of earlier ones have to be rescaled.
            q.iter_mut().step_by(head_dim).for_each(|q| *q = 1.0);
            for (j, k) in k.chunks_exact_mut(kv_heads * head_dim).enumerate() {
                k.iter_mut()
                    .step_by(head_dim)
                    .for_each(|k| *k = 8.0 * (j % key_capacity) as f32 / keys as f32);
            }
            let v = random(&mut rng, k.len());
            let kv_head_of: Buffer<u32> = (0..heads).map(|head| (head * kv_heads / heads) as u32).collect();
            // Left pads, one sample with more of them than there are keys before its first queries.
            let pads = |b: usize| if b == 0 { keys / 2 } else { b };
            let mask: Option<Buffer<u32>> = padded.then(|| {
                (0..samples * key_capacity)
                    .map(|i| u32::from(i % key_capacity >= pads(i / key_capacity)))
                    .collect()
            });
            let slots: Option<Buffer<u32>> =
                (window == Some(4)).then(|| (0..keys as u32).map(|j| j * 2).collect());
            let mut out = vec![f32::NAN; q.len()].into();
            cpu.attention(AttentionOperands {
                q: &q,
                k: &k,
                v: &v,
                shape,
                kv_head_of: &kv_head_of,
                mask: mask.as_ref(),
                slots: slots.as_ref(),
                out: &mut out,
            });
            let expected = attention(&q, &k, &v, shape, &kv_head_of, mask.as_ref(), slots.as_ref());
            assert_close(&out, &expected, &format!("{shape:?}"));
        }
    }
}

#[test]
fn what_is_not_a_number_stays_so_where_it_is_seen() {
    for cpu in every_tier() {
        let mut rng = ChaCha8Rng::seed_from_u64(6);
        for (tokens, keys) in [(1, 1), (1, 1500), (4, 20), (9, 1100)] {
            let shape = AttentionShape {
                queries: BatchShape { samples: 1, tokens },
                keys,
                key_capacity: keys,
                heads: 1,
                kv_heads: 1,
                head_dim: 4,
                scale: 0.5,
                window: None,
            };
            let [q, k, v] = [tokens, keys, keys].map(|rows| random(&mut rng, rows * 4));
            let nan_rows = |q: &Buffer<f32>, k: &Buffer<f32>, mask: Option<&Buffer<u32>>| {
                let mut out = vec![0.0; tokens * 4].into();
                let (v, kv_head_of, slots) = (&v, &vec![0].into(), None);
                cpu.attention(AttentionOperands { q, k, v, shape, kv_head_of, mask, slots, out: &mut out });
                let rows = out.chunks_exact(4).map(|row| row.iter().all(|x| x.is_nan()));
                rows.collect::<Vec<bool>>()
            };
            let last: Vec<bool> = (1..=tokens).map(|i| i == tokens).collect();
            // A whole query: none of its scores is a number.
            let mut spoiled = q.clone();
            spoiled[tokens * 4 - 1] = f32::NAN;
            assert_eq!(nan_rows(&spoiled, &k, None), last, "{tokens} of {keys}, query");
            // A key, which later queries see unless it is a pad.
            let mut spoiled = k.clone();
            spoiled[keys * 4 - 1] = f32::NAN;
            assert_eq!(nan_rows(&q, &spoiled, None), last, "{tokens} of {keys}, key");
            let hidden = (0..keys).map(|j| u32::from(j + 1 < keys)).collect();
            assert_eq!(nan_rows(&q, &spoiled, Some(&hidden)), vec![false; tokens], "{tokens} of {keys}, pad");
        }
    }
}

#[test]
fn one_two_and_three_threads_give_the_same_bits() {
    assert_eq!([1, 2, 3].map(|threads| Cpu::new(threads).unwrap().threads()), [1, 2, 3]);
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for (t, n, k) in SHAPES {
        let (x, w) = (random(&mut rng, t * k), random(&mut rng, n * k));
        let (tensor, _) = tensor(Dtype::BF16, n, k, &w);
        let [z, weight, residual] = [t * 3, 4 * n, t * n].map(|len| random(&mut rng, len));
        let run = |tier, threads| {
            let cpu = Cpu::with_tier(threads, tier).unwrap();
            let weights = linear(&cpu, &tensor, None);
            let [mut gated, mut projected] = [(); 2].map(|()| vec![0.0; t * n].into());
            cpu.gated_linear(GatedLinearOperands {
                x: &x,
                rows: t,
                gate: &weights,
                up: &weights,
                kept: None,
                activation: Activation::Silu,
                energy: None,
                out: &mut gated,
            });
            cpu.project(ProjectOperands {
                low_rank: Some(LowRank { z: &z, rank: 3, weight: &weight }),
                residual: Some(&residual),
                ..ProjectOperands::new(&x, t, &weights, &mut projected)
            });
            gated.iter().chain(&projected[..]).map(|x| x.to_bits()).collect::<Vec<_>>()
        };
        for tier in Tier::available() {
            let [one, two, three] = [1, 2, 3].map(|threads| run(tier, threads));
            assert!(one == two && one == three, "{tier}: {t}×{k} · {n}×{k}");
        }
    }
}

/// Up to sixteen rows are added up in one order, more in another; by tiles two or more.
#[test]
fn rows_have_the_same_bits_whatever_comes_with_them() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    for (t, n, k) in SHAPES.into_iter().chain([(16, 50, 70), (19, 50, 70)]) {
        let (x, w) = (random(&mut rng, t * k), random(&mut rng, n * k));
        let (tensor, _) = tensor(Dtype::BF16, n, k, &w);
        for cpu in every_tier() {
            let dense = linear(&cpu, &tensor, None);
            let run = |x: &[f32]| {
                let rows = x.len() / k;
                let mut out = vec![0.0; rows * n].into();
                cpu.linear(LinearOperands::new(&x.to_vec().into(), rows, &dense, &mut out));
                out.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
            };
            let together = run(&x);
            let tiles = matches!(cpu.tier(), Tier::Amx | Tier::AmxEmulated);
            let fewest = match (t, tiles) {
                (1, _) | (..=16, false) => 1,
                (_, true) => 2,
                (_, false) => 17,
            };
            for few in [fewest, (fewest + 1).min(t)] {
                for row in [0, (t - few) / 2, t - few] {
                    assert!(
                        run(&x[row * k..][..few * k]) == together[row * n..][..few * n],
                        "{}: {few} rows from {row} of {t}×{k} · {n}×{k}",
                        cpu.tier()
                    );
                }
            }
        }
    }
}

/// Products in bf16 are those of rounded activations in f32: bit for bit by vector instructions, which multiply them in the same
/// order.
#[test]
fn bf16_products_are_those_of_rounded_activations() {
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    for (t, n, k) in SHAPES {
        let (x, w) = (random(&mut rng, t * k), random(&mut rng, n * k));
        let rounded: Buffer<f32> = x.iter().map(|&x| bf16::from_f32(x).to_f32()).collect();
        for dtype in [Dtype::BF16, Dtype::F16, Dtype::F32] {
            let (tensor, _) = tensor(dtype, n, k, &w);
            for tier in Tier::available() {
                let run = |of, x: &Buffer<f32>| {
                    let cpu = Cpu::with_tier(2, tier).unwrap().with_dtype(of);
                    let mut out = vec![0.0; t * n].into();
                    cpu.linear(LinearOperands::new(x, t, &linear(&cpu, &tensor, None), &mut out));
                    out
                };
                let (got, want) = (run(CpuDtype::Bf16, &x), run(CpuDtype::F32, &rounded));
                let context = format!("{tier}: {t}×{k} · {n}×{k}, {dtype}");
                if matches!(tier, Tier::Amx | Tier::AmxEmulated) {
                    let want: Vec<_> = want.iter().map(|&x| f64::from(x)).collect();
                    assert_close(&got, &want, &context);
                } else {
                    assert!(got == want, "{context}");
                }
            }
        }
    }
}

/// Root mean squares of errors over Σ|products|, for every weight type, kept rows, kept columns and groups of either.
#[test]
fn errors_are_no_larger_than_those_of_a_plain_loop() {
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    for (t, n, k) in [(17, 40, 56), (64, 48, 576), (33, 72, 920), (3, 24, 4136), (1, 160, 1000)] {
        for (dtype, block_width) in [(Dtype::F32, 1), (Dtype::BF16, 8), (Dtype::F16, 1)] {
            let (x, w) = (random(&mut rng, t * k), random(&mut rng, n * k));
            let (tensor, w) = tensor(dtype, n, k, &w);
            let w = &w[..];
            let mut kept = |of: usize| KeptSet {
                block_width,
                ..subset(&mut rng, of / block_width, of / block_width - of / block_width / 3)
            };
            let (rows, columns) = (kept(n), kept(k));
            let indices = |kept: &KeptSet<Buffer<u32>>| -> Vec<usize> {
                let blocks = kept.indices.iter().map(|&block| block as usize * block_width);
                blocks.flat_map(|first| first..first + block_width).collect()
            };
            let all: [Vec<usize>; 2] = [(0..n).collect(), (0..k).collect()];
            let (some_rows, some_columns) = (indices(&rows), indices(&columns));
            // Errors of a product of these rows and columns, whose x has the columns alone.
            let error = |got: &dyn Fn(usize, usize) -> f32, rows: &[usize], columns: &[usize], x: &[f32]| {
                let of = |i: usize, row: usize| {
                    let pairs = columns.iter().enumerate().map(move |(c, &column)| {
                        (f64::from(x[i * columns.len() + c]), f64::from(w[row * k + column]))
                    });
                    let sum = pairs.clone().map(|(x, w)| x * w).sum::<f64>();
                    (sum, pairs.map(|(x, w)| (x * w).abs()).sum::<f64>())
                };
                let all = (0..t).flat_map(|i| rows.iter().enumerate().map(move |(j, &row)| (i, j, row)));
                let squares = all.map(|(i, j, row)| {
                    let (sum, magnitude) = of(i, row);
                    ((f64::from(got(i, j)) - sum) / magnitude).powi(2)
                });
                (squares.sum::<f64>() / (t * rows.len()) as f64).sqrt()
            };
            let plain = |rows: &[usize], columns: &[usize], x: &[f32]| {
                let sum = |i: usize, j: usize| {
                    let pairs = columns.iter().enumerate();
                    pairs.fold(0.0f32, |sum, (c, &column)| {
                        sum + x[i * columns.len() + c] * w[rows[j] * k + column]
                    })
                };
                error(&sum, rows, columns, x)
            };
            let few = random(&mut rng, t * some_columns.len());
            // Up to 128 products are added in the same order: chance alone tells the errors apart.
            let allowed = if k > 128 { 1.0 } else { 1.2 };
            let bounds = [plain(&some_rows, &all[1], &x), plain(&all[0], &some_columns, &few)];
            let bounds = bounds.map(|bound| allowed * bound);
            for cpu in every_tier() {
                let weight = linear(&cpu, &tensor, None);
                let mut out: Buffer<f32> = vec![f32::NAN; t * some_rows.len()].into();
                cpu.linear(LinearOperands {
                    kept: Some(&rows),
                    ..LinearOperands::new(&x, t, &weight, &mut out)
                });
                let of_rows = error(&|i, j| out[i * some_rows.len() + j], &some_rows, &all[1], &x);
                let mut out: Buffer<f32> = vec![f32::NAN; t * n].into();
                cpu.project(ProjectOperands {
                    a: &few,
                    rows: t,
                    projection: &weight,
                    kept: Some(&columns),
                    bias: None,
                    low_rank: None,
                    residual: None,
                    out: &mut out,
                });
                let of_columns = error(&|i, j| out[i * n + j], &all[0], &some_columns, &few);
                let what = format!("{}: {t}×{k} · {n}×{k} {dtype:?} in groups of {block_width}", cpu.tier());
                assert!(
                    of_rows <= bounds[0] && of_columns <= bounds[1],
                    "{what}: {of_rows:e}, {of_columns:e} over {bounds:?}"
                );
                assert!(of_rows > 0.0 && of_columns > 0.0, "{what}: errors are seen");
            }
        }
    }
}
