//! Corrections by a probe.

use std::{cell::RefCell, collections::HashMap, sync::Arc};

use probeprune::{
    cpu::Cpu,
    model::fold::Fold,
    prune::{
        Block,
        calibration::Calibration,
        settings::{Adapt, AdaptMetric, AdaptSettings, FoldChoice, Settings},
    },
    session::Session,
};

use crate::{
    LIMITS, SEQ_LEN, adapting, calibrated,
    common::{
        assert_error,
        plain::{Plain, assert_close},
        small::{folders, load, random_tokens},
    },
    folding,
    reference::{Reference, channels_of, entries, moments, product, solve, transposed},
};

/// The state of a correction in f64.
pub(crate) struct Correction {
    reference: Reference,
    /// W (H, C).
    dense: Vec<f64>,
    /// W' (H, n) and the output at the mean (H), both without the projection's own bias.
    weight: Vec<f64>,
    at_mean: Vec<f64>,
    /// P (n, n).
    precision: Vec<f64>,
    full: bool,
    forgetting: f64,
}

impl Correction {
    pub(crate) fn new(reference: Reference, dense: &[f64], adapt: &AdaptSettings) -> Self {
        let (n, h) = (reference.kept.len(), 16);
        let width = reference.means.len();
        let columns = |which: &[usize]| entries(dense, width, &(0..h).collect::<Vec<_>>(), which);
        let own = columns(&reference.kept);
        let mut weight = own;
        if !reference.pruned.is_empty() {
            let refit = product(&columns(&reference.pruned), &reference.map, reference.pruned.len());
            weight.iter_mut().zip(refit).for_each(|(w, x)| *w += x);
        }
        let full = adapt.metric == AdaptMetric::Full;
        let identity: Vec<f64> = (0..n * n).map(|at| f64::from(u8::from(at / n == at % n))).collect();
        let tokens = adapt.prior_tokens as f64;
        let precision = if full {
            solve(&reference.regularised, &identity, n).iter().map(|x| x / tokens).collect()
        } else {
            let entry = |at: usize| identity[at] / (tokens * reference.regularised[at / n * (n + 1)]);
            (0..n * n).map(entry).collect()
        };
        let at_mean = product(dense, &reference.means, width);
        Self {
            reference,
            dense: dense.to_vec(),
            weight,
            at_mean,
            precision,
            full,
            forgetting: adapt.forgetting,
        }
    }

    /// Kept states (T, n) around their means.
    fn features(&self, a: &[f64]) -> Vec<f64> {
        let Reference { kept, means, .. } = &self.reference;
        a.chunks_exact(means.len()).flat_map(|row| kept.iter().map(move |&c| row[c] - means[c])).collect()
    }

    /// Learns from the rows of a where `is_probed` says so.
    pub(crate) fn learn(&mut self, a: &[f64], is_probed: impl Fn(usize) -> bool) {
        const GAIN: f64 = 1.0 / 32.0;
        let (n, h, width) = (self.reference.kept.len(), 16, self.reference.means.len());
        let features = self.features(a);
        let rows: Vec<usize> = (0..a.len() / width).filter(|&row| is_probed(row)).collect();
        let pick = |values: &[f64], width: usize| -> Vec<f64> {
            rows.iter().flat_map(|row| values[row * width..][..width].to_vec()).collect()
        };
        let (t, f) = (rows.len(), pick(&features, n));
        let target = product(&pick(a, width), &transposed(&self.dense, width), width);
        let predicted = product(&f, &transposed(&self.weight, n), n);
        let error: Vec<f64> =
            (0..t * h).map(|at| target[at] - predicted[at] - self.at_mean[at % h]).collect();
        let images = product(&f, &self.precision, n);
        let mut s = product(&images, &transposed(&f, n), n);
        (0..t * t).for_each(|at| s[at] += GAIN + f64::from(u8::from(at / t == at % t)));
        let b = solve(&s, &error, t);
        let change = product(&transposed(&b, h), &images, t);
        self.weight.iter_mut().zip(change).for_each(|(w, x)| *w += x);
        for (o, mean) in self.at_mean.iter_mut().enumerate() {
            *mean += GAIN * (0..t).map(|row| b[row * h + o]).sum::<f64>();
        }
        if self.full {
            let taken = product(&transposed(&images, n), &solve(&s, &images, t), t);
            self.precision.iter_mut().zip(taken).for_each(|(p, x)| *p = (*p - x) / self.forgetting);
        } else {
            for c in 0..n {
                let p = &mut self.precision[c * (n + 1)];
                let squares: f64 = f[c..].iter().step_by(n).map(|x| x * x).sum();
                *p = 1.0 / (self.forgetting * (1.0 / *p + squares));
            }
        }
    }

