//! Folds and their corrections from end to end, against plain computations in f64 from the states of a plain decoder: a
//! fold stands for a pruned channel with its regression on the kept ones.

mod common;

use std::{cell::RefCell, collections::HashMap, sync::Arc};

use common::{
    assert_error,
    models::Folder,
    plain::{Plain, assert_close},
    small::{bits, folders, load, random_tokens},
};
use probeprune::{
    cpu::Cpu,
    model::{Model, fold::Fold},
    prune::{
        Block,
        calibration::Calibration,
        settings::{Adapt, AdaptMetric, AdaptSettings, FoldChoice, Method, Settings},
    },
    session::{CalibrationOptions, Limits, Session, calibrate},
};

const SAMPLES: usize = 9;
const SEQ_LEN: usize = 12;
/// λ of the refit and ε of the choice.
const RIDGE: f64 = 0.01;
const PIVOT_RIDGE: f64 = 1e-3;
const LIMITS: Limits = Limits { samples: 3, tokens: SEQ_LEN, capacity: 0 };

fn calibrated(model: &Arc<Model<Cpu>>) -> Calibration {
    let options = CalibrationOptions { seq_len: SEQ_LEN, batch_size: 4, fold: true, ..Default::default() };
    calibrate(model, &random_tokens(1, SAMPLES * SEQ_LEN), options, |_| ()).unwrap()
}

/// All layers but the first; 3 of 4 heads, 16 of 24 channels.
fn folding() -> Settings {
    Settings {
        method: Method::Fold,
        prune_ratio: 0.23,
        skip_layers: vec![0],
        round_channels: 1,
        ..Settings::default()
    }
}

/// Mean (C) and covariance (C, C) of states (T, C).
#[derive(Clone)]
struct Moments {
    means: Vec<f64>,
    covariance: Vec<f64>,
}

impl Moments {
    fn of(a: &[f64], width: usize) -> Self {
        let rows = (a.len() / width) as f64;
        let means: Vec<f64> =
            (0..width).map(|c| a.iter().skip(c).step_by(width).sum::<f64>() / rows).collect();
        let centred = |row: &[f64], c: usize| row[c] - means[c];
        let entry = |at: usize| {
            let products =
                a.chunks_exact(width).map(|row| centred(row, at / width) * centred(row, at % width));
            products.sum::<f64>() / rows
        };
        let covariance = (0..width * width).map(entry).collect();
        Self { means, covariance }
    }
}

/// a (T, C) of every block of calibration's samples.
fn moments(plain: &Plain) -> HashMap<(usize, Block), Moments> {
    let (tokens, frequencies) = (random_tokens(1, SAMPLES * SEQ_LEN), plain.frequencies(10_000.0));
    let mut moments = HashMap::new();
    plain.logits(&tokens, SEQ_LEN, &|_| frequencies.clone(), &mut |layer, block, _, a| {
        moments.insert((layer, block), Moments::of(a, block.channels(&plain.config)));
    });
    moments
}

/// X with A·X = B for symmetric A (n, n) and B (n, m), by Gauss and Jordan with pivoting.
fn solve(a: &[f64], b: &[f64], n: usize) -> Vec<f64> {
    let m = b.len() / n;
    let mut rows: Vec<Vec<f64>> = (0..n).map(|i| [&a[i * n..][..n], &b[i * m..][..m]].concat()).collect();
    for i in 0..n {
        let pivot = (i..n).max_by(|&p, &q| rows[p][i].abs().total_cmp(&rows[q][i].abs())).unwrap();
        rows.swap(i, pivot);
        let scale = rows[i][i];
        rows[i].iter_mut().for_each(|x| *x /= scale);
        for j in (0..n).filter(|&j| j != i) {
            let (factor, row) = (rows[j][i], rows[i].clone());
            rows[j].iter_mut().zip(row).for_each(|(x, y)| *x -= factor * y);
        }
    }
    rows.into_iter().flat_map(|row| row[n..].to_vec()).collect()
}

