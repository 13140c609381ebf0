//! The runs: the repetitions of all configurations alternate.

use std::{sync::Arc, time::Instant};

use indicatif::ProgressBar;
use probeprune::{
    backend::Backend,
    model::{Model, timeline::Step},
    prune::{
        BatchShape,
        calibration::Calibration,
        settings::{DenseBelow, Method, Settings},
    },
    session::{CalibrationOptions, GenerateOptions, Limits, Session, calibrate},
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{
    cli::{Cli, Test, TestArgs},
    failure::{Result, note},
    probe, progress,
    statistics::median,
};

/// Calibration windows of static methods, whose time does not depend on the kept sets.
const CALIBRATION_WINDOWS: usize = 2;

/// One configuration's measurement of one test.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) test: Test,
    /// Which of the variants.
    pub(crate) variant: usize,
    /// B × S of the prompt.
    pub(crate) shape: BatchShape,
    /// Tokens decoded after it, per sample.
    pub(crate) decoded: usize,
    /// Of every repetition.
    pub(crate) seconds: Vec<f64>,
    /// Shares of the dense model's projection FLOPs; none for decoding.
    pub(crate) flops_share: Option<f64>,
    /// Repetitions that fell back to dense.
    pub(crate) dense_batches: usize,
    /// blake3 of the logits (B, V) after the last token.
    pub(crate) logits: String,
    /// Whether every repetition had the same.
    pub(crate) same_logits: bool,
    pub(crate) breakdown: Option<Breakdown>,
}

/// The steps' times of a forward: of the prompt, or of the last decoding step.
#[derive(Debug)]
pub(crate) struct Breakdown {
    /// Medians over the repetitions, in the order of [`Step::ALL`].
    pub(crate) seconds: [f64; Step::ALL.len()],
    /// Median of the total with time stamps: of the prompt's run, or of a decoding step on average.
    pub(crate) whole: f64,
}

/// A session of one variant.
struct Case<'a, B: Backend> {
    variant: usize,
    session: Session<B>,
    calibration: Option<&'a Calibration>,
}

/// One run.
struct Round {
    /// Until the first token of every sample.
    first: f64,
    /// From there to the last one.
    rest: f64,
    logits: blake3::Hash,
    steps: [f64; Step::ALL.len()],
}

/// Calibrations by the length of their windows.
pub(crate) type Calibrations = Vec<(usize, Calibration)>;

/// A calibration for every prompt length, if any variant needs one.
pub(crate) fn calibrations<B: Backend>(
    model: &Arc<Model<B>>,
    variants: &[Settings],
    args: &Cli,
) -> Result<Calibrations> {
    let sorts = |settings: &Settings| settings.method != Method::None && settings.channel_group > 1;
    if !variants.iter().any(|settings| is_calibrated(settings) || sorts(settings)) {
        return Ok(Vec::new());
    }
    note("calibrated with random tokens: times are meaningful, kept sets are not");
    let flap = variants.iter().any(|settings| settings.method == Method::Flap);
    let ranks = variants.iter().filter(|settings| is_calibrated(settings));
    let linear_rank = ranks.map(|settings| settings.compensate.rank()).max().unwrap_or(0);
    let [mut lengths, ..] = args.tests.sizes()?;
    lengths.sort_unstable();
    lengths.dedup();
    let one = |seq_len: usize| {
        Limits { samples: CALIBRATION_WINDOWS, tokens: seq_len, capacity: 0 }.check(&model.config)?;
        let tokens = tokens(model, args, CALIBRATION_WINDOWS * seq_len);
        let options = CalibrationOptions {
            seq_len,
            batch_size: CALIBRATION_WINDOWS,
            flap,
            linear_rank,
            ..Default::default()
        };
        Ok((seq_len, calibrate(model, &tokens, options, |_| ())?))
    };
    lengths.into_iter().map(one).collect()
}

/// Whether a session needs a calibration.
fn is_calibrated(settings: &Settings) -> bool {
    let fitted = settings.method == Method::ProbePruning && settings.compensate.rank() > 0;
    settings.method.needs_calibration() || fitted
}

/// Random tokens, the same for every call.
fn tokens<B: Backend>(model: &Model<B>, args: &Cli, count: usize) -> Vec<u32> {
    let mut rng = ChaCha8Rng::seed_from_u64(args.tuning.seed);
    let vocabulary = model.config.vocab_size as u32;
    (0..count).map(|_| rng.random_range(0..vocabulary)).collect()
}

