//! The batch size, in tokens, from which pruning is faster.

use serde_json::json;

use crate::report::{Field, Row};

/// The break-even point of one pruned variant.
#[derive(Debug)]
pub(crate) struct BreakEven {
    method: String,
    prune_ratio: f64,
    /// Tokens of the smallest batch that was faster, as were all larger ones, and its time ratio to dense.
    wins_from: Option<(usize, f64)>,
    /// The largest batch, and its time ratio to dense.
    largest: (usize, f64),
}

/// One break-even point per pruned variant, from the rows of prompts. Those that fell back to dense do not count: they are
/// there pruned as well.
pub(crate) fn find(rows: &[Row]) -> Vec<BreakEven> {
    let mut variants: Vec<usize> =
        rows.iter().map(|row| row.variant).filter(|&variant| variant > 0).collect();
    variants.sort_unstable();
    variants.dedup();
    variants
        .iter()
        .filter_map(|&variant| {
            of_variant(rows.iter().filter(|row| row.variant == variant && row.is_pruned()))
        })
        .collect()
}

fn of_variant<'a>(rows: impl Iterator<Item = &'a Row>) -> Option<BreakEven> {
    let mut rows: Vec<&Row> = rows.collect();
    // Of batches with equal tokens the slowest counts: it comes first, so that it ends a run of wins.
    rows.sort_by(|a, b| a.rows.cmp(&b.rows).then(b.time_ratio.total_cmp(&a.time_ratio)));
    let losses = rows.iter().rposition(|row| row.time_ratio >= 1.0).map_or(0, |last| last + 1);
    let wins = rows[losses..].iter().find(|row| losses == 0 || row.rows > rows[losses - 1].rows);
    let largest = rows.last()?;
    Some(BreakEven {
        method: largest.method.clone(),
        prune_ratio: largest.prune_ratio,
        wins_from: wins.map(|row| (row.rows, row.time_ratio)),
        largest: (largest.rows, largest.time_ratio),
    })
}

impl BreakEven {
    /// For JSON.
    pub(crate) fn fields(&self) -> Vec<Field> {
        vec![
            ("method", json!(self.method)),
            ("prune_ratio", json!(self.prune_ratio)),
            ("wins_from_rows", json!(self.wins_from.map(|(rows, _)| rows))),
            ("time_ratio_there", json!(self.wins_from.map(|(_, ratio)| ratio))),
            ("largest_rows", json!(self.largest.0)),
            ("time_ratio_at_largest", json!(self.largest.1)),
        ]
    }

    /// For the text report.
    pub(crate) fn sentence(&self) -> String {
        let saved = |ratio: f64| format!("{:.0} % of dense", 100.0 * ratio);
        let (rows, ratio) = self.largest;
        let what = format!("{} at {:.0} %", self.method, 100.0 * self.prune_ratio);
        match self.wins_from {
            None => format!("{what}: not faster, {} with {rows} tokens per batch", saved(ratio)),
            Some((from, there)) => format!(
                "{what}: faster from {from} tokens per batch ({}), {} with {rows}; --dense-below {from} keeps \
                 smaller batches dense",
                saved(there),
                saved(ratio)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(points: &[(usize, f64)]) -> Option<(usize, f64)> {
        let row = |&(rows, time_ratio): &(usize, f64)| Row::example(rows, time_ratio);
        let rows: Vec<Row> = points.iter().map(row).collect();
        let [found] = &find(&rows)[..] else { panic!("one variant") };
        assert_eq!(found.largest.0, 64);
        found.wins_from
    }

    #[test]
    fn pruning_wins_from_where_it_no_longer_loses() {
        assert_eq!(found(&[(64, 0.7), (16, 1.2), (32, 0.9)]), Some((32, 0.9)));
        assert_eq!(found(&[(16, 0.9), (32, 1.0), (64, 0.8)]), Some((64, 0.8)));
        assert_eq!(found(&[(16, 0.9), (64, 0.6)]), Some((16, 0.9)));
        assert_eq!(found(&[(16, 0.9), (64, 1.1)]), None);
        // Two batches of equal tokens, one of which loses.
        assert_eq!(found(&[(32, 1.1), (32, 0.9), (64, 0.8)]), Some((64, 0.8)));
    }
}
