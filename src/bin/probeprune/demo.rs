//! `probeprune demo`, the default command: dense against pruned, on text that the bundled model has not seen.

use std::time::{Duration, Instant};

use clap::Args;
use probeprune::{
    backend::Backend,
    corpus::{Topic, text},
    prune::{
        BatchShape,
        calibration::Calibration,
        settings::{Compensation, Method, Settings},
    },
    session::{CalibrationOptions, GenerateOptions, Limits, Session},
    tokenizer::Tokenizer,
};
use serde::Serialize;

use crate::{
    args::ComputeArgs,
    device::{Task, with_model},
    failure::{Result, print},
    input::Loaded,
    progress,
    statistics::median,
    table::{Format, Table, csv, json, percent},
};

/// Seeds that no training text has.
const CALIBRATION_SEED: u64 = 4_000;
const EVALUATION_SEED: u64 = 5_000;

/// Shape of the batches; a batch has one topic.
const SHAPE: BatchShape = BatchShape { samples: 16, tokens: 64 };
const CALIBRATION_SAMPLES: usize = 128;

/// Methods and compensations.
const METHODS: [(Method, Compensation); 7] = [
    (Method::ProbePruning, Compensation::None),
    (Method::ProbePruning, Compensation::ProbeMean),
    (Method::ProbePruning, Compensation::Linear { rank: RANK }),
    (Method::FullBatch, Compensation::None),
    (Method::WandaSp, Compensation::None),
    (Method::Flap, Compensation::None),
    (Method::Random, Compensation::None),
];
/// The largest rank with which both models need no more FLOPs than with plain pp: fewer kept channels pay for it.
const RANK: usize = 5;
const RATIOS: [f64; 3] = [0.2, 0.4, 0.6];

/// Times are medians over the rounds that fit into this budget, at least one and at most `MAX_ROUNDS`.
const TIME_BUDGET: Duration = Duration::from_secs(30);
const MAX_ROUNDS: usize = 7;

/// The generated text: its prompt, and its length.
const PROMPT_TOPIC: Topic = Topic::Stories;
const PROMPT_TOKENS: usize = 32;
const NEW_TOKENS: usize = 40;

/// Flags of `demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// A folder, bundled:NAME, or org/name in the local Hugging Face cache
    #[arg(long, value_name = "M", default_value = DemoArgs::MODEL)]
    model: String,
    #[command(flatten)]
    compute: ComputeArgs,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl DemoArgs {
    const MODEL: &str = "bundled:tiny-llama";
}

impl Default for DemoArgs {
    fn default() -> Self {
        Self { model: Self::MODEL.to_string(), compute: ComputeArgs::default(), format: Format::default() }
    }
}

/// A method at a ratio, and its measurements.
struct Case<B: Backend> {
    settings: Settings,
    session: Session<B>,
    losses: Vec<f64>,
    /// Per batch, the seconds of every round.
    times: Vec<Vec<f64>>,
}

/// A line of the table.
#[derive(Debug, Serialize)]
struct Row {
    /// With its compensation, if any.
    method: String,
    prune_ratio: f64,
    perplexity: f64,
    seconds: f64,
    /// Of the dense time.
    time_share: f64,
    flops_share: f64,
    /// (perplexity − dense perplexity) / (latency saved, in % of dense latency); none where nothing was saved.
    prr: Option<f64>,
}

/// Runs the command.
pub(crate) fn run(args: &DemoArgs) -> Result<()> {
    with_model(&args.model, true, &args.compute, args)
}

impl Task for &DemoArgs {
    fn run<B: Backend>(self, loaded: Loaded<B>) -> Result<()> {
        let tokenizer = loaded.tokenizer()?;
        let tokens =
            sample_tokens(&tokenizer, &Topic::ALL, CALIBRATION_SEED, CALIBRATION_SAMPLES * SHAPE.tokens)?;
        let options = CalibrationOptions {
            seq_len: SHAPE.tokens,
            batch_size: SHAPE.samples,
            flap: true,
            linear_rank: RANK,
            ..Default::default()
        };
        let calibration = loaded.calibrate(&tokens, Some(CALIBRATION_SAMPLES), options)?;
        let batches = Topic::ALL
            .iter()
            .map(|&topic| sample_tokens(&tokenizer, &[topic], EVALUATION_SEED, SHAPE.rows()))
            .collect::<Result<Vec<_>>>()?;

        let dense = settings(&loaded, (Method::None, Compensation::None), 0.0);
        let mut cases = vec![case(&loaded, dense, &calibration, batches.len())?];
        for ratio in RATIOS {
            for method in METHODS {
                let settings = settings(&loaded, method, ratio);
                cases.push(case(&loaded, settings, &calibration, batches.len())?);
            }
        }
        let rounds = measure(&mut cases, &batches)?;
        let rows = rows(&cases);
        match self.format {
            Format::Json => return print(&json(&rows)),
            Format::Csv => return print(&csv(&rows)),
            Format::Markdown => return print(&table(&rows).markdown()),
            Format::Table => {}
        }
        print(&format!(
            "{} on unseen text: {} topics, each a batch of {} × {} tokens; {}; \
         each time is the median of {rounds}\n{}\
         Time and FLOPs are shares of dense and include the probe. \
         PRR = perplexity lost per % of time saved: lower is better.\n",
            loaded.name,
            batches.len(),
            SHAPE.samples,
            SHAPE.tokens,
            loaded.device,
            table(&rows).text(),
        ))?;
        show_text(&loaded, &tokenizer, &calibration)
    }
}

