//! Random weights in the shape of a real model: speed depends on shapes, and needs no download.

use std::{collections::BTreeMap, sync::Arc};

use half::bf16;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::{
    Dtype, Tensor, Tensors,
    shapes::{Size, Visitor, visit},
    tensor::Storage,
};
use crate::{
    config::{LayerShape, ModelConfig},
    error::{Error, Result},
};

/// Every tensor of a model, generated from a seed when it is read, so that a tensor that went to a device takes no memory
/// on the host.
///
/// Matrices are bfloat16, uniform, and keep the variance of their input; norm weights are near 1,
/// biases near 0.
#[derive(Debug)]
pub struct RandomTensors {
    shapes: BTreeMap<String, Vec<usize>>,
    seed: u64,
}

impl RandomTensors {
    /// The tensors of a model of `config`.
    pub fn new(config: &ModelConfig, seed: u64) -> Self {
        let mut collect = Collect { tied: config.tie_word_embeddings, shapes: BTreeMap::new() };
        let shapes = config.layer_shapes.clone();
        let shapes = shapes.unwrap_or_else(|| vec![LayerShape::of(config); config.num_hidden_layers]);
        visit(config, &shapes, &mut collect).expect("collecting refuses nothing");
        Self { shapes: collect.shapes, seed }
    }

    /// Bytes of all of them together.
    pub fn bytes(&self) -> u64 {
        let elements: usize = self.shapes.values().map(|shape| shape.iter().product::<usize>()).sum();
        (elements * Dtype::BF16.size()) as u64
    }

    /// As [`super::Checkpoint::fingerprint`].
    pub fn fingerprint(&self) -> String {
        blake3::hash(format!("random weights of seed {}: {:?}", self.seed, self.shapes).as_bytes())
            .to_string()
    }

    fn make(&self, place: usize, name: &str, shape: &[usize]) -> Tensor {
        let (center, scale) = match shape {
            [_, columns] => (0.0, keeping_variance(*columns)),
            _ if name.ends_with("norm.weight") => (1.0, 0.1),
            _ => (0.0, 0.1),
        };
        random(shape.to_vec(), center, scale, self.seed, place)
    }
}

impl Tensor {
    /// A matrix (rows, columns) of bfloat16 around 0 whose products keep their input's variance.
    pub fn random(shape: Vec<usize>, seed: u64) -> Self {
        let scale = keeping_variance(shape.last().copied().unwrap_or(1));
        random(shape, 0.0, scale, seed, 0)
    }
}

/// Half the width of a uniform distribution of variance 1 / columns.
fn keeping_variance(columns: usize) -> f32 {
    (3.0 / columns as f32).sqrt()
}

/// Uniform in `center` ± `scale`; `place` tells tensors of a seed apart.
fn random(shape: Vec<usize>, center: f32, scale: f32, seed: u64, place: usize) -> Tensor {
    // Elements of a word, words of a piece that one thread makes.
    const PER_WORD: usize = 4;
    const PIECE: usize = 1 << 16;
    // bfloat16 has 8 significant bits: a byte says which value.
    let values: [u64; 256] = std::array::from_fn(|byte| {
        let x = (byte as f32 - 127.5) / 127.5;
        u64::from(bf16::from_f32(center + scale * x).to_bits())
    });
    let elements: usize = shape.iter().product();
    let mut words = vec![0u64; elements.div_ceil(PER_WORD)];
    words.par_chunks_mut(PIECE).enumerate().for_each(|(piece, words)| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(((place as u64) << 32) + piece as u64);
        for word in words {
            let bytes = rng.next_u32().to_le_bytes();
            *word = (0..PER_WORD).fold(0, |word, i| word | values[usize::from(bytes[i])] << (16 * i));
        }
    });
    let bytes = elements * Dtype::BF16.size();
    Tensor::new(&Arc::new(Storage::Owned(words, bytes)), 0..bytes, Dtype::BF16, shape)
}

impl Tensors for RandomTensors {
    fn tensor(&self, name: &str) -> Result<Option<Tensor>> {
        let place = self.shapes.keys().position(|known| known == name);
        Ok(place.map(|place| self.make(place, name, &self.shapes[name])))
    }

    fn require(&self, name: &str) -> Result<Tensor> {
        self.tensor(name)?.ok_or_else(|| {
            let help = "This is a fault of the program: please report it.";
            Error::argument(format!("tensor {name}"), "one of the model's", "another one", help)
        })
    }
}

struct Collect {
    tied: bool,
    shapes: BTreeMap<String, Vec<usize>>,
}

impl Visitor for Collect {
    fn embedding_and_head(&mut self, embedding: &str, head: &str, shape: [Size; 2]) -> Result<()> {
        if !self.tied {
            self.need(head, &shape)?;
        }
        self.need(embedding, &shape)
    }

    fn need(&mut self, name: &str, sizes: &[Size]) -> Result<()> {
        self.shapes.insert(name.to_string(), sizes.iter().map(|&(_, size)| size).collect());
        Ok(())
    }

    fn may_have(&mut self, _: &str, _: &[Size]) -> Result<()> {
        Ok(())
    }

    fn absent(&mut self, _bias: &str, _key: &str) -> Result<()> {
        Ok(())
    }
}
