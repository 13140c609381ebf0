//! Measured allocations: losses against sessions that prune one block only, and what is kept by them.

mod common;

use std::sync::Arc;

use common::{
    assert_error,
    small::{folders, load, random_tokens},
};
use probeprune::{
    cpu::Cpu,
    model::Model,
    prune::{
        BatchShape, Block,
        allocation::{BlockLosses, Losses},
        calibration::Calibration,
        flops::{LayerCounts, shares},
        settings::{Allocation, Method, Settings},
    },
    session::{CalibrationOptions, Limits, Session, calibrate, measure_losses},
};

const SEQ_LEN: usize = 13;
const SAMPLES: usize = 3;
const LIMITS: Limits = Limits { samples: SAMPLES, tokens: SEQ_LEN, capacity: 0 };
const METHODS: [Method; 2] = [Method::ProbePruning, Method::Fold];

fn settings(method: Method, prune_ratio: f64) -> Settings {
    Settings {
        method,
        prune_ratio,
        allocation: Allocation::Measured,
        skip_layers: vec![0],
        round_channels: 1,
        ..Settings::default()
    }
}

fn calibrated(model: &Arc<Model<Cpu>>) -> Calibration {
    let options = CalibrationOptions { seq_len: SEQ_LEN, batch_size: 4, fold: true, ..Default::default() };
    calibrate(model, &random_tokens(1, 9 * SEQ_LEN), options, |_| ()).unwrap()
}

fn measured(model: &Arc<Model<Cpu>>, method: Method, calibration: &Calibration) -> Losses {
    let tokens = random_tokens(2, SAMPLES * SEQ_LEN);
    measure_losses(model, &settings(method, 0.4), calibration, &tokens, SAMPLES, |_| ()).unwrap()
}

/// Losses by which one block keeps `count`, and the others everything.
fn only(method: Method, layers: usize, layer: usize, block: Block, count: usize) -> Losses {
    let of = |at: [usize; 2]| {
        let counts = if at == [layer, block as usize] { vec![count] } else { vec![] };
        BlockLosses { losses: vec![0.0; counts.len()], kept: counts }
    };
    Losses { method, layers: (0..layers).map(|layer| [of([layer, 0]), of([layer, 1])]).collect() }
}

fn log_probabilities(logits: &[f32]) -> Vec<f64> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from(x - most).exp()).sum();
    logits.iter().map(|&x| f64::from(x - most) - sum.ln()).collect()
}

/// Mean KL divergence over every fourth token.
fn divergence(dense: &[f32], pruned: &[f32], vocab_size: usize) -> f64 {
    let slots: Vec<usize> = (0..SAMPLES * SEQ_LEN).filter(|row| row % SEQ_LEN % 4 == 3).collect();
    let of_row = |row: &usize| -> f64 {
        let [p, q] =
            [dense, pruned].map(|logits| log_probabilities(&logits[row * vocab_size..][..vocab_size]));
        p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum()
    };
    slots.iter().map(of_row).sum::<f64>() / slots.len() as f64
}

