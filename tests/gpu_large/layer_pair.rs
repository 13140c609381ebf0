//! Two of LLaMA-2-7B's layers on a batch of 20×1024, pruned by a probe, against float32 on the kept sets: the CPU backend
//! here, and PyTorch in tools/peers/layer_pair.py, for which everything is written to a folder if one is named.

use std::{collections::BTreeMap, fs, path::Path};

use probeprune::{
    checkpoint::{Dtype, RandomTensors, Tensors},
    config::ModelConfig,
    gpu::GpuDtype,
    session::{Limits, Session},
};
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

use crate::{
    config, device, every_core, pruned, random_model,
    sessions::{Kept, kept, nmse, random_tokens},
};

const SEED: u64 = 7;
const VOCAB_SIZE: usize = 512;

/// Where to leave model, tokens, kept sets and logits for another program to check.
const FOLDER: &str = "PROBEPRUNE_LAYER_PAIR";

/// (samples, tokens) and the model.
fn shape() -> ([usize; 2], Value) {
    let [samples, tokens, hidden, intermediate, heads] =
        if device::reduced_shapes() { [3, 40, 64, 176, 4] } else { [20, 1024, 4096, 11_008, 32] };
    let model = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden,
        "intermediate_size": intermediate, "num_attention_heads": heads, "num_hidden_layers": 2,
        "vocab_size": VOCAB_SIZE, "max_position_embeddings": tokens, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "hidden_act": "silu",
    });
    ([samples, tokens], model)
}

#[test]
fn kept_heads_and_channels_compute_what_float32_does() {
    let ([samples, tokens], json) = shape();
    let config = config(&json);
    let tensors = RandomTensors::new(&config, SEED);
    let settings = pruned();
    let batch = random_tokens(SEED, VOCAB_SIZE, samples * tokens);
    let gpu = random_model(&config, &tensors, device::backend(GpuDtype::Bf16));
    let limits = Limits { samples, tokens, capacity: 0 };
    let mut session = Session::new(gpu, settings.clone(), limits, None).unwrap();
    session.forward(&batch, samples, None, true).unwrap();
    let (chosen, logits) = (kept(&session), session.logits(samples).unwrap());
    drop(session);
    if let Some(folder) = std::env::var_os(FOLDER) {
        export_model(folder.as_ref(), &json, &config, &tensors);
        export_run(folder.as_ref(), [samples, tokens], &batch, &chosen, &logits);
    }

    let cpu = random_model(&config, &tensors, every_core());
    let limits = Limits { samples: 1, tokens, capacity: 0 };
    let mut reference = Session::new(cpu, settings, limits, None).unwrap();
    reference.pin(&chosen).unwrap();
    for sample in [0, samples - 1] {
        let own = &batch[sample * tokens..][..tokens];
        reference.forward(own, 1, None, false).unwrap();
        let size = tokens * VOCAB_SIZE;
        let (got, want) = (&logits[sample * size..][..size], reference.logits(1).unwrap());
        let rows = got.chunks(VOCAB_SIZE).zip(want.chunks(VOCAB_SIZE));
        let worst = rows.map(|(got, want)| nmse(got, want)).fold(0.0, f64::max);
        let error = nmse(got, &want);
        println!("sample {sample} of {samples}×{tokens}: logits NMSE {error:.1e}, worst row {worst:.1e}");
        // bfloat16 rounds about a dozen results on the way by up to 2^-9 of each: tests/gpu_model.rs allows as much. A row
        // that is wrong is off by about 1.
        assert!(error <= 1e-4 && worst <= 1e-3, "sample {sample}: NMSE {error:e}, worst row {worst:e}");
    }
}

fn export_model(folder: &Path, json: &Value, config: &ModelConfig, tensors: &RandomTensors) {
    fs::create_dir_all(folder).unwrap();
    let layer =
        ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj"]
            .into_iter()
            .chain(["mlp.up_proj", "mlp.down_proj", "input_layernorm", "post_attention_layernorm"]);
    let layers = (0..config.num_hidden_layers)
        .flat_map(|l| layer.clone().map(move |name| format!("model.layers.{l}.{name}.weight")));
    let others = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"].map(String::from);
    let made: BTreeMap<_, _> = layers
        .chain(others)
        .map(|name| {
            let tensor = tensors.require(&name).unwrap();
            (name, tensor)
        })
        .collect();
    let view = |dtype, shape: &[usize], bytes| TensorView::new(dtype, shape.to_vec(), bytes).unwrap();
    let weights = made.iter().map(|(name, tensor)| {
        assert_eq!(tensor.dtype(), Dtype::BF16);
        (name, view(safetensors::Dtype::BF16, tensor.shape(), tensor.bytes()))
    });
    safetensors::serialize_to_file(weights, None, &folder.join("model.safetensors")).unwrap();
    fs::write(folder.join("config.json"), json.to_string()).unwrap();
}

fn export_run(folder: &Path, [samples, tokens]: [usize; 2], batch: &[u32], kept: &Kept, logits: &[f32]) {
    let view = |dtype, shape: &[usize], bytes| TensorView::new(dtype, shape.to_vec(), bytes).unwrap();
    let run = [
        ("tokens", view(safetensors::Dtype::U32, &[samples, tokens], bytemuck::cast_slice(batch))),
        (
            "logits",
            view(safetensors::Dtype::F32, &[samples, tokens, VOCAB_SIZE], bytemuck::cast_slice(logits)),
        ),
    ];
    safetensors::serialize_to_file(run, None, &folder.join("run.safetensors")).unwrap();
    fs::write(folder.join("kept.json"), json!(kept).to_string()).unwrap();
}
