//! Perplexity: batches that are not full, warm-ups, and shares of FLOPs.

use std::{sync::Arc, time::Instant};

use probeprune::{
    cpu::Cpu,
    perplexity::{PerplexityOptions, measure, shares},
    prune::{BatchShape, settings::Settings},
    session::{Limits, Session},
};

use super::{calibrated, folders, load, pruning, random_tokens};

const SEQ_LEN: usize = 20;

fn options(batch_size: usize, warmup_batches: usize) -> PerplexityOptions {
    PerplexityOptions { seq_len: SEQ_LEN, batch_size, warmup_batches }
}

#[test]
fn a_smaller_last_batch_counts_as_one_and_warm_ups_not_at_all() {
    for folder in folders() {
        let model = load(&folder);
        let calibration = calibrated(&model);
        let new = || {
            let limits = Limits { samples: 3, tokens: SEQ_LEN, capacity: 0 };
            Session::new(Arc::clone(&model), pruning(), limits, Some(&calibration)).unwrap()
        };
        let windows = random_tokens(1, 7 * SEQ_LEN);
        // What each batch gives, one after another.
        let mut session = new();
        let kept = |session: &Session<Cpu>| [1, 2].map(|layer| session.kept_channels(layer).unwrap());
        let mut want = Vec::new();
        for (at, samples) in [(0, 3), (3, 3), (6, 1)] {
            let batch = &windows[at * SEQ_LEN..][..samples * SEQ_LEN];
            let loss = session.evaluate(batch, samples, None, true).unwrap();
            want.push((loss.to_bits(), kept(&session)));
        }
        for warmup_batches in [0, 1, 3, 5] {
            let mut got = Vec::new();
            let start = Instant::now();
            let result = measure(&mut new(), &windows, options(3, warmup_batches), |index, session| {
                assert_eq!(index, got.len());
                got.push(kept(session));
                Ok(())
            });
            let (result, took) = (result.unwrap(), start.elapsed().as_secs_f64());
            let batches_took = result.seconds;
            assert!(0.0 < batches_took && batches_took <= took, "{batches_took} of {took} s");
            let got: Vec<_> = result.batch_losses.iter().map(|loss| loss.to_bits()).zip(got).collect();
            assert!(got == want, "{warmup_batches} warm-ups: {:?}", result.batch_losses);
            assert_eq!(result.tokens, 7 * SEQ_LEN);
            for (windows, batch) in result.window_losses.chunks(3).zip(&result.batch_losses) {
                let mean = windows.iter().sum::<f64>() / windows.len() as f64;
                assert!((mean - batch).abs() < 1e-12, "{mean} for {batch}");
            }
            assert_eq!(result.window_losses.len(), 7);
            let mean = result.batch_losses.iter().sum::<f64>() / 3.0;
            assert!((result.perplexity().ln() - mean).abs() < 1e-12, "three batches, each counts once");
        }
    }
}

#[test]
fn shares_are_flops_of_all_batches_over_the_dense_models() {
    for folder in folders() {
        let model = load(&folder);
        // Probes of 2 of 4 samples, but of 1 of 1; batches of one window run dense, or not.
        for dense_below in [0, 2 * SEQ_LEN] {
            let settings = Settings { probe_samples: 0.5, dense_below, ..pruning() };
            let limits = Limits { samples: 4, tokens: SEQ_LEN, capacity: 0 };
            let session = Session::new(Arc::clone(&model), settings, limits, None).unwrap();
            let of = |samples| session.shares(BatchShape { samples, tokens: SEQ_LEN });
            let (four, one) = (of(4), of(1));
            assert!((four.total - one.total).abs() > 1e-3 && (four.probe - one.probe).abs() > 1e-3);
            for windows in [1, 4, 5, 9, 12] {
                // A batch costs as much as it has windows.
                let whole = windows / 4 * 4;
                let mean = |four: f64, one: f64| {
                    (four * whole as f64 + one * (windows - whole) as f64) / windows as f64
                };
                let got = shares(&session, windows, options(4, 1));
                let error = (got.total - mean(four.total, one.total)).abs()
                    + (got.probe - mean(four.probe, one.probe)).abs();
                assert!(error < 1e-12, "{windows} windows: {got:?}");
            }
        }
    }
}
