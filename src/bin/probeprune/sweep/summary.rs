//! A sweep's results as rows: the columns of the CSV file, and the printed table.

use serde::Serialize;

use super::{quartiles::quartiles, record::Record};
use crate::{
    statistics::median,
    table::{Table, percent},
};

/// The dense model, or one variant at one ratio.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    /// "dense" for the dense model.
    pub(super) variant: String,
    pub(super) prune_ratio: f64,
    pub(super) perplexity: f64,
    /// Median over the timed batches.
    pub(super) tokens_per_second: f64,
    /// Of the dense model's time on the same batch: median and quartiles.
    pub(super) time_share: f64,
    pub(super) time_share_low: f64,
    pub(super) time_share_high: f64,
    /// (perplexity − dense perplexity) / (time saved, in % of dense time); none if no time was saved.
    pub(super) prr: Option<f64>,
    pub(super) flops_share: f64,
    pub(super) probe_flops_share: f64,
    /// Of the batches, to correct a fold; none without corrections.
    pub(super) probed_share: Option<f64>,
    /// Of the dense model's time: probe, scores, selection, history.
    pub(super) choice_time_share: f64,
    /// Mean over the pruned layers of the Jaccard index of consecutive batches' kept sets; none for fixed sets.
    pub(super) head_overlap: Option<f64>,
    pub(super) channel_overlap: Option<f64>,
}

impl Row {
    fn of(record: &Record) -> Self {
        let ratios: Vec<f64> =
            record.seconds.iter().zip(&record.dense_seconds).map(|(pruned, dense)| pruned / dense).collect();
        let [time_share_low, time_share, time_share_high] = quartiles(&ratios);
        let saved = 100.0 * (1.0 - time_share);
        let [head_overlap, channel_overlap] = [0, 1].map(|block| {
            let overlaps: Vec<f64> = record.layers.iter().filter_map(|layer| layer.overlap[block]).collect();
            (!overlaps.is_empty()).then(|| overlaps.iter().sum::<f64>() / overlaps.len() as f64)
        });
        Self {
            variant: record.variant.clone(),
            prune_ratio: record.prune_ratio,
            perplexity: record.perplexity,
            tokens_per_second: record.batch_tokens as f64 / median(&record.seconds),
            time_share,
            time_share_low,
            time_share_high,
            prr: (saved > 0.0).then(|| (record.perplexity - record.dense_perplexity) / saved),
            flops_share: record.flops_share,
            probe_flops_share: record.probe_flops_share,
            probed_share: record.probed_share,
            choice_time_share: record.parts.iter().skip(1).fold(0.0, |sum, part| sum + part.share),
            head_overlap,
            channel_overlap,
        }
    }

    /// PRR as text.
    pub(super) fn shown_prr(&self) -> String {
        self.prr.map_or("–".to_string(), |prr| format!("{:.4}", prr + 0.0))
    }

    /// The variant and its ratio.
    pub(super) fn name(&self) -> String {
        if self.prune_ratio > 0.0 {
            format!("{}, {:.0} %", self.variant, 100.0 * self.prune_ratio)
        } else {
            self.variant.clone()
        }
    }
}

/// The dense model, then every ratio's variants in the order of their first run; empty without records.
pub(super) fn rows(records: &[Record]) -> Vec<Row> {
    let Some(first) = records.first() else { return Vec::new() };
    let dense_seconds: Vec<f64> = records.iter().flat_map(|record| record.dense_seconds.clone()).collect();
    let mut rows = vec![Row {
        variant: "dense".to_string(),
        prune_ratio: 0.0,
        perplexity: first.dense_perplexity,
        tokens_per_second: first.batch_tokens as f64 / median(&dense_seconds),
        time_share: 1.0,
        time_share_low: 1.0,
        time_share_high: 1.0,
        prr: None,
        flops_share: 1.0,
        probe_flops_share: 0.0,
        probed_share: None,
        choice_time_share: 0.0,
        head_overlap: None,
        channel_overlap: None,
    }];
    let variants = variants(records);
    let place = |row: &Row| variants.iter().position(|variant| *variant == row.variant);
    let mut pruned: Vec<Row> = records.iter().map(Row::of).collect();
    pruned.sort_by(|a, b| a.prune_ratio.total_cmp(&b.prune_ratio).then(place(a).cmp(&place(b))));
    rows.append(&mut pruned);
    rows
}

/// The names of all variants, in the order of their first run.
pub(super) fn variants(records: &[Record]) -> Vec<&str> {
    let mut variants = Vec::new();
    for record in records {
        if !variants.contains(&&*record.variant) {
            variants.push(&*record.variant);
        }
    }
    variants
}

/// The prune ratios, ascending.
pub(super) fn ratios<'a>(records: impl IntoIterator<Item = &'a Record>) -> Vec<f64> {
    let mut ratios: Vec<f64> = records.into_iter().map(|record| record.prune_ratio).collect();
    ratios.sort_by(f64::total_cmp);
    ratios.dedup();
    ratios
}

/// The printed table.
pub(super) fn table(rows: &[Row]) -> Table {
    let mut table =
        Table::new(["Variant", "Pruned", "Perplexity", "Tokens/s", "Time", "Quartiles", "FLOPs", "PRR"]);
    for row in rows {
        table.row([
            row.variant.clone(),
            percent(row.prune_ratio),
            format!("{:.3}", row.perplexity),
            format!("{:.0}", row.tokens_per_second),
            percent(row.time_share),
            format!("{:.1} to {:.1}", 100.0 * row.time_share_low, 100.0 * row.time_share_high),
            percent(row.flops_share),
            row.shown_prr(),
        ]);
    }
    table
}
