//! How well a model predicts a batch.

use super::Session;
use crate::{
    backend::{Backend, CrossEntropyOperands},
    config::ModelConfig,
    error::{Error, Result},
    model::{context::Mode, forward, scratch::Scratch, timeline::Step},
};

/// Buffers for the losses of a batch.
#[derive(Debug)]
pub(super) struct LossBuffers<B: Backend> {
    /// Cross-entropy of every row (T).
    losses: B::Statistics,
    /// The token that each row predicts (T).
    targets: B::Indices,
    /// See [`Backend::cross_entropy_scratch`].
    scratch: B::Statistics,
}

impl<B: Backend> LossBuffers<B> {
    pub(super) fn new(backend: &B, config: &ModelConfig, rows: usize) -> Result<Self> {
        Ok(Self {
            losses: backend.statistics(rows)?,
            targets: backend.indices(rows)?,
            scratch: backend.statistics(backend.cross_entropy_scratch(rows, config.vocab_size))?,
        })
    }
}

impl<B: Backend> Session<B> {
    /// Mean cross-entropy (nats) of predicting token t+1 from tokens up to t, over the tokens that are not pads.
    ///
    /// `tokens` is (samples, S); `mask` of the same shape has 0 for pads. With `update_history` the batch is folded
    /// into history after it ran.
    ///
    /// # Errors
    /// A token that is not in the vocabulary, a row of pads only, a batch over the session's limits, or values that
    /// are not finite; the session stays usable.
    pub fn evaluate(
        &mut self,
        tokens: &[u32],
        samples: usize,
        mask: Option<&[u32]>,
        update_history: bool,
    ) -> Result<f64> {
        let losses = self.losses(tokens, samples, mask, update_history)?;
        let count = targets(tokens, samples, mask).filter(|&target| target != u32::MAX).count();
        Ok(losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / count as f64)
    }

    /// Cross-entropy (nats) of predicting every token's successor, (samples, S): minus its log-likelihood. 0 where there is
    /// no successor, at pads and before them. See [`Session::evaluate`] for the arguments.
    ///
    /// # Errors
    /// As [`Session::evaluate`].
    pub fn losses(
        &mut self,
        tokens: &[u32],
        samples: usize,
        mask: Option<&[u32]>,
        update_history: bool,
    ) -> Result<Vec<f32>> {
        self.load(tokens, samples, mask)?;
        self.run(Mode::Batch { update_history }, false)?;
        let targets: Vec<u32> = targets(tokens, samples, mask).collect();
        if targets.iter().all(|&target| target == u32::MAX) {
            return Err(Error::argument(
                "batch",
                "at least two tokens in some sample",
                "no token with a successor",
                "Use longer windows.",
            ));
        }
        let backend = &*self.model.backend;
        let LossBuffers { losses, targets: on_device, scratch } = &mut self.losses;
        backend.upload_indices(&targets, on_device);
        let Scratch { current, x, embedded, timeline, .. } = &mut self.scratch;
        timeline.mark(backend, None);
        let input = forward::head_input(&self.model, current, tokens.len(), x, embedded);
        let (head, rows) = (&self.model.weights.lm_head, tokens.len());
        backend.cross_entropy(CrossEntropyOperands {
            x: input,
            rows,
            head,
            targets: on_device,
            scratch,
            out: losses,
        });
        timeline.mark(backend, Step::Head);
        let losses = backend.download_statistics(losses, rows)?;
        if !losses.iter().all(|loss| loss.is_finite()) {
            return Err(self.output_fault());
        }
        self.update_history(update_history);
        Ok(losses)
    }
}

/// The successor of every token of (samples, S); `u32::MAX` where there is none.
fn targets<'a>(tokens: &'a [u32], samples: usize, mask: Option<&'a [u32]>) -> impl Iterator<Item = u32> + 'a {
    let length = tokens.len() / samples;
    let real = move |i: usize| mask.is_none_or(|mask| mask[i] != 0);
    (0..tokens.len())
        .map(move |i| if (i + 1) % length != 0 && real(i) && real(i + 1) { tokens[i + 1] } else { u32::MAX })
}
