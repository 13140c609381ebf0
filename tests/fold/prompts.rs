//! Prompts that the model that was folded runs, and decoding with the fold after them.

use std::{cell::RefCell, collections::HashMap, sync::Arc};

use probeprune::{
    cpu::Cpu,
    model::{Model, fold::Fold},
    prune::{
        Block,
        calibration::Calibration,
        settings::{AdaptMetric, Method, Prefill, ProbeTokens, Settings},
    },
    session::{Limits, Session},
};

use crate::{
    SEQ_LEN, adapting, calibrated,
    common::{
        assert_error,
        plain::{Plain, assert_close},
        small::{bits, folders, load, random_tokens},
    },
    corrections::Correction,
    folding,
    reference::{Reference, channels_of, moments},
};

const PROMPT: usize = 9;
const LIMITS: Limits = Limits { samples: 2, tokens: PROMPT, capacity: SEQ_LEN };

fn dense(settings: Settings) -> Settings {
    Settings { prefill: Prefill::Dense, ..settings }
}

fn session(model: &Arc<Model<Cpu>>, settings: Settings, calibration: &Calibration) -> Session<Cpu> {
    Session::new(Arc::clone(model), settings, LIMITS, Some(calibration)).unwrap()
}

/// Two prompts, the second of which is padded.
fn padded() -> (Vec<u32>, Vec<u32>) {
    let mask = (0..2 * PROMPT).map(|i| u32::from(!(PROMPT..PROMPT + 4).contains(&i))).collect();
    (random_tokens(6, 2 * PROMPT), mask)
}

#[test]
fn a_prompts_logits_are_the_dense_models_to_the_bit() {
    for folder in folders() {
        let model = load(&folder);
        let calibration = calibrated(&model);
        let (tokens, mask) = padded();
        for mask in [None, Some(&*mask)] {
            let logits = |settings: Settings| {
                let mut session = session(&model, settings, &calibration);
                session.prefill(&tokens, 2, mask, None).unwrap();
                (bits(&session.next_logits().unwrap()), bits(&session.logits(2).unwrap()))
            };
            let want = logits(Settings { skip_layers: vec![0], ..Settings::default() });
            for settings in [folding(), adapting(AdaptMetric::Full), adapting(AdaptMetric::Diagonal)] {
                assert_ne!(logits(settings.clone()), want);
                assert_eq!(logits(dense(settings)), want);
            }
        }
    }
}

/// Against a plain decoder whose states are the dense model's in prompts and the fold's after them: the cache has to hold what
/// the kept heads read of the dense run.
#[test]
fn decoding_goes_on_with_the_fold() {
    for folder in folders() {
        let (plain, model) = (Plain::new(&folder), load(&folder));
        let (moments, frequencies) = (moments(&plain), plain.frequencies(10_000.0));
        for metric in [None, Some(AdaptMetric::Full), Some(AdaptMetric::Diagonal)] {
            let settings = dense(metric.map_or_else(folding, adapting));
            let adapt = settings.adapt;
            let mut session = session(&model, settings, &calibrated(&model));
            let mut states = HashMap::new();
            for (layer, block) in (1..3).flat_map(|layer| Block::ALL.map(|block| (layer, block))) {
                let kept = match block {
                    Block::Attention => channels_of(&session.kept_heads(layer).unwrap().unwrap(), 4),
                    Block::Mlp => channels_of(&session.kept_channels(layer).unwrap().unwrap(), 1),
                };
                let reference = Reference::new(&moments[&(layer, block)], kept);
                states.insert((layer, block), Correction::new(reference, plain.last(layer, block), &adapt));
            }
            let states = RefCell::new(states);
            let is_prompt = |row: usize| row % SEQ_LEN < PROMPT;
            // Every request is corrected by its own prompt and by those before.
            for request in 0..3 {
                let tokens: Vec<u32> =
                    random_tokens(10 + request, 2 * SEQ_LEN).iter().map(|t| 3 + t % 9).collect();
                let want =
                    plain.logits(&tokens, SEQ_LEN, &|_| frequencies.clone(), &mut |layer, block, _, a| {
                        if let Some(state) = states.borrow_mut().get_mut(&(layer, block)) {
                            if metric.is_some() {
                                state.learn(a, is_prompt);
                            }
                            let width = block.channels(&plain.config);
                            let folded = state.states_for(&state.output(a));
                            for row in (0..2 * SEQ_LEN).filter(|&row| !is_prompt(row)) {
                                a[row * width..][..width].copy_from_slice(&folded[row * width..][..width]);
                            }
                        }
                    });
                let prompts = [0, SEQ_LEN].map(|from| tokens[from..][..PROMPT].to_vec()).concat();
                session.prefill(&prompts, 2, None, None).unwrap();
                let vocabulary = plain.config.vocab_size;
                for slot in PROMPT - 1..SEQ_LEN {
                    if slot >= PROMPT {
                        session.decode(&[tokens[slot], tokens[SEQ_LEN + slot]], None).unwrap();
                    }
                    let row = |row: usize| want[row * vocabulary..][..vocabulary].to_vec();
                    let want = [row(slot), row(SEQ_LEN + slot)].concat();
                    let what = format!("{metric:?}, request {request}, slot {slot}");
                    assert_close(&what, &session.next_logits().unwrap(), &want, 1e-3);
                }
            }
            assert_eq!(session.probed_share(), metric.map(|_| 1.0));
        }
    }
}