/// left (m, k) · right (k, n).
fn product(left: &[f64], right: &[f64], k: usize) -> Vec<f64> {
    let (m, n) = (left.len() / k, right.len() / k);
    let entry = |at: usize| (0..k).map(|l| left[at / n * k + l] * right[l * n + at % n]).sum();
    (0..m * n).map(entry).collect()
}

fn transposed(values: &[f64], columns: usize) -> Vec<f64> {
    (0..columns).flat_map(|c| values.iter().skip(c).step_by(columns).copied()).collect()
}

fn entries(matrix: &[f64], width: usize, rows: &[usize], columns: &[usize]) -> Vec<f64> {
    rows.iter().flat_map(|r| columns.iter().map(move |c| matrix[r * width + c])).collect()
}

/// A fold of one block in f64.
struct Reference {
    kept: Vec<usize>,
    pruned: Vec<usize>,
    means: Vec<f64>,
    /// M (C − n, n).
    map: Vec<f64>,
    /// G_KK + λ·mean(diag G_KK)·I.
    regularised: Vec<f64>,
}

impl Reference {
    fn new(moments: &Moments, kept: Vec<usize>) -> Self {
        let width = moments.means.len();
        let n = kept.len();
        let pruned: Vec<usize> = (0..width).filter(|c| !kept.contains(c)).collect();
        let mut regularised = entries(&moments.covariance, width, &kept, &kept);
        let ridge = RIDGE * (0..n).map(|i| regularised[i * n + i]).sum::<f64>() / n as f64;
        (0..n).for_each(|i| regularised[i * n + i] += ridge);
        let solved = solve(&regularised, &entries(&moments.covariance, width, &kept, &pruned), n);
        let map = transposed(&solved, pruned.len());
        Self { kept, pruned, means: moments.means.clone(), map, regularised }
    }

    /// Puts the estimates of the pruned channels into a (T, C).
    fn fill(&self, a: &mut [f64]) {
        let n = self.kept.len();
        for row in a.chunks_exact_mut(self.means.len()) {
            let known: Vec<f64> = self.kept.iter().map(|&c| row[c] - self.means[c]).collect();
            for (&c, map) in self.pruned.iter().zip(self.map.chunks_exact(n)) {
                row[c] = self.means[c] + map.iter().zip(&known).map(|(m, x)| m * x).sum::<f64>();
            }
        }
    }
}

/// Channels of units.
fn channels_of(units: &[u32], width: usize) -> Vec<usize> {
    units.iter().flat_map(|&unit| unit as usize * width..(unit as usize + 1) * width).collect()
}

/// The units that a fold has to keep: greedily what explains most of D·G·D, or the largest scores.
fn chosen(moments: &Moments, weight: &[f64], unit: usize, keep: usize, choice: FoldChoice) -> Vec<u32> {
    let width = moments.means.len();
    let column = |c: usize| weight.iter().skip(c).step_by(width);
    let mut kept: Vec<u32> = Vec::new();
    if choice == FoldChoice::Score {
        let score =
            |c: usize| moments.covariance[c * width + c] * column(c).map(|w| w.powi(4)).sum::<f64>().sqrt();
        let of_unit = |u: &u32| channels_of(&[*u], unit).into_iter().map(|c| score(c).powi(2)).sum::<f64>();
        kept = (0..(width / unit) as u32).collect();
        kept.sort_by(|a, b| of_unit(b).total_cmp(&of_unit(a)));
        kept.truncate(keep);
    } else {
        let norm = |c: usize| column(c).map(|w| w * w).sum::<f64>().sqrt();
        let norms: Vec<f64> = (0..width).map(norm).collect();
        let weighted = moments.covariance.iter().enumerate();
        let mut left: Vec<f64> = weighted.map(|(at, x)| x * norms[at / width] * norms[at % width]).collect();
        let ridge = PIVOT_RIDGE * (0..width).map(|c| left[c * width + c]).sum::<f64>() / width as f64;
        let all: Vec<usize> = (0..width).collect();
        for _ in 0..keep {
            // A_:u·(A_uu + ε·I)⁻¹·A_u:, and its trace without the ridge of a single channel, which cancels.
            let part = |u: u32| {
                let own = channels_of(&[u], unit);
                let mut diagonal = entries(&left, width, &own, &own);
                (0..unit).for_each(|i| diagonal[i * unit + i] += ridge);
                let rows = entries(&left, width, &own, &all);
                product(&transposed(&rows, width), &solve(&diagonal, &rows, unit), unit)
            };
            let gain = |u: &u32| match unit {
                1 => left[*u as usize * (width + 1)],
                _ => part(*u).iter().step_by(width + 1).sum::<f64>(),
            };
            let others = (0..(width / unit) as u32).filter(|u| !kept.contains(u));
            let best = others.max_by(|a, b| gain(a).total_cmp(&gain(b))).unwrap();
            let part = part(best);
            left.iter_mut().zip(part).for_each(|(x, part)| *x -= part);
            kept.push(best);
        }
    }
    kept.sort_unstable();
    kept
}

