//! What a measurement asks of a session besides its results.

use super::{Session, in_order, selections};
use crate::{
    backend::Backend,
    error::Result,
    model::timeline::{Step, Timeline},
    prune::calibration::Calibration,
};

impl<B: Backend> Session<B> {
    /// Batches so far that ran dense because they were smaller than [`dense_below`](crate::prune::settings::Settings::dense_below).
    pub fn dense_batches(&self) -> usize {
        self.dense_batches
    }

    /// Leaves the logits of every sample's next token after the batch that [`Session::forward`] ran last for
    /// [`Session::next_logits`] and [`Session::next_tokens`]. The first call makes room for them in a session without a
    /// cache.
    ///
    /// # Errors
    /// A device that has no room for them.
    pub fn predict(&mut self) -> Result<()> {
        if !self.has_next_logits {
            let entries = self.limits.samples * self.model.config.vocab_size;
            self.next_logits = self.model.backend.statistics(entries)?;
            self.has_next_logits = true;
        }
        self.last_logits(self.batch.grid.tokens);
        Ok(())
    }

    /// Whether every forward from now on records where its time goes. On a GPU launches are then issued one by one
    /// instead of as a graph.
    ///
    /// # Errors
    /// A device that has no more events.
    pub fn record_steps(&mut self, on: bool) -> Result<()> {
        let (backend, layers) = (&*self.model.backend, self.model.config.num_hidden_layers);
        self.scratch.timeline = if on { Timeline::on(backend, layers)? } else { Timeline::off() };
        Ok(())
    }

    /// Seconds that each of [`Step::ALL`] took in the forward that ran last, with what came after it: the head, history.
    /// To be asked after a download ([`Session::evaluate`], [`Session::next_tokens`]).
    ///
    /// # Errors
    /// A device that failed.
    pub fn step_seconds(&self) -> Result<[f64; Step::ALL.len()]> {
        self.scratch.timeline.seconds(&self.model.backend)
    }

    /// Puts history back to what it was when the session was made with this calibration, if with one.
    pub fn reset_history(&mut self, calibration: Option<&Calibration>) {
        let calibration = in_order(&self.model, calibration);
        selections::reset_history(&self.model, calibration.as_deref(), &mut self.selections);
    }
}