/// Where the fold's own run has the same residuals, the selected rows and what they teach are those of its probe.
#[test]
fn some_of_the_rows_correct_as_a_probe_of_them_does() {
    for folder in folders() {
        let model = load(&folder);
        let calibration = calibrated(&model);
        // All heads stay, so layer 1's MLP is the first block that computes less.
        let settings = Settings {
            prune_ratio: 0.15,
            probe_tokens: ProbeTokens::Share(0.4),
            probe_samples: 0.5,
            ..adapting(AdaptMetric::Diagonal)
        };
        let (tokens, mask) = padded();
        let learned = |settings: Settings| {
            let mut session = session(&model, settings, &calibration);
            session.prefill(&tokens, 2, Some(&mask), None).unwrap();
            let mut blocks = session.corrections().unwrap().unwrap().blocks;
            (blocks[1][1].take().unwrap(), session.layer_counts()[1])
        };
        let ((got, counts), (want, _)) = (learned(dense(settings.clone())), learned(settings.clone()));
        assert!(counts.heads == 4 && counts.channels < 24, "{counts:?}");
        let wide = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        assert_close("weight", &got.weight, &wide(&want.weight), 1e-4);
        assert_close("bias", &got.bias, &wide(&want.bias), 1e-4);
        let (more, _) = learned(dense(Settings { probe_tokens: ProbeTokens::Share(1.0), ..settings }));
        let change = got.weight.iter().zip(&more.weight).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(change > 1e-3, "more rows teach something else: {change}");
    }
}

#[test]
fn sessions_of_a_fold_share_nothing() {
    let [folder, _] = folders();
    let model = load(&folder);
    let settings = dense(adapting(AdaptMetric::Diagonal));
    let fold = Arc::new(Fold::new(&model, &settings, &calibrated(&model), |_| ()).unwrap());
    let new = || Session::of_fold(Arc::clone(&fold), settings.clone(), LIMITS, None).unwrap();
    let ask = |session: &mut Session<Cpu>, seed: u64| {
        session.prefill(&random_tokens(seed, 2 * PROMPT), 2, None, None).unwrap();
        session.decode(&[7, 8], None).unwrap();
        bits(&session.next_logits().unwrap())
    };
    let (mut one, mut other) = (new(), new());
    let first = ask(&mut one, 5);
    let second = ask(&mut one, 6);
    assert_ne!(ask(&mut other, 6), second, "an earlier prompt counts in its own session");
    assert_eq!(ask(&mut new(), 5), first, "and in no other");
    // A session that no longer adapts still leaves prompts to the dense model.
    one.set_adapting(false);
    let frozen = ask(&mut one, 5);
    assert_eq!((ask(&mut one, 5), one.probed_share()), (frozen, Some(0.5)));
    one.reset_corrections().unwrap();
    let mut plain = session(&model, dense(folding()), &calibrated(&model));
    assert_eq!(ask(&mut one, 5), ask(&mut plain, 5));
    assert_ne!(ask(&mut plain, 5), first);
}

#[test]
fn pads_change_neither_decoding_nor_corrections() {
    for folder in folders() {
        let model = load(&folder);
        let calibration = calibrated(&model);
        for settings in [folding(), adapting(AdaptMetric::Full)] {
            let decoded = |tokens: &[u32], mask: Option<&[u32]>| {
                let mut session = session(&model, dense(settings.clone()), &calibration);
                session.prefill(tokens, 1, mask, None).unwrap();
                session.decode(&[7], None).unwrap();
                session.next_logits().unwrap()
            };
            let tokens = random_tokens(7, 5);
            let with_pads = [vec![5, 6, 7, 8], tokens.clone()].concat();
            let mask: Vec<u32> = (0..PROMPT).map(|i| u32::from(i >= 4)).collect();
            let want: Vec<f64> = decoded(&tokens, None).iter().map(|&x| f64::from(x)).collect();
            assert_close("logits", &decoded(&with_pads, Some(&mask)), &want, 1e-4);
        }
    }
}

#[test]
fn without_pruning_and_without_a_dense_model() {
    let [folder, _] = folders();
    let model = load(&folder);
    let calibration = calibrated(&model);
    let ask = |settings: Settings| {
        let mut session = session(&model, settings, &calibration);
        session.prefill(&random_tokens(5, 2 * PROMPT), 2, None, None).unwrap();
        session.decode(&[7, 8], None).unwrap();
        bits(&session.next_logits().unwrap())
    };
    let want = ask(Settings { skip_layers: vec![0], ..Settings::default() });
    assert_eq!(ask(dense(Settings { prune_ratio: 0.0, ..folding() })), want);
    assert_eq!(ask(dense(Settings { method: Method::None, ..folding() })), want);
    // Everything is kept in layers that are skipped.
    assert_eq!(ask(dense(Settings { skip_layers: vec![0, 1, 2], ..folding() })), want);

    let pp = dense(Settings { method: Method::ProbePruning, ..folding() });
    assert_error(pp.check(), &["prefill dense", "fold", "pp"]);
    let plain = Arc::new(Fold::new(&model, &folding(), &calibration, |_| ()).unwrap());
    let refused = Session::of_fold(plain, dense(folding()), LIMITS, None).map(|_| ());
    assert_error(refused, &["prefill dense", "folded for it"]);
}
