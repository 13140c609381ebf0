//! One generation after another, and samples that end before the others.

use std::sync::{Arc, atomic::Ordering};

use probeprune::{
    Error,
    cpu::Cpu,
    model::Model,
    prune::{
        Block,
        calibration::Calibration,
        settings::{Compensation, Settings},
    },
    session::{GenerateOptions, Limits, Sampling, Session},
};

use super::{bits, calibrated, dense, folders, load, pruning, random_tokens};
use crate::common::models::VOCAB_SIZE;

const LIMITS: Limits = Limits { samples: 4, tokens: 24, capacity: 48 };

fn prompts(seed: u64, lengths: &[usize]) -> Vec<Vec<u32>> {
    lengths.iter().zip(seed..).map(|(&length, seed)| random_tokens(seed, length)).collect()
}

fn greedy(max_new_tokens: usize, reprobe_every: Option<usize>) -> GenerateOptions {
    GenerateOptions { max_new_tokens, reprobe_every, ..GenerateOptions::default() }
}

/// Tokens, the last logits and what is kept.
type Outcome = (Vec<Vec<u32>>, Vec<u32>, Vec<Option<Vec<u32>>>);

fn generation(session: &mut Session<Cpu>, prompts: &[Vec<u32>], options: &GenerateOptions) -> Outcome {
    let tokens = session.generate(prompts, options, |_, _| ()).unwrap().tokens;
    let logits = bits(&session.next_logits().unwrap());
    let kept = (0..3).flat_map(|l| [session.kept_heads(l).unwrap(), session.kept_channels(l).unwrap()]);
    (tokens, logits, kept.collect())
}

/// Whatever else a session can have done before.
fn be_used(session: &mut Session<Cpu>, after: usize, reprobe_every: Option<usize>) {
    let many = prompts(40, &[24, 3, 17, 24]);
    match after {
        0 => {
            // Ends within a window of re-probing.
            session.generate(&many, &greedy(9, reprobe_every), |_, _| ()).unwrap();
        }
        1 => {
            let batch = random_tokens(50, 4 * 24);
            session.evaluate(&batch, 4, None, true).unwrap();
            let pads: Vec<u32> = (0..3 * 20).map(|i| u32::from(i % 20 >= i / 20 * 7)).collect();
            session.evaluate(&batch[..60], 3, Some(&pads), true).unwrap();
        }
        2 => {
            // Ended by the caller, and by a flag within the prompt.
            let mut calls = 0;
            let stop = |_: usize, _: u32| {
                calls += 1;
                if calls < 11 { Ok(()) } else { Err(Error::Cancelled) }
            };
            assert!(session.generate(&many, &greedy(20, reprobe_every), stop).is_err());
            session.canceller().store(true, Ordering::Relaxed);
            assert!(session.generate(&many, &greedy(5, reprobe_every), |_, _| ()).is_err());
        }
        _ => {
            let sampling = Sampling { temperature: 1.0, ..Sampling::default() };
            let eos_token_ids = (0..VOCAB_SIZE as u32).step_by(5).collect();
            let options = GenerateOptions { sampling, eos_token_ids, ..greedy(24, reprobe_every) };
            session.generate(&many, &options, |_, _| ()).unwrap();
        }
    }
}

fn new(model: &Arc<Model<Cpu>>, settings: &Settings, calibration: &Calibration) -> Session<Cpu> {
    Session::new(Arc::clone(model), settings.clone(), LIMITS, Some(calibration)).unwrap()
}

#[test]
fn a_generation_is_as_in_a_new_session_whatever_came_before() {
    for folder in folders() {
        let model = load(&folder);
        let calibration = calibrated(&model);
        let compensated = |compensate| Settings { compensate, ..pruning() };
        for (settings, reprobe_every) in [
            (Settings::default_for(3), None),
            (pruning(), None),
            (pruning(), Some(4)),
            (pruning(), Some(9)),
            (compensated(Compensation::ProbeMean), None),
            (compensated(Compensation::Linear { rank: 2 }), None),
        ] {
            let (prompts, options) = (prompts(60, &[11, 2]), greedy(14, reprobe_every));
            let want = generation(&mut new(&model, &settings, &calibration), &prompts, &options);
            let mut session = new(&model, &settings, &calibration);
            for after in 0..4 {
                be_used(&mut session, after, reprobe_every);
                // History is all that may stay, and compensation has none that moves.
                if settings.compensate == Compensation::None {
                    session.reset_history(Some(&calibration));
                }
                let got = generation(&mut session, &prompts, &options);
                assert!(got == want, "{} {}, {after}: {got:?}", settings.method, settings.compensate);
            }
        }
    }
}

