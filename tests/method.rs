//! The method's operations on the CPU backend against plain readings of the specification, in f64 or exact.

mod common;

use std::sync::Arc;

use common::models::Folder;
use probeprune::{
    backend::{
        Backend, ChannelScoreOperands, ColumnStatisticOperands, EnergyOperands, Fusion, History,
        HistoryUpdateOperands, KeepKvHeadsOperands, KeptSet, Probe, ProbeSelectOperands, TopKKeepOperands,
    },
    cpu::{Buffer, Cpu},
    model::Model,
    prune::{
        BatchShape, Unit,
        counts::{LEADING_SLOT_LIMIT, probe_shape},
        history::HistoryLayout,
        settings::{Metric, ProbeOrder, ProbeTokens, Settings},
    },
};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn cpu() -> Cpu {
    Cpu::new(2).unwrap()
}

fn indices(set: impl IntoIterator<Item = u32>, of: usize) -> KeptSet<Buffer<u32>> {
    let indices: Buffer<u32> = set.into_iter().collect();
    KeptSet { len: indices.len(), indices, of, block_width: 1 }
}

/// Values over ten decades, a few of them 0: sums where small terms matter.
fn energies(rng: &mut ChaCha8Rng, n: usize) -> Buffer<f32> {
    let mut value = || {
        if rng.random_range(0..8) == 0 { 0.0 } else { 10f32.powf(rng.random_range(-8.0..2.0)) }
    };
    (0..n).map(|_| value()).collect()
}

#[track_caller]
fn assert_close(got: &[f32], expected: &[f64]) {
    assert_eq!(got.len(), expected.len());
    for (i, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        // All terms are positive: a few f32 roundings of the sum's own size.
        let error = (f64::from(got) - expected).abs();
        assert!(error <= 2e-6 * expected.abs(), "element {i} is {got:e}, expected {expected:e}");
    }
}

/// Indices of the k largest, ascending; a stable sort leaves ties in order of index.
fn largest<T: PartialOrd>(values: &[T], k: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..values.len() as u32).collect();
    order.sort_by(|&a, &b| values[b as usize].partial_cmp(&values[a as usize]).unwrap());
    order.truncate(k);
    order.sort_unstable();
    order
}

fn keep(scores: &[f32], k: usize, fault: &mut Buffer<u32>, tag: u32) -> Vec<u32> {
    let mut kept =
        KeptSet { indices: vec![u32::MAX; scores.len()].into(), len: k, of: scores.len(), block_width: 1 };
    cpu().top_k_keep(TopKKeepOperands { scores: &scores.to_vec().into(), kept: &mut kept, tag, fault });
    kept.indices[..k].to_vec()
}

#[test]
fn equal_scores_keep_the_lower_index() {
    let mut fault = vec![0].into();
    assert_eq!(keep(&[1.0, 2.0, 2.0, 1.0, 2.0, 1.0], 4, &mut fault, 9), [0, 1, 2, 4]);
    assert_eq!(keep(&[0.0; 5], 2, &mut fault, 9), [0, 1]);
    assert_eq!(keep(&[1.0, 3.0, 3.0], 1, &mut fault, 9), [1]);
    assert_eq!(keep(&[3.0, 1.0, 2.0], 3, &mut fault, 9), [0, 1, 2]);
    assert_eq!(fault, [0]);
}

#[test]
fn the_first_score_that_is_not_finite_is_the_one_reported() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut fault = vec![0].into();
        keep(&[1.0, 2.0], 1, &mut fault, 3);
        assert_eq!(fault, [0]);
        keep(&[1.0, bad], 1, &mut fault, 4);
        keep(&[bad, 1.0], 1, &mut fault, 5);
        assert_eq!(fault, [4], "{bad}");
    }
}

