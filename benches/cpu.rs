//! Speed of the CPU backend as ratios, each taken within one interleaved run so that a noisy machine cancels out.
//!
//! `cargo bench --bench cpu -- [--out FILE.json] [--model FOLDER [--pytorch "COMMAND"] [--peer "NAME=COMMAND"]…]`
//! `[--rows FILE [--step NAME]]`
//!
//! - `mlp`: a pruned MLP block against the dense one, hidden 1024, intermediate 2816.
//! - `prefill`, `decode`: a real model against PyTorch float32 and other peers, where a command (tools/peers) measures
//!   one run per line of input.
//! - `authors`: the same model pruned by 40 % against the authors' operations in PyTorch.
//!
//! With `--rows`, the CPU's goals are appended to a file as well, one JSON line each.

#![allow(unreachable_pub)]

#[path = "cpu/goals.rs"]
mod goals;
mod peer;
#[path = "kernels/rows.rs"]
mod rows;

use std::{path::PathBuf, sync::Arc, time::Instant};

use clap::Parser;
use half::bf16;
use peer::Peer;
use probeprune::{
    backend::{Backend, ColumnStatisticOperands, History, Linear, Norm, NormKind, WeightUse},
    checkpoint::{Checkpoint, Tensor},
    config::{LayerShape, ModelConfig},
    cpu::Cpu,
    model::{
        Model,
        block::{self},
        compensation::{Compensation as BlockCompensation, LinearMap},
        context::{Context, Mode},
        kept::Kept,
        scratch::{Batch, Scratch},
        selection::{Probed, Selection},
    },
    prune::{
        BatchShape, Block, counts,
        settings::{Compensation, Method, Metric, Settings},
    },
    session::{GenerateOptions, Limits, Session},
    source::ModelSource,
    weights::{Attention, Layer, Mlp, MlpFirst, Weights},
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rows::Rows;
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};

#[derive(Parser)]
struct Args {
    /// Where to write the results.
    #[arg(long)]
    out: Option<PathBuf>,
    /// A Hugging Face folder for prefill and decode.
    #[arg(long)]
    model: Option<String>,
    /// Command that measures PyTorch on the same model.
    #[arg(long)]
    pytorch: Option<String>,
    /// Commands that measure other programs on the same model, each after its name and an equals sign.
    #[arg(long)]
    peer: Vec<String>,
    /// A file to append the goals' result rows to.
    #[arg(long)]
    rows: Option<PathBuf>,
    /// The step that these rows belong to.
    #[arg(long, default_value = "cpu")]
    step: String,
    /// Interleaved repetitions.
    #[arg(long, default_value_t = 9)]
    repeat: usize,
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Passed by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// A quarter, a half and three quarters of the way through the sorted list.
fn quartiles(values: &[f64]) -> [f64; 3] {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| sorted[quarter * (sorted.len() - 1) / 4])
}

fn median(values: &[f64]) -> f64 {
    quartiles(values)[1]
}

/// Median and quartiles of a/b, pair by pair.
fn ratio(a: &[f64], b: &[f64]) -> Value {
    let ratios: Vec<f64> = a.iter().zip(b).map(|(a, b)| a / b).collect();
    let [low, median, high] = quartiles(&ratios);
    json!({ "median": median, "quartiles": [low, high] })
}

fn seconds(f: impl FnOnce()) -> f64 {
    let start = Instant::now();
    f();
    start.elapsed().as_secs_f64()
}

const HIDDEN: usize = 1024;
const INTERMEDIATE: usize = 2816;

fn bf16_tensor(rows: usize, columns: usize, values: Vec<bf16>) -> Tensor {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let view =
        TensorView::new(Dtype::BF16, vec![rows, columns], bytemuck::cast_slice(&values)).expect("a tensor");
    safetensors::serialize_to_file([("w", view)], None, &folder.path().join("model.safetensors"))
        .expect("written");
    let checkpoint =
        Checkpoint::open(&ModelSource::Folder(folder.path().into()), false).expect("a checkpoint");
    checkpoint.require("w").expect("the tensor")
}

