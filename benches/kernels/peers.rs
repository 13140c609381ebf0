//! What this project's runs are measured against.

use probeprune::{Error, Result, prune::BatchShape};

use crate::case::LayerShape;

/// A run of another program.
#[derive(Clone, Copy, Debug)]
pub enum Rival {
    /// cuBLAS's product of compact operands: rows, outputs, inputs.
    Product([usize; 3]),
    /// Gate and up of compact weights, and SwiGLU: rows, channels, inputs.
    Gated([usize; 3]),
    /// A copy of so many bytes within the device.
    Copy(usize),
    /// The dense layer that a user could have instead, on a batch of this shape behind so many cached tokens.
    Layer(LayerShape, usize),
    /// An MLP block of 2:4-sparse weights.
    Sparse(LayerShape),
    /// The indices of so many of so many scores.
    TopK { of: usize, k: usize },
    /// The authors' operations on a whole model, which keeps so many heads and channels in its pruned layers.
    Authors { model: LayerShape, layers: usize, vocab: usize, batch: BatchShape, kept: [usize; 2] },
}

/// A rival that is ready to run.
pub struct Peer<'a> {
    /// What it is, with its version.
    pub name: String,
    /// Issues one run to the backend's stream.
    pub run: Box<dyn FnMut() + 'a>,
}

/// Why there is nothing to measure.
#[derive(Debug)]
pub enum Trouble {
    /// A library or package that is not here.
    Missing(String),
    /// Something that should have worked.
    Failed(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Those that a machine has.
pub trait Peers {
    /// Gets a rival's run ready.
    ///
    /// # Errors
    /// A rival that is not here, a device without room for it.
    fn prepare(&self, rival: Rival) -> Result<Peer<'_>, Trouble>;

    /// Bytes that are taken of the device's memory now.
    ///
    /// # Errors
    /// A device that failed.
    fn memory_taken(&self) -> Result<f64>;
}