    /// The corrected output (T, H) of all rows.
    pub(crate) fn output(&self, a: &[f64]) -> Vec<f64> {
        let (n, h) = (self.reference.kept.len(), 16);
        let mut out = product(&self.features(a), &transposed(&self.weight, n), n);
        out.iter_mut().enumerate().for_each(|(at, y)| *y += self.at_mean[at % h]);
        out
    }

    /// a (T, C) of least norm with W·a = out.
    pub(crate) fn states_for(&self, out: &[f64]) -> Vec<f64> {
        let (h, width) = (16, self.reference.means.len());
        let back = transposed(&self.dense, width);
        let gram = product(&self.dense, &back, width);
        let solved = solve(&gram, &transposed(out, h), h);
        transposed(&product(&back, &solved, h), out.len() / h)
    }
}

#[test]
fn corrections_follow_the_recursion_over_batches() {
    for (folder, &metric) in
        folders().iter().flat_map(|f| AdaptMetric::ALL.iter().map(move |metric| (f, metric)))
    {
        let (plain, model) = (Plain::new(folder), load(folder));
        let moments = moments(&plain);
        let settings = adapting(metric);
        let adapt = settings.adapt;
        let mut session =
            Session::new(Arc::clone(&model), settings, LIMITS, Some(&calibrated(&model))).unwrap();
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
        let frequencies = plain.frequencies(10_000.0);
        for batch in 0..4 {
            // Words that calibration hardly had.
            let tokens: Vec<u32> = random_tokens(10 + batch, 2 * SEQ_LEN).iter().map(|t| 3 + t % 9).collect();
            session.forward(&tokens, 2, None, true).unwrap();
            let want = plain.logits(&tokens, SEQ_LEN, &|_| frequencies.clone(), &mut |layer, block, _, a| {
                if let Some(state) = states.borrow_mut().get_mut(&(layer, block)) {
                    state.learn(a, |_| true);
                    a.copy_from_slice(&state.states_for(&state.output(a)));
                }
            });
            assert_close(&format!("batch {batch}"), &session.logits(2).unwrap(), &want, 1e-3);
        }
        assert_eq!(session.probed_share(), Some(1.0));
    }
}

/// The formulas themselves: recursive least squares is least squares over all tokens so far, calibration among them.
#[test]
fn the_recursion_is_least_squares_over_all_tokens() {
    let values = |seed: usize, len: usize| -> Vec<f64> {
        (0..len).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f64 / 1001.5 - 1.0).collect()
    };
    let (n, h, t, updates) = (6, 3, 4, 12);
    let prior: Vec<f64> = {
        let x = values(1, n * n);
        let mut gram = product(&transposed(&x, n), &x, n);
        (0..n).for_each(|i| gram[i * n + i] += 1.0);
        gram
    };
    let identity: Vec<f64> = (0..n * n).map(|at| f64::from(u8::from(at / n == at % n))).collect();
    let start = values(2, n * h);
    let (mut weight, mut precision) = (start.clone(), solve(&prior, &identity, n));
    // Sums of the whole problem: (prior + Σ fᵀf)·W = prior·W₀ + Σ fᵀy.
    let (mut gram, mut moment) = (prior.clone(), product(&prior, &start, n));
    for update in 0..updates {
        let (f, y) = (values(10 + update, t * n), values(50 + update, t * h));
        let error: Vec<f64> = y.iter().zip(product(&f, &weight, n)).map(|(y, x)| y - x).collect();
        let images = product(&f, &precision, n);
        let mut s = product(&images, &transposed(&f, n), n);
        (0..t).for_each(|i| s[i * (t + 1)] += 1.0);
        let change = product(&transposed(&images, n), &solve(&s, &error, t), t);
        weight.iter_mut().zip(change).for_each(|(w, x)| *w += x);
        let taken = product(&transposed(&images, n), &solve(&s, &images, t), t);
        precision.iter_mut().zip(taken).for_each(|(p, x)| *p -= x);
        let back = transposed(&f, n);
        gram.iter_mut().zip(product(&back, &f, t)).for_each(|(g, x)| *g += x);
        moment.iter_mut().zip(product(&back, &y, t)).for_each(|(m, x)| *m += x);
        let want = solve(&gram, &moment, n);
        for (got, want) in weight.iter().zip(&want) {
            assert!((got - want).abs() < 1e-9, "{update}: {got} for {want}");
        }
    }
}