/// A one-layer model whose MLP block has the shape to measure; its attention is minimal and never runs.
fn mlp_model(backend: Arc<Cpu>) -> Model<Cpu> {
    let config = format!(
        r#"{{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": {HIDDEN},
            "intermediate_size": {INTERMEDIATE}, "num_attention_heads": 8, "num_hidden_layers": 1, "vocab_size": 8,
            "max_position_embeddings": 1024, "rms_norm_eps": 1e-5}}"#
    );
    let config = ModelConfig::from_json("bench".as_ref(), &config, None).expect("config");
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut linear = |rows: usize, columns: usize| {
        let values = (0..rows * columns).map(|_| rng.random_range(-0.05f32..0.05));
        // As checkpoints have them: bfloat16.
        let tensor = bf16_tensor(rows, columns, values.map(bf16::from_f32).collect());
        let weight = backend.weight(&tensor, WeightUse::Rows).expect("weight");
        Linear { weight, bias: None, out_features: rows, in_features: columns }
    };
    let norm = || Norm { kind: NormKind::Rms, weight: Some(vec![1.0; HIDDEN].into()), bias: None, eps: 1e-5 };
    let layer = Layer {
        shape: LayerShape::of(&config),
        attention: Attention {
            norm: norm(),
            q_proj: linear(1, 1),
            k_proj: linear(1, 1),
            v_proj: linear(1, 1),
            o_proj: linear(1, 1),
            kv_head_of: vec![0].into(),
        },
        mlp: Mlp {
            norm: norm(),
            first: MlpFirst::Gated {
                gate_proj: linear(INTERMEDIATE, HIDDEN),
                up_proj: linear(INTERMEDIATE, HIDDEN),
            },
            down_proj: linear(HIDDEN, INTERMEDIATE),
        },
    };
    let weights = Weights {
        embed_tokens: linear(8, HIDDEN).weight,
        embed_positions: None,
        project_in: None,
        layers: vec![layer],
        final_norm: None,
        project_out: None,
        lm_head: linear(8, HIDDEN),
    };
    Model { config, backend, weights, fingerprint: String::new(), channel_order: None }
}

/// A probed MLP block that keeps what `settings` say, and how many channels that is.
fn probed(model: &Model<Cpu>, settings: &Settings, shape: BatchShape) -> (Selection<Cpu>, usize) {
    let (backend, config) = (&*model.backend, &model.config);
    let channels = counts::kept_channels(settings, config, settings.prune_ratio).expect("channels");
    let kept = Kept::new(backend, config, Block::Mlp, 1, channels).expect("memory");
    let mut statistic = vec![0.0; INTERMEDIATE].into();
    backend.column_statistic(ColumnStatisticOperands {
        projection: &model.weights.layers[0].mlp.down_proj,
        metric: Metric::Ppsp,
        out: &mut statistic,
    });
    let rank = settings.compensate.rank();
    let linear = |out_features: usize, in_features: usize, usage| {
        let tensor =
            Tensor::from_f32(vec![out_features, in_features], vec![0.01; out_features * in_features]);
        let weight = backend.weight(&tensor, usage).expect("weight");
        Linear { weight, bias: Some(vec![0.0; out_features].into()), out_features, in_features }
    };
    let map = (rank > 0).then(|| LinearMap {
        directions: linear(rank, HIDDEN, WeightUse::Rows),
        negated: linear(INTERMEDIATE, rank, WeightUse::Columns),
        coefficients: vec![0.01; rank * INTERMEDIATE].into(),
    });
    let compensation = (settings.compensate != Compensation::None).then(|| {
        let prior = Some(vec![0.0; INTERMEDIATE].into());
        BlockCompensation::new(backend, config, &kept, prior, map).expect("memory")
    });
    // As sessions have it: one row for linear maps, and no updates of energies around a mean.
    let mut layout = settings.history_layout;
    if rank > 0 {
        layout.bucket = shape.tokens;
    }
    let values = vec![0.01; layout.words(shape.tokens, INTERMEDIATE)].into();
    let selection = Selection::Probed(Probed {
        kept,
        statistic,
        history: Some(History { values, slots: shape.tokens, channels: INTERMEDIATE, layout }),
        pending: compensation.is_none().then(|| vec![0.0; shape.tokens * channels].into()),
        recent: None,
        compensation,
        pinned: false,
    });
    (selection, channels)
}