fn settings<B: Backend>(
    loaded: &Loaded<B>,
    (method, compensate): (Method, Compensation),
    prune_ratio: f64,
) -> Settings {
    // The paper's 3 of 32 layers and multiples of 64 channels, scaled down: small models have none to spare.
    let skipped = (loaded.model.config.num_hidden_layers * 3).div_ceil(32);
    Settings {
        method,
        prune_ratio,
        compensate,
        skip_layers: (0..skipped).collect(),
        round_channels: 8,
        ..Settings::default()
    }
}

fn case<B: Backend>(
    loaded: &Loaded<B>,
    settings: Settings,
    calibration: &Calibration,
    batches: usize,
) -> Result<Case<B>> {
    let limits = Limits { samples: SHAPE.samples, tokens: SHAPE.tokens, capacity: 0 };
    let session = Session::new(loaded.model.clone(), settings.clone(), limits, Some(calibration))?;
    Ok(Case { settings, session, losses: Vec::new(), times: vec![Vec::new(); batches] })
}

/// The first `count` tokens of text about these topics.
fn sample_tokens(tokenizer: &Tokenizer, topics: &[Topic], seed: u64, count: usize) -> Result<Vec<u32>> {
    // A token is at least a byte; most are more, so most of the text is not needed.
    let mut bytes = 2 * count;
    loop {
        let mut tokens = tokenizer.encode(&text(topics, seed, bytes), true)?;
        if tokens.len() >= count {
            tokens.truncate(count);
            return Ok(tokens);
        }
        bytes *= 2;
    }
}

/// Runs each batch through all cases one after another, so that a slow moment of the machine affects all of them. Returns
/// the number of rounds.
fn measure<B: Backend>(cases: &mut [Case<B>], batches: &[Vec<u32>]) -> Result<usize> {
    let bar = progress::bar("measuring", MAX_ROUNDS * batches.len());
    for case in &mut *cases {
        case.session.evaluate(&batches[0], SHAPE.samples, None, false)?;
    }
    let start = Instant::now();
    let mut rounds = 0;
    // Another round only if it will probably end in time.
    while rounds == 0
        || rounds < MAX_ROUNDS && start.elapsed() * (rounds as u32 + 1) / rounds as u32 <= TIME_BUDGET
    {
        for (index, batch) in batches.iter().enumerate() {
            for case in &mut *cases {
                let start = Instant::now();
                let loss = case.session.evaluate(batch, SHAPE.samples, None, true)?;
                case.times[index].push(start.elapsed().as_secs_f64());
                // Later rounds find these batches in the history already.
                if rounds == 0 {
                    case.losses.push(loss);
                }
            }
            bar.inc(1);
        }
        rounds += 1;
    }
    bar.finish_and_clear();
    Ok(rounds)
}

fn rows<B: Backend>(cases: &[Case<B>]) -> Vec<Row> {
    let measured = |case: &Case<B>| {
        let mean = case.losses.iter().sum::<f64>() / case.losses.len() as f64;
        (mean.exp(), case.times.iter().map(|times| median(times)).sum::<f64>())
    };
    let (dense_perplexity, dense_seconds) = measured(&cases[0]);
    let row = |case: &Case<B>| {
        let (perplexity, seconds) = measured(case);
        let saved = 100.0 * (1.0 - seconds / dense_seconds);
        Row {
            method: match (case.settings.method, case.settings.compensate) {
                (Method::None, _) => "dense".to_string(),
                (method, Compensation::None) => method.to_string(),
                (method, compensate) => format!("{method}+{compensate}"),
            },
            prune_ratio: case.settings.prune_ratio,
            perplexity,
            seconds,
            time_share: seconds / dense_seconds,
            flops_share: case.session.shares(SHAPE).total,
            prr: (saved > 0.0).then(|| (perplexity - dense_perplexity) / saved),
        }
    };
    cases.iter().map(row).collect()
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new(["Method", "Pruned", "Perplexity", "Seconds", "Time", "FLOPs", "PRR"]);
    for row in rows {
        table.row([
            row.method.clone(),
            percent(row.prune_ratio),
            format!("{:.3}", row.perplexity),
            format!("{:.3}", row.seconds),
            percent(row.time_share),
            percent(row.flops_share),
            row.prr.map_or("–".to_string(), |prr| format!("{:.4}", prr + 0.0)),
        ]);
    }
    table
}

/// A line of text by the dense model, and by pp at 40 %.
fn show_text<B: Backend>(loaded: &Loaded<B>, tokenizer: &Tokenizer, calibration: &Calibration) -> Result<()> {
    let prompt = sample_tokens(tokenizer, &[PROMPT_TOPIC], EVALUATION_SEED + 1, PROMPT_TOKENS)?;
    let options = GenerateOptions {
        max_new_tokens: NEW_TOKENS,
        eos_token_ids: loaded.model.config.eos_token_ids.clone(),
        ..GenerateOptions::default()
    };
    let one_line = |tokens: &[u32]| -> Result<String> {
        Ok(tokenizer.decode(tokens, true)?.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    print(&format!("\nprompt     {} ...\n", one_line(&prompt)?))?;
    for (name, method, ratio) in [
        ("dense", (Method::None, Compensation::None), 0.0),
        ("pp at 40 %", (Method::ProbePruning, Compensation::ProbeMean), 0.4),
    ] {
        let limits = Limits { samples: 1, tokens: PROMPT_TOKENS, capacity: PROMPT_TOKENS + NEW_TOKENS };
        let settings = settings(loaded, method, ratio);
        let mut session = Session::new(loaded.model.clone(), settings, limits, Some(calibration))?;
        let generated = session.generate(std::slice::from_ref(&prompt), &options, |_, _| ())?;
        print(&format!("{name:10} ... {}\n", one_line(&generated.tokens[0])?))?;
    }
    Ok(())
}