#[test]
fn sessions_share_a_fold_but_not_its_corrections() {
    let [folder, _] = folders();
    let model = load(&folder);
    let settings = adapting(AdaptMetric::Full);
    let fold = Arc::new(Fold::new(&model, &settings, &calibrated(&model), |_| ()).unwrap());
    let session = || Session::of_fold(Arc::clone(&fold), settings.clone(), LIMITS, None).unwrap();
    let (mut one, mut other) = (session(), session());
    let tokens = |seed: u64| random_tokens(seed, 3 * SEQ_LEN);
    let loss =
        |session: &mut Session<Cpu>, seed, update| session.evaluate(&tokens(seed), 3, None, update).unwrap();

    // A warm-up batch is neither probed nor remembered: it runs the fold as calibration made it.
    let folded = loss(&mut one, 5, false);
    assert_eq!(one.probed_share(), None);
    let mut plain = Session::new(Arc::clone(&model), folding(), LIMITS, Some(&calibrated(&model))).unwrap();
    assert_eq!(loss(&mut plain, 5, true), folded);
    assert_eq!([plain.probed_share(), plain.excess_error()], [None; 2]);

    let first = loss(&mut one, 5, true);
    assert_ne!(first, folded);
    assert_eq!(loss(&mut other, 5, false), folded, "a session learns nothing from another");
    one.set_adapting(false);
    let frozen = loss(&mut one, 6, true);
    assert_eq!(loss(&mut one, 6, false), frozen, "frozen, a batch changes nothing");
    assert_eq!(one.probed_share(), Some(0.5));
    one.set_adapting(true);
    assert_ne!(loss(&mut one, 6, true), frozen);
    one.reset_corrections().unwrap();
    assert_eq!(loss(&mut one, 5, false), folded);
    assert_eq!(loss(&mut one, 5, true), first);
}

#[test]
fn what_a_session_learned_is_saved_with_the_history() {
    for (folder, &metric) in folders().iter().flat_map(|f| AdaptMetric::ALL.iter().map(move |m| (f, m))) {
        let model = load(folder);
        let (mut calibration, settings) = (calibrated(&model), adapting(metric));
        let session = |calibration: &Calibration, settings: &Settings| {
            Session::new(Arc::clone(&model), settings.clone(), LIMITS, Some(calibration)).unwrap()
        };
        let batch = |session: &mut Session<Cpu>, seed| {
            session.evaluate(&random_tokens(seed, 3 * SEQ_LEN), 3, None, true).unwrap()
        };
        let mut one = session(&calibration, &settings);
        let start = batch(&mut one, 5);
        calibration.corrections = one.corrections().unwrap();
        let next = batch(&mut one, 6);
        let path = folder.file("learned.safetensors");
        calibration.save(&path).unwrap();
        let loaded = Calibration::load(&path, &model.fingerprint, &model.config).unwrap();
        assert_eq!(loaded, calibration);
        assert_eq!(batch(&mut session(&loaded, &settings), 6), next, "it goes on where the other was");
        // Another fold, or another kind of P, begins anew.
        let other = Settings { fold_choice: FoldChoice::Score, prune_ratio: 0.4, ..settings.clone() };
        let fresh = Calibration { corrections: None, ..calibration.clone() };
        assert_eq!(batch(&mut session(&loaded, &other), 5), batch(&mut session(&fresh, &other), 5));
        let mut another = settings.clone();
        another.adapt.metric =
            if metric == AdaptMetric::Full { AdaptMetric::Diagonal } else { AdaptMetric::Full };
        assert_ne!(batch(&mut session(&loaded, &another), 5), start);
        assert_eq!(batch(&mut session(&loaded, &another), 5), batch(&mut session(&fresh, &another), 5));
    }
    let [folder, _] = folders();
    let mut plain =
        Session::new(load(&folder), folding(), LIMITS, Some(&calibrated(&load(&folder)))).unwrap();
    plain.set_adapting(true);
    plain.reset_corrections().unwrap();
    assert_eq!(plain.corrections().unwrap(), None);
}

