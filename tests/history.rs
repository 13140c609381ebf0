//! The history file, FLAP's global shares and counts, and FLOPs.

mod common;

use std::{collections::HashMap, fs, path::Path, sync::Arc};

use common::{
    assert_error,
    models::{Folder, Tensors},
};
use probeprune::{
    backend::{Backend, ChannelScoreOperands, Fusion, History, HistoryUpdateOperands, KeptSet},
    config::ModelConfig,
    cpu::{Buffer, Cpu},
    model::Model,
    prune::{
        BatchShape, Block, Unit,
        allocation::{BlockLosses, Losses},
        calibration::{BlockMoments, Calibration, FlapMoments},
        flap::global_ratios,
        flops::{LayerCounts, shares},
        history::HistoryLayout,
        linear_fit::LinearFit,
        second_moments::SecondMoments,
        settings::{HistoryDtype, Method, Metric, Settings},
    },
    session::{Limits, Session},
};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::TensorView;
use serde_json::json;

fn config(text: serde_json::Value) -> ModelConfig {
    ModelConfig::from_json(Path::new("config.json"), &text.to_string(), None).unwrap()
}

#[test]
fn flap_shares_follow_from_one_threshold() {
    let llama = json!({ "model_type": "llama", "vocab_size": 8, "hidden_size": 4, "intermediate_size": 4,
        "num_hidden_layers": 1, "num_attention_heads": 2 });
    let opt = json!({ "model_type": "opt", "vocab_size": 8, "hidden_size": 4, "ffn_dim": 4,
        "num_hidden_layers": 1, "num_attention_heads": 2 });
    // Standardised: heads -.866, .866; channels -1.162, -.387, .387, 1.162. At S = 2 a head weighs 10/3 (factor 2: 2;
    // OPT: 5), so sums in order are 1, 4.33, 5.33, 6.33, 9.67, 10.67 (1, 3, 4, 5, 7, 8; 1, 6, 7, 8, 13, 14).
    let metrics = [(Block::Attention, vec![1.0f32, 1.0, 5.0, 5.0]), (Block::Mlp, vec![2.0, 1.0, 0.0, 3.0])];
    for (config_text, ratio, factor, expected) in [
        (&llama, 0.05, 4, [0.0, 0.25]),
        (&llama, 0.11, 4, [0.5, 0.25]),
        (&llama, 0.39, 4, [0.5, 0.25]),
        (&llama, 0.41, 4, [0.5, 0.5]),
        (&llama, 0.95, 4, [1.0, 1.0]),
        (&llama, 0.11, 2, [0.0, 0.25]),
        (&llama, 0.39, 2, [0.5, 0.5]),
        (&opt, 0.41, 4, [0.5, 0.25]),
    ] {
        let got = global_ratios(&config(config_text.clone()), &metrics, ratio, 2, factor);
        assert_eq!(got, expected, "ratio {ratio}, factor {factor}");
    }
}

/// A FLAP session on one layer whose metrics (fluctuation times Σ W²) are `attention` and `mlp`.
fn flap_counts(attention: [f64; 16], mlp: &[f64], ratio: f64, round_channels: usize) -> LayerCounts {
    let changes = json!({ "num_hidden_layers": 1, "intermediate_size": mlp.len() });
    let folder = Folder::llama_with(changes);
    let tensors = folder.tensors();
    let model =
        Arc::new(Model::load(&folder.source(), true, Arc::new(Cpu::new(2).unwrap()), |_| ()).unwrap());
    let block = |name: &str, metric: &[f64]| {
        let (_, weight) = &tensors[&format!("model.layers.0.{name}.weight")];
        let squares = |c: usize| -> f64 {
            weight.iter().skip(c).step_by(metric.len()).map(|&w| f64::from(w).powi(2)).sum()
        };
        let fluctuation = metric.iter().enumerate().map(|(c, m)| (m / squares(c)) as f32).collect();
        let baseline = vec![0.1; metric.len()];
        BlockMoments {
            energy: vec![0.0; 8 * metric.len()],
            mean: vec![0.0; 8 * metric.len()],
            flap: Some(FlapMoments { fluctuation, baseline }),
            linear: None,
            second: None,
        }
    };
    let calibration = Calibration {
        fingerprint: model.fingerprint.clone(),
        seq_len: 8,
        samples: 1,
        layers: vec![[block("self_attn.o_proj", &attention), block("mlp.down_proj", mlp)]],
        channel_order: vec![(0..mlp.len() as u32).collect()],
        corrections: None,
        losses: Vec::new(),
    };
    let settings = Settings {
        method: Method::Flap,
        prune_ratio: ratio,
        skip_layers: vec![],
        round_channels,
        ..Settings::default()
    };
    let limits = Limits { samples: 1, tokens: 4, capacity: 0 };
    let mut session = Session::new(model, settings, limits, Some(&calibration)).unwrap();
    assert!(session.evaluate(&[3, 4, 5, 6], 1, None, true).unwrap() > 0.0);
    let counts = session.layer_counts()[0];
    assert_eq!(session.kept_heads(0).unwrap().unwrap().len(), counts.heads);
    assert_eq!(session.kept_channels(0).unwrap().unwrap().len(), counts.channels);
    counts
}

