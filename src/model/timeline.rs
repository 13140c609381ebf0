//! Where the time of a forward goes: stamps between its steps, taken in the order of the device's work and read once all
//! of it is done. By default a session takes no stamps.

use crate::{backend::Backend, error::Result, prune::Block};

/// A step that time is attributed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Token and position embedding.
    Embedding,
    /// Attention blocks on the kept heads, their norms and residual adds included.
    Attention,
    /// MLP blocks on the kept channels, likewise.
    Mlp,
    /// Choosing and gathering the probe, and running it up to its energies.
    Probe,
    /// Fusion with history, scores, the kept sets, and the compensation of pruned channels.
    Selection,
    /// Energies of the batch, where no product writes them, and the update of history.
    History,
    /// The final norm, logits, and losses or tokens.
    Head,
}

impl Step {
    /// All, in the order of a report.
    pub const ALL: [Self; 7] = [
        Self::Embedding,
        Self::Attention,
        Self::Mlp,
        Self::Probe,
        Self::Selection,
        Self::History,
        Self::Head,
    ];

    /// "attention", "mlp", ...
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::Attention => "attention",
            Self::Mlp => "mlp",
            Self::Probe => "probe",
            Self::Selection => "selection",
            Self::History => "history",
            Self::Head => "head",
        }
    }

    /// The step of a block's own work.
    pub fn of_block(block: Block) -> Self {
        match block {
            Block::Attention => Self::Attention,
            Block::Mlp => Self::Mlp,
        }
    }
}

/// Stamps of the latest forward. The time between two of them belongs to the step of the later one, if it has one.
#[derive(Debug)]
pub struct Timeline<B: Backend> {
    /// The first one is the beginning.
    stamps: Vec<B::Stamp>,
    /// Of each stamp after the first.
    steps: Vec<Option<Step>>,
}

/// Stamps of a block, at most.
const PER_BLOCK: usize = 7;
/// Stamps outside of blocks, at most.
const OTHERS: usize = 12;

impl<B: Backend> Timeline<B> {
    /// One that takes no stamps.
    pub fn off() -> Self {
        Self { stamps: Vec::new(), steps: Vec::new() }
    }

    /// One for models of `layers` layers.
    ///
    /// # Errors
    /// A device that has no more stamps.
    pub fn on(backend: &B, layers: usize) -> Result<Self> {
        let most = layers * Block::ALL.len() * PER_BLOCK + OTHERS;
        let stamps = (0..most).map(|_| backend.stamp()).collect::<Result<_>>()?;
        Ok(Self { stamps, steps: Vec::with_capacity(most) })
    }

    /// Whether it takes stamps.
    pub fn is_on(&self) -> bool {
        !self.stamps.is_empty()
    }

    /// A forward begins.
    pub fn start(&mut self, backend: &B) {
        self.steps.clear();
        if let Some(first) = self.stamps.first_mut() {
            backend.take_stamp(first);
        }
    }

    /// The time since the last stamp belongs to `step`; to none where the device waited for the host.
    pub fn mark(&mut self, backend: &B, step: impl Into<Option<Step>>) {
        if let Some(stamp) = self.stamps.get_mut(self.steps.len() + 1) {
            backend.take_stamp(stamp);
            self.steps.push(step.into());
        }
    }

    /// Seconds of every step of [`Step::ALL`]; call it after a download, when the device has finished.
    ///
    /// # Errors
    /// A device that failed.
    pub fn seconds(&self, backend: &B) -> Result<[f64; Step::ALL.len()]> {
        let mut seconds = [0.0; Step::ALL.len()];
        for (pair, step) in self.stamps.windows(2).zip(&self.steps) {
            if let Some(step) = *step {
                seconds[step as usize] += backend.seconds_between(&pair[0], &pair[1])?;
            }
        }
        Ok(seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Cpu;

    #[test]
    fn stamps_are_taken_only_where_asked_for() {
        assert!(!Timeline::<Cpu>::off().is_on());
        assert!(Timeline::on(&Cpu::new(1).unwrap(), 1).unwrap().is_on());
    }
}
