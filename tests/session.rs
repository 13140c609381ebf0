//! What a session promises: ratio 0 is dense to the bit, the same bits for any number of threads and sessions, padding
//! and cache change nothing, static selections are the specification's.

mod common;

use std::{sync::Arc, time::Instant};

use common::{
    models::Folder,
    small::{bits, folders, load, load_on, pruning, random_tokens},
};
use probeprune::{
    cpu::Cpu,
    model::{Model, timeline::Step},
    prune::{
        Block,
        calibration::Calibration,
        settings::{Compensation, DenseBelow, Method, Settings},
    },
    session::{CalibrationOptions, GenerateOptions, Limits, Sampling, Session, calibrate},
};
use serde_json::json;

const LIMITS: Limits = Limits { samples: 4, tokens: 24, capacity: 48 };

fn calibrated(model: &Arc<Model<Cpu>>) -> Calibration {
    let options =
        CalibrationOptions { seq_len: 20, batch_size: 2, flap: true, linear_rank: 0, ..Default::default() };
    calibrate(model, &random_tokens(9, 5 * 20), options, |_| ()).unwrap()
}

fn session(model: &Arc<Model<Cpu>>, settings: Settings) -> Session<Cpu> {
    Session::new(Arc::clone(model), settings, LIMITS, Some(&calibrated(model))).unwrap()
}

fn dense(model: &Arc<Model<Cpu>>) -> Session<Cpu> {
    Session::new(Arc::clone(model), Settings::default_for(3), LIMITS, None).unwrap()
}

/// Left pads before the first `pads[b]` tokens.
fn left_mask(pads: &[usize], length: usize) -> Vec<u32> {
    pads.iter().flat_map(|&pads| (0..length).map(move |s| u32::from(s >= pads))).collect()
}

fn prompts() -> Vec<Vec<u32>> {
    [9, 17, 1].into_iter().map(|n| random_tokens(n as u64, n)).collect()
}

fn generate(session: &mut Session<Cpu>, prompts: &[Vec<u32>], options: &GenerateOptions) -> Vec<Vec<u32>> {
    session.generate(prompts, options, |_, _| ()).unwrap().tokens
}

fn greedy(max_new_tokens: usize) -> GenerateOptions {
    GenerateOptions { max_new_tokens, ..GenerateOptions::default() }
}

fn sampled(seed: u64) -> GenerateOptions {
    let sampling = Sampling { temperature: 1.0, top_k: 50, top_p: 0.95, seed };
    GenerateOptions { sampling, ..greedy(12) }
}

/// All bits that a run shows: five batches with history, one of them padded, then a generation that probes anew.
fn trace(mut session: Session<Cpu>) -> Vec<u64> {
    let mut trace = Vec::new();
    for batch in 0..5 {
        let tokens = random_tokens(100 + batch, 4 * 24);
        let mask = (batch == 3).then(|| left_mask(&[0, 5, 23, 1], 24));
        let loss = session.evaluate(&tokens, 4, mask.as_deref(), batch > 0).unwrap();
        trace.push(loss.to_bits());
        trace.extend(session.logits(4).unwrap().iter().map(|x| u64::from(x.to_bits())));
        for layer in 0..3 {
            let kept = [session.kept_heads(layer).unwrap(), session.kept_channels(layer).unwrap()];
            trace.extend(kept.into_iter().flatten().flatten().map(u64::from));
        }
    }
    let options = GenerateOptions { reprobe_every: Some(3), ..sampled(5) };
    trace.extend(generate(&mut session, &prompts(), &options).concat().into_iter().map(u64::from));
    trace
}

#[test]
fn ratio_0_is_dense_to_the_bit_under_every_method() {
    for folder in folders() {
        let model = load(&folder);
        let expected = trace(dense(&model));
        for &method in Method::ALL {
            let settings = Settings { prune_ratio: 0.0, ..pruning(method) };
            assert!(trace(session(&model, settings)) == expected, "{method}");
        }
        assert!(
            trace(session(&model, pruning(Method::ProbePruning))) != expected,
            "pruning changes something"
        );
    }
}

