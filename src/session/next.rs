//! The next token of every sample: its logits, and the most likely one.

use super::{Limits, Session, logits};
use crate::{
    backend::{ArgmaxOperands, Backend, Probe},
    config::ModelConfig,
    error::{Error, Result},
    model::timeline::Step,
    prune::BatchShape,
};

/// Buffers for the next token of every sample.
#[derive(Debug)]
pub(super) struct NextTokens<B: Backend> {
    /// Selects every sample's last token.
    last: Probe<B>,
    /// Its position (B).
    pub(super) positions: Vec<u32>,
    /// Logits (B, V); without a cache there is room for them only after the first [`Session::predict`].
    logits: Option<B::Statistics>,
    /// The most likely token of each (B).
    tokens: B::Indices,
    /// Samples that the logits are of, if they belong to the latest batch.
    pub(super) predicted: Option<usize>,
}

impl<B: Backend> NextTokens<B> {
    pub(super) fn new(backend: &B, config: &ModelConfig, limits: Limits) -> Result<Self> {
        let indices = |len: usize| backend.indices(len);
        let samples = limits.samples;
        let logits = (limits.capacity > 0).then(|| backend.statistics(samples * config.vocab_size));
        let mut last = Probe {
            shape: BatchShape { samples, tokens: 1 },
            samples: indices(samples)?,
            slots: indices(1)?,
            positions: indices(samples)?,
            mask: indices(samples)?,
        };
        backend.upload_indices(&(0..samples as u32).collect::<Vec<_>>(), &mut last.samples);
        Ok(Self {
            last,
            positions: Vec::new(),
            logits: logits.transpose()?,
            tokens: indices(samples)?,
            predicted: None,
        })
    }
}

fn no_generation() -> Error {
    let help = "Run the prompts first; other batches in between end a generation.";
    Error::argument("next token", "a generation that has begun", "none", help)
}

impl<B: Backend> Session<B> {
    /// Leaves the logits of every sample's next token after the batch that [`Session::forward`] ran last for
    /// [`Session::next_logits`] and [`Session::next_tokens`]. The first call makes room for them in a session without a
    /// cache.
    ///
    /// # Errors
    /// A device that has no room for them.
    pub fn predict(&mut self) -> Result<()> {
        if self.next.logits.is_none() {
            let entries = self.limits.samples * self.model.config.vocab_size;
            self.next.logits = Some(self.model.backend.statistics(entries)?);
        }
        self.last_logits(self.batch.shape.tokens);
        Ok(())
    }

    /// Logits (samples, V) of every sample's next token, after [`Session::prefill`], [`Session::decode`] or
    /// [`Session::predict`].
    ///
    /// # Errors
    /// None of them before, or a device that failed.
    pub fn next_logits(&self) -> Result<Vec<f32>> {
        let NextTokens { logits, predicted, .. } = &self.next;
        let (logits, samples) = logits.as_ref().zip(*predicted).ok_or_else(no_generation)?;
        self.model.backend.download_statistics(logits, samples * self.model.config.vocab_size)
    }

    /// The most likely next token of every sample, chosen on the device.
    ///
    /// # Errors
    /// As [`Session::next_logits`], and logits that are not finite.
    pub fn next_tokens(&mut self) -> Result<Vec<u32>> {
        let (backend, vocab_size) = (&*self.model.backend, self.model.config.vocab_size);
        let NextTokens { logits, predicted, tokens, .. } = &mut self.next;
        let (x, rows) = logits.as_ref().zip(*predicted).ok_or_else(no_generation)?;
        backend.argmax(ArgmaxOperands { x, rows, vocab_size, out: tokens });
        self.scratch.timeline.mark(backend, Step::Head);
        let best = backend.download_indices(tokens, rows)?;
        if best.contains(&u32::MAX) { Err(self.output_fault()) } else { Ok(best) }
    }

    /// Leaves the logits at every sample's last of `tokens` slots for [`Session::next_logits`].
    pub(super) fn last_logits(&mut self, tokens: usize) {
        let (backend, shape) = (&*self.model.backend, self.batch.shape);
        let NextTokens { last, logits: Some(out), predicted, .. } = &mut self.next else { return };
        last.shape.samples = shape.samples;
        backend.upload_indices(&[tokens as u32 - 1], &mut last.slots);
        self.scratch.timeline.mark(backend, None);
        logits::of_rows(&self.model, shape, &mut self.scratch, last, out);
        self.scratch.timeline.mark(backend, Step::Head);
        *predicted = Some(shape.samples);
    }
}
