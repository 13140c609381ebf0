//! Logits of a batch that has run: of all its positions, or of some.

use super::Session;
use crate::{
    backend::{Backend, LogitsOperands, Probe, ProbeGatherOperands},
    error::{Error, Result},
    model::{Model, forward, scratch::Scratch},
    prune::BatchShape,
};

impl<B: Backend> Session<B> {
    /// Logits (samples·S, V) of the first `samples` samples of the batch that ran last.
    ///
    /// # Errors
    /// A device that has no room for them or failed.
    pub fn logits(&mut self, samples: usize) -> Result<Vec<f32>> {
        let (logits, shape) = self.device_logits(samples)?;
        self.model.backend.take_statistics(logits, shape.iter().product())
    }

    /// Shape \[samples, S, V\] of [`Session::logits`].
    pub fn logits_shape(&self, samples: usize) -> [usize; 3] {
        let BatchShape { samples: all, tokens } = self.batch.shape;
        [samples.min(all), tokens, self.model.weights.lm_head.out_features]
    }

    /// As [`Session::logits`], in new memory on the device, with their shape \[samples, S, V\].
    ///
    /// # Errors
    /// As [`Session::logits`].
    pub fn device_logits(&mut self, samples: usize) -> Result<(B::Statistics, [usize; 3])> {
        let shape = self.logits_shape(samples);
        let rows = shape[0] * shape[1];
        let backend = &*self.model.backend;
        let Scratch { current, x, embedded, .. } = &mut self.scratch;
        let input = forward::head_input(&self.model, current, rows, x, embedded);
        let mut logits = backend.statistics(rows * shape[2])?;
        let head = &self.model.weights.lm_head;
        backend.logits(LogitsOperands { x: input, rows, head, out: &mut logits });
        Ok((logits, shape))
    }

    /// Logits (samples·slots, V) at these token slots of the first `samples` samples of the batch that ran last. The head is
    /// computed for them alone.
    ///
    /// # Errors
    /// [`Error::Argument`] for slots that do not ascend or that the batch lacks; a device that has no room or failed.
    pub fn logits_at(&mut self, samples: usize, slots: &[u32]) -> Result<Vec<f32>> {
        let [samples, tokens, vocab_size] = self.logits_shape(samples);
        let ascending = slots.is_sorted_by(|a, b| a < b);
        if !ascending || slots.last().is_some_and(|&last| last as usize >= tokens) {
            let expected = format!("ascending slots below {tokens}, the length of the batch that ran last");
            return Err(Error::argument("slots", expected, format!("{slots:?}"), "Sort them."));
        }
        let backend = &*self.model.backend;
        let rows = samples * slots.len();
        let mut logits = backend.statistics(rows * vocab_size)?;
        if rows > 0 {
            let mut probe = Probe {
                shape: BatchShape { samples, tokens: slots.len() },
                samples: backend.indices(samples)?,
                slots: backend.indices(slots.len())?,
                // Gathering rows does not look at these.
                positions: backend.indices(1)?,
                mask: backend.indices(1)?,
            };
            backend.upload_indices(&(0..samples as u32).collect::<Vec<_>>(), &mut probe.samples);
            backend.upload_indices(slots, &mut probe.slots);
            of_rows(&self.model, self.batch.shape, &mut self.scratch, &probe, &mut logits);
        }
        backend.take_statistics(logits, rows * vocab_size)
    }
}

/// out (rows, V) = the logits of a probe's rows of the batch that ran last, which has this shape.
pub(super) fn of_rows<B: Backend>(
    model: &Model<B>,
    shape: BatchShape,
    scratch: &mut Scratch<B>,
    probe: &Probe<B>,
    out: &mut B::Statistics,
) {
    let (backend, rows) = (&*model.backend, probe.shape.rows());
    let Scratch { current, next, x, embedded, .. } = scratch;
    backend.probe_gather(ProbeGatherOperands {
        x: &current.rows,
        shape,
        hidden_size: model.config.hidden_size,
        probe,
        out: &mut next.rows,
    });
    let input = forward::head_input(model, next, rows, x, embedded);
    backend.logits(LogitsOperands { x: input, rows, head: &model.weights.lm_head, out });
}