#[test]
fn one_two_and_three_threads_give_the_same_bits() {
    for folder in folders() {
        let run = |threads| {
            let model = load_on(&folder, threads);
            trace(session(&model, pruning(Method::ProbePruning)))
        };
        let one = run(1);
        assert!(one == run(2) && one == run(3));
    }
}

#[test]
fn sessions_at_the_same_time_do_not_touch_each_other() {
    for folder in folders() {
        let model = load(&folder);
        let methods = [Method::ProbePruning, Method::FullBatch, Method::Flap];
        let run = |method| trace(session(&model, pruning(method)));
        let apart = methods.map(run);
        let run = &run;
        let together = std::thread::scope(|scope| {
            methods.map(|method| scope.spawn(move || run(method))).map(|thread| thread.join().unwrap())
        });
        assert!(together == apart);
    }
}

#[test]
fn mapped_and_read_weights_give_the_same_bits() {
    for folder in folders() {
        let run = |mmap| {
            let model = Model::load(&folder.source(), mmap, Arc::new(Cpu::new(2).unwrap()), |_| ()).unwrap();
            trace(session(&Arc::new(model), pruning(Method::ProbePruning)))
        };
        assert!(run(true) == run(false));
    }
}

#[test]
fn left_padding_leaves_logits_as_they_are_alone() {
    for folder in folders() {
        let model = load(&folder);
        let (pads, length, v) = ([0, 7, 22, 1], 24, model.config.vocab_size);
        let tokens = random_tokens(1, 4 * length);
        let mut padded = dense(&model);
        let loss = padded.evaluate(&tokens, 4, Some(&left_mask(&pads, length)), true).unwrap();
        let together = padded.logits(4).unwrap();
        let mut losses = 0.0;
        for (b, pads) in pads.into_iter().enumerate() {
            let real = &tokens[b * length + pads..(b + 1) * length];
            let mut alone = dense(&model);
            losses += alone.evaluate(real, 1, None, true).unwrap() * (real.len() - 1) as f64;
            let expected = alone.logits(1).unwrap();
            let got = &together[(b * length + pads) * v..(b + 1) * length * v];
            let scale = expected.iter().fold(0.0f32, |scale, x| scale.max(x.abs()));
            for (got, expected) in got.iter().zip(&expected) {
                assert!((got - expected).abs() <= 1e-5 * scale, "sample {b}: {got} alone {expected}");
            }
        }
        let targets = pads.iter().map(|pads| length - pads - 1).sum::<usize>() as f64;
        assert!((loss / (losses / targets) - 1.0).abs() < 1e-6, "{loss} {}", losses / targets);
    }
}

#[test]
fn generating_equals_running_the_whole_prefix_at_every_step() {
    for folder in folders() {
        let model = load(&folder);
        let together = generate(&mut dense(&model), &prompts(), &greedy(20));
        let mut all = together.concat();
        for (prompt, got) in prompts().iter().zip(&together) {
            let alone = generate(&mut dense(&model), std::slice::from_ref(prompt), &greedy(20));
            assert_eq!(&alone[0], got, "padding changes nothing");
            let limits = Limits { samples: 1, tokens: 48, capacity: 0 };
            let mut fresh = Session::new(Arc::clone(&model), Settings::default_for(3), limits, None).unwrap();
            let mut prefix = prompt.clone();
            for &token in got {
                fresh.forward(&prefix, 1, None, true).unwrap();
                let logits = fresh.logits(1).unwrap();
                let last = &logits[logits.len() - model.config.vocab_size..];
                let best = (0..last.len()).max_by(|&a, &b| last[a].total_cmp(&last[b])).unwrap();
                assert_eq!(token as usize, best, "after {prefix:?}");
                prefix.push(token);
            }
        }
        all.sort_unstable();
        all.dedup();
        assert!(all.len() > 5, "the model does not repeat itself all the time");
    }
}

#[test]
fn sampling_depends_on_the_seed_and_not_on_other_prompts() {
    for folder in folders() {
        let model = load(&folder);
        let run = |prompts: &[Vec<u32>], seed| generate(&mut dense(&model), prompts, &sampled(seed));
        let all = run(&prompts(), 1);
        assert_eq!(all, run(&prompts(), 1));
        assert_ne!(all, run(&prompts(), 2));
        assert_eq!(all[..1], run(&prompts()[..1], 1));
        let mut others = prompts();
        others[1] = random_tokens(77, 4);
        assert_eq!(all[2], run(&others, 1)[2]);
    }
}

