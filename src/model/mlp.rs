//! The MLP block: from its norm's output to its intermediate states.

use crate::{
    backend::{Backend, EnergyOf, KeptBlocks},
    config::Activation,
    weights::{Mlp, MlpFirst},
};

/// a (rows, kept channels) = silu(gate)·up or relu(fc1) of x (rows, H), and its energies where they are asked for.
pub fn intermediate<B: Backend>(
    backend: &B,
    mlp: &Mlp<B>,
    activation: Activation,
    x: &B::Activations,
    rows: usize,
    kept: Option<KeptBlocks<'_, B::Indices>>,
    energy: Option<EnergyOf<'_, B>>,
    a: &mut B::Activations,
) {
    match &mlp.first {
        MlpFirst::Gated { gate_proj, up_proj } => {
            backend.gated_linear(x, rows, gate_proj, up_proj, kept, activation, energy, a);
        }
        MlpFirst::Plain(fc1) => backend.linear(x, rows, fc1, kept, Some(activation), 1.0, energy, a),
    }
}