#[test]
fn text_that_the_fold_fits_is_probed_now_and_then() {
    let [folder, _] = folders();
    let model = load(&folder);
    let calibration = calibrated(&model);
    let run = |threshold: f64, every: usize, lagged: bool| {
        let mut settings = adapting(AdaptMetric::Full);
        (settings.adapt.threshold, settings.adapt.every) = (threshold, every);
        settings.parallel_probe = lagged;
        let mut session = Session::new(Arc::clone(&model), settings, LIMITS, Some(&calibration)).unwrap();
        let losses: Vec<f64> = (0..7)
            .map(|batch| session.evaluate(&random_tokens(20 + batch, 3 * SEQ_LEN), 3, None, true).unwrap())
            .collect();
        (losses, session.probed_share().unwrap(), session.excess_error().unwrap())
    };
    let (always, share, error) = run(0.0, 3, false);
    assert_eq!(share, 1.0);
    assert!(error.abs() < 0.5, "the text is like calibration's: {error}");
    let (seldom, share, _) = run(f64::MAX, 3, false);
    assert_eq!(share, 3.0 / 7.0, "batches 0, 3 and 6");
    assert_eq!(seldom[0], always[0]);
    assert_ne!(seldom[1], always[1]);
    // Corrected after the batch: the first one runs the fold as it is.
    let (lagged, ..) = run(0.0, 3, true);
    let mut folded = Session::new(Arc::clone(&model), folding(), LIMITS, Some(&calibration)).unwrap();
    assert_eq!(folded.evaluate(&random_tokens(20, 3 * SEQ_LEN), 3, None, true).unwrap(), lagged[0]);
    assert_ne!(lagged[1], always[1]);
}

#[test]
fn pads_have_no_say_in_a_correction() {
    for folder in folders() {
        let model = load(&folder);
        let calibration = calibrated(&model);
        let mut settings = adapting(AdaptMetric::Full);
        // The whole batch, so that pads are in the probe.
        settings.adapt.mode = Adapt::Probe { tokens: Some(1000) };
        let session =
            || Session::new(Arc::clone(&model), settings.clone(), LIMITS, Some(&calibration)).unwrap();
        let (mut padded, mut plain) = (session(), session());
        let tokens = random_tokens(7, 8);
        let mut with_pads = vec![5, 6, 7, 8];
        with_pads.extend(&tokens);
        let mask: Vec<u32> = (0..12).map(|i| u32::from(i >= 4)).collect();
        padded.forward(&with_pads, 1, Some(&mask), true).unwrap();
        plain.forward(&tokens, 1, None, true).unwrap();
        let vocabulary = model.config.vocab_size;
        let want: Vec<f64> = plain.logits(1).unwrap().iter().map(|&x| f64::from(x)).collect();
        assert_close("logits", &padded.logits(1).unwrap()[4 * vocabulary..], &want, 1e-4);
    }
}

/// A fold that was made without corrections, or for another kind of P, has no state to begin with; and one that was made for
/// corrections can do without.
#[test]
fn a_fold_and_its_sessions_agree_on_corrections() {
    let [folder, _] = folders();
    let model = load(&folder);
    let calibration = calibrated(&model);
    let fold = |settings: &Settings| Arc::new(Fold::new(&model, settings, &calibration, |_| ()).unwrap());
    let session = |fold: &Arc<Fold<Cpu>>, settings: Settings| {
        Session::of_fold(Arc::clone(fold), settings, LIMITS, None)
    };
    let (plain, diagonal) = (fold(&folding()), fold(&adapting(AdaptMetric::Diagonal)));
    let refused = session(&plain, adapting(AdaptMetric::Diagonal)).map(|_| ());
    assert_error(refused, &["adapt probe", "folded"]);
    assert_error(
        session(&diagonal, adapting(AdaptMetric::Full)).map(|_| ()),
        &["adapt_metric full", "diagonal"],
    );
    let evaluate =
        |mut session: Session<Cpu>| session.evaluate(&random_tokens(5, 3 * SEQ_LEN), 3, None, true).unwrap();
    let of_plain = evaluate(session(&plain, folding()).unwrap());
    assert_eq!(evaluate(session(&diagonal, folding()).unwrap()), of_plain);
    assert_ne!(evaluate(session(&diagonal, adapting(AdaptMetric::Diagonal)).unwrap()), of_plain);
}
