//! Probes of the first samples of a batch, and of as many tokens as a batch's shape allows.

use std::sync::Arc;

use probeprune::{
    cpu::Cpu,
    prune::{
        BatchShape,
        adapt::Corrections,
        counts,
        settings::{Adapt, AdaptSettings, Compensation, Method, ProbeOrder, ProbeTokens, Settings},
    },
    session::{CalibrationOptions, Limits, Session, calibrate},
};

use super::{folders, load, pruning, random_tokens};

const SEQ_LEN: usize = 20;

/// All that a batch's probe decides: kept sets, and the corrections of a fold.
fn decided(
    session: &mut Session<Cpu>,
    tokens: &[u32],
    samples: usize,
) -> (Vec<Option<Vec<u32>>>, Option<Corrections>) {
    session.forward(tokens, samples, None, true).unwrap();
    let kept = (0..3).flat_map(|layer| [session.kept_heads(layer), session.kept_channels(layer)]);
    (kept.map(Result::unwrap).collect(), session.corrections().unwrap())
}

#[test]
fn a_probe_of_the_first_samples_is_that_of_a_batch_of_them() {
    let folding = Settings {
        method: Method::Fold,
        adapt: AdaptSettings { mode: Adapt::Probe { tokens: None }, ..AdaptSettings::default() },
        ..pruning()
    };
    let variants = [
        pruning(),
        Settings { parallel_probe: true, ..pruning() },
        Settings { compensate: Compensation::ProbeMean, ..pruning() },
        Settings { probe_order: ProbeOrder::SamplesTokens, ..pruning() },
        Settings { probe_order: ProbeOrder::Tokens, ..pruning() },
        Settings { probe_order: ProbeOrder::Samples, ..pruning() },
        folding.clone(),
        Settings {
            adapt: AdaptSettings { mode: Adapt::Probe { tokens: Some(9) }, ..folding.adapt },
            ..folding
        },
    ];
    for (folder, settings) in folders().iter().flat_map(|folder| variants.iter().map(move |of| (folder, of)))
    {
        let model = load(folder);
        let options =
            CalibrationOptions { seq_len: SEQ_LEN, batch_size: 2, fold: true, ..Default::default() };
        let calibration = calibrate(&model, &random_tokens(9, 5 * SEQ_LEN), options, |_| ()).unwrap();
        let session = |probe_from| {
            let settings = Settings { probe_from, ..settings.clone() };
            let limits = Limits { samples: 5, tokens: SEQ_LEN, capacity: 0 };
            Session::new(Arc::clone(&model), settings, limits, Some(&calibration)).unwrap()
        };
        let tokens = random_tokens(1, 5 * SEQ_LEN);
        for first in [1, 2] {
            let want = decided(&mut session(None), &tokens[..first * SEQ_LEN], first);
            let got = decided(&mut session(Some(first)), &tokens, 5);
            assert!(got == want, "{settings:?} of {first}");
            let mut others = tokens.clone();
            others[first * SEQ_LEN..].reverse();
            assert!(decided(&mut session(Some(first)), &others, 5) == want, "the rest has no say");
            others[..first * SEQ_LEN].reverse();
            assert!(decided(&mut session(Some(first)), &others, 5) != want, "the first samples have");
        }
        let whole = decided(&mut session(None), &tokens, 5);
        assert!(whole != decided(&mut session(Some(1)), &tokens, 5));
        assert!(
            whole == decided(&mut session(Some(5)), &tokens, 5)
                && whole == decided(&mut session(Some(9)), &tokens, 5)
        );
    }
}

/// The largest batch of a session. Those of 6 samples have larger probes: under `auto` 6 tokens of 2 samples, not 4 of 3, and
/// of 9 tokens in all 10, not 9.
const LARGEST: BatchShape = BatchShape { samples: 7, tokens: 40 };

fn variants_of(settings: &Settings) -> [Settings; 5] {
    let compensated = |compensate| Settings { compensate, ..settings.clone() };
    let adapted = |tokens| {
        let adapt = AdaptSettings { mode: Adapt::Probe { tokens }, ..AdaptSettings::default() };
        Settings { method: Method::Fold, adapt, ..settings.clone() }
    };
    [
        compensated(Compensation::None),
        compensated(Compensation::ProbeMean),
        compensated(Compensation::Linear { rank: 2 }),
        adapted(None),
        adapted(Some(9)),
    ]
}

#[test]
fn auto_decides_as_the_equal_share_does() {
    for folder in folders() {
        let model = load(&folder);
        let options = CalibrationOptions {
            seq_len: LARGEST.tokens,
            batch_size: 2,
            linear_rank: 2,
            fold: true,
            ..Default::default()
        };
        let calibration = calibrate(&model, &random_tokens(9, 5 * LARGEST.tokens), options, |_| ()).unwrap();
        let decided = |settings: &Settings, largest: BatchShape, batch: BatchShape| {
            let limits = Limits { samples: largest.samples, tokens: largest.tokens, capacity: 0 };
            let mut session =
                Session::new(Arc::clone(&model), settings.clone(), limits, Some(&calibration)).unwrap();
            decided(&mut session, &random_tokens(1, batch.rows()), batch.samples)
        };
        for &probe_order in ProbeOrder::ALL {
            for auto in variants_of(&Settings { probe_tokens: ProbeTokens::Auto, probe_order, ..pruning() }) {
                for (samples, tokens) in [(7, 40), (6, 40), (1, 40), (5, 23), (3, 1), (1, 2), (2, 11)] {
                    let batch = BatchShape { samples, tokens };
                    let probe = counts::probe_shape(&auto, batch);
                    let share = (probe.tokens as f64 - 0.5) / tokens as f64;
                    let explicit = Settings { probe_tokens: ProbeTokens::Share(share), ..auto.clone() };
                    assert_eq!(counts::probe_shape(&explicit, batch), probe);
                    let want = decided(&explicit, batch, batch);
                    assert!(decided(&auto, LARGEST, batch) == want, "{auto:?} {batch:?}");
                }
            }
        }
    }
}
