//! More than 2^31 results of one product, and more samples than a grid has blocks in y or z.

use std::sync::Arc;

use half::bf16;
use probeprune::{
    backend::{ArgmaxOperands, Backend, CrossEntropyOperands, Linear, LogitsOperands, WeightUse},
    checkpoint::{RandomTensors, Tensor},
    gpu::{Driver, GpuDtype},
    session::{Limits, Session},
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use crate::{
    config, device, every_core, pruned, random_model,
    sessions::{kept, nmse, random_tokens},
};

/// H of the product: small, because the number of results is what matters.
const WIDTH: usize = 64;

#[test]
fn logits_beyond_2_to_the_31() {
    let (rows, vocab) = if device::reduced_shapes() { (70, 517) } else { (20 * 1024, 128_256) };
    let gpu = device::backend(GpuDtype::Bf16);
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let values: Vec<f32> =
        (0..rows * WIDTH).map(|_| bf16::from_f32(rng.random_range(-1.0f32..1.0)).to_f32()).collect();
    let mut x = gpu.activations(rows * WIDTH).unwrap();
    gpu.upload_activations(&values, &mut x);
    let tensor = Tensor::random(vec![vocab, WIDTH], 6);
    let weight: Vec<f32> = bytemuck::cast_slice::<u8, u16>(tensor.bytes())
        .iter()
        .map(|&w| bf16::from_bits(w).to_f32())
        .collect();
    let weights = gpu.weight(&tensor, WeightUse::Rows).unwrap();
    let head = Linear { weight: weights, bias: None, out_features: vocab, in_features: WIDTH };

    let mut logits = gpu.statistics(rows * vocab).unwrap();
    gpu.logits(LogitsOperands { x: &x, rows, head: &head, out: &mut logits });
    let mut best = gpu.indices(rows).unwrap();
    gpu.argmax(ArgmaxOperands { x: &logits, rows, vocab_size: vocab, out: &mut best });
    let targets: Vec<u32> = (0..rows).map(|row| (row * 7919 % vocab) as u32).collect();
    let mut device_targets = gpu.indices(rows).unwrap();
    gpu.upload_indices(&targets, &mut device_targets);
    let mut scratch = gpu.statistics(gpu.cross_entropy_scratch(rows, vocab)).unwrap();
    let mut losses = gpu.statistics(rows).unwrap();
    gpu.cross_entropy(CrossEntropyOperands {
        x: &x,
        rows,
        head: &head,
        targets: &device_targets,
        scratch: &mut scratch,
        out: &mut losses,
    });
    let (best, losses) =
        (gpu.download_indices(&best, rows).unwrap(), gpu.download_statistics(&losses, rows).unwrap());

    // The row that begins before result 2^31 and ends behind it, with its neighbours; the first and the last ones.
    let middle = ((1usize << 31) / vocab).min(rows - 2);
    for row in [0, 1, middle - 1, middle, middle + 1, rows - 1] {
        let mut got = vec![0f32; vocab];
        let at = logits.address(&gpu) + 4 * (row * vocab) as u64;
        gpu.driver().read(at, bytemuck::cast_slice_mut(&mut got)).unwrap();
        let x = &values[row * WIDTH..][..WIDTH];
        let want: Vec<f64> = weight
            .chunks_exact(WIDTH)
            .map(|w| w.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum())
            .collect();
        let rms = (want.iter().map(|y| y * y).sum::<f64>() / vocab as f64).sqrt();
        for (column, (&got, want)) in got.iter().zip(&want).enumerate() {
            // Sums of 64 products in float32.
            assert!(
                (f64::from(got) - want).abs() <= 1e-5 * rms,
                "row {row}, column {column}: {got} for {want}"
            );
        }
        let first_of_most = (0..vocab).rev().max_by(|&a, &b| got[a].total_cmp(&got[b])).unwrap();
        assert_eq!(best[row] as usize, first_of_most, "row {row}");
        let most = want.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = want.iter().map(|y| (y - most).exp()).sum();
        let loss = most + sum.ln() - want[targets[row] as usize];
        assert!(
            (f64::from(losses[row]) - loss).abs() <= 2e-5 * loss,
            "row {row}: {} for {loss}",
            losses[row]
        );
    }
}

#[test]
fn more_samples_than_blocks_in_a_grid() {
    let samples = if device::reduced_shapes() { 70 } else { 65_537 };
    let (vocab, decoded) = (48, 2);
    // More than the attention kernels of decoding take, so that those of prefill run too.
    let tokens = 9;
    let config = config(&json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32, "intermediate_size": 64,
        "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": vocab,
        "max_position_embeddings": tokens + decoded, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
    }));
    let tensors = RandomTensors::new(&config, 8);
    let gpu = random_model(&config, &tensors, device::backend(GpuDtype::F16));
    let cpu = random_model(&config, &tensors, every_core());
    let settings = pruned();
    let batch = random_tokens(9, vocab, samples * tokens);
    let limits = Limits { samples, tokens, capacity: tokens + decoded };
    let mut want = Session::new(Arc::clone(&cpu), settings.clone(), limits, None).unwrap();
    let mut got = Session::new(Arc::clone(&gpu), settings, limits, None).unwrap();
    want.forward(&batch, samples, None, true).unwrap();
    got.pin(&kept(&want)).unwrap();
    got.forward(&batch, samples, None, false).unwrap();
    let error = nmse(&got.logits(samples).unwrap(), &want.logits(samples).unwrap());
    println!("{samples} samples: logits NMSE {error:.1e}");
    assert!(error <= 1e-5, "NMSE {error:e}");

    want.pin(&kept(&want)).unwrap();
    want.prefill(&batch, samples, None, None).unwrap();
    got.prefill(&batch, samples, None, None).unwrap();
    for step in 0..decoded {
        let next = random_tokens(10 + step as u64, vocab, samples);
        want.decode(&next, None).unwrap();
        got.decode(&next, None).unwrap();
        let error = nmse(&got.next_logits().unwrap(), &want.next_logits().unwrap());
        println!("{samples} samples, step {step}: logits NMSE {error:.1e}");
        assert!(error <= 1e-5, "step {step}: NMSE {error:e}");
    }
}
