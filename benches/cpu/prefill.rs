//! Prefill of a real model, dense and pruned, against the peers and the authors' operations; single long prompts; and one
//! prompt of 32,768 tokens.

use std::sync::Arc;

use probeprune::{
    cpu::Cpu,
    model::Model,
    prune::{
        BatchShape,
        settings::{Method, ProbeTokens, Settings},
    },
    session::{Limits, Session},
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::{
    peer::Peers,
    samples::{Samples, run, seconds},
};

/// Random tokens below the model's vocabulary.
pub fn random_tokens(model: &Model<Cpu>, n: usize) -> Vec<u32> {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    (0..n).map(|_| rng.random_range(0..model.config.vocab_size as u32)).collect()
}

/// What is measured as "pp at 40 %".
pub fn pruned() -> Settings {
    Settings { method: Method::ProbePruning, prune_ratio: 0.4, ..Settings::default() }
}

pub fn session(model: &Arc<Model<Cpu>>, settings: Settings, limits: Limits) -> Session<Cpu> {
    Session::new(Arc::clone(model), settings, limits, None).expect("session")
}

fn of_shape(model: &Arc<Model<Cpu>>, settings: Settings, shape: BatchShape) -> Session<Cpu> {
    session(model, settings, Limits { samples: shape.samples, tokens: shape.tokens, capacity: 0 })
}

/// Of a prefill with all logits, which stay where the backend makes them, as the peers' do.
fn prefill_seconds(session: &mut Session<Cpu>, batch: &[u32], samples: usize) -> f64 {
    seconds(|| {
        session.forward(batch, samples, None, true).expect("forward");
        let (logits, _) = session.device_logits(samples).expect("logits");
        assert_eq!(logits.len(), batch.len() * session.model().config.vocab_size);
    })
}

/// One shape, everything in turns.
pub fn measure(rounds: usize, model: &Arc<Model<Cpu>>, peers: &Peers, shape: BatchShape) -> Value {
    let BatchShape { samples, tokens } = shape;
    let (mut dense, mut pp) = (of_shape(model, Settings::default(), shape), of_shape(model, pruned(), shape));
    let layer = pp.layer_counts().last().expect("a layer");
    let kept = format!("{} {}", layer.heads, layer.channels);
    if let Some(counts) = peers.ask_pytorch("counts") {
        assert_eq!(counts, kept, "both keep as many heads and channels");
    }
    let batch = random_tokens(model, shape.rows());
    let [prefill, reference] = ["prefill", "reference"].map(|what| format!("{what} {samples} {tokens}"));
    let mut runs = vec![
        run("dense", || prefill_seconds(&mut dense, &batch, samples)),
        run("pp", || prefill_seconds(&mut pp, &batch, samples)),
    ];
    runs.extend(peers.runs(&prefill, ""));
    let authors = peers.pytorch_run("authors", &reference);
    let has_authors = authors.is_some();
    runs.extend(authors);
    let measured = Samples::of_turns(rounds, runs);
    let per_second = |name| shape.rows() as f64 / measured.median(name);
    json!({
        "batch": samples, "seq": tokens, "kept": kept,
        "dense": { "tokens_per_second": per_second("dense"), "speed_over": peers.speed_over(&measured, "dense", "") },
        "pp": {
            "tokens_per_second": per_second("pp"), "speed_over": peers.speed_over(&measured, "pp", ""),
            "time_over_dense": measured.ratio("pp", "dense", 1.0),
            "speed_over_authors": has_authors.then(|| measured.ratio("authors", "pp", 1.0)),
        },
    })
}

/// A single prompt up to the logits behind it, pruned with as many probe tokens as pay, against dense.
pub fn single(rounds: usize, model: &Arc<Model<Cpu>>, tokens: usize) -> Value {
    let limits = Limits { samples: 1, tokens, capacity: tokens };
    let settings = Settings { probe_tokens: ProbeTokens::Auto, ..pruned() };
    let (mut dense, mut pp) = (session(model, Settings::default(), limits), session(model, settings, limits));
    let prompt = random_tokens(model, tokens);
    let measured = Samples::of_turns(
        rounds,
        vec![
            run("dense", || prompt_seconds(&mut dense, &prompt)),
            run("pp", || prompt_seconds(&mut pp, &prompt)),
        ],
    );
    json!({ "seq": tokens, "tokens_per_second": tokens as f64 / measured.median("dense"),
        "time_over_dense": measured.ratio("pp", "dense", 1.0) })
}

fn prompt_seconds(session: &mut Session<Cpu>, prompt: &[u32]) -> f64 {
    seconds(|| {
        session.prefill(prompt, 1, None, None).expect("prefill");
        session.next_logits().expect("logits");
    })
}

const LONG: usize = 32_768;

/// One prefill of 32,768 tokens into the cache: its time, and the process's memory at its peak.
pub fn long(mut model: Model<Cpu>) -> Value {
    // Further than the model was trained for: its time is what counts.
    model.config.max_position_embeddings = LONG;
    let model = Arc::new(model);
    let mut dense = session(&model, Settings::default(), Limits { samples: 1, tokens: LONG, capacity: LONG });
    let prompt = random_tokens(&model, LONG);
    let before = memory("VmRSS:");
    let took = prompt_seconds(&mut dense, &prompt);
    json!({ "tokens": LONG, "seconds": took, "bytes_before": before, "peak_bytes": memory("VmHWM:") })
}

/// A number of /proc/self/status in bytes.
fn memory(key: &str) -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    Some(1024 * line.trim().strip_suffix(" kB")?.parse::<usize>().ok()?)
}
