//! A plain decoder in f64 for folders of [`super::models`]: whole sequences without pads, no cache, no pruning.

use std::collections::BTreeMap;

use probeprune::{
    config::{Family, ModelConfig},
    prune::Block,
};

use super::models::Folder;

/// Sees a block's normed input x (T, H) and its intermediate states a (T, C), which it may change.
pub type Visit<'a> = dyn FnMut(usize, Block, &[f64], &mut [f64]) + 'a;

/// Weights in f64.
pub struct Plain {
    pub config: ModelConfig,
    tensors: BTreeMap<String, Vec<f64>>,
}

impl Plain {
    pub fn new(folder: &Folder) -> Self {
        let config = ModelConfig::load(&folder.source()).unwrap();
        let wide = |values: Vec<f32>| values.into_iter().map(f64::from).collect();
        let tensors = folder.tensors().into_iter().map(|(name, (_, values))| (name, wide(values))).collect();
        Self { config, tensors }
    }

    /// Logits (T, V) of samples of `length` tokens. `frequencies(slot)` are the inverse frequencies that the token of a
    /// slot is rotated by.
    pub fn logits(
        &self,
        tokens: &[u32],
        length: usize,
        frequencies: &dyn Fn(usize) -> Vec<f64>,
        visit: &mut Visit<'_>,
    ) -> Vec<f64> {
        let h = self.config.hidden_size;
        let row = |table: &str, row: usize| self.tensors[&self.name(table)][row * h..][..h].to_vec();
        let mut r: Vec<f64> =
            tokens.iter().flat_map(|&token| row("embed_tokens.weight", token as usize)).collect();
        if self.config.family == Family::Opt {
            let positions = (0..tokens.len()).flat_map(|i| row("embed_positions.weight", i % length + 2));
            r.iter_mut().zip(positions).for_each(|(r, position)| *r += position);
        }
        for layer in 0..self.config.num_hidden_layers {
            for block in Block::ALL {
                let x = self.norm(&self.part(layer, block, "norm"), &r);
                let mut a = match block {
                    Block::Attention => self.attention(layer, &x, length, frequencies),
                    Block::Mlp => self.mlp(layer, &x),
                };
                visit(layer, block, &x, &mut a);
                let out = self.linear(&self.part(layer, block, "last"), &a);
                r.iter_mut().zip(out).for_each(|(r, out)| *r += out);
            }
        }
        let (norm, head) = match self.config.family {
            Family::Llama => ("norm", "lm_head"),
            Family::Opt => ("final_layer_norm", "model.decoder.embed_tokens"),
        };
        self.linear(head, &self.norm(&self.name(norm), &r))
    }

    /// The weight (H, C) of a block's last projection.
    pub fn last(&self, layer: usize, block: Block) -> &[f64] {
        &self.tensors[&format!("{}.weight", self.part(layer, block, "last"))]
    }

    /// RoPE's inverse frequencies for this base; none for OPT.
    pub fn frequencies(&self, theta: f64) -> Vec<f64> {
        let d = self.config.head_dim;
        (0..d / 2).map(|i| theta.powf(-2.0 * i as f64 / d as f64)).collect()
    }

    fn name(&self, rest: &str) -> String {
        match self.config.family {
            Family::Llama => format!("model.{rest}"),
            Family::Opt => format!("model.decoder.{rest}"),
        }
    }

    fn part(&self, layer: usize, block: Block, part: &str) -> String {
        let name = match (self.config.family, block, part) {
            (Family::Llama, Block::Attention, "norm") => "input_layernorm",
            (Family::Llama, Block::Attention, _) => "self_attn.o_proj",
            (Family::Llama, Block::Mlp, "norm") => "post_attention_layernorm",
            (Family::Llama, Block::Mlp, _) => "mlp.down_proj",
            (Family::Opt, Block::Attention, "norm") => "self_attn_layer_norm",
            (Family::Opt, Block::Attention, _) => "self_attn.out_proj",
            (Family::Opt, Block::Mlp, "norm") => "final_layer_norm",
            (Family::Opt, Block::Mlp, _) => "fc2",
        };
        self.name(&format!("layers.{layer}.{name}"))
    }