#[test]
fn a_prompt_goes_into_history_as_a_batch_does() {
    for folder in folders() {
        let model = load(&folder);
        let calibration = calibrated(&model);
        let [prompt, batch] = [1, 2].map(|seed| random_tokens(seed, 3 * 20));
        let after = |first: &dyn Fn(&mut Session<Cpu>)| {
            let mut session = new(&model, &pruning(), &calibration);
            first(&mut session);
            session.forward(&batch, 3, None, false).unwrap();
            (0..3)
                .map(|layer| session.scores(layer, Block::Mlp).unwrap().map(|scores| bits(&scores)))
                .collect()
        };
        let generated: Vec<_> = after(&|session| {
            let prompts: Vec<Vec<u32>> = prompt.chunks(20).map(<[u32]>::to_vec).collect();
            session.generate(&prompts, &greedy(5, None), |_, _| ()).unwrap();
        });
        assert!(generated == after(&|session| session.forward(&prompt, 3, None, true).unwrap()));
        assert!(generated != after(&|session| session.forward(&prompt, 3, None, false).unwrap()));
    }
}

#[test]
fn finished_samples_leave_every_bit_of_the_others() {
    for folder in folders() {
        let (model, v) = (load(&folder), VOCAB_SIZE);
        let calibration = calibrated(&model);
        for settings in [Settings::default_for(3), pruning()] {
            let run = |finished: &[u32]| {
                let mut session = new(&model, &settings, &calibration);
                // Padded prompts, as of a generation.
                let mask: Vec<u32> = (0..3 * 12).map(|i| u32::from(i % 12 >= i / 12 * 4)).collect();
                session.prefill(&random_tokens(1, 3 * 12), 3, Some(&mask), None).unwrap();
                let mut logits = Vec::new();
                for step in 0..8u64 {
                    let mut tokens = random_tokens(step, 3);
                    // The first ends after two tokens, the others go on.
                    let active = [u32::from(step < 2), 1, 1];
                    if step >= 2 && !finished.is_empty() {
                        tokens[0] = finished[step as usize];
                    }
                    session.decode(&tokens, (!finished.is_empty()).then_some(&active)).unwrap();
                    logits.extend(bits(&session.next_logits().unwrap()[v..]));
                }
                logits
            };
            let free = run(&[]);
            assert!(run(&[0; 8]) == free && run(&random_tokens(77, 8)) == free, "{}", settings.method);
        }
    }
}

#[test]
fn finished_samples_have_no_say_in_what_is_kept_next() {
    for folder in folders() {
        let model = load(&folder);
        let calibration = calibrated(&model);
        let prompt = random_tokens(3, 12);
        // The same prompt twice is one prompt to the probe; then only one of the two goes on.
        let run = |samples: usize, others: u64| {
            let mut session = new(&model, &pruning(), &calibration);
            session.prefill(&prompt.repeat(samples), samples, None, Some(5)).unwrap();
            let mut kept = Vec::new();
            for step in 0..15 {
                let mut tokens = random_tokens(others + step, samples);
                tokens[0] = random_tokens(step, 1)[0];
                let active: Vec<u32> = (0..samples as u32).map(|sample| u32::from(sample == 0)).collect();
                session.decode(&tokens, Some(&active)).unwrap();
                kept.extend((1..3).map(|layer| session.kept_channels(layer).unwrap()));
            }
            kept
        };
        let alone = run(1, 0);
        assert_ne!(alone[..2], alone[alone.len() - 2..], "the choice changes");
        assert!(run(2, 100) == alone && run(3, 200) == alone);
    }
}

#[test]
fn equal_prompts_draw_numbers_of_their_own() {
    for folder in folders() {
        let model = load(&folder);
        let sampling = Sampling { temperature: 1.0, seed: 3, ..Sampling::default() };
        let options = |eos_token_ids| GenerateOptions { sampling, eos_token_ids, ..greedy(16, None) };
        let generate = |prompts: &[Vec<u32>], eos| {
            dense(&model, LIMITS).generate(prompts, &options(eos), |_, _| ()).unwrap().tokens
        };
        let prompt = random_tokens(5, 9);
        let got = generate(&vec![prompt.clone(); 4], vec![]);
        for (a, b) in (0..4).flat_map(|a| (0..a).map(move |b| (a, b))) {
            assert_ne!(got[a], got[b], "samples {a} and {b}");
        }
        // A sample's numbers are its own for good: they depend neither on how many there are nor on who has finished.
        assert_eq!(generate(&vec![prompt.clone(); 2], vec![]), got[..2]);
        let eos = got[1][2];
        let stopped = generate(&vec![prompt; 4], vec![eos]);
        for (stopped, free) in stopped.iter().zip(&got) {
            let end = free.iter().position(|&token| token == eos).map_or(16, |at| at + 1);
            assert_eq!(stopped, &free[..end]);
        }
        assert!(stopped.iter().any(|tokens| tokens.len() == 16), "some go on");
    }
}
