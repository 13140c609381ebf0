//! The MLP block: from its norm's output to its intermediate states.

use super::{Model, attention::Rows, kept::Kept};
use crate::{
    backend::{Backend, EnergyOutput, GatedLinearOperands, LinearOperands},
    weights::{Mlp, MlpFirst},
};

/// a (T, kept channels) = silu(gate)·up or relu(fc1) of the rows, and its energies, if requested.
pub fn intermediate<B: Backend>(
    model: &Model<B>,
    mlp: &Mlp<B>,
    rows: Rows<'_, B>,
    kept: Option<&Kept<B>>,
    energy: Option<EnergyOutput<'_, B>>,
    a: &mut B::Activations,
) {
    let (backend, activation) = (&*model.backend, model.config.activation);
    let (x, t, kept) = (rows.x, rows.shape.rows(), kept.map(|kept| &kept.set));
    match &mlp.first {
        MlpFirst::Gated { gate_proj, up_proj } => backend.gated_linear(GatedLinearOperands {
            x,
            rows: t,
            gate: gate_proj,
            up: up_proj,
            kept,
            activation,
            energy,
            out: a,
        }),
        MlpFirst::Plain(fc1) => backend.linear(LinearOperands {
            kept,
            activation: Some(activation),
            energy,
            ..LinearOperands::new(x, t, fc1, a)
        }),
    }
}
