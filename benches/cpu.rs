//! Speed of the CPU backend as ratios, each taken within one interleaved run so that a noisy machine cancels out.
//!
//! `cargo bench --bench cpu -- [--out FILE.json] [--model FOLDER --pytorch "COMMAND"]`
//!
//! - `mlp`: a pruned MLP block against the dense one, hidden 1024, intermediate 2816.
//! - `prefill`, `decode`: a real model against PyTorch float32, where `COMMAND` (tools/bench_pytorch.py --interactive)
//!   measures one run per line of input.

use std::{
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Arc,
    time::Instant,
};

use clap::Parser;
use half::bf16;
use probeprune::{
    backend::{Backend, Grid, History, Linear, Norm, NormKind, WeightUse},
    checkpoint::{Checkpoint, Tensor},
    config::ModelConfig,
    cpu::Cpu,
    model::{
        Block, Model,
        block::{self, Context, Mode},
        scratch::{Batch, Scratch},
        selection::{Kept, Probed, Selection},
    },
    prune::{
        counts,
        settings::{Method, Metric, Settings},
    },
    session::{GenerateOptions, Limits, Session},
    source::ModelSource,
    weights::{Attention, Layer, Mlp, MlpFirst, Weights},
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
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
    /// Interleaved repetitions.
    #[arg(long, default_value_t = 9)]
    repeat: usize,
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Passed by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
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
        attention: Attention {
            norm: norm(),
            q_proj: linear(1, 1),
            k_proj: linear(1, 1),
            v_proj: linear(1, 1),
            o_proj: linear(1, 1),
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
    Model { config, backend, weights, fingerprint: String::new() }
}

/// Pruned against dense MLP block: time ratio and FLOP share, the probe included in both.
fn mlp(threads: usize, repeat: usize, grid: Grid) -> Value {
    let backend = Arc::new(Cpu::new(threads).expect("threads"));
    let model = mlp_model(Arc::clone(&backend));
    let settings = Settings { method: Method::ProbePruning, prune_ratio: 0.4, ..Settings::default() };
    let kept = counts::kept_channels(&settings, INTERMEDIATE, settings.prune_ratio);
    let mut scratch = Scratch::new(&*backend, &model.config, grid, 0).expect("memory");
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    scratch.current.rows.iter_mut().for_each(|x| *x = rng.random_range(-1.0..1.0));
    let mut statistic = vec![0.0; INTERMEDIATE].into();
    backend.column_statistic(&model.weights.layers[0].mlp.down_proj, Metric::Ppsp, &mut statistic);
    let mut pruned = Selection::Probed(Probed {
        kept: Kept::new(&*backend, &model.config, Block::Mlp, kept).expect("memory"),
        statistic,
        history: Some(History {
            values: vec![0.01; grid.tokens * INTERMEDIATE].into(),
            slots: grid.tokens,
            width: INTERMEDIATE,
            layout: settings.history_layout,
        }),
        pending: vec![0.0; grid.tokens * kept].into(),
        recent: None,
    });
    let rows = grid.rows();
    let zeros = |len: usize| vec![0; len].into();
    let batch = Batch { grid, tokens: zeros(rows), positions: zeros(rows), mask: zeros(0), padded: false };
    let mode = Mode::Batch { update_history: true };
    let context = Context { model: &model, settings: &settings, batch: &batch, mode };
    let mut time = |selection: &mut Selection<Cpu>| {
        let scratch = &mut scratch;
        seconds(|| {
            backend.scope(|| {
                block::run(&context, 0, Block::Mlp, selection, scratch, None, None);
                block::update_history(&context, selection);
            })
        })
    };
    time(&mut pruned);
    let samples: Vec<(f64, f64)> =
        (0..repeat * 3).map(|_| (time(&mut Selection::Dense), time(&mut pruned))).collect();
    let (probe_samples, probe_tokens) = counts::probe_counts(&settings, grid.samples, grid.tokens);
    let probe = 2.0 / 3.0 * (probe_samples * probe_tokens) as f64 / rows as f64;
    let share = kept as f64 / INTERMEDIATE as f64 + probe;
    let ratio = median(&samples.iter().map(|(dense, pruned)| pruned / dense).collect::<Vec<_>>());
    json!({
        "batch": grid.samples, "seq": grid.tokens, "kept_channels": kept, "flops_share": share,
        "time_ratio": ratio, "time_ratio_over_share": ratio / share,
        "dense_seconds": median(&samples.iter().map(|s| s.0).collect::<Vec<_>>()),
    })
}

/// A process that measures PyTorch: one line in, one line of seconds out.
struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Peer {
    fn start(command: &str) -> Self {
        let mut child = Command::new("sh")
            .args(["-c", &format!("exec {command}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the PyTorch command starts");
        let (input, output) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let mut peer = Self { child, input, output: BufReader::new(output) };
        assert_eq!(peer.line(), "ready", "the PyTorch command says when it is ready");
        peer
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a line from the PyTorch command");
        line.trim().to_string()
    }

    fn measure(&mut self, what: &str) -> f64 {
        writeln!(self.input, "{what}").expect("the PyTorch command listens");
        self.line().parse().expect("seconds")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It only waits for input: nothing is lost.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const PREFILL: Grid = Grid { samples: 4, tokens: 256 };
const DECODE_PROMPT: usize = 16;
const DECODE_TOKENS: usize = 64;

/// Prefill (all logits) and decode (batch 1) of a real model, against PyTorch where a command is given.
fn whole_model(args: &Args, model: &str) -> Value {
    let backend = Arc::new(Cpu::new(args.threads).expect("threads"));
    let source = ModelSource::locate(model).expect("model");
    let model = Arc::new(Model::load(&source, true, backend, |_| ()).expect("model"));
    let session =
        |limits| Session::new(Arc::clone(&model), Settings::default(), limits, None).expect("session");
    let mut prefill = session(Limits { samples: PREFILL.samples, tokens: PREFILL.tokens, capacity: 0 });
    let mut decode =
        session(Limits { samples: 1, tokens: DECODE_PROMPT, capacity: DECODE_PROMPT + DECODE_TOKENS + 1 });
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut tokens = |n: usize| -> Vec<u32> {
        (0..n).map(|_| rng.random_range(0..model.config.vocab_size as u32)).collect()
    };
    let (batch, prompt) = (tokens(PREFILL.rows()), tokens(DECODE_PROMPT));
    let mut run_prefill = || {
        seconds(|| {
            prefill.forward(&batch, PREFILL.samples, None, false).expect("forward");
            assert_eq!(
                prefill.logits(PREFILL.samples).unwrap().len(),
                PREFILL.rows() * model.config.vocab_size
            );
        })
    };
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
    let mut peer = args.pytorch.as_deref().map(Peer::start);
    let mut ours = [Vec::new(), Vec::new()];
    let mut theirs = [Vec::new(), Vec::new()];
    run_prefill();
    for _ in 0..args.repeat {
        ours[0].push(run_prefill());
        theirs[0].extend(peer.as_mut().map(|peer| peer.measure("prefill")));
        ours[1].push(run_decode());
        theirs[1].extend(peer.as_mut().map(|peer| peer.measure("decode")));
    }
    let per_second = |tokens: usize, seconds: &[f64]| tokens as f64 / median(seconds);
    let ratio = |i: usize| {
        let ratios: Vec<f64> = theirs[i].iter().zip(&ours[i]).map(|(theirs, ours)| theirs / ours).collect();
        (!ratios.is_empty()).then(|| median(&ratios))
    };
    json!({
        "model": source.name(),
        "prefill": { "batch": PREFILL.samples, "seq": PREFILL.tokens,
            "tokens_per_second": per_second(PREFILL.rows(), &ours[0]), "speed_over_pytorch": ratio(0) },
        "decode": { "batch": 1, "prompt": DECODE_PROMPT, "new_tokens": DECODE_TOKENS,
            "tokens_per_second": per_second(DECODE_TOKENS, &ours[1]), "speed_over_pytorch": ratio(1) },
    })
}

fn main() {
    let args = Args::parse();
    let shapes = [Grid { samples: 20, tokens: 64 }, Grid { samples: 4, tokens: 256 }];
    let mlp: Vec<Value> = shapes.into_iter().map(|grid| mlp(args.threads, args.repeat, grid)).collect();
    let model = args.model.as_deref().map(|model| whole_model(&args, model));
    let result = json!({ "threads": args.threads, "repeat": args.repeat, "mlp": mlp, "model": model });
    let text = serde_json::to_string_pretty(&result).expect("json");
    println!("{text}");
    if let Some(out) = &args.out {
        std::fs::write(out, text + "\n").expect("the results file is writable");
    }
}