#[test]
fn flap_counts_are_truncated_products_and_leave_one_unit() {
    // One channel of 49 is below the threshold, and 49·(1/49) is less than 1 in f64: nothing is pruned.
    let low = |k: usize, n: usize| {
        (0..n).map(|c| if c < k { c as f64 } else { 100.0 + c as f64 }).collect::<Vec<_>>()
    };
    let heads = std::array::from_fn(|c| 1.0 + c as f64);
    assert_eq!(49.0 * (1.0 / 49.0), 0.999_999_999_999_999_9);
    assert_eq!(flap_counts(heads, &low(1, 49), 0.01, 1).channels, 49);
    assert_eq!(flap_counts(heads, &low(1, 48), 0.01, 1).channels, 47);
    // Heads that are alike all standardise to 0, below a threshold in the upper half of the channels.
    let alike = std::array::from_fn(|c| 1.0 + (c % 4) as f64);
    let spread: Vec<f64> = (0..24).map(|c| 1.0 + c as f64).collect();
    assert_eq!(flap_counts(alike, &spread, 0.8, 1).heads, 1);
    // Channels of ±1 all lie below the one head of 1.7.
    let one_high = std::array::from_fn(|c| if c < 4 { 9.0 } else { 1.0 });
    let halves: Vec<f64> = (0..24).map(|c| 1.0 + (c % 2) as f64).collect();
    let counts = flap_counts(one_high, &halves, 0.86, 8);
    assert_eq!((counts.heads, counts.channels), (1, 8));
}

fn calibration(
    fingerprint: &str,
    seq_len: usize,
    widths: [usize; 2],
    layers: usize,
    flap: bool,
    seed: u64,
) -> Calibration {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut values = |n: usize| -> Vec<f32> {
        (0..n).map(|_| f32::from_bits(rng.random::<u32>() & 0xbfff_ffff)).collect()
    };
    let mut block = |width: usize| BlockMoments {
        energy: values(seq_len * width),
        mean: values(seq_len * width),
        flap: flap.then(|| FlapMoments { fluctuation: values(width), baseline: values(width) }),
        linear: flap.then(|| LinearFit {
            directions: values(2 * HIDDEN),
            offsets: values(2),
            coefficients: values(2 * width),
            bias: values(width),
            variance: values(width),
        }),
        second: flap.then(|| SecondMoments::from_sums(&values(width * width), width, 1).unwrap()),
    };
    let channel_order = vec![(0..widths[1] as u32).rev().collect(); layers];
    let of_layers = (0..layers).map(|_| widths.map(&mut block)).collect();
    // Heads have two channels.
    let mut of_block = |all: usize| {
        let kept: Vec<usize> = (1..all).step_by(2).collect();
        BlockLosses { losses: values(kept.len()), kept }
    };
    let mut of_layer = || [of_block(widths[0] / 2), of_block(widths[1])];
    let losses =
        flap.then(|| Losses { method: Method::Fold, layers: (0..layers).map(|_| of_layer()).collect() });
    Calibration {
        fingerprint: fingerprint.to_string(),
        seq_len,
        samples: 7,
        layers: of_layers,
        channel_order,
        corrections: None,
        losses: losses.into_iter().collect(),
    }
}

const HIDDEN: usize = 4;

/// A config with so many layers and these widths (attention, MLP).
fn shaped(layers: usize, [attention, mlp]: [usize; 2]) -> ModelConfig {
    config(json!({ "model_type": "llama", "vocab_size": 8, "hidden_size": HIDDEN, "intermediate_size": mlp,
        "num_hidden_layers": layers, "num_attention_heads": attention / 2, "head_dim": 2 }))
}

