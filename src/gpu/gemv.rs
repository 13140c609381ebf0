//! Products of few rows, as in decoding: memory-bound, so every kept weight is read once and nothing else.

use super::{
    Activations, Driver, Geometry, Gpu, Indices, PerDtype, Statistics,
    args::{LinearGemvArgs, ProjectGemvArgs},
    per_dtype,
};
use crate::{
    backend::{Addition, KeptBlocks, Linear, WeightUse},
    config::Activation,
};

/// Most rows that these kernels take; more go to the tiled ones.
pub(super) const MAX_ROWS: usize = 16;
/// Weight rows of a block of linear_gemv.
const LINEAR_TILE: usize = 32;
/// Weight rows of a block of gated_linear_gemv, in each of both weights.
const GATED_TILE: usize = 16;
/// Columns of a block of project_gemv.
const PROJECT_SLAB: usize = 32;
/// With fewer blocks than this each gets all the warps that the kernels take, or too few loads would be under way.
const FEW_BLOCKS: usize = 64;

/// The kernels for at most 8 rows and for at most 16.
type PerRows = [PerDtype; 2];

const LINEAR: PerRows =
    [per_dtype!("linear_gemv", "linear_gemv_8"), per_dtype!("linear_gemv", "linear_gemv_16")];
const GATED: PerRows = [
    per_dtype!("gated_linear_gemv", "gated_linear_gemv_8"),
    per_dtype!("gated_linear_gemv", "gated_linear_gemv_16"),
];
const PROJECT: PerRows =
    [per_dtype!("project_gemv", "project_gemv_8"), per_dtype!("project_gemv", "project_gemv_16")];

/// The number by which kernels know an activation function (cuda/activation.cuh).
fn number(activation: Option<Activation>) -> i32 {
    match activation {
        None => 0,
        Some(Activation::Silu) => 1,
        Some(Activation::Relu) => 2,
        Some(Activation::Gelu) => 3,
        Some(Activation::GeluTanh) => 4,
    }
}

fn geometry(outputs: usize, tile: usize) -> Geometry {
    let blocks = outputs.div_ceil(tile);
    let threads = if blocks < FEW_BLOCKS { 512 } else { 256 };
    Geometry { grid: [blocks as u32, 1, 1], threads, shared: 0 }
}

impl<D: Driver> Gpu<D> {
    pub(super) fn linear_gemv(
        &self,
        x: &Activations<D>,
        rows: usize,
        projection: &Linear<Self>,
        kept: Option<KeptBlocks<'_, Indices<D>>>,
        activation: Option<Activation>,
        scale: f32,
        out: &Activations<D>,
    ) {
        let arguments = LinearGemvArgs {
            out: self.elements(out),
            activation: number(activation),
            scale,
            ..self.linear_arguments(x, rows, projection, kept)
        };
        self.launch_gemv(LINEAR, rows, geometry(arguments.features as usize, LINEAR_TILE), &arguments);
    }

    pub(super) fn logits_gemv(
        &self,
        x: &Activations<D>,
        rows: usize,
        head: &Linear<Self>,
        out: &Statistics<D>,
    ) {
        let arguments = LinearGemvArgs {
            logits: self.floats(out),
            scale: 1.0,
            ..self.linear_arguments(x, rows, head, None)
        };
        self.launch_gemv(LINEAR, rows, geometry(arguments.features as usize, LINEAR_TILE), &arguments);
    }

    pub(super) fn gated_linear_gemv(
        &self,
        x: &Activations<D>,
        rows: usize,
        gate: &Linear<Self>,
        up: &Linear<Self>,
        kept: Option<KeptBlocks<'_, Indices<D>>>,
        activation: Activation,
        out: &Activations<D>,
    ) {
        debug_assert_eq!(up.weight.usage, WeightUse::Rows);
        debug_assert_eq!([gate.out_features, gate.in_features], [up.out_features, up.in_features]);
        let arguments = LinearGemvArgs {
            up: self.address(&up.weight.buffer),
            up_bias: self.optional_floats(up.bias.as_ref()),
            out: self.elements(out),
            activation: number(Some(activation)),
            ..self.linear_arguments(x, rows, gate, kept)
        };
        self.launch_gemv(GATED, rows, geometry(arguments.features as usize, GATED_TILE), &arguments);
    }

    pub(super) fn project_gemv(
        &self,
        a: &Activations<D>,
        rows: usize,
        projection: &Linear<Self>,
        kept: Option<KeptBlocks<'_, Indices<D>>>,
        bias: Option<&Statistics<D>>,
        addition: Option<Addition<'_, Self>>,
        residual: Option<&Activations<D>>,
        out: &Activations<D>,
    ) {
        debug_assert_eq!(projection.weight.usage, WeightUse::Columns);
        let width = projection.out_features;
        let arguments = ProjectGemvArgs {
            a: self.elements(a),
            weight: self.address(&projection.weight.buffer),
            kept: kept.map_or(0, |kept| self.words(&kept.set.indices)),
            bias: self.optional_floats(bias),
            residual: residual.map_or(0, |residual| self.elements(residual)),
            z: addition.map_or(0, |addition| self.elements(addition.z)),
            addition: addition.map_or(0, |addition| self.elements(addition.weight)),
            out: self.elements(out),
            tokens: rows as i32,
            channels: kept.map_or(projection.in_features, |kept| kept.channels()) as i32,
            width: width as i32,
            block: kept.map_or(1, |kept| kept.width) as i32,
            rank: addition.map_or(0, |addition| addition.rank as i32),
            unused: 0,
        };
        self.launch_gemv(PROJECT, rows, geometry(width, PROJECT_SLAB), &arguments);
    }

    fn linear_arguments(
        &self,
        x: &Activations<D>,
        rows: usize,
        projection: &Linear<Self>,
        kept: Option<KeptBlocks<'_, Indices<D>>>,
    ) -> LinearGemvArgs {
        debug_assert_eq!(projection.weight.usage, WeightUse::Rows);
        LinearGemvArgs {
            x: self.elements(x),
            weight: self.address(&projection.weight.buffer),
            bias: self.optional_floats(projection.bias.as_ref()),
            kept: kept.map_or(0, |kept| self.words(&kept.set.indices)),
            tokens: rows as i32,
            width: projection.in_features as i32,
            features: kept.map_or(projection.out_features, |kept| kept.channels()) as i32,
            block: kept.map_or(1, |kept| kept.width) as i32,
            ..LinearGemvArgs::default()
        }
    }

    fn launch_gemv<A: bytemuck::NoUninit>(
        &self,
        kernels: PerRows,
        rows: usize,
        geometry: Geometry,
        arguments: &A,
    ) {
        debug_assert!(rows <= MAX_ROWS, "more rows are for the tiled kernels");
        if rows > 0 {
            self.launch(self.of_dtype(kernels[usize::from(rows > 8)]), geometry, arguments);
        }
    }
}