    /// x·Wᵀ + bias, if there is one.
    fn linear(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let weight = &self.tensors[&format!("{name}.weight")];
        let bias = self.tensors.get(&format!("{name}.bias"));
        let outputs = match (name, bias) {
            (_, Some(bias)) => bias.len(),
            _ if name.ends_with("lm_head") || name.ends_with("embed_tokens") => self.config.vocab_size,
            _ if name.ends_with("o_proj") || name.ends_with("down_proj") => self.config.hidden_size,
            _ => weight.len() / self.config.hidden_size,
        };
        let inputs = weight.len() / outputs;
        let row = |x: &[f64]| -> Vec<f64> {
            let product = |w: &[f64]| w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
            weight
                .chunks_exact(inputs)
                .enumerate()
                .map(|(i, w)| product(w) + bias.map_or(0.0, |b| b[i]))
                .collect()
        };
        x.chunks_exact(inputs).flat_map(row).collect()
    }

    fn norm(&self, name: &str, r: &[f64]) -> Vec<f64> {
        let h = self.config.hidden_size;
        let weight = &self.tensors[&format!("{name}.weight")];
        let bias = self.tensors.get(&format!("{name}.bias"));
        let row = |r: &[f64]| -> Vec<f64> {
            let mean = if bias.is_some() { r.iter().sum::<f64>() / h as f64 } else { 0.0 };
            let variance = r.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / h as f64;
            let scale = 1.0 / (variance + f64::from(self.config.norm_eps)).sqrt();
            (0..h).map(|i| (r[i] - mean) * scale * weight[i] + bias.map_or(0.0, |bias| bias[i])).collect()
        };
        r.chunks_exact(h).flat_map(row).collect()
    }

    fn mlp(&self, layer: usize, x: &[f64]) -> Vec<f64> {
        let of = |part: &str| self.linear(&self.name(&format!("layers.{layer}.{part}")), x);
        match self.config.family {
            Family::Llama => {
                let silu = |gate: f64| gate / (1.0 + (-gate).exp());
                of("mlp.gate_proj").into_iter().zip(of("mlp.up_proj")).map(|(g, u)| silu(g) * u).collect()
            }
            Family::Opt => of("fc1").into_iter().map(|x| x.max(0.0)).collect(),
        }
    }

    fn attention(
        &self,
        layer: usize,
        x: &[f64],
        length: usize,
        frequencies: &dyn Fn(usize) -> Vec<f64>,
    ) -> Vec<f64> {
        let (d, heads) = (self.config.head_dim, self.config.num_attention_heads);
        let [mut q, mut k, v] = ["q", "k", "v"]
            .map(|which| self.linear(&self.name(&format!("layers.{layer}.self_attn.{which}_proj")), x));
        let (rows, kv_heads) = (x.len() / self.config.hidden_size, self.config.num_key_value_heads);
        if self.config.rope.is_some() {
            for (values, heads) in [(&mut q, heads), (&mut k, kv_heads)] {
                for (i, head) in values.chunks_exact_mut(d).enumerate() {
                    let slot = i / heads % length;
                    for (j, frequency) in frequencies(slot).into_iter().enumerate() {
                        let (sin, cos) = (slot as f64 * frequency).sin_cos();
                        let (a, b) = (head[j], head[j + d / 2]);
                        (head[j], head[j + d / 2]) = (a * cos - b * sin, b * cos + a * sin);
                    }
                }
            }
        }
        let mut out = vec![0.0; rows * heads * d];
        for (i, out) in out.chunks_exact_mut(d).enumerate() {
            let (row, head) = (i / heads, i % heads);
            let first = match self.config.window(layer) {
                Some(window) => (row / length * length).max((row + 1).saturating_sub(window)),
                None => row / length * length,
            };
            let at = |key: usize| (key * kv_heads + head * kv_heads / heads) * d;
            let score = |key: usize| -> f64 {
                q[i * d..][..d].iter().zip(&k[at(key)..]).map(|(q, k)| q * k).sum::<f64>() / (d as f64).sqrt()
            };
            let scores: Vec<f64> = (first..=row).map(score).collect();
            let best = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|score| (score - best).exp()).sum();
            for (key, score) in (first..=row).zip(&scores) {
                let weight = (score - best).exp() / total;
                out.iter_mut().zip(&v[at(key)..]).for_each(|(out, v)| *out += weight * v);
            }
        }
        out
    }
}

/// The largest |got − want| is at most `tolerance` of want's root mean square.
#[track_caller]
pub fn assert_close(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    let rms = (want.iter().map(|x| x * x).sum::<f64>() / want.len() as f64).sqrt();
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(got) - want).abs() <= tolerance * rms, "{what}, entry {i}: {got:e} for {want:e}");
    }
}
