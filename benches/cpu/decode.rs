//! Decoding at several batch sizes: against the peers, against one sequence alone, and against reading the weights.

use std::{sync::Arc, time::Instant};

use probeprune::{
    backend::Linear,
    checkpoint::{RandomTensors, Tensor},
    config::ModelConfig,
    cpu::Cpu,
    model::Model,
    prune::settings::Settings,
    session::{GenerateOptions, Limits, Session},
    weights::MlpFirst,
};
use serde_json::{Value, json};

use crate::{
    peer::Peers,
    prefill::{pruned, random_tokens, session},
    read::PlainRead,
    samples::{Samples, run},
};

const BATCHES: [usize; 3] = [1, 4, 16];

/// As tools/peers/*.py take by default, and candle's.
const PROMPT: usize = 16;
const TOKENS: usize = 32;

/// A generation of one length from prompts of one length, again and again.
struct Decode {
    session: Session<Cpu>,
    prompts: Vec<Vec<u32>>,
    tokens: usize,
}

impl Decode {
    fn new(
        model: &Arc<Model<Cpu>>,
        settings: Settings,
        samples: usize,
        [prompt, tokens]: [usize; 2],
    ) -> Self {
        let limits = Limits { samples, tokens: prompt, capacity: prompt + tokens + 1 };
        let all = random_tokens(model, samples * prompt);
        let prompts = all.chunks_exact(prompt).map(<[u32]>::to_vec).collect();
        Self { session: session(model, settings, limits), prompts, tokens }
    }

    /// Of the steps alone.
    fn seconds(&mut self) -> f64 {
        let options = GenerateOptions { max_new_tokens: self.tokens + 1, ..GenerateOptions::default() };
        let (mut first, mut last) = (None, None);
        self.session
            .generate(&self.prompts, &options, |_, _| {
                last = Some(Instant::now());
                first = first.or(last);
            })
            .expect("generate");
        // The first token comes out of the prefill.
        (last.expect("tokens") - first.expect("tokens")).as_secs_f64()
    }
}

/// All batches in turns, dense, pruned and by the peers, and a plain read of the weights in each round.
pub fn measure(
    rounds: usize,
    model: &Arc<Model<Cpu>>,
    peers: &Peers,
    weights: Vec<Tensor>,
    threads: usize,
) -> Value {
    let plain = PlainRead::new(weights, threads);
    let decode = |settings: &Settings, batch| Decode::new(model, settings.clone(), batch, [PROMPT, TOKENS]);
    let mut ours = BATCHES.map(|batch| (decode(&Settings::default(), batch), decode(&pruned(), batch)));
    let asked = BATCHES.map(|batch| format!("decode {batch}"));
    let mut runs = vec![run("read", || plain.seconds())];
    for (((dense, pp), asked), batch) in ours.iter_mut().zip(&asked).zip(BATCHES) {
        runs.push(run(format!("dense {batch}"), || dense.seconds()));
        runs.push(run(format!("pp {batch}"), || pp.seconds()));
        runs.extend(peers.runs(asked, &format!(" {batch}")));
    }
    let measured = Samples::of_turns(rounds, runs);
    let of_kind = |kind: &str, batch: usize| {
        let name = format!("{kind} {batch}");
        let tokens = (batch * TOKENS) as f64;
        json!({ "tokens_per_second": tokens / measured.median(&name),
            "speed_over": peers.speed_over(&measured, &name, &format!(" {batch}")) })
    };
    let of_batch = |batch: usize| {
        json!({ "batch": batch, "dense": of_kind("dense", batch), "pp": of_kind("pp", batch),
            "step_over_one": measured.ratio(&format!("dense {batch}"), "dense 1", 1.0) })
    };
    json!({
        "prompt": PROMPT, "new_tokens": TOKENS, "batches": BATCHES.map(of_batch),
        "plain_read": { "bytes": plain.bytes(), "bytes_per_second": plain.bytes() as f64 / measured.median("read"),
            "achieved": measured.ratio("read", "dense 1", TOKENS as f64) },
    })
}

/// Tokens of the large model's decoding: few, because each takes its time.
const LARGE_TOKENS: usize = 6;

/// Two layers in LLaMA-2-7B's shape with random weights.
pub fn large(rounds: usize, backend: Arc<Cpu>) -> Value {
    const CONFIG: &str = r#"{"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 2, "hidden_size": 4096,
        "intermediate_size": 11008, "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5}"#;
    let threads = backend.threads();
    let config = ModelConfig::from_json("bench".as_ref(), CONFIG, None).expect("config");
    let tensors = RandomTensors::new(&config, 1);
    let model = Arc::new(Model::random(config, &tensors, backend, None, |_| ()).expect("memory"));
    // Memory of its own: the model's cannot be had.
    let columns = model.config.hidden_size;
    let plain = PlainRead::new(vec![Tensor::random(vec![multiplied(&model) / columns, columns], 2)], threads);
    // The default skips layers that this model does not have.
    let settings = Settings { skip_layers: Vec::new(), ..Settings::default() };
    let mut ours = BATCHES.map(|batch| Decode::new(&model, settings.clone(), batch, [2, LARGE_TOKENS]));
    let mut runs = vec![run("read", || plain.seconds())];
    runs.extend(ours.iter_mut().zip(BATCHES).map(|(ours, batch)| run(format!("{batch}"), || ours.seconds())));
    let measured = Samples::of_turns(rounds, runs);
    let of_batch = |batch: usize| {
        let name = batch.to_string();
        json!({ "batch": batch, "tokens_per_second": (batch * LARGE_TOKENS) as f64 / measured.median(&name),
            "step_over_one": measured.ratio(&name, "1", 1.0) })
    };
    json!({
        "new_tokens": LARGE_TOKENS, "batches": BATCHES.map(of_batch),
        "plain_read": { "bytes": plain.bytes(), "bytes_per_second": plain.bytes() as f64 / measured.median("read"),
            "achieved": measured.ratio("read", "1", LARGE_TOKENS as f64) },
    })
}

/// Elements of all matrices that a step multiplies with.
fn multiplied(model: &Model<Cpu>) -> usize {
    let elements = |linear: &Linear<Cpu>| linear.out_features * linear.in_features;
    let of_layer = |layer: &probeprune::weights::Layer<Cpu>| {
        let attention = &layer.attention;
        let projections = [&attention.q_proj, &attention.k_proj, &attention.v_proj, &attention.o_proj];
        let first = match &layer.mlp.first {
            MlpFirst::Gated { gate_proj, up_proj } => elements(gate_proj) + elements(up_proj),
            MlpFirst::Plain(first) => elements(first),
        };
        projections.into_iter().map(elements).sum::<usize>() + first + elements(&layer.mlp.down_proj)
    };
    model.weights.layers.iter().map(of_layer).sum::<usize>() + elements(&model.weights.lm_head)
}
