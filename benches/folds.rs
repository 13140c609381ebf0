//! Time of a fold and of its corrections on the CPU, against the dense model and pp at the same ratio: one process, methods taking
//! turns batch by batch.
//!
//! `cargo bench --bench folds -- --model FOLDER [--prune-ratio 0.4] [--threads 2] [--repeat 9] [--out FILE.json]`
//!
//! "model of its shape" has random weights and the fold's heads and channels: what dense products of that shape take.

use std::{path::PathBuf, sync::Arc, time::Instant};

use clap::Parser;
use probeprune::{
    checkpoint::RandomTensors,
    config::ModelConfig,
    cpu::Cpu,
    model::{Model, fold::Fold},
    prune::{
        BatchShape, counts,
        settings::{Adapt, AdaptSettings, Method, Settings},
    },
    session::{CalibrationOptions, Limits, Session, calibrate},
    source::ModelSource,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

#[derive(Parser)]
struct Args {
    /// A Hugging Face folder.
    #[arg(long)]
    model: String,
    #[arg(long, default_value_t = 0.4)]
    prune_ratio: f64,
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Rounds, after one to warm up.
    #[arg(long, default_value_t = 9)]
    repeat: usize,
    /// Where to write the results.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Passed by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

const SHAPES: [BatchShape; 3] = [
    BatchShape { samples: 4, tokens: 256 },
    BatchShape { samples: 10, tokens: 256 },
    BatchShape { samples: 20, tokens: 64 },
];

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn random_tokens(config: &ModelConfig, seed: u64, n: usize) -> Vec<u32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| rng.random_range(0..config.vocab_size as u32)).collect()
}

/// A model with random weights and as many heads and channels in every layer.
fn of_shape(folded: &Model<Cpu>) -> Model<Cpu> {
    let shapes = folded.weights.layers.iter().map(|layer| layer.shape.clone()).collect();
    let config = ModelConfig { layer_shapes: Some(shapes), ..folded.config.clone() };
    let tensors = RandomTensors::new(&config, 1);
    Model::random(config, &tensors, Arc::clone(&folded.backend), None, |_| ()).expect("a model")
}

/// Times of one shape.
fn times(args: &Args, model: &Arc<Model<Cpu>>, shape: BatchShape) -> Value {
    let BatchShape { samples, tokens } = shape;
    let config = &model.config;
    let options =
        CalibrationOptions { seq_len: tokens, batch_size: samples, fold: true, ..Default::default() };
    let text = random_tokens(config, 1, 4 * shape.rows());
    let calibration = calibrate(model, &text, options, |_| ()).expect("calibration");
    let with = |method, prune_ratio| Settings {
        method,
        prune_ratio,
        ..Settings::default_for(config.num_hidden_layers)
    };
    let limits = Limits { samples, tokens, capacity: 0 };
    let session = |model: &Arc<Model<Cpu>>, settings| {
        Session::new(Arc::clone(model), settings, limits, Some(&calibration)).expect("session")
    };
    let fold = with(Method::Fold, args.prune_ratio);
    // Every batch is probed, whatever the error.
    let probed_by = |tokens| {
        let mode = Adapt::Probe { tokens };
        let adapt = AdaptSettings { mode, every: 1, threshold: 0.0, ..AdaptSettings::default() };
        Settings { adapt, ..fold.clone() }
    };
    let probed = probed_by(None);
    let half = probed_by(Some(counts::probe_shape(&probed, shape).rows() / 2));
    let folded = Arc::new(Fold::new(model, &probed, &calibration, |_| ()).expect("fold"));
    let of_fold = |settings| Session::of_fold(Arc::clone(&folded), settings, limits, None).expect("session");
    let plain = Arc::new(of_shape(&folded.model));
    let none = || Session::new(Arc::clone(&plain), with(Method::None, 0.0), limits, None).expect("session");
    let mut sessions = [
        ("dense", session(model, with(Method::None, 0.0))),
        ("pp", session(model, with(Method::ProbePruning, args.prune_ratio))),
        ("fold", of_fold(fold.clone())),
        ("model of its shape", none()),
        ("fold, probed every batch", of_fold(probed.clone())),
        ("the same, lagged", of_fold(Settings { parallel_probe: true, ..probed })),
        ("the same, by half the tokens", of_fold(half)),
    ];
    let batch = random_tokens(config, 2, shape.rows());
    let mut seconds = vec![Vec::new(); sessions.len()];
    for round in 0..=args.repeat {
        for ((_, session), seconds) in sessions.iter_mut().zip(&mut seconds) {
            let start = Instant::now();
            session.forward(&batch, samples, None, true).expect("forward");
            if round > 0 {
                seconds.push(start.elapsed().as_secs_f64());
            }
        }
    }
    let over = |own: &[f64], other: &[f64]| median(own.iter().zip(other).map(|(a, b)| a / b).collect());
    let row = |((name, session), own): (&(&str, Session<Cpu>), &Vec<f64>)| {
        json!({ "samples": samples, "tokens": tokens, "method": name, "seconds": median(own.clone()),
            "of_dense": over(own, &seconds[0]), "of_pp": over(own, &seconds[1]),
            "flops_share": session.shares(shape).total })
    };
    sessions.iter().zip(&seconds).map(row).collect()
}

fn main() {
    let args = Args::parse();
    let source = ModelSource::locate(&args.model).expect("a model");
    let backend = Arc::new(Cpu::new(args.threads).expect("threads"));
    let model = Arc::new(Model::load(&source, true, backend, |_| ()).expect("the model's weights"));
    let rows: Vec<Value> = SHAPES.into_iter().map(|shape| times(&args, &model, shape)).collect();
    let rows: Vec<&Value> = rows.iter().flat_map(|rows| rows.as_array().expect("rows")).collect();
    let result = json!({ "threads": args.threads, "repeat": args.repeat, "rows": rows });
    let text = serde_json::to_string_pretty(&result).expect("json");
    println!("{text}");
    if let Some(out) = &args.out {
        std::fs::write(out, text + "\n").expect("the results file is writable");
    }
}