#[test]
fn a_loss_is_the_divergence_of_a_session_that_prunes_one_block() {
    let tokens = random_tokens(2, SAMPLES * SEQ_LEN);
    for folder in folders() {
        let model = load(&folder);
        let calibration = calibrated(&model);
        let logits = |settings: Settings, calibration: &Calibration| {
            let mut session = Session::new(Arc::clone(&model), settings, LIMITS, Some(calibration)).unwrap();
            session.forward(&tokens, SAMPLES, None, false).unwrap();
            let kept = [1, 2].map(|layer| {
                [session.kept_heads(layer).unwrap(), session.kept_channels(layer).unwrap()]
                    .map(|kept| kept.map(|kept| kept.len()))
            });
            (session.logits(SAMPLES).unwrap(), kept)
        };
        let (dense, _) = logits(Settings::default_for(3), &calibration);
        for method in METHODS {
            let losses = measured(&model, method, &calibration);
            assert_eq!((losses.method, losses.layers.len()), (method, 3));
            let [attention, mlp] = &losses.layers[0];
            assert_eq!((&attention.kept[..], &mlp.kept[..]), (&[1, 2, 3][..], &[2, 6, 10, 13, 17, 20][..]));
            for (layer, block) in [(1, Block::Attention), (2, Block::Mlp), (2, Block::Attention)] {
                let BlockLosses { kept, losses } = &losses.layers[layer][block as usize];
                for (&count, &loss) in kept.iter().zip(losses) {
                    let forced = only(method, 3, layer, block, count);
                    let calibration = Calibration { losses: vec![forced], ..calibration.clone() };
                    // A ratio whose budget is everything.
                    let (pruned, have) = logits(settings(method, 0.01), &calibration);
                    let mut want = [[None; 2]; 2];
                    want[layer - 1][block as usize] = Some(count);
                    assert_eq!(have, want, "{method}");
                    let want = divergence(&dense, &pruned, model.config.vocab_size);
                    assert!(
                        (f64::from(loss) - want).abs() < 1e-3 * want + 1e-7,
                        "{method}, layer {layer}, {block:?}, {count}: {loss}, {want}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_measured_allocation_takes_no_more_flops_than_a_uniform_one() {
    let mut differ = 0;
    for folder in folders() {
        let model = load(&folder);
        let config = &model.config;
        let calibration = calibrated(&model);
        for method in METHODS {
            let losses = measured(&model, method, &calibration);
            for ratio in [0.1, 0.3, 0.5] {
                let measured = settings(method, ratio);
                let uniform = Settings { allocation: Allocation::Uniform, ..measured.clone() };
                let counts =
                    |settings: &Settings| LayerCounts::by_settings(config, settings, Some(&losses)).unwrap();
                let shape = BatchShape { samples: SAMPLES, tokens: SEQ_LEN };
                let share = |settings: &Settings| {
                    let shares = shares(config, settings, &counts(settings), shape);
                    shares.total - shares.probe
                };
                assert!(share(&measured) <= share(&uniform) + 1e-12, "{method} {ratio}");
                // More would be kept if it fitted: what is left is less than a layer's worth of a head and a channel.
                assert!(share(&measured) > share(&uniform) - 0.1, "{method} {ratio}");
                differ += usize::from(counts(&measured) != counts(&uniform));
                let calibration = Calibration { losses: vec![losses.clone()], ..calibration.clone() };
                let session =
                    Session::new(Arc::clone(&model), measured.clone(), LIMITS, Some(&calibration)).unwrap();
                let bounds = counts(&measured);
                for (have, bound) in session.layer_counts().iter().zip(&bounds) {
                    assert_eq!(
                        (have.heads, have.channels),
                        (bound.heads, bound.channels),
                        "{method} {ratio}"
                    );
                    assert!(have.kv_heads <= bound.kv_heads);
                }
            }
        }
    }
    assert!(differ >= 6, "{differ} of 12 differ");
}

#[test]
fn what_cannot_be_allocated_is_refused() {
    let model = load(&folders()[0]);
    let calibration = calibrated(&model);
    let new = |settings: Settings, calibration: &Calibration| {
        Session::new(Arc::clone(&model), settings, LIMITS, Some(calibration)).map(|_| ())
    };
    for method in METHODS {
        let refused = new(settings(method, 0.4), &calibration);
        assert_error(refused, &["allocation measured", method.name(), "calibrate --losses"]);
        // Half of the channels are the least that was measured.
        let few = || BlockLosses { kept: vec![12], losses: vec![1.0] };
        let heads = || BlockLosses { kept: vec![2], losses: vec![1.0] };
        let losses = Losses { method, layers: (0..3).map(|_| [heads(), few()]).collect() };
        let calibration = Calibration { losses: vec![losses], ..calibration.clone() };
        new(Settings { skip_layers: vec![], ..settings(method, 0.5) }, &calibration).unwrap();
        let refused = new(Settings { skip_layers: vec![], ..settings(method, 0.6) }, &calibration);
        assert_error(refused, &["prune_ratio", "0.6", "uniform"]);
    }
    for method in [Method::WandaSp, Method::Flap, Method::FullBatch, Method::Random, Method::Magnitude] {
        let refused = new(settings(method, 0.4), &calibration);
        assert_error(refused, &["allocation measured", "pp or fold", method.name()]);
        let tokens = random_tokens(2, SEQ_LEN);
        let plain = Settings { method, ..Settings::default_for(3) };
        let refused = measure_losses(&model, &plain, &calibration, &tokens, 1, |_| ());
        assert_error(refused, &["pp or fold", method.name()]);
    }
    let tokens = random_tokens(2, 3);
    let fold = settings(Method::Fold, 0.4);
    let refused = measure_losses(&model, &fold, &calibration, &tokens, 1, |_| ());
    assert_error(refused, &["at least 4 tokens"]);
}