#[test]
fn a_history_file_that_does_not_fit_is_refused() {
    type Edit = fn(&mut HashMap<String, String>, &mut Tensors);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history");
    let edits: [(Edit, &[&str]); 16] = [
        (
            |m, _| {
                m.insert("model_fingerprint".into(), "other".into());
            },
            &["fingerprint", "expected mine", "other"],
        ),
        (
            |m, _| {
                m.insert("format".into(), "other".into());
            },
            &["format", "probeprune-history", "other"],
        ),
        (
            |m, _| {
                m.insert("format_version".into(), "1".into());
            },
            &["format_version", "expected 2", "1"],
        ),
        (
            |m, _| {
                m.insert("seq_len".into(), "0".into());
            },
            &["seq_len", "above 0", "0"],
        ),
        (
            |m, _| {
                m.insert("samples".into(), "-1".into());
            },
            &["samples", "above 0", "-1"],
        ),
        (|m, _| m.clear(), &["metadata", "none", "calibrate"]),
        (
            |_, t| {
                t.remove("layers.1.mlp.energy");
            },
            &["layers.1.mlp.energy", "none"],
        ),
        (
            |_, t| {
                t.remove("layers.0.mlp.baseline");
            },
            &["layers.0.mlp.baseline", "none"],
        ),
        (
            |_, t| {
                t.remove("layers.1.attention.mean");
            },
            &["layers.1.attention.mean", "none"],
        ),
        (
            |_, t| {
                t.remove("layers.1.mlp.linear.bias");
            },
            &["layers.1.mlp.linear.bias", "none"],
        ),
        (
            |_, t| {
                t.remove("layers.1.mlp.order");
            },
            &["layers.1.mlp.order"],
        ),
        // Counts of 1 and 3 channels of 5: no count, all channels, not rising.
        (
            |_, t| t.get_mut("layers.1.mlp.kept.fold").unwrap().1[0] = f32::from_bits(0),
            &["layers.1.mlp.kept.fold", "rising counts from 1 to below 5", "[0, 3]"],
        ),
        (
            |_, t| t.get_mut("layers.1.mlp.kept.fold").unwrap().1[1] = f32::from_bits(5),
            &["layers.1.mlp.kept.fold", "[1, 5]"],
        ),
        (
            |_, t| t.get_mut("layers.1.mlp.kept.fold").unwrap().1[1] = f32::from_bits(1),
            &["layers.1.mlp.kept.fold", "[1, 1]"],
        ),
        (
            |_, t| {
                t.remove("layers.1.mlp.losses.fold");
            },
            &["layers.1.mlp.losses.fold", "none"],
        ),
        (
            |_, t| t.get_mut("layers.0.attention.energy").unwrap().1[2] = f32::NAN,
            &["layers.0.attention.energy", "finite"],
        ),
    ];
    for (edit, parts) in edits {
        calibration("mine", 3, [4, 5], 2, true, 1).save(&path).unwrap();
        rewrite(&path, edit);
        assert_error(
            Calibration::load(&path, "mine", &shaped(2, [4, 5])),
            &[&[path.to_str().unwrap()], parts].concat(),
        );
    }
    calibration("mine", 3, [4, 5], 2, true, 1).save(&path).unwrap();
    let load = |layers, channels| Calibration::load(&path, "mine", &shaped(layers, channels));
    assert_error(load(3, [4, 5]), &["layers.2.attention.energy", "none"]);
    assert_error(load(2, [4, 6]), &["layers.0.mlp", "[6]", "[5]"]);
    assert!(load(2, [4, 5]).is_ok());
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert_error(load(2, [4, 5]), &["history", "missing"]);
    fs::write(&path, "h").unwrap();
    assert_error(load(2, [4, 5]), &["history"]);
    assert_error(Calibration::load(&folder.path().join("nothing"), "mine", &shaped(2, [4, 5])), &["nothing"]);
}

fn rewrite(path: &Path, edit: impl FnOnce(&mut HashMap<String, String>, &mut Tensors)) {
    let bytes = fs::read(path).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let mut metadata = header.metadata().clone().unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let values =
        |view: &TensorView<'_>| view.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let mut tensors: Tensors =
        file.iter().map(|(name, view)| (name.to_string(), (view.shape().to_vec(), values(&view)))).collect();
    let dtypes: HashMap<String, _> =
        file.iter().map(|(name, view)| (name.to_string(), view.dtype())).collect();
    edit(&mut metadata, &mut tensors);
    let views = tensors.iter().map(|(name, (shape, values))| {
        let bytes = bytemuck::cast_slice(values);
        (name, TensorView::new(dtypes[name], shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, Some(metadata), path).unwrap();
}

#[test]
fn nothing_is_left_where_a_history_cannot_be_written() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "old").unwrap();
    fs::create_dir(folder.path().join("folder")).unwrap();
    for target in ["missing/history", "file/history", "folder"] {
        let result = calibration("mine", 3, [4, 5], 2, true, 1).save(&folder.path().join(target));
        assert_error(result, &[target.split('/').next().unwrap(), "nothing was written"]);
        let mut left: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["file", "folder"], "{target}");
        assert_eq!(fs::read_dir(folder.path().join("folder")).unwrap().count(), 0);
        assert_eq!(fs::read(folder.path().join("file")).unwrap(), b"old");
    }
}

