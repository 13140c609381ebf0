//! Validation of a session's limits and batches.

use super::{Footprint, Limits};
use crate::{
    backend::Backend,
    config::{ModelConfig, RopeScaling},
    error::{Error, Result},
    model::Model,
    prune::{
        calibration::Calibration,
        flops::LayerCounts,
        settings::{DenseBelow, Method, Settings},
    },
};

impl Limits {
    /// Refuses sequences longer than the model has positions for.
    ///
    /// # Errors
    /// [`Error::Argument`] with the longest.
    pub fn check(self, config: &ModelConfig) -> Result<()> {
        let (longest, positions) = (self.longest(), config.max_position_embeddings);
        let dynamic =
            config.rope.as_ref().is_some_and(|rope| matches!(rope.scaling, RopeScaling::Dynamic { .. }));
        if longest <= positions || dynamic {
            return Ok(());
        }
        let expected = format!("at most {positions} tokens, the model's max_position_embeddings");
        let help = "Use shorter windows or prompts, or fewer new tokens.";
        Err(Error::argument("sequence length", expected, longest, help))
    }
}

/// Limits that a session with these settings can have.
pub(super) fn check_limits(config: &ModelConfig, settings: &Settings, limits: Limits) -> Result<()> {
    limits.check(config)?;
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

/// Limits that the device has room for, and whose products can be counted.
pub(super) fn check_room<B: Backend>(
    model: &Model<B>,
    settings: &Settings,
    limits: Limits,
    calibration: Option<&Calibration>,
) -> Result<()> {
    let config = &model.config;
    let losses = calibration.and_then(|calibration| calibration.losses_of(settings.method));
    let chooses = !matches!(settings.method, Method::None | Method::Fold);
    let pruned = chooses.then(|| LayerCounts::by_settings(config, settings, losses));
    // Settings that keep nothing are refused later.
    let counts = pruned
        .and_then(Result::ok)
        .unwrap_or_else(|| model.weights.layers.iter().map(|layer| LayerCounts::of(&layer.shape)).collect());
    let total = Footprint::new(config, settings, &counts, limits).total();
    model.backend.check_room(total.elements, total.words)
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