#[test]
fn a_fold_keeps_and_estimates_what_least_squares_says() {
    for (folder, choice) in
        folders().iter().flat_map(|f| FoldChoice::ALL.iter().map(move |&choice| (f, choice)))
    {
        let (plain, model) = (Plain::new(folder), load(folder));
        let (config, moments) = (&plain.config, moments(&plain));
        let settings = Settings { fold_choice: choice, ..folding() };
        let mut session =
            Session::new(Arc::clone(&model), settings, LIMITS, Some(&calibrated(&model))).unwrap();
        let mut references = HashMap::new();
        for (layer, block) in (1..3).flat_map(|layer| Block::ALL.map(|block| (layer, block))) {
            let (unit, keep, kept) = match block {
                Block::Attention => (config.head_dim, 3, session.kept_heads(layer).unwrap().unwrap()),
                Block::Mlp => (1, 16, session.kept_channels(layer).unwrap().unwrap()),
            };
            let moments = &moments[&(layer, block)];
            assert_eq!(
                kept,
                chosen(moments, plain.last(layer, block), unit, keep, choice),
                "{layer} {block:?}"
            );
            references.insert((layer, block), Reference::new(moments, channels_of(&kept, unit)));
        }
        let tokens = random_tokens(2, 2 * SEQ_LEN);
        session.forward(&tokens, 2, None, true).unwrap();
        let frequencies = plain.frequencies(10_000.0);
        let want = plain.logits(&tokens, SEQ_LEN, &|_| frequencies.clone(), &mut |layer, block, _, a| {
            if let Some(reference) = references.get(&(layer, block)) {
                reference.fill(a);
            }
        });
        assert_close("logits", &session.logits(2).unwrap(), &want, 1e-4);
        assert_eq!(session.scores(1, Block::Mlp).unwrap(), None);
    }
}

/// The state of a correction in f64.
struct Correction {
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
    fn new(reference: Reference, dense: &[f64], adapt: &AdaptSettings) -> Self {
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

    /// Learns from the rows of a where `probe` says so, and returns the corrected output of all.
    fn correct(&mut self, a: &[f64], is_probed: impl Fn(usize) -> bool) -> Vec<f64> {
        const GAIN: f64 = 1.0 / 32.0;
        let (n, h, width) = (self.reference.kept.len(), 16, self.reference.means.len());
        let Reference { kept, means, .. } = &self.reference;
        let features: Vec<f64> =
            a.chunks_exact(width).flat_map(|row| kept.iter().map(move |&c| row[c] - means[c])).collect();
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
        }
        let mut out = product(&features, &transposed(&self.weight, n), n);
        out.iter_mut().enumerate().for_each(|(at, y)| *y += self.at_mean[at % h]);
        out
    }

    /// a (T, C) of least norm with W·a = out.
    fn states_for(&self, out: &[f64]) -> Vec<f64> {
        let (h, width) = (16, self.reference.means.len());
        let back = transposed(&self.dense, width);
        let gram = product(&self.dense, &back, width);
        let solved = solve(&gram, &transposed(out, h), h);
        transposed(&product(&back, &solved, h), out.len() / h)
    }
}

