//! Results as a text table, JSON, CSV or Markdown.

use clap::ValueEnum;
use comfy_table::{CellAlignment, TableStyle, presets};
use serde::Serialize;

/// Output formats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A text table
    #[default]
    Table,
    /// One JSON value with all details
    Json,
    /// A header and comma-separated rows
    Csv,
    /// A Markdown table
    Markdown,
}

/// Column heads and rows.
#[derive(Debug)]
pub(crate) struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub(crate) fn new(header: impl IntoIterator<Item = &'static str>) -> Self {
        Self { header: header.into_iter().collect(), rows: Vec::new() }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// In lines and columns; everything but the first column is right-aligned.
    pub(crate) fn text(&self) -> String {
        self.drawn(presets::UTF8_FULL_CONDENSED)
    }

    /// As Markdown.
    pub(crate) fn markdown(&self) -> String {
        self.drawn(presets::ASCII_MARKDOWN)
    }

    fn drawn(&self, style: TableStyle) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(style).set_header(self.header.iter()).add_rows(&self.rows);
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        format!("{table}\n")
    }
}

/// As indented JSON.
pub(crate) fn json(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).expect("reports have string keys and no failing parts") + "\n"
}

/// Rows of one kind as CSV, their fields' names as the header.
pub(crate) fn csv<T: Serialize>(rows: &[T]) -> String {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in rows {
        writer.serialize(row).expect("rows are flat");
    }
    String::from_utf8(writer.into_inner().expect("memory takes everything")).expect("text is UTF-8")
}

/// A share as a percentage.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}
