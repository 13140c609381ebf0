//! Validation of a session's limits and batches.

use super::Limits;
use crate::{
    config::{ModelConfig, RopeScaling},
    error::{Error, Result},
    prune::settings::{DenseBelow, Settings},
};

/// Limits that the model has positions for.
pub(super) fn check_limits(config: &ModelConfig, settings: &Settings, limits: Limits) -> Result<()> {
    let longest = limits.longest();
    let dynamic =
        config.rope.as_ref().is_some_and(|rope| matches!(rope.scaling, RopeScaling::Dynamic { .. }));
    if longest > config.max_position_embeddings && !dynamic {
        return Err(Error::argument(
            "sequence length",
            format!("at most {} tokens, the model's max_position_embeddings", config.max_position_embeddings),
            longest,
            "Use shorter windows or prompts, or fewer new tokens.",
        ));
    }
    if limits.samples == 0 || limits.tokens == 0 {
        return Err(Error::argument("batch", "at least one sample of one token", "none", "Pass some input."));
    }
    if settings.dense_below != DenseBelow::NEVER && limits.capacity > 0 {
        return Err(Error::argument(
            "dense_below",
            "0 where text is generated: the key/value cache has room for kept heads only",
            settings.dense_below,
            "Leave it out.",
        ));
    }
    Ok(())
}

/// Tokens (samples, S) within the limits and the vocabulary; a mask of the same shape with a token in every row.
pub(super) fn check_batch(
    config: &ModelConfig,
    limits: Limits,
    tokens: &[u32],
    samples: usize,
    mask: Option<&[u32]>,
) -> Result<()> {
    if samples == 0 || tokens.is_empty() || !tokens.len().is_multiple_of(samples) {
        return Err(Error::argument(
            "batch",
            "the same number of tokens, at least one, for every sample",
            format!("{} tokens for {samples} samples", tokens.len()),
            "Pad shorter samples on the left and pass a mask.",
        ));
    }
    let length = tokens.len() / samples;
    if samples > limits.samples || length > limits.tokens {
        return Err(Error::argument(
            "batch",
            format!("at most {} × {}, the session's limits", limits.samples, limits.tokens),
            format!("{samples} × {length}"),
            "Make a session with larger limits.",
        ));
    }
    if let Some(at) = tokens.iter().position(|&token| token as usize >= config.vocab_size) {
        return Err(Error::argument(
            format!("token {} of sample {}", at % length, at / length),
            format!("an id below {}, the model's vocab_size", config.vocab_size),
            tokens[at],
            "The text was tokenised for another model.",
        ));
    }
    let Some(mask) = mask else { return Ok(()) };
    if mask.len() != tokens.len() {
        let (expected, got) = (format!("{} entries", tokens.len()), format!("{} entries", mask.len()));
        return Err(Error::argument("mask", expected, got, "One per token."));
    }
    match mask.chunks_exact(length).position(|row| row.iter().all(|&real| real == 0)) {
        None => Ok(()),
        Some(sample) => Err(Error::argument(
            format!("mask of sample {sample}"),
            "at least one token",
            "only padding",
            "Leave the sample out of the batch.",
        )),
    }
}