fn adapting(metric: AdaptMetric) -> Settings {
    let mode = Adapt::Probe { tokens: None };
    let adapt = AdaptSettings {
        mode,
        metric,
        forgetting: 0.9,
        prior_tokens: 20,
        every: 1,
        ..AdaptSettings::default()
    };
    // All tokens of all samples, so that the reference needs no choice.
    Settings { adapt, probe_tokens: 1.0, probe_samples: 1.0, ..folding() }
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
                    let out = state.correct(a, |_| true);
                    a.copy_from_slice(&state.states_for(&out));
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
fn a_ratio_of_0_is_the_dense_model_to_the_bit() {
    for folder in folders() {
        let model = load(&folder);
        let tokens = random_tokens(3, SEQ_LEN);
        let logits = |settings: Settings, calibration: Option<&Calibration>| {
            let mut session = Session::new(Arc::clone(&model), settings, LIMITS, calibration).unwrap();
            session.forward(&tokens, 1, None, true).unwrap();
            bits(&session.logits(1).unwrap())
        };
        let dense = logits(Settings { skip_layers: vec![0], ..Settings::default() }, None);
        let zero = Settings { prune_ratio: 0.0, ..adapting(AdaptMetric::Full) };
        assert_eq!(logits(zero, Some(&calibrated(&model))), dense);
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

#[test]
fn second_moments_are_the_same_in_any_number_of_passes() {
    let [folder, _] = folders();
    let model = load(&folder);
    let run = |fold_memory: usize, linear_rank: usize| {
        let options = CalibrationOptions {
            seq_len: SEQ_LEN,
            batch_size: 4,
            linear_rank,
            fold: true,
            fold_memory,
            ..Default::default()
        };
        let mut done = Vec::new();
        let tokens = random_tokens(1, SAMPLES * SEQ_LEN);
        let calibration = calibrate(&model, &tokens, options, |samples| done.push(samples)).unwrap();
        (calibration, done, options.passes(&model.config))
    };
    // 16² and 24² floats per layer.
    let of_layer = 4 * (16 * 16 + 24 * 24);
    let (whole, done, passes) = run(0, 0);
    assert_eq!((done, passes), (vec![4, 8, 9], 1));
    for (memory, layers_at_a_time) in [(1, 1), (of_layer - 1, 1), (2 * of_layer - 1, 1), (2 * of_layer, 2)] {
        let (calibration, done, passes) = run(memory, 0);
        assert_eq!(passes, 3usize.div_ceil(layers_at_a_time), "{memory}");
        assert_eq!(done.last(), Some(&(passes * SAMPLES)));
        assert_eq!(calibration, whole, "{memory}");
    }
    let (calibration, done, passes) = run(1, 2);
    assert_eq!((done.last(), passes), (Some(&(4 * SAMPLES)), 4));
    assert_eq!(calibration.layers[2][1].second, whole.layers[2][1].second);
}

#[test]
fn a_history_file_holds_what_folds_need() {
    let [folder, _] = folders();
    let model = load(&folder);
    let calibration = calibrated(&model);
    let path = folder.file("history.safetensors");
    calibration.save(&path).unwrap();
    let loaded = Calibration::load(&path, &model.fingerprint, &model.config).unwrap();
    assert_eq!(loaded, calibration);
    let fold = |calibration: &Calibration| Fold::new(&model, &folding(), calibration, |_| ()).unwrap();
    assert_eq!(fold(&loaded).model.fingerprint, fold(&calibration).model.fingerprint);
    let other = Settings { fold_choice: FoldChoice::Score, ..folding() };
    let other = Fold::new(&model, &other, &calibration, |_| ()).unwrap();
    assert_ne!(other.model.fingerprint, fold(&calibration).model.fingerprint);
}

/// As groups of channels need it; kept channels are reported as the checkpoint numbers them.
#[test]
fn a_model_with_sorted_channels_folds_the_same() {
    for folder in folders() {
        let model = load(&folder);
        let calibration = calibrated(&model);
        let order = Some(calibration.channel_order.clone());
        let backend = Arc::new(Cpu::new(2).unwrap());
        let sorted = Arc::new(Model::load_ordered(&folder.source(), true, backend, order, |_| ()).unwrap());
        let run = |model: &Arc<Model<Cpu>>| {
            let mut session = Session::new(Arc::clone(model), folding(), LIMITS, Some(&calibration)).unwrap();
            session.forward(&random_tokens(2, SEQ_LEN), 1, None, true).unwrap();
            (session.kept_channels(2).unwrap(), session.logits(1).unwrap())
        };
        let ((kept, logits), (of_sorted, sorted)) = (run(&model), run(&sorted));
        assert_eq!(kept, of_sorted);
        let want: Vec<f64> = logits.iter().map(|&x| f64::from(x)).collect();
        assert_close("logits", &sorted, &want, 1e-5);
    }
}

#[test]
fn what_cannot_be_folded_is_refused() {
    let [folder, _] = folders();
    let model = load(&folder);
    let calibration = calibrated(&model);
    let new = |settings: Settings, calibration: Option<&Calibration>| {
        Session::new(Arc::clone(&model), settings, LIMITS, calibration).map(|_| ())
    };
    assert_error(new(folding(), None), &["method fold", "calibration"]);
    let mut without = calibration.clone();
    without.layers[1][0].second = None;
    assert_error(new(folding(), Some(&without)), &["method fold", "second moments"]);
    let other = Calibration { fingerprint: "other".to_string(), ..calibration.clone() };
    assert_error(new(folding(), Some(&other)), &["fingerprint"]);
    assert_error(new(Settings { dense_below: 5, ..folding() }, Some(&calibration)), &["dense_below", "fold"]);
    let pp = Settings { method: Method::ProbePruning, ..adapting(AdaptMetric::Full) };
    assert_error(new(pp, None), &["adapt probe", "fold"]);
    assert_error(new(Settings { channel_group: 8, ..folding() }, Some(&calibration)), &["channel_group 8"]);

    let fold = Arc::new(Fold::new(&model, &folding(), &calibration, |_| ()).unwrap());
    assert_error(
        Session::of_fold(Arc::clone(&fold), adapting(AdaptMetric::Full), LIMITS, None).map(|_| ()),
        &["adapt probe", "folded"],
    );
    let mut session = Session::of_fold(Arc::clone(&fold), folding(), LIMITS, None).unwrap();
    assert_error(session.pin(&[[None, None], [None, None], [None, None]]), &["folded"]);
    // A folded model is a dense one that has fewer channels: nothing more can be pruned from it.
    Session::new(Arc::clone(&fold.model), Settings::default_for(3), LIMITS, None).unwrap();
    let again = Settings { method: Method::ProbePruning, ..folding() };
    assert_error(
        Session::new(Arc::clone(&fold.model), again, LIMITS, None).map(|_| ()),
        &["method pp", "pruned"],
    );
    let own = Calibration { fingerprint: fold.model.fingerprint.clone(), ..calibration.clone() };
    assert_error(Fold::new(&fold.model, &folding(), &own, |_| ()).map(|_| ()), &["model to fold"]);

    let broken = Folder::llama_with(serde_json::json!({ "num_hidden_layers": 3 }));
    broken.edit_tensors(|tensors| {
        tensors.get_mut("model.layers.2.mlp.down_proj.weight").unwrap().1[7] = f32::NAN
    });
    let broken = load(&broken);
    let of_broken = Calibration { fingerprint: broken.fingerprint.clone(), ..calibration.clone() };
    assert_error(
        Fold::new(&broken, &folding(), &of_broken, |_| ()).map(|_| ()),
        &["layer 2", "mlp", "folded"],
    );
    let mut stopped = 0;
    let stop = |layers: usize| {
        stopped = layers;
        Err(probeprune::Error::Cancelled)
    };
    assert!(matches!(Fold::new(&model, &folding(), &calibration, stop), Err(probeprune::Error::Cancelled)));
    assert_eq!(stopped, 2);
}