/// Measures every test of every variant at every size. `variants[0]` is dense.
pub(crate) fn measure<B: Backend>(
    model: &Arc<Model<B>>,
    variants: &[Settings],
    calibrations: &Calibrations,
    args: &Cli,
    warmup: usize,
) -> Result<Vec<Measured>> {
    let [prompts, batches, decoded] = args.tests.sizes()?;
    let generating = args.tests.wants(Test::Decode) || args.tests.wants(Test::PromptDecode);
    let mut plan = Vec::new();
    for &samples in &batches {
        for &tokens in &prompts {
            let shape = BatchShape { samples, tokens };
            plan.extend(args.tests.wants(Test::Prompt).then_some((shape, 0)));
            plan.extend(decoded.iter().filter(|&&n| n > 0 && generating).map(|&n| (shape, n)));
        }
    }
    let runs = plan
        .iter()
        .flat_map(|&(shape, decoded)| variants.iter().map(move |variant| (of_run(variant, decoded), shape)));
    probe::note_large(model.config.num_hidden_layers, runs);
    let bar = progress::bar("measuring", 0);
    let runner = Runner { model, variants, calibrations, args, warmup, bar };
    runner.bar.set_length((plan.len() * runner.rounds_of_case() * variants.len()) as u64);
    let mut measured = Vec::new();
    for (shape, decoded) in plan {
        measured.extend(runner.group(shape, decoded)?);
    }
    runner.bar.finish_and_clear();
    Ok(measured)
}

struct Runner<'a, B: Backend> {
    model: &'a Arc<Model<B>>,
    variants: &'a [Settings],
    calibrations: &'a Calibrations,
    args: &'a Cli,
    warmup: usize,
    bar: ProgressBar,
}

impl<'a, B: Backend> Runner<'a, B> {
    /// Warm-up included.
    fn rounds_of_case(&self) -> usize {
        let TestArgs { repetitions, breakdown, .. } = self.args.tests;
        self.warmup + repetitions * (1 + usize::from(breakdown))
    }

    /// All variants at one size, those that fall back to dense pruned as well; `decoded` of 0 for prompts alone.
    fn group(&self, shape: BatchShape, decoded: usize) -> Result<Vec<Measured>> {
        let mut cases = Vec::new();
        for (variant, settings) in self.variants.iter().enumerate() {
            let case = self.case(variant, settings, shape, decoded)?;
            let falls_back = case.session.falls_back(shape);
            cases.push(case);
            if falls_back {
                // What pruning would have taken.
                let pruned = Settings { dense_below: DenseBelow::NEVER, ..settings.clone() };
                cases.push(self.case(variant, &pruned, shape, decoded)?);
            }
        }
        // After the sessions, which have refused what is too large.
        let tokens = tokens(self.model, self.args, shape.rows());
        let repetitions = self.args.tests.repetitions;
        let more = (cases.len() - self.variants.len()) * self.rounds_of_case();
        self.bar.inc_length(more as u64);
        self.rounds(&mut cases, self.warmup, &tokens, shape, decoded)?;
        let before: Vec<usize> = cases.iter().map(|case| case.session.dense_batches()).collect();
        let rounds = self.rounds(&mut cases, repetitions, &tokens, shape, decoded)?;
        let fallen: Vec<usize> =
            cases.iter().zip(before).map(|(case, before)| case.session.dense_batches() - before).collect();
        let mut recorded = Vec::new();
        if self.args.tests.breakdown {
            for case in &mut cases {
                case.session.record_steps(true)?;
            }
            recorded = self.rounds(&mut cases, repetitions, &tokens, shape, decoded)?;
        }
        let tests: &[Test] = if decoded == 0 { &[Test::Prompt] } else { &[Test::Decode, Test::PromptDecode] };
        let mut measured = Vec::new();
        for &test in tests.iter().filter(|&&test| self.args.tests.wants(test)) {
            for (at, (rounds, case)) in rounds.iter().zip(&cases).enumerate() {
                measured.push(Measured {
                    test,
                    variant: case.variant,
                    shape,
                    decoded,
                    seconds: rounds.iter().map(|round| round.seconds(test)).collect(),
                    flops_share: (test == Test::Prompt).then(|| case.session.shares(shape).total),
                    dense_batches: fallen[at],
                    logits: rounds[0].logits.to_string(),
                    same_logits: rounds.iter().all(|round| round.logits == rounds[0].logits),
                    breakdown: recorded.get(at).and_then(|rounds| breakdown(rounds, test, decoded)),
                });
            }
        }
        Ok(measured)
    }

