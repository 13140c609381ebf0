//! What measurements need of a session besides its results.

use super::{Session, probed};
use crate::{
    backend::Backend,
    error::Result,
    model::timeline::{Step, Timeline},
    prune::calibration::Calibration,
};

impl<B: Backend> Session<B> {
    /// Batches so far that ran dense because of [`dense_below`](crate::prune::settings::Settings::dense_below).
    pub fn dense_batches(&self) -> usize {
        self.fallback.batches
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
    /// Call it after a download ([`Session::evaluate`], [`Session::next_tokens`]).
    ///
    /// # Errors
    /// A device that failed.
    pub fn step_seconds(&self) -> Result<[f64; Step::ALL.len()]> {
        self.scratch.timeline.seconds(&self.model.backend)
    }

    /// Resets history to this calibration, or to zeros without one.
    pub fn reset_history(&mut self, calibration: Option<&Calibration>) {
        let calibration = calibration.map(|of| of.in_order_of(self.model.channel_order.as_deref()));
        probed::reset_history(&self.model, calibration.as_deref(), &mut self.selections);
    }
}
