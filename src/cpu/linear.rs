//! Products with weights: rows of first projections, columns of last ones, dense or restricted to the kept ones.

use super::{
    Cpu, elementwise,
    matrix::{Pick, picked, picked_bias, picked_rows},
    probe,
    product::{self, Factors},
    vector,
};
use crate::backend::{
    EnergyOperands, EnergyOutput, GatedLinearOperands, LinearOperands, LowRank, ProjectOperands,
};

pub(super) fn linear(cpu: &Cpu, operands: LinearOperands<'_, Cpu>) {
    let LinearOperands { x, rows, projection, kept, activation, scale, energy, out } = operands;
    let pick = picked_rows(kept, projection.out_features);
    let bias = picked_bias(projection.bias.as_ref(), pick);
    let columns = Pick::All(projection.in_features);
    product::multiply(
        cpu,
        Factors { x, t: rows, weight: &projection.weight, rows: pick, columns },
        None,
        out,
        #[inline(always)]
        |values, _, first| {
            elementwise::bias_activation_scale(cpu, values, bias.as_deref(), first, activation, scale);
        },
    );
    energy_of(cpu, out, pick.len(), energy);
}

pub(super) fn gated_linear(cpu: &Cpu, operands: GatedLinearOperands<'_, Cpu>) {
    let GatedLinearOperands { x, rows, gate, up, kept, activation, energy, out } = operands;
    let pick = picked_rows(kept, gate.out_features);
    let [gate_bias, up_bias] = [gate, up].map(|linear| picked_bias(linear.bias.as_ref(), pick));
    product::multiply_pair(
        cpu,
        x,
        rows,
        [&gate.weight, &up.weight],
        pick,
        out,
        #[inline(always)]
        |gate, up, first| {
            elementwise::bias_activation_scale(cpu, up, up_bias.as_deref(), first, None, 1.0);
            elementwise::bias_activation_scale(cpu, gate, gate_bias.as_deref(), first, Some(activation), 1.0);
            cpu.arch.dispatch(vector::Multiply(gate, up));
        },
    );
    energy_of(cpu, out, pick.len(), energy);
}

pub(super) fn project(cpu: &Cpu, operands: ProjectOperands<'_, Cpu>) {
    let ProjectOperands { a, rows, projection, kept, bias, low_rank, residual, out } = operands;
    let columns = picked(kept, projection.in_features);
    let width = projection.out_features;
    let constant = low_rank.map(|LowRank { rank, weight, .. }| &weight[rank * width..]);
    product::multiply(
        cpu,
        Factors { x: a, t: rows, weight: &projection.weight, rows: Pick::All(width), columns },
        low_rank,
        out,
        #[inline(always)]
        |values, row, first| {
            if let Some(bias) = bias {
                cpu.arch.dispatch(vector::Add(values, &bias[first..]));
            }
            if let Some(constant) = constant {
                cpu.arch.dispatch(vector::Add(values, &constant[first..]));
            }
            if let Some(residual) = residual {
                cpu.arch.dispatch(vector::Add(values, &residual[row * width + first..]));
            }
        },
    );
}

/// The energies of a product (T, channels).
fn energy_of(
    cpu: &Cpu,
    product: &super::Buffer<f32>,
    channels: usize,
    energy: Option<EnergyOutput<'_, Cpu>>,
) {
    if let Some(EnergyOutput { shape, mask, out, energy_only: _ }) = energy {
        probe::energy(cpu, EnergyOperands { a: product, shape, channels, mask, out, sums: None });
    }
}
