//! A sequence of 33,000 tokens, and decoding behind it.

use std::sync::Arc;

use probeprune::{
    checkpoint::RandomTensors,
    gpu::GpuDtype,
    prune::settings::Settings,
    session::{Limits, Session},
};
use serde_json::json;

use crate::{
    config, device, every_core, pruned, random_model,
    sessions::{kept, nmse, random_tokens},
};

const VOCAB_SIZE: usize = 400;
const DECODED: usize = 4;

#[test]
fn long_sequences_agree_with_the_cpu() {
    let tokens = if device::reduced_shapes() { 330 } else { 33_000 };
    let config = config(&json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 200,
        "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2, "vocab_size": VOCAB_SIZE,
        "max_position_embeddings": tokens + DECODED, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "hidden_act": "silu",
    }));
    let tensors = RandomTensors::new(&config, 3);
    let gpu = random_model(&config, &tensors, device::backend(GpuDtype::F16));
    let cpu = random_model(&config, &tensors, every_core());
    let settings = Settings { skip_layers: vec![0], ..pruned() };
    let text = random_tokens(4, VOCAB_SIZE, tokens + DECODED);
    let (prompt, rest) = text.split_at(tokens);

    let limits = Limits { samples: 1, tokens, capacity: 0 };
    let mut want = Session::new(Arc::clone(&cpu), settings.clone(), limits, None).unwrap();
    let mut got = Session::new(Arc::clone(&gpu), settings.clone(), limits, None).unwrap();
    want.forward(prompt, 1, None, true).unwrap();
    got.forward(prompt, 1, None, true).unwrap();
    let (chosen, wanted) = (kept(&got), kept(&want));
    for (got, want) in chosen.iter().flatten().zip(wanted.iter().flatten()) {
        let (Some(got), Some(want)) = (got, want) else {
            assert_eq!(got, want, "dense blocks");
            continue;
        };
        let same = want.iter().filter(|index| got.binary_search(index).is_ok()).count();
        println!("{same} of {} kept", want.len());
        // Random weights rank channels by little, so that rounding moves some across the border.
        assert!(same * 100 >= want.len() * 95, "{same} of {}", want.len());
    }
    got.pin(&wanted).unwrap();
    got.forward(prompt, 1, None, false).unwrap();
    let error = nmse(&got.logits(1).unwrap(), &want.logits(1).unwrap());
    println!("{tokens} tokens: logits NMSE {error:.1e}");
    assert!(error <= 1e-5, "NMSE {error:e}");
    drop((got, want));

    let limits = Limits { samples: 1, tokens, capacity: tokens + DECODED };
    let dense = Settings { skip_layers: Vec::new(), ..Settings::default() };
    let mut want = Session::new(cpu, dense.clone(), limits, None).unwrap();
    let mut got = Session::new(gpu, dense, limits, None).unwrap();
    want.prefill(prompt, 1, None, None).unwrap();
    got.prefill(prompt, 1, None, None).unwrap();
    for (step, &token) in rest.iter().enumerate() {
        want.decode(&[token], None).unwrap();
        got.decode(&[token], None).unwrap();
        let error = nmse(&got.next_logits().unwrap(), &want.next_logits().unwrap());
        println!("step {step} behind {tokens} tokens: logits NMSE {error:.1e}");
        assert!(error <= 1e-5, "step {step}: NMSE {error:e}");
    }
}
