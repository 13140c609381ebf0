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
        const LINE: usize = 8;
        // Several places at once keep more of memory busy than one; sums apart keep the loads independent of each other.
        let mut sums = [[0u64; LINE]; 4];
        for weight in &self.weights {
            let (_, words, _) = bytemuck::pod_align_to::<u8, u64>(weight.bytes());
            let at = |part: usize| words.len() * part / self.threads;
            let words = &words[at(part)..at(part + 1)];
            let [mut a, mut b, mut c, mut d] = [0, 1, 2, 3]
                .map(|i| words[words.len() * i / 4..words.len() * (i + 1) / 4].chunks_exact(LINE));
            while let (Some(a), Some(b), Some(c), Some(d)) = (a.next(), b.next(), c.next(), d.next()) {
                for (sums, words) in sums.iter_mut().zip([a, b, c, d]) {
                    sums.iter_mut().zip(words).for_each(|(sum, word)| *sum = sum.wrapping_add(*word));
                }
            }
        }
        sums.into_iter().flatten().fold(0, u64::wrapping_add)
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
