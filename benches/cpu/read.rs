//! A plain read of a model's weights: what bounds a decoding step, which has to read them all.

use std::{hint::black_box, thread};

use probeprune::{
    checkpoint::{Checkpoint, Tensor},
    source::ModelSource,
};

use crate::samples::seconds;

/// Weights that are read from beginning to end, and summed up so that nothing is left out.
pub struct PlainRead {
    weights: Vec<Tensor>,
    threads: usize,
}

impl PlainRead {
    pub fn new(weights: Vec<Tensor>, threads: usize) -> Self {
        Self { weights, threads }
    }

    pub fn bytes(&self) -> usize {
        self.weights.iter().map(|weight| weight.bytes().len()).sum()
    }

    pub fn seconds(&self) -> f64 {
        seconds(|| {
            thread::scope(|scope| {
                for part in 0..self.threads {
                    scope.spawn(move || black_box(self.sum_of(part)));
                }
            });
        })
    }

    /// The sum of one thread's share of each weight.
    fn sum_of(&self, part: usize) -> u64 {
        // Sums apart keep the loads independent of each other; a known length makes vectors of them.
        const PART: usize = 32;
        let mut sums = [0u64; PART];
        for weight in &self.weights {
            let (_, words, _) = bytemuck::pod_align_to::<u8, u64>(weight.bytes());
            let at = |part: usize| words.len() * part / self.threads;
            for words in words[at(part)..at(part + 1)].chunks_exact(PART) {
                for i in 0..PART {
                    sums[i] = sums[i].wrapping_add(words[i]);
                }
            }
        }
        sums.into_iter().fold(0, u64::wrapping_add)
    }
}

/// The weights of a folder in the pages of its file, where the model has them too; without an embedding table of its own,
/// of which a step reads some rows only.
pub fn weights(source: &ModelSource) -> Vec<Tensor> {
    let checkpoint = Checkpoint::open(source, true).expect("a checkpoint");
    let untied = checkpoint.tensor("lm_head.weight").is_some();
    let is_read = |name: &&str| !(untied && name.contains("embed_tokens"));
    checkpoint.names().filter(is_read).map(|name| checkpoint.require(name).expect("listed")).collect()
}