#[test]
fn a_finished_sample_does_not_change_the_others() {
    for folder in folders() {
        let model = load(&folder);
        let free = generate(&mut dense(&model), &prompts(), &greedy(12));
        let eos = free[0][3];
        let options = GenerateOptions { eos_token_ids: vec![eos], ..greedy(12) };
        let mut streamed = vec![Vec::new(); 3];
        let mut session = dense(&model);
        let stopped =
            session.generate(&prompts(), &options, |b, token| streamed[b].push(token)).unwrap().tokens;
        for (free, stopped) in free.iter().zip(&stopped) {
            let end = free.iter().position(|&token| token == eos).map_or(12, |at| at + 1);
            assert_eq!(stopped, &free[..end]);
        }
        assert!(stopped[0].len() <= 4 && stopped.iter().any(|tokens| tokens.len() > 4));
        assert_eq!(streamed, stopped);
    }
}

#[test]
fn a_warm_up_batch_leaves_no_trace() {
    for folder in folders() {
        let model = load(&folder);
        let run = |warm_up: bool, update_history: bool| {
            let mut session = session(&model, pruning(Method::ProbePruning));
            if warm_up {
                session.evaluate(&random_tokens(50, 3 * 20), 3, None, update_history).unwrap();
            }
            trace(session)
        };
        assert!(run(true, false) == run(false, false));
        assert!(run(true, true) != run(false, false), "a batch that updates history does leave one");
    }
}

/// Kept units of layers 1 and 2: heads and channels.
fn kept(session: &Session<Cpu>) -> Vec<Vec<u32>> {
    (1..3)
        .flat_map(|l| [session.kept_heads(l).unwrap().unwrap(), session.kept_channels(l).unwrap().unwrap()])
        .collect()
}

/// Kept heads and channels of all three layers, as `Session::pin` takes them.
fn kept_of_layers(session: &Session<Cpu>) -> Vec<[Option<Vec<u32>>; 2]> {
    (0..3).map(|l| [session.kept_heads(l).unwrap(), session.kept_channels(l).unwrap()]).collect()
}

/// With its channels sorted by a calibration.
fn load_sorted(folder: &Folder, calibration: &Calibration) -> Arc<Model<Cpu>> {
    let (cpu, order) = (Arc::new(Cpu::new(2).unwrap()), calibration.channel_order.clone());
    Arc::new(Model::load_ordered(&folder.source(), true, cpu, Some(order), |_| ()).unwrap())
}

#[test]
fn random_selections_follow_the_seed() {
    for folder in folders() {
        let model = load(&folder);
        let run = |seed| kept(&session(&model, Settings { seed, ..pruning(Method::Random) }));
        let selections: Vec<_> = (0..8).map(run).collect();
        // ratio' = 3/2 · 0.35, rounded to 0.52 (0.5249… in binary): 4 − 2 heads, 24 − 12 channels.
        for selection in &selections {
            assert_eq!(selection.iter().map(Vec::len).collect::<Vec<_>>(), [2, 12, 2, 12]);
            assert!(selection.iter().all(|kept| kept.is_sorted_by(|a, b| a < b)));
            assert_ne!(selection[1], selection[3], "layers have permutations of their own");
        }
        assert_eq!(run(3), selections[3]);
        let channels: std::collections::HashSet<_> = selections.iter().map(|kept| &kept[1]).collect();
        assert_eq!(channels.len(), 8);
        assert!(selections.iter().any(|kept| kept[0] != kept[2]), "layers differ in heads too");
    }
    let model = load(&Folder::llama_with(json!({ "num_hidden_layers": 7 })));
    let session = session(&model, pruning(Method::Random));
    let layers: std::collections::HashSet<_> = (1..7).map(|l| session.kept_channels(l).unwrap()).collect();
    assert_eq!(layers.len(), 6);
}