/// docs/method.md, section 1 with integer norms, whose squares and sums are exact.
fn select_plainly(
    norms: &[u64],
    mask: &[u32],
    shape: BatchShape,
    order: ProbeOrder,
    (samples_kept, tokens_kept): (usize, usize),
) -> (Vec<u32>, Vec<u32>) {
    let at = |b: u32, s: u32| b as usize * shape.tokens + s as usize;
    let mut samples: Vec<u32> = (0..shape.samples as u32).collect();
    let mut tokens: Vec<u32> = (0..shape.tokens as u32).collect();
    // `None`, for pads only, sorts below every sum.
    let sum = |cells: Vec<usize>| -> Option<u64> {
        let real: Vec<usize> = cells.into_iter().filter(|&i| mask[i] != 0).collect();
        (!real.is_empty()).then(|| real.iter().map(|&i| norms[i].pow(2)).sum())
    };
    for stage in order.name().split(',') {
        if stage == "tokens" {
            let t: Vec<_> =
                tokens.iter().map(|&s| sum(samples.iter().map(|&b| at(b, s)).collect())).collect();
            tokens = largest(&t, tokens_kept);
            if tokens_kept <= 10 {
                // Where slots of pads are kept, so are all others, the first real one among them.
                let first = t.iter().position(Option::is_some).unwrap() as u32;
                tokens[0] = tokens[0].min(first);
            }
        } else {
            let m: Vec<_> =
                samples.iter().map(|&b| sum(tokens.iter().map(|&s| at(b, s)).collect())).collect();
            samples = largest(&m, samples_kept);
        }
    }
    (samples, tokens)
}

fn select(
    norms: &[u64],
    mask: Option<&Buffer<u32>>,
    positions: &Buffer<u32>,
    shape: BatchShape,
    order: ProbeOrder,
    kept: BatchShape,
) -> Probe<Cpu> {
    let fresh = |len: usize| vec![u32::MAX; len].into();
    let mut probe = Probe {
        shape: kept,
        samples: fresh(kept.samples),
        slots: fresh(kept.tokens),
        positions: fresh(kept.rows()),
        mask: fresh(kept.rows()),
    };
    let squares = norms.iter().map(|&n| (n * n) as f32).collect();
    cpu().probe_select(ProbeSelectOperands {
        sum_squares: &squares,
        shape,
        order,
        positions,
        mask,
        leading_slot_limit: LEADING_SLOT_LIMIT,
        probe: &mut probe,
    });
    probe
}

