//! Probes of the first samples of a batch.

use std::sync::Arc;

use probeprune::{
    cpu::Cpu,
    prune::{
        adapt::Corrections,
        settings::{Adapt, AdaptSettings, Compensation, Method, ProbeOrder, Settings},
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