/// Channels in groups of 8, as the checkpoint numbers them, whatever order they were sorted in when it was loaded.
#[test]
fn groups_of_sorted_channels_are_kept_and_pinned_whole() {
    let folder = &folders()[0];
    let of_plain = calibrated(&load(folder));
    let (order, sorted) = (&of_plain.channel_order, load_sorted(folder, &of_plain));
    for compensate in [Compensation::None, Compensation::ProbeMean] {
        let settings = || Settings { channel_group: 8, compensate, ..pruning(Method::ProbePruning) };
        let new = || Session::new(Arc::clone(&sorted), settings(), LIMITS, Some(&of_plain)).unwrap();
        let mut chosen = new();
        let tokens = random_tokens(1, 4 * 24);
        chosen.forward(&tokens, 4, None, false).unwrap();
        let kept = kept_of_layers(&chosen);
        for layer in 1..3 {
            let channels = kept[layer][1].as_ref().unwrap();
            assert_eq!(channels.len(), 16);
            let whole = |group: &&[u32]| group.iter().all(|channel| channels.contains(channel));
            assert_eq!(order[layer].chunks_exact(8).filter(whole).count(), 2, "{channels:?}");
        }
        let mut pinned = new();
        pinned.forward(&random_tokens(2, 4 * 24), 4, None, true).unwrap();
        pinned.pin(&kept).unwrap();
        pinned.forward(&tokens, 4, None, false).unwrap();
        let again = kept_of_layers(&pinned);
        assert_eq!(again, kept);
        assert!(bits(&pinned.logits(4).unwrap()) == bits(&chosen.logits(4).unwrap()), "{compensate}");
        // A channel of another group instead of one of its own.
        let mut torn = kept.clone();
        let channels = torn[2][1].as_mut().unwrap();
        let other = (0..24).find(|channel| !channels.contains(channel)).unwrap();
        channels[3] = other;
        channels.sort_unstable();
        let error = new().pin(&torn).unwrap_err().to_string();
        assert!(error.contains("expected 16 ascending indices below 24, in whole groups of 8"), "{error}");
    }
}

/// A session without a cache makes room for them when it is first asked.
#[test]
fn a_session_without_a_cache_predicts_too() {
    let model = load(&folders()[0]);
    let tokens = random_tokens(1, 4 * 24);
    let run = |capacity| {
        let limits = Limits { capacity, ..LIMITS };
        let mut session = Session::new(Arc::clone(&model), Settings::default_for(3), limits, None).unwrap();
        session.forward(&tokens, 4, None, true).unwrap();
        session.predict().unwrap();
        bits(&session.next_logits().unwrap())
    };
    assert_eq!(run(0).len(), 4 * model.config.vocab_size);
    assert!(run(0) == run(48));
}

#[test]
fn magnitude_keeps_the_columns_of_largest_norm() {
    for (folder, [o, down]) in folders().into_iter().zip([
        ["model.layers.2.self_attn.o_proj.weight", "model.layers.2.mlp.down_proj.weight"],
        ["model.decoder.layers.2.self_attn.out_proj.weight", "model.decoder.layers.2.fc2.weight"],
    ]) {
        let tensors = folder.tensors();
        let expected = |name: &str, unit: usize, keep: usize| {
            let (shape, weight) = &tensors[name];
            let mut sums = vec![0.0f64; shape[1] / unit];
            weight.iter().enumerate().for_each(|(i, &w)| sums[i % shape[1] / unit] += f64::from(w).powi(2));
            let mut order: Vec<u32> = (0..sums.len() as u32).collect();
            order.sort_by(|&a, &b| sums[b as usize].total_cmp(&sums[a as usize]));
            order.truncate(keep);
            order.sort_unstable();
            order
        };
        let model = load(&folder);
        let session = Session::new(model, pruning(Method::Magnitude), LIMITS, None).unwrap();
        assert_eq!(kept(&session)[2..], [expected(o, 4, 2), expected(down, 1, 12)]);
        let rounded = Settings { round_channels: 8, ..pruning(Method::Magnitude) };
        let session = Session::new(Arc::clone(session.model()), rounded, LIMITS, None).unwrap();
        assert_eq!(kept(&session)[3], expected(down, 1, 16));
    }
}

