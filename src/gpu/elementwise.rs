//! Row-wise operations: embedding, norms, gathering rows, statistics of weights.

use super::{
    Driver, Geometry, Gpu, Kernel, PerDtype,
    args::{ColumnStatisticArgs, EmbedArgs, NormArgs, ProbeGatherArgs},
    per_dtype,
};
use crate::{
    backend::{
        ColumnStatisticOperands, EmbedOperands, NormKind, NormOperands, ProbeGatherOperands, WeightUse,
    },
    prune::settings::Metric,
};

const NORM: PerDtype = per_dtype!("norm");
const EMBED: PerDtype = per_dtype!("embed");
const PROBE_GATHER: Kernel = Kernel { module: "probe_gather", name: "probe_gather" };
const COLUMN_STATISTIC: PerDtype = per_dtype!("column_statistic");

/// A block for each row, with whole warps so that each thread has `elements` of the row, up to `most` threads.
fn block_per_row(rows: usize, columns: usize, elements: usize, most: usize) -> Geometry {
    let threads = columns.div_ceil(elements).next_multiple_of(32).min(most);
    Geometry { grid: [rows as u32, 1, 1], threads: threads as u32, shared: 0 }
}

impl<D: Driver> Gpu<D> {
    pub(super) fn norm_kernel(&self, operands: NormOperands<'_, Self>) {
        let NormOperands { x, norm, rows, hidden_size, out, sum_squares } = operands;
        let arguments = NormArgs {
            x: self.elements(x),
            weight: self.optional_floats(norm.and_then(|norm| norm.weight.as_ref())),
            bias: self.optional_floats(norm.and_then(|norm| norm.bias.as_ref())),
            out: self.elements(out),
            sum_squares: self.floats(sum_squares),
            rows: rows as i32,
            hidden_size: hidden_size as i32,
            kind: match norm.map(|norm| norm.kind) {
                None => 0,
                Some(NormKind::Rms) => 1,
                Some(NormKind::Layer) => 2,
            },
            eps: norm.map_or(0.0, |norm| norm.eps),
        };
        self.launch(self.of_dtype(NORM), block_per_row(rows, hidden_size, 16, 1024), &arguments);
    }

    pub(super) fn embed_kernel(&self, operands: EmbedOperands<'_, Self>) {
        let EmbedOperands { table, tokens, position_table, rows, out } = operands;
        let embedding_dim = table.columns;
        debug_assert_eq!(table.usage, WeightUse::Rows);
        debug_assert!(position_table.is_none_or(|(table, _)| table.columns == embedding_dim));
        let arguments = EmbedArgs {
            table: self.address(&table.buffer),
            tokens: self.words(tokens),
            position_table: position_table.map_or(0, |(table, _)| self.address(&table.buffer)),
            positions: position_table.map_or(0, |(_, positions)| self.words(positions)),
            out: self.elements(out),
            rows: rows as i32,
            embedding_dim: embedding_dim as i32,
        };
        self.launch(self.of_dtype(EMBED), block_per_row(rows, embedding_dim, 8, 256), &arguments);
    }

    pub(super) fn probe_gather_kernel(&self, operands: ProbeGatherOperands<'_, Self>) {
        let ProbeGatherOperands { x, shape, hidden_size, probe, out } = operands;
        let rows = probe.shape.rows();
        let arguments = ProbeGatherArgs {
            x: self.elements(x),
            probe_samples: self.words(&probe.samples),
            probe_slots: self.words(&probe.slots),
            out: self.elements(out),
            rows: rows as i32,
            hidden_size: hidden_size as i32,
            tokens: shape.tokens as i32,
            probe_tokens: probe.shape.tokens as i32,
        };
        self.launch(PROBE_GATHER, block_per_row(rows, hidden_size, 8, 256), &arguments);
    }

    pub(super) fn column_statistic_kernel(&self, operands: ColumnStatisticOperands<'_, Self>) {
        let ColumnStatisticOperands { projection, metric, out } = operands;
        debug_assert_eq!(projection.weight.usage, WeightUse::Columns);
        let channels = projection.in_features;
        let (power, root) = match metric {
            Metric::WandaSp => (1, 0),
            Metric::Flap => (2, 0),
            Metric::Ppsp => (4, 1),
        };
        let arguments = ColumnStatisticArgs {
            weight: self.address(&projection.weight.buffer),
            out: self.floats(out),
            channels: channels as i32,
            out_features: projection.out_features as i32,
            power,
            root,
        };
        let geometry = Geometry { grid: [channels.div_ceil(8) as u32, 1, 1], threads: 256, shared: 0 };
        self.launch(self.of_dtype(COLUMN_STATISTIC), geometry, &arguments);
    }
}