proptest! {
    #[test]
    fn top_k_agrees_with_a_sort(scores in prop::collection::vec(-3i8..3, 1..80), k in 1usize..80) {
        let scores: Vec<f32> = scores.into_iter().map(f32::from).collect();
        let k = k.min(scores.len());
        prop_assert_eq!(keep(&scores, k, &mut vec![0].into(), 1), largest(&scores, k));
    }

    #[test]
    fn the_probe_is_the_one_of_section_1(
        (samples, tokens) in (1usize..6, 1usize..40), shares in (0.01..=1.0f64, 0.01..=1.0f64),
        order in prop::sample::select(ProbeOrder::ALL), padding in 0..3, seed: u64,
    ) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let shape = BatchShape { samples, tokens };
        // Samples of different sizes, so that a sample with many pads can come first.
        let sizes: Vec<u64> = (0..samples).map(|_| rng.random_range(1..20)).collect();
        let norms: Vec<u64> = (0..shape.rows()).map(|i| rng.random_range(0..6) * sizes[i / tokens]).collect();
        let positions: Buffer<u32> = (0..shape.rows()).map(|_| rng.random()).collect();
        let mut mask = Buffer::from(vec![1u32; shape.rows()]);
        for row in mask.chunks_mut(tokens) {
            let pads = rng.random_range(0..tokens);
            match padding {
                1 => row[..pads].fill(0),
                // Holes anywhere, but one token.
                2 => row[..tokens - 1].fill_with(|| rng.random_range(0..2)),
                _ => {}
            }
        }
        let settings = Settings {
            probe_samples: shares.0, probe_tokens: ProbeTokens::Share(shares.1), probe_order: order, ..Settings::default()
        };
        let kept = probe_shape(&settings, shape);
        let given = (padding > 0).then_some(&mask);
        let probe = select(&norms, given, &positions, shape, order, kept);
        let expected = select_plainly(&norms, &mask, shape, order, (kept.samples, kept.tokens));
        prop_assert_eq!((&*probe.samples, &*probe.slots), (&*expected.0, &*expected.1));
        let rows = || expected.0.iter().flat_map(|&b| {
            expected.1.iter().map(move |&s| b as usize * tokens + s as usize)
        });
        prop_assert!(rows().map(|row| positions[row]).eq(probe.positions.iter().copied()));
        prop_assert!(rows().map(|row| mask[row]).eq(probe.mask.iter().copied()));
    }

    #[test]
    fn energy_is_the_mean_square_of_tokens(
        (samples, tokens, width) in (1usize..6, 1usize..6, 1usize..70), masked: bool, seed: u64,
    ) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let shape = BatchShape { samples, tokens };
        let a = energies(&mut rng, shape.rows() * width);
        let mask: Buffer<u32> =
            (0..shape.rows()).map(|_| if masked { rng.random_range(0..2) } else { 1 }).collect();
        let mut out = vec![f32::NAN; tokens * width].into();
        cpu().energy(EnergyOperands { a: &a, shape, channels: width, mask: masked.then_some(&mask), out: &mut out, sums: None });
        let expected: Vec<f64> = (0..tokens * width).map(|i| {
            let rows = (0..samples).map(|b| b * tokens + i / width).filter(|&row| mask[row] != 0);
            let count = rows.clone().count() as f64 + if masked { 1e-3 } else { 0.0 };
            rows.map(|row| f64::from(a[row * width + i % width]).powi(2)).sum::<f64>() / count
        }).collect();
        assert_close(&out, &expected);
    }

    #[test]
    fn scores_are_those_of_sections_3_and_4(
        tokens in 1usize..5, units in 1usize..9, head_dim in prop::sample::select(vec![0usize, 1, 3, 80]),
        metric in prop::sample::select(Metric::ALL), fixed in prop::option::of(0.0..=1.0f32),
        history_slots in prop::option::of(1usize..8), seed: u64,
    ) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        // MLP widths on both sides of the 256 columns of a task.
        let width = if head_dim == 0 { units * 67 } else { units * head_dim };
        let p = energies(&mut rng, tokens * width);
        let statistic = energies(&mut rng, width);
        let history = energies(&mut rng, history_slots.unwrap_or(0) * width);
        // Slots beyond those that history has seen come last.
        let slots: Buffer<u32> = (0..tokens as u32).map(|s| 2 * s).collect();
        let (layout, values) = (HistoryLayout::default(), history.clone());
        let kept = History { values, slots: history_slots.unwrap_or(0), channels: width, layout };
        let fusion = match history_slots {
            None => Fusion::ProbeOnly,
            Some(_) => {
                Fusion::History { history: &kept, slots: &slots, fixed_weight: fixed }
            }
        };
        let unit = if head_dim > 0 { Unit::Head(head_dim) } else { Unit::Channel };
        let mut out = Buffer::from(vec![f32::NAN; width / head_dim.max(1)]);
        cpu().channel_score(ChannelScoreOperands { p: &p, tokens, channels: width, fusion, metric, statistic: &statistic, unit, out: &mut out });

        let channel = |c: usize| -> f64 {
            let energy: f64 = (0..tokens).map(|s| {
                let p = f64::from(p[s * width + c]);
                let Some(seen) = history_slots else { return p };
                let slot = slots[s] as usize;
                let h = if slot < seen { f64::from(history[slot * width + c]) } else { 0.0 };
                let w = fixed.map_or(p / (p + h + 1e-6), f64::from);
                w * p + (1.0 - w) * h
            }).sum();
            f64::from(statistic[c]) * if metric == Metric::WandaSp { energy.sqrt() } else { energy }
        };
        let expected: Vec<f64> = (0..out.len()).map(|unit| {
            let channels = (unit * head_dim.max(1)..).take(head_dim.max(1)).map(channel);
            match metric {
                Metric::Ppsp if head_dim > 0 => channels.map(|x| x * x).sum::<f64>().sqrt(),
                _ => channels.sum(),
            }
        }).collect();
        assert_close(&out, &expected);
    }
}

#[test]
fn up_to_ten_kept_tokens_include_the_first() {
    let shape = BatchShape { samples: 1, tokens: 40 };
    let norms: Vec<u64> = (0..40).collect();
    let positions: Buffer<u32> = (0..40).collect();
    let slots = |tokens: usize| {
        let kept = BatchShape { samples: 1, tokens };
        select(&norms, None, &positions, shape, ProbeOrder::TokensSamples, kept).slots
    };
    assert_eq!(slots(10), [vec![0], (31..40).collect()].concat());
    assert_eq!(slots(11), (29..40).collect::<Vec<_>>());
}