#[test]
fn logits_are_of_the_batch_that_ran_last() {
    for folder in folders() {
        let model = load(&folder);
        let (first, second) = (random_tokens(1, 4 * 24), random_tokens(2, 2 * 18));
        let mut session = dense(&model);
        session.forward(&first, 4, None, true).unwrap();
        session.forward(&second, 2, None, true).unwrap();
        let mut fresh = dense(&model);
        fresh.forward(&second, 2, None, true).unwrap();
        // More than 16 rows even of one sample: fewer go through other products.
        let logits = session.logits(9).unwrap();
        assert_eq!(logits.len(), 36 * model.config.vocab_size);
        assert!(bits(&logits) == bits(&fresh.logits(2).unwrap()));
        assert!(bits(&logits[..18 * model.config.vocab_size]) == bits(&session.logits(1).unwrap()));
    }
}

#[test]
fn a_pinned_session_repeats_another_ones_choice() {
    for folder in folders() {
        let model = load(&folder);
        let tokens = random_tokens(1, 4 * 24);
        let mut chosen = session(&model, pruning(Method::ProbePruning));
        chosen.forward(&tokens, 4, None, false).unwrap();
        let kept = kept_of_layers(&chosen);
        // Another batch first: its choice must not matter.
        let mut pinned = session(&model, pruning(Method::ProbePruning));
        pinned.forward(&random_tokens(2, 4 * 24), 4, None, true).unwrap();
        pinned.pin(&kept).unwrap();
        pinned.forward(&tokens, 4, None, false).unwrap();
        assert!(bits(&pinned.logits(4).unwrap()) == bits(&chosen.logits(4).unwrap()));

        type Kept = Vec<[Option<Vec<u32>>; 2]>;
        let refused = |edit: &dyn Fn(&mut Kept), message: &str| {
            let mut kept = kept.clone();
            edit(&mut kept);
            let error = session(&model, pruning(Method::ProbePruning)).pin(&kept).unwrap_err();
            assert!(error.to_string().contains(message) && !error.to_string().contains("groups"), "{error}");
        };
        refused(&|kept| kept.truncate(2), "expected 3 layers, got 2 layers");
        refused(&|kept| kept[0][1] = Some(vec![0]), "expected nothing: the block is dense, got a kept set");
        refused(&|kept| kept[1][0] = None, "expected a kept set, got nothing");
        refused(&|kept| kept[1][0].as_mut().unwrap().reverse(), "expected 2 ascending indices below 4");
        refused(&|kept| kept[1][0] = Some(vec![1, 1]), "expected 2 ascending indices below 4");
        refused(&|kept| *kept[2][1].as_mut().unwrap().last_mut().unwrap() = 24, "ascending indices below 24");
        refused(&|kept| kept[2][1].as_mut().unwrap().truncate(11), "got 11 indices");
    }
}

#[test]
fn a_small_batch_falls_back_to_dense_and_leaves_history_alone() {
    for folder in folders() {
        let model = load(&folder);
        let new = |dense_below| {
            let dense_below = DenseBelow::Tokens(dense_below);
            let settings = Settings { dense_below, ..pruning(Method::ProbePruning) };
            let limits = Limits { capacity: 0, ..LIMITS };
            Session::new(Arc::clone(&model), settings, limits, Some(&calibrated(&model))).unwrap()
        };
        let (large, small) = (random_tokens(1, 4 * 24), random_tokens(2, 2 * 8));
        let run = |session: &mut Session<Cpu>, tokens: &[u32], samples: usize| {
            session.evaluate(tokens, samples, None, true).unwrap().to_bits()
        };
        let (mut with, mut without) = (new(17), new(0));
        assert_eq!(run(&mut with, &large, 4), run(&mut without, &large, 4));
        let kept = with.kept_channels(2).unwrap();
        assert!(kept.is_some() && with.dense_batches() == 0);

        let fallen = run(&mut with, &small, 2);
        assert_eq!(fallen, run(&mut dense(&model), &small, 2), "dense to the bit");
        assert_eq!((with.dense_batches(), with.kept_channels(2).unwrap()), (1, None));
        let shape = |samples, tokens| probeprune::prune::BatchShape { samples, tokens };
        assert_eq!(with.shares(shape(2, 8)).total, 1.0);
        assert!(with.shares(shape(4, 24)).total < 1.0);

        // As if it had never been there.
        assert_eq!(run(&mut with, &large, 4), run(&mut without, &large, 4));
        assert_eq!(with.kept_channels(2).unwrap(), without.kept_channels(2).unwrap());
        assert_eq!(
            run(&mut new(16), &small, 2),
            run(&mut new(0), &small, 2),
            "16 rows are not fewer than 16"
        );

        for (dense_below, got) in [(DenseBelow::Tokens(17), "17"), (DenseBelow::Auto, "auto")] {
            let settings = Settings { dense_below, ..pruning(Method::ProbePruning) };
            let refused = Session::new(Arc::clone(&model), settings, LIMITS, None);
            common::assert_error(refused.map(drop), &["dense_below", "key/value cache", got]);
        }
    }
}