#[test]
fn flops_are_the_papers() {
    let llama_2_7b = json!({ "model_type": "llama", "vocab_size": 32000, "hidden_size": 4096,
        "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32 });
    let seven = config(llama_2_7b);
    let settings = Settings { method: Method::ProbePruning, prune_ratio: 0.4, ..Settings::default() };
    let shape = BatchShape { samples: 20, tokens: 1024 };
    let dense = LayerCounts::dense(&seven);
    let probed = LayerCounts { probes_attention: true, probes_mlp: true, ..dense };
    let layers = [vec![dense; 3], vec![probed; 29]].concat();
    let share = shares(&seven, &settings, &layers, shape).probe;
    assert_eq!((share * 1e4).round(), 157.0, "{share}");
    let none = shares(&seven, &settings, &[dense; 32], shape);
    assert_eq!((none.total, none.probe), (1.0, 0.0));

    // GQA, per row and in units of 2·H: q 8·D, k and v 2·D each, o 8·D; gate, up, down.
    let gqa =
        config(json!({ "model_type": "llama", "vocab_size": 8, "hidden_size": 64, "intermediate_size": 100,
        "num_hidden_layers": 1, "num_attention_heads": 8, "num_key_value_heads": 2 }));
    let half = LayerCounts { heads: 3, kv_heads: 1, channels: 50, ..LayerCounts::dense(&gqa) };
    let expected = f64::from(3 * 8 + 2 * 8 + 3 * 8 + 3 * 50) / f64::from(8 * 8 + 4 * 8 + 8 * 8 + 3 * 100);
    let got = shares(&gqa, &settings, &[half], shape).total;
    assert!((got - expected).abs() < 1e-12, "{got} {expected}");
}

proptest! {
    #[test]
    fn a_history_file_gives_back_what_was_saved(
        layers in 1usize..4, seq_len in 1usize..6, widths in (1usize..5, 1usize..9), flap: bool, seed: u64,
    ) {
        let widths = [2 * widths.0, widths.1];
        let saved = calibration("some model", seq_len, widths, layers, flap, seed);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history");
        saved.save(&path).unwrap();
        let loaded = Calibration::load(&path, "some model", &shaped(layers, widths)).unwrap();
        prop_assert_eq!(loaded, saved);
    }
}

/// The energy that history has for a slot and channel, read plainly from the stored values.
fn stored_energy(history: &History<Cpu>, slot: usize, c: usize) -> f64 {
    let at = slot / history.layout.bucket * history.channels + c;
    match history.layout.dtype {
        HistoryDtype::F32 => f64::from(history.values[at]),
        HistoryDtype::F16 => {
            let bits = history.values[at / 2].to_bits() >> (16 * (at % 2));
            half::f16::from_bits(bits as u16).to_f64().powi(2)
        }
    }
}

/// History of these energies (slots, width).
fn stored_history(energies: &[f32], slots: usize, width: usize, layout: HistoryLayout) -> History<Cpu> {
    History { values: layout.encode(energies, width).into(), slots, channels: width, layout }
}

fn random_energies(rng: &mut ChaCha8Rng, n: usize) -> Buffer<f32> {
    (0..n).map(|_| 10f32.powf(rng.random_range(-3.0..3.0))).collect()
}

fn layouts() -> impl Strategy<Value = HistoryLayout> {
    (prop::sample::select(HistoryDtype::ALL), 1usize..6)
        .prop_map(|(dtype, bucket)| HistoryLayout { dtype, bucket })
}

/// Half a unit in the last place of the square root, twice because it is squared, and f32's own roundings.
fn rounding(layout: HistoryLayout) -> f64 {
    match layout.dtype {
        HistoryDtype::F32 => 1e-6,
        HistoryDtype::F16 => 2f64.powi(-10) + 1e-6,
    }
}

proptest! {
    #[test]
    fn stored_history_is_the_mean_of_each_bucket(
        layout in layouts(), slots in 1usize..14, width in 1usize..6, seed: u64,
    ) {
        let energies = random_energies(&mut ChaCha8Rng::seed_from_u64(seed), slots * width);
        let history = stored_history(&energies, slots, width, layout);
        prop_assert_eq!(history.values.len(), layout.words(slots, width));
        for (slot, c) in (0..slots).flat_map(|slot| (0..width).map(move |c| (slot, c))) {
            let bucket: Vec<f64> = (0..slots)
                .filter(|other| other / layout.bucket == slot / layout.bucket)
                .map(|other| f64::from(energies[other * width + c]))
                .collect();
            let mean = bucket.iter().sum::<f64>() / bucket.len() as f64;
            let got = stored_energy(&history, slot, c);
            prop_assert!((got - mean).abs() <= rounding(layout) * mean, "{got} for {mean}");
        }
    }

    /// The tokens begin and end anywhere in a bucket, or behind the last slot.
    #[test]
    fn a_bucket_moves_towards_the_mean_of_its_updated_slots(
        layout in layouts(), slots in 1usize..14, (at, tokens) in (0usize..15, 1usize..15),
        (blocks, block) in (1usize..5, 1usize..4), momentum in prop::sample::select(vec![0.0, 0.5, 0.99, 1.0]),
        seed: u64,
    ) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let width = blocks * block;
        let before = stored_history(&random_energies(&mut rng, slots * width), slots, width, layout);
        let indices: Buffer<u32> = (0..blocks as u32).filter(|_| rng.random_range(0..3) > 0).collect();
        let kept = KeptSet { len: indices.len(), indices: indices.clone(), of: blocks, block_width: block };
        let mut p = random_energies(&mut rng, tokens * kept.channels());
        // A value that is not finite leaves its whole bucket as it is.
        p.iter_mut().filter(|_| rng.random_range(0..9) == 0).for_each(|p| *p = f32::INFINITY);
        let mut after = History { values: before.values.clone(), ..before };
        if kept.channels() > 0 {
            Cpu::new(1).unwrap().history_update(HistoryUpdateOperands { p: &p, tokens, at, kept: &kept, momentum, history: &mut after });
        }
        for (slot, c) in (0..slots).flat_map(|slot| (0..width).map(move |c| (slot, c))) {
            let old = stored_energy(&before, slot, c);
            let j = indices.iter().position(|&index| index as usize == c / block);
            let now: Vec<f64> = (0..tokens)
                .filter(|s| at + s < slots && (at + s) / layout.bucket == slot / layout.bucket)
                .filter_map(|s| j.map(|j| f64::from(p[s * kept.channels() + j * block + c % block])))
                .collect();
            let mean = now.iter().sum::<f64>() / now.len() as f64;
            let got = stored_energy(&after, slot, c);
            if now.is_empty() || mean.is_infinite() {
                prop_assert_eq!(got, old);
            } else {
                let want = momentum * old + (1.0 - momentum) * mean;
                prop_assert!((got - want).abs() <= rounding(layout) * want, "{got} for {want}");
            }
        }
    }

    #[test]
    fn scores_read_history_by_buckets(
        layout in layouts(), (tokens, width) in (1usize..6, 1usize..40), slots in 1usize..14,
        fixed_weight in prop::option::of(0.0f32..=1.0), seed: u64,
    ) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let history = stored_history(&random_energies(&mut rng, slots * width), slots, width, layout);
        let p = random_energies(&mut rng, tokens * width);
        let statistic = random_energies(&mut rng, width);
        // Some of them behind history's last slot.
        let of_probe: Buffer<u32> = (0..tokens as u32).map(|s| 3 * s + 1).collect();
        let mut out = vec![f32::NAN; width].into();
        let fusion = Fusion::History { history: &history, slots: &of_probe, fixed_weight };
        Cpu::new(1).unwrap().channel_score(ChannelScoreOperands { p: &p, tokens, channels: width, fusion, metric: Metric::Ppsp, statistic: &statistic, unit: Unit::Channel, out: &mut out });
        for (c, &got) in out.iter().enumerate() {
            let fused = (0..tokens).map(|s| {
                let p = f64::from(p[s * width + c]);
                let slot = of_probe[s] as usize;
                let h = if slot < slots { stored_energy(&history, slot, c) } else { 0.0 };
                let w = fixed_weight.map_or(p / (p + h + 1e-6), f64::from);
                w * p + (1.0 - w) * h
            });
            let want = f64::from(statistic[c]) * fused.sum::<f64>();
            prop_assert!((f64::from(got) - want).abs() <= 2e-6 * want, "{got} for {want}");
        }
    }
}
