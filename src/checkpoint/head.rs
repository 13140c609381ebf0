//! Whether a model's head is its embedding: config.json says so, and the weights can say otherwise.

use super::Checkpoint;
use crate::{config::ModelConfig, weights::prefix};

const HEAD: &str = "lm_head.weight";

/// Follows transformers 5: a head that config.json ties, but whose tensor differs from the embedding's, is used as it is.
pub(super) fn settle(config: &mut ModelConfig, checkpoint: &Checkpoint) {
    if !config.tie_word_embeddings {
        return;
    }
    let embedding = format!("{}embed_tokens.weight", prefix(config.family));
    match (checkpoint.tensor(&embedding), checkpoint.tensor(HEAD)) {
        (Some(embedding), Some(head)) => {
            let same = embedding.dtype() == head.dtype()
                && embedding.shape() == head.shape()
                && embedding.bytes() == head.bytes();
            if !same {
                config.tie_word_embeddings = false;
                config.notes.push(format!(
                    "config.json ties the head to the embedding, but {HEAD} differs from it: both are used as they are, as \
                     transformers 5 does; transformers 4 uses the embedding for both"
                ));
            }
        }
        (Some(_), None) if checkpoint.stale(HEAD).is_some() => config.notes.push(format!(
            "the index lists {HEAD}, which its shard lacks: the head is the embedding, as config.json says"
        )),
        _ => {}
    }
}