#[test]
fn auto_runs_a_batch_dense_that_pruning_would_not_make_faster() {
    for folder in folders() {
        let model = load(&folder);
        let new = |method, dense_below| {
            let settings = Settings { dense_below, ..pruning(method) };
            let limits = Limits { capacity: 0, ..LIMITS };
            Session::new(Arc::clone(&model), settings, limits, Some(&calibrated(&model))).unwrap()
        };
        let tokens = random_tokens(1, 4 * 24);
        let run = |session: &mut Session<Cpu>| session.evaluate(&tokens, 4, None, true).unwrap().to_bits();
        // In so small a model a probe never pays; sets that are fixed do.
        let mut probed = new(Method::ProbePruning, DenseBelow::Auto);
        assert_eq!(run(&mut probed), run(&mut dense(&model)));
        assert_eq!((probed.dense_batches(), probed.kept_channels(2).unwrap()), (1, None));
        let shape = probeprune::prune::BatchShape { samples: 4, tokens: 24 };
        let cost = probed.expected_cost(shape);
        assert!(!cost.pays() && probed.falls_back(shape) && probed.shares(shape).total == 1.0, "{cost:?}");
        let mut fixed = new(Method::Magnitude, DenseBelow::Auto);
        assert_eq!(run(&mut fixed), run(&mut new(Method::Magnitude, DenseBelow::NEVER)));
        assert!(fixed.dense_batches() == 0 && fixed.kept_channels(2).unwrap().is_some());
    }
}

#[test]
fn history_goes_back_to_where_it_began() {
    let plain = load(&folders()[0]);
    let of_plain = calibrated(&plain);
    let sorted = load_sorted(&folders()[0], &of_plain);
    let tokens = random_tokens(3, 4 * 24);
    let none = Compensation::None;
    for (model, calibration, channel_group, compensate) in [
        (&plain, None, 1, none),
        (&plain, Some(&of_plain), 1, none),
        (&plain, Some(&of_plain), 1, Compensation::ProbeMean),
        // Channels that are sorted want calibration's energies sorted.
        (&sorted, Some(&of_plain), 8, none),
    ] {
        let settings = Settings { channel_group, compensate, ..pruning(Method::ProbePruning) };
        let mut session = Session::new(Arc::clone(model), settings, LIMITS, calibration).unwrap();
        let run = |session: &mut Session<Cpu>| {
            session.forward(&tokens, 4, None, true).unwrap();
            assert!(session.next_tokens().is_err(), "nothing is predicted yet");
            session.predict().unwrap();
            let best = session.next_tokens().unwrap();
            let logits = session.next_logits().unwrap();
            let all = session.logits(4).unwrap();
            let vocabulary = logits.len() / 4;
            for (sample, logits) in logits.chunks_exact(vocabulary).enumerate() {
                let of_all = &all[((sample + 1) * 24 - 1) * vocabulary..][..vocabulary];
                // Products of few rows sum in another order.
                assert!(logits.iter().zip(of_all).all(|(a, b)| (a - b).abs() < 1e-5));
                assert!(logits.iter().all(|&x| x <= logits[best[sample] as usize]));
            }
            let some = session.logits_at(3, &[2, 23]).unwrap();
            for (row, logits) in [2, 23, 26, 47, 50, 71].into_iter().zip(some.chunks_exact(vocabulary)) {
                assert!(bits(logits) == bits(&all[row * vocabulary..][..vocabulary]), "row {row}");
            }
            assert!(session.logits_at(3, &[]).unwrap().is_empty());
            for slots in [&[24][..], &[5, 5], &[7, 3]] {
                let refused = session.logits_at(3, slots).unwrap_err().to_string();
                assert!(refused.contains("ascending slots below 24"), "{refused}");
            }
            bits(&all)
        };
        let first = run(&mut session);
        let second = run(&mut session);
        session.reset_history(calibration);
        assert!(run(&mut session) == first);
        assert!(run(&mut session) == second);
        assert_eq!(
            first == second,
            compensate != none,
            "history moves the choice, except under compensation"
        );
    }
}