    /// Runs every case `count` times, one after another in each round.
    fn rounds(
        &self,
        cases: &mut [Case<'_, B>],
        count: usize,
        tokens: &[u32],
        shape: BatchShape,
        decoded: usize,
    ) -> Result<Vec<Vec<Round>>> {
        let mut rounds: Vec<Vec<Round>> = cases.iter().map(|_| Vec::with_capacity(count)).collect();
        for _ in 0..count {
            for (case, rounds) in cases.iter_mut().zip(&mut rounds) {
                rounds.push(case.round(tokens, shape, decoded)?);
                self.bar.inc(1);
            }
        }
        Ok(rounds)
    }

    fn case(
        &self,
        variant: usize,
        settings: &Settings,
        shape: BatchShape,
        decoded: usize,
    ) -> Result<Case<'a, B>> {
        let settings = of_run(settings, decoded);
        // The prompt's run yields every sample's first token.
        let capacity = if decoded == 0 { 0 } else { shape.tokens.saturating_add(decoded).saturating_add(1) };
        let mut calibrations = self.calibrations.iter().filter(|_| is_calibrated(&settings));
        let calibration = calibrations.find_map(|(length, of)| (*length == shape.tokens).then_some(of));
        let limits = Limits { samples: shape.samples, tokens: shape.tokens, capacity };
        let session = Session::new(Arc::clone(self.model), settings, limits, calibration)?;
        Ok(Case { variant, session, calibration })
    }
}

impl<B: Backend> Case<'_, B> {
    /// One run, always from the same history, so that all runs give the same bits.
    fn round(&mut self, tokens: &[u32], shape: BatchShape, decoded: usize) -> Result<Round> {
        let session = &mut self.session;
        let prompts: Vec<Vec<u32>> = tokens.chunks_exact(shape.tokens).map(<[u32]>::to_vec).collect();
        let start = Instant::now();
        let (first, last) = if decoded == 0 {
            session.forward(tokens, shape.samples, None, true)?;
            // Waits for the GPU with a download of a few tokens; the logits are fetched later.
            session.predict()?;
            session.next_tokens()?;
            let end = Instant::now();
            (end, end)
        } else {
            let options = GenerateOptions { max_new_tokens: decoded + 1, ..GenerateOptions::default() };
            let (mut first, mut last) = (None, start);
            session.generate(&prompts, &options, |_, _| {
                last = Instant::now();
                first.get_or_insert(last);
            })?;
            (first.unwrap_or(last), last)
        };
        let steps = session.step_seconds()?;
        session.reset_history(self.calibration);
        // The download also waits for the history's reset.
        let logits = blake3::hash(bytemuck::cast_slice(&session.next_logits()?));
        let seconds = |from: Instant, to: Instant| (to - from).as_secs_f64();
        Ok(Round { first: seconds(start, first), rest: seconds(first, last), logits, steps })
    }
}

impl Round {
    fn seconds(&self, test: Test) -> f64 {
        match test {
            Test::Prompt => self.first,
            Test::Decode => self.rest,
            Test::PromptDecode => self.first + self.rest,
        }
    }
}

/// A variant's settings for a run that decodes so many tokens: with a cache, no batch falls back to dense.
fn of_run(settings: &Settings, decoded: usize) -> Settings {
    let dense_below = if decoded == 0 { settings.dense_below } else { DenseBelow::NEVER };
    Settings { dense_below, ..settings.clone() }
}

/// From recorded rounds. A generation has stamps of its last step only, so prompt+decode has no breakdown.
fn breakdown(rounds: &[Round], test: Test, decoded: usize) -> Option<Breakdown> {
    let forwards = match test {
        Test::Prompt => 1,
        Test::Decode => decoded,
        Test::PromptDecode => return None,
    };
    let of = |value: &dyn Fn(&Round) -> f64| median(&rounds.iter().map(value).collect::<Vec<_>>());
    Some(Breakdown {
        seconds: std::array::from_fn(|step| of(&|round| round.steps[step])),
        whole: of(&|round| round.seconds(test) / forwards as f64),
    })
}