/// Pruned against dense MLP block: time ratio and FLOP share, the probe included in both; and what compensation of the
/// pruned channels adds to the pruned block's time.
fn mlp(threads: usize, repeat: usize, shape: BatchShape) -> Value {
    let backend = Arc::new(Cpu::new(threads).expect("threads"));
    let model = mlp_model(Arc::clone(&backend));
    let with = |compensate| Settings {
        method: Method::ProbePruning,
        prune_ratio: 0.4,
        compensate,
        ..Settings::default()
    };
    let linear = Compensation::Linear { rank: Compensation::DEFAULT_RANK };
    let all = [Compensation::None, Compensation::ProbeMean, linear].map(with);
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let rows: Vec<f32> = (0..shape.rows() * HIDDEN).map(|_| rng.random_range(-1.0..1.0)).collect();
    let zeros = |len: usize| vec![0; len].into();
    let batch = Batch {
        shape,
        tokens: zeros(shape.rows()),
        positions: zeros(shape.rows()),
        mask: zeros(0),
        padded: false,
    };
    let mode = Mode::Batch { update_history: true };
    let mut cases: Vec<_> = all
        .iter()
        .map(|settings| {
            let mut scratch = Scratch::new(&*backend, &model.config, settings, shape, 0).expect("memory");
            scratch.current.rows.copy_from_slice(&rows);
            (settings, scratch, probed(&model, settings, shape))
        })
        .collect();
    let kept = cases[0].2.1;
    let time = |settings: &Settings, scratch: &mut Scratch<Cpu>, selection: &mut Selection<Cpu>| {
        let context = Context { model: &model, settings, batch: &batch, mode, dense: None };
        seconds(|| {
            backend.scope(|| {
                block::run(context.block(0, Block::Mlp), selection, scratch, None, None);
                block::update_history(&context, selection);
            })
        })
    };
    // Dense, then without and with compensation, in turns.
    let mut samples: Vec<[f64; 4]> = Vec::new();
    for _ in 0..repeat * 3 + 1 {
        let dense = time(&all[0], &mut cases[0].1, &mut Selection::Dense);
        let mut of =
            cases.iter_mut().map(|(settings, scratch, (selection, _))| time(settings, scratch, selection));
        samples.push(std::array::from_fn(|i| if i == 0 { dense } else { of.next().expect("three") }));
    }
    let samples = &samples[1..];
    let ratios = |of: usize, to: usize| samples.iter().map(|s| s[of] / s[to]).collect::<Vec<_>>();
    let probe_rows = counts::probe_shape(&all[0], shape).rows();
    let probe = 2.0 / 3.0 * probe_rows as f64 / shape.rows() as f64;
    let share = kept as f64 / INTERMEDIATE as f64 + probe;
    let [low, middle, high] = quartiles(&ratios(1, 0));
    let [probe_mean, linear] = [2, 3].map(|of| {
        let [low, middle, high] = quartiles(&ratios(of, 1));
        json!({ "time_over_pruned": middle, "quartiles": [low, high], "kept_channels": cases[of - 1].2.1 })
    });
    json!({
        "batch": shape.samples, "seq": shape.tokens, "kept_channels": kept, "flops_share": share,
        "time_ratio": middle, "time_ratio_over_share": middle / share,
        "time_ratio_over_share_quartiles": [low / share, high / share],
        "dense_seconds": median(&samples.iter().map(|s| s[0]).collect::<Vec<_>>()),
        "probe_mean": probe_mean, "linear_32": linear,
    })
}

const PREFILL: BatchShape = BatchShape { samples: 4, tokens: 256 };
const DECODE_PROMPT: usize = 16;
const DECODE_TOKENS: usize = 64;

/// The name that PyTorch has in the results.
const PYTORCH: &str = "PyTorch";

/// Prefill (all logits) and decode (batch 1) of a real model, and its pruned prefill, against the peers.
fn whole_model(args: &Args, model: &str) -> Value {
    let backend = Arc::new(Cpu::new(args.threads).expect("threads"));
    let source = ModelSource::locate(model).expect("model");
    let model = Arc::new(Model::load(&source, true, backend, |_| ()).expect("model"));
    let pytorch = args.pytorch.iter().map(|command| (PYTORCH, command.as_str()));
    let others = args.peer.iter().map(|peer| peer.split_once('=').expect("--peer NAME=COMMAND"));
    let mut peers: Vec<(&str, Peer)> =
        pytorch.chain(others).map(|(name, command)| (name, Peer::start(command))).collect();
    let mut result = dense(args, &model, &mut peers);
    result["model"] = source.name().into();
    if let Some((PYTORCH, peer)) = peers.first_mut() {
        let shapes = [(20, 64), (4, 256), (1, 128)].map(|(samples, tokens)| BatchShape { samples, tokens });
        result["authors"] = shapes.into_iter().map(|shape| authors(args, &model, peer, shape)).collect();
    }
    result
}

/// Random tokens below the model's vocabulary.
fn random_tokens(model: &Model<Cpu>, n: usize) -> Vec<u32> {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    (0..n).map(|_| rng.random_range(0..model.config.vocab_size as u32)).collect()
}

/// Seconds of a prefill with all logits.
fn prefill_seconds(session: &mut Session<Cpu>, batch: &[u32], samples: usize) -> f64 {
    seconds(|| {
        session.forward(batch, samples, None, true).expect("forward");
        let logits = session.logits(samples).expect("logits");
        assert_eq!(logits.len(), batch.len() * session.model().config.vocab_size);
    })
}