#[test]
fn recording_where_the_time_goes_changes_no_bit() {
    for folder in folders() {
        let model = load(&folder);
        let plain = trace(session(&model, pruning(Method::ProbePruning)));
        let mut recorded = session(&model, pruning(Method::ProbePruning));
        assert_eq!(recorded.step_seconds().unwrap(), [0.0; 7], "nothing is recorded unless asked for");
        recorded.record_steps(true).unwrap();
        recorded.evaluate(&random_tokens(2, 4 * 24), 4, None, false).unwrap();
        let start = Instant::now();
        recorded.evaluate(&random_tokens(1, 4 * 24), 4, None, false).unwrap();
        let (took, seconds) = (start.elapsed().as_secs_f64(), recorded.step_seconds().unwrap());
        let share = seconds.iter().sum::<f64>() / took;
        assert!((1e-3..=1.0).contains(&share), "steps take {share} of a batch's time: {seconds:?}");
        let names = ["embedding", "attention", "mlp", "probe", "selection", "history", "head"];
        assert_eq!(Step::ALL.map(Step::name), names);
        let of = |step: Step| seconds[step as usize];
        for step in [Step::Embedding, Step::Attention, Step::Mlp, Step::Probe, Step::Selection, Step::Head] {
            assert!(of(step) > 0.0, "{}: {seconds:?}", step.name());
        }
        assert!(trace(recorded) == plain);
    }
}

#[test]
fn all_steps_of_a_deep_model_are_recorded() {
    let model = load_on(&Folder::llama_with(json!({ "num_hidden_layers": 12 })), 1);
    let mut session = session(&model, pruning(Method::ProbePruning));
    session.record_steps(true).unwrap();
    session.evaluate(&random_tokens(1, 4 * 24), 4, None, true).unwrap();
    let seconds = session.step_seconds().unwrap();
    assert!(seconds.iter().all(|&seconds| seconds > 0.0), "the head is last: {seconds:?}");
}

#[test]
fn what_is_kept_has_the_highest_scores() {
    let model = load_on(&folders()[0], 1);
    for method in [Method::ProbePruning, Method::FullBatch, Method::WandaSp, Method::Flap, Method::Random] {
        let mut session = session(&model, pruning(method));
        session.evaluate(&random_tokens(2, 4 * 20), 4, None, true).unwrap();
        assert_eq!(session.scores(0, Block::Mlp).unwrap(), None, "layer 0 is dense");
        for layer in 1..3 {
            let kept =
                [session.kept_heads(layer), session.kept_channels(layer)].map(|kept| kept.unwrap().unwrap());
            for (block, kept) in Block::ALL.into_iter().zip(kept) {
                let scores = session.scores(layer, block).unwrap().unwrap();
                assert_eq!(
                    scores.len(),
                    block.channels(&model.config) / block.unit(&model.config, 1).block_width()
                );
                let is_kept = |unit: &usize| kept.contains(&(*unit as u32));
                let (inside, outside): (Vec<usize>, Vec<usize>) = (0..scores.len()).partition(is_kept);
                let lowest = inside.iter().map(|&unit| scores[unit]).fold(f32::INFINITY, f32::min);
                let what = format!("{method}, layer {layer}, {}", block.name());
                assert!(!outside.is_empty() && outside.iter().all(|&unit| scores[unit] <= lowest), "{what}");
            }
        }
    }
}