#[test]
fn the_first_token_is_the_first_that_is_no_pad_in_some_sample() {
    let shape = BatchShape { samples: 2, tokens: 8 };
    let norms: Vec<u64> = (0..16).map(|i| 1 + i % 8).collect();
    let mask = [[0, 0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1, 1]].concat().into();
    let positions = vec![0; 16].into();
    let slots = |order, samples| {
        select(&norms, Some(&mask), &positions, shape, order, BatchShape { samples, tokens: 2 }).slots
    };
    assert_eq!(slots(ProbeOrder::TokensSamples, 1), [3, 7]);
    // A mask may make sample 0 the only one looked at.
    let norms: Vec<u64> = (0..16).map(|i| if i < 8 { 90 + i } else { 1 }).collect();
    let kept = BatchShape { samples: 1, tokens: 2 };
    let probe = select(&norms, Some(&mask), &positions, shape, ProbeOrder::SamplesTokens, kept);
    assert_eq!([&*probe.samples, &*probe.slots, &*probe.mask], [&[0][..], &[5, 7], &[1, 1]]);
}

#[test]
fn history_moves_only_where_something_finite_was_computed() {
    // 3 slots of 3 blocks of 2 channels; blocks 0 and 2 are kept, slots 1 and 2 are given.
    let kept = KeptSet { block_width: 2, ..indices([0, 2], 3) };
    let p = vec![10.0, 20.0, f32::NAN, 40.0, 50.0, f32::INFINITY, 70.0, 80.0].into();
    let before: Buffer<f32> = (0..18).map(|i| i as f32).collect();
    let after = |momentum: f64| {
        let (layout, values) = (HistoryLayout::default(), before.clone());
        let mut history = History { values, slots: 3, channels: 6, layout };
        cpu().history_update(HistoryUpdateOperands {
            p: &p,
            tokens: 2,
            at: 1,
            kept: &kept,
            momentum,
            history: &mut history,
        });
        history.values
    };
    let mut expected = before.clone();
    for (at, p) in [(6, 10.0), (7, 20.0), (11, 40.0), (12, 50.0), (16, 70.0), (17, 80.0)] {
        expected[at] = p;
    }
    assert_eq!(after(0.0), expected);
    assert_eq!(after(1.0), before);
    let mixed: Vec<f64> = (before.iter().zip(&expected))
        .map(|(&h, &p)| if h == p { f64::from(h) } else { 0.99 * f64::from(h) + 0.01 * f64::from(p) })
        .collect();
    assert_close(&after(0.99), &mixed);
}

#[test]
fn kv_heads_are_those_that_kept_heads_use() {
    for (group, kv, slots) in [
        (1, vec![0, 1, 4, u32::MAX], [0, 1, 2]),
        (2, vec![0, 2, u32::MAX], [0, 0, 1]),
        (3, vec![0, 1], [0, 0, 1]),
    ] {
        let mut kv_heads = indices(vec![7; kv.len()], kv.len());
        let mut kv_head_of = vec![9; 3].into();
        cpu().keep_kv_heads(KeepKvHeadsOperands {
            heads: &indices([0, 1, 4], 6),
            gqa_group: group,
            kv_heads: &mut kv_heads,
            kv_head_of: &mut kv_head_of,
        });
        assert_eq!((&*kv_heads.indices, &*kv_head_of), (&*kv, &slots[..]), "group {group}");
    }
}

#[test]
fn column_statistics_are_sums_over_outputs() {
    let folder = Folder::llama();
    let model = Model::load(&folder.source(), true, Arc::new(cpu()), |_| ()).unwrap();
    let (_, weight) = &folder.tensors()["model.layers.1.mlp.down_proj.weight"];
    for metric in Metric::ALL {
        let term = |w: &f32| match metric {
            Metric::Ppsp => f64::from(*w).powi(4),
            Metric::WandaSp => f64::from(*w).abs(),
            Metric::Flap => f64::from(*w).powi(2),
        };
        let root = |sum: f64| if *metric == Metric::Ppsp { sum.sqrt() } else { sum };
        let mut got = vec![f32::NAN; 24].into();
        model.backend.column_statistic(ColumnStatisticOperands {
            projection: &model.weights.layers[1].mlp.down_proj,
            metric: *metric,
            out: &mut got,
        });
        let column = |c: usize| root(weight.iter().skip(c).step_by(24).map(term).sum());
        assert_close(&got, &(0..24).map(column).collect::<Vec<_>>());
    }
}
