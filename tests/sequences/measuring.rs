//! Perplexity: batches that are not full, warm-ups, and shares of FLOPs.

use std::{sync::Arc, time::Instant};

use probeprune::{
    cpu::Cpu,
    perplexity::{PerplexityOptions, PromptOptions, measure, measure_prompts, prompt_shares, shares},
    prune::{
        BatchShape,
        settings::{DenseBelow, Settings},
    },
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
fn what_follows_prompts_is_scored_as_in_whole_windows() {
    for folder in folders() {
        let model = load(&folder);
        let new = |tokens, capacity| {
            let limits = Limits { samples: 2, tokens, capacity };
            Session::new(Arc::clone(&model), Settings::default_for(3), limits, None).unwrap()
        };
        let windows = random_tokens(1, 3 * SEQ_LEN);
        let options = PromptOptions { seq_len: SEQ_LEN, batch_size: 2, prompt_tokens: 7 };
        let (mut session, mut batches) = (new(7, SEQ_LEN), 0);
        let (result, times) = measure_prompts(&mut session, &windows, options, || batches += 1).unwrap();
        assert_eq!((batches, times.prefill.len(), times.decode_per_token.len()), (2, 2, 2));
        for (got, batch) in result.batch_losses.iter().zip(windows.chunks(2 * SEQ_LEN)) {
            let losses = new(SEQ_LEN, 0).losses(batch, batch.len() / SEQ_LEN, None, true).unwrap();
            // Row s has the loss of token s + 1; that of the last is 0.
            let scored: Vec<f32> =
                losses.chunks_exact(SEQ_LEN).flat_map(|row| &row[6..19]).copied().collect();
            let want = scored.iter().map(|&loss| f64::from(loss)).sum::<f64>() / scored.len() as f64;
            assert!((got - want).abs() < 1e-5, "{got} for {want}");
        }
        let decoded = times.decode_per_token[0] * 24.0 + times.decode_per_token[1] * 12.0;
        assert!((result.seconds - decoded - times.prefill.iter().sum::<f64>()).abs() < 1e-9);
        let share = prompt_shares(&session, 3, options);
        assert!((share.total - 1.0).abs() < 1e-12 && share.probe == 0.0, "{share:?}");
    }
}

#[test]
fn shares_are_flops_of_all_batches_over_the_dense_models() {
    for folder in folders() {
        let model = load(&folder);
        // Probes of 2 of 4 samples, but of 1 of 1; batches of one window run dense, or not.
        for dense_below in [0, 2 * SEQ_LEN] {
            let dense_below = DenseBelow::Tokens(dense_below);
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
