//! What buffers and weights are filled with: random values, or nothing where only sizes matter.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Mutex, OnceLock, PoisonError},
};

use probeprune::{
    Error, Result,
    checkpoint::{Dtype, Tensor, Tensors},
    config::ModelConfig,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::operations::source::{self, Content as _};

/// Random values repeat after this many: those of a model of 7 billion parameters would take longer to generate
/// than the model takes to run.
const DIFFERENT: usize = 1 << 20;

/// Bytes of the largest weight that has no content.
const MOST_ZEROS: usize = 1 << 28;

/// Where content comes from.
#[derive(Debug)]
pub struct Content {
    /// In 0..1; empty for no content.
    values: Vec<f32>,
    /// Layers share the weights of one.
    weights: Mutex<HashMap<String, Tensor>>,
}

impl Content {
    /// Random, always the same.
    pub fn random() -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        Self { values: (0..DIFFERENT).map(|_| rng.random()).collect(), weights: Mutex::default() }
    }

    /// None: buffers stay zeroed, and weights are.
    pub fn none() -> Self {
        Self { values: Vec::new(), weights: Mutex::default() }
    }

    /// The tensors of a LLaMA model in this shape.
    pub fn model<'a>(&'a self, config: &'a ModelConfig) -> ModelTensors<'a> {
        ModelTensors { content: self, config }
    }
}

impl source::Content for Content {
    fn values(&self, len: usize, range: Range<f32>, seed: u64) -> Vec<f32> {
        let mut out = Vec::with_capacity(if self.values.is_empty() { 0 } else { len });
        let mut at = (seed as usize).wrapping_mul(40_503) % DIFFERENT;
        while out.len() < len && !self.values.is_empty() {
            let piece = &self.values[at..][..(DIFFERENT - at).min(len - out.len())];
            out.extend(piece.iter().map(|x| range.start + x * (range.end - range.start)));
            at = 0;
        }
        out
    }

    fn matrix(&self, shape: [usize; 2], seed: u64) -> Tensor {
        static ZEROS: OnceLock<Vec<u64>> = OnceLock::new();
        if !self.values.is_empty() {
            return Tensor::random(shape.to_vec(), seed);
        }
        // Untouched pages of zeros take neither memory nor time.
        let zeros = ZEROS.get_or_init(|| vec![0; MOST_ZEROS / 8]);
        assert!(shape[0] * shape[1] * Dtype::BF16.size() <= MOST_ZEROS, "{shape:?} is larger than foreseen");
        // SAFETY: as many zeros are there for ever, in words.
        unsafe { Tensor::borrow(zeros.as_ptr().cast(), Dtype::BF16, shape.to_vec()) }
    }
}

/// A model's tensors by name.
#[derive(Debug)]
pub struct ModelTensors<'a> {
    content: &'a Content,
    config: &'a ModelConfig,
}

impl ModelTensors<'_> {
    fn make(&self, name: &str) -> Option<Tensor> {
        let c = self.config;
        let (h, i, d) = (c.hidden_size, c.intermediate_size, c.head_dim);
        let part = name.strip_suffix(".weight")?.rsplit('.').next()?;
        let shape = match part {
            "q_proj" => [c.num_attention_heads * d, h],
            "k_proj" | "v_proj" => [c.num_key_value_heads * d, h],
            "o_proj" => [h, c.num_attention_heads * d],
            "gate_proj" | "up_proj" => [i, h],
            "down_proj" => [h, i],
            "embed_tokens" | "lm_head" => [c.vocab_size, h],
            _ => {
                let mut values = self.content.values(h, 0.9..1.1, 1);
                values.resize(h, 1.0);
                return Some(Tensor::from_f32(vec![h], values));
            }
        };
        let mut weights = self.content.weights.lock().unwrap_or_else(PoisonError::into_inner);
        let seed = part.bytes().fold(shape[0] as u64, |seed, byte| seed * 31 % (1 << 40) + u64::from(byte));
        let made =
            weights.entry(format!("{part} {shape:?}")).or_insert_with(|| self.content.matrix(shape, seed));
        Some(made.clone())
    }
}

impl Tensors for ModelTensors<'_> {
    fn tensor(&self, name: &str) -> Result<Option<Tensor>> {
        Ok(self.make(name))
    }

    fn require(&self, name: &str) -> Result<Tensor> {
        self.make(name).ok_or_else(|| {
            let help = "This is a fault of the benchmark: please report it.";
            Error::argument(format!("tensor {name}"), "one of a LLaMA model's", "another one", help)
        })
    }
}
