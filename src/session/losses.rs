//! How well a model predicts a batch.

use super::Session;
use crate::{
    backend::Backend,
    error::{Error, Result},
    model::{block::Mode, forward, scratch::Scratch, timeline::Step},
};

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
        backend.upload_indices(&targets, &mut self.targets);
        let Scratch { current, x, embedded, timeline, .. } = &mut self.scratch;
        timeline.mark(backend, None);
        let input = forward::head_input(&self.model, current, tokens.len(), x, embedded);
        let head = &self.model.weights.lm_head;
        let (rows, scratch) = (tokens.len(), &mut self.loss_scratch);
        backend.cross_entropy(input, rows, head, &self.targets, scratch, &mut self.losses);
        timeline.mark(backend, Step::Head);
        let losses = backend.download_statistics(&self.losses, rows)?;
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