/// A prefill pruned by 40 %, everything that the method does included, against the authors' operations.
fn authors(args: &Args, model: &Arc<Model<Cpu>>, peer: &mut Peer, shape: BatchShape) -> Value {
    let settings = Settings { method: Method::ProbePruning, prune_ratio: 0.4, ..Settings::default() };
    let limits = Limits { samples: shape.samples, tokens: shape.tokens, capacity: 0 };
    let mut session = Session::new(Arc::clone(model), settings, limits, None).expect("session");
    let layer = session.layer_counts().last().expect("a layer");
    let counts = format!("{} {}", layer.heads, layer.channels);
    assert_eq!(peer.ask("counts"), counts, "both keep as many heads and channels");
    let batch = random_tokens(model, shape.rows());
    let what = format!("reference {} {}", shape.samples, shape.tokens);
    prefill_seconds(&mut session, &batch, shape.samples);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..args.repeat {
        ours.push(prefill_seconds(&mut session, &batch, shape.samples));
        theirs.push(peer.measure(&what));
    }
    json!({ "batch": shape.samples, "seq": shape.tokens, "kept": counts,
        "tokens_per_second": shape.rows() as f64 / median(&ours), "speed_over": ratio(&theirs, &ours) })
}

fn dense(args: &Args, model: &Arc<Model<Cpu>>, peers: &mut [(&str, Peer)]) -> Value {
    let session =
        |limits| Session::new(Arc::clone(model), Settings::default(), limits, None).expect("session");
    let mut prefill = session(Limits { samples: PREFILL.samples, tokens: PREFILL.tokens, capacity: 0 });
    let mut decode =
        session(Limits { samples: 1, tokens: DECODE_PROMPT, capacity: DECODE_PROMPT + DECODE_TOKENS + 1 });
    let (batch, prompt) = (random_tokens(model, PREFILL.rows()), random_tokens(model, DECODE_PROMPT));
    let options = GenerateOptions { max_new_tokens: DECODE_TOKENS + 1, ..GenerateOptions::default() };
    let mut run_decode = || {
        let (mut first, mut last) = (None, None);
        decode
            .generate(std::slice::from_ref(&prompt), &options, |_, _| {
                last = Some(Instant::now());
                first = first.or(last);
            })
            .expect("generate");
        // The first token comes out of the prefill.
        (last.expect("tokens") - first.expect("tokens")).as_secs_f64()
    };
    let mut ours = [Vec::new(), Vec::new()];
    let mut theirs = vec![[Vec::new(), Vec::new()]; peers.len()];
    prefill_seconds(&mut prefill, &batch, PREFILL.samples);
    for _ in 0..args.repeat {
        for (i, what) in ["prefill", "decode"].into_iter().enumerate() {
            ours[i].push(match i {
                0 => prefill_seconds(&mut prefill, &batch, PREFILL.samples),
                _ => run_decode(),
            });
            for ((_, peer), theirs) in peers.iter_mut().zip(&mut theirs) {
                theirs[i].push(peer.measure(what));
            }
        }
    }
    let per_second = |tokens: usize, i: usize| tokens as f64 / median(&ours[i]);
    let speed_over = |i: usize| -> serde_json::Map<String, Value> {
        let ratios = peers.iter().zip(&theirs);
        ratios.map(|((name, _), theirs)| (name.to_string(), ratio(&theirs[i], &ours[i]))).collect()
    };
    json!({
        "prefill": { "batch": PREFILL.samples, "seq": PREFILL.tokens,
            "tokens_per_second": per_second(PREFILL.rows(), 0), "speed_over": speed_over(0) },
        "decode": { "batch": 1, "prompt": DECODE_PROMPT, "new_tokens": DECODE_TOKENS,
            "tokens_per_second": per_second(DECODE_TOKENS, 1), "speed_over": speed_over(1) },
    })
}

fn main() {
    let args = Args::parse();
    let mut rows = Rows::new(args.rows.as_deref(), &args.step).expect("the file of rows is writable");
    let shapes = [BatchShape { samples: 20, tokens: 64 }, BatchShape { samples: 4, tokens: 256 }];
    let mlp: Vec<Value> = shapes.into_iter().map(|shape| mlp(args.threads, args.repeat, shape)).collect();
    goals::mlp(&mut rows, &mlp).expect("the file of rows is writable");
    let model = args.model.as_deref().map(|model| whole_model(&args, model));
    goals::model(&mut rows, model.as_ref()).expect("the file of rows is writable");
    let result = json!({ "threads": args.threads, "repeat": args.repeat, "mlp": mlp, "model": model });
    let text = serde_json::to_string_pretty(&result).expect("json");
    println!("{text}");
    if let Some(out) = &args.out {
        std::fs::write(out, text + "\n").expect("the results file is writable");
    }
}
