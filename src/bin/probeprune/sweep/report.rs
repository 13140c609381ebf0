//! The report: a page in one file, every figure beside a table of its numbers.

use std::fmt::Write;

use serde::Serialize;

use super::{
    command::Flags,
    figures,
    plots::{SHAPES, colour},
    record::{Context, Ledger, Record},
    summary::{Row, ratios, variants},
};

const STYLE: &str = "\
body{font:15px/1.5 sans-serif;color:#222;background:#fff;max-width:1220px;margin:2em auto;padding:0 1em}\
h1{font-size:1.6em}h3{font-size:1em;margin:1.4em 0 .4em}\
h2{font-size:1.2em;margin:2.2em 0 .4em;border-top:1px solid #ddd;padding-top:1em}\
p{max-width:52em}.row{display:flex;flex-wrap:wrap;gap:24px;align-items:flex-start}\
table{border-collapse:collapse;font-size:14px}td,th{padding:3px 9px;border-bottom:1px solid #e3e3e3;text-align:right}\
td:first-child,th:first-child{text-align:left}th{background:#f4f4f4}\
dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 16px}dt{color:#666}dd{margin:0;overflow-wrap:anywhere}\
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:#f4f4f4;padding:8px 12px}\
.key{list-style:none;padding:0;display:flex;flex-wrap:wrap;gap:4px 20px}\
.key span{display:inline-block;width:22px;height:10px;margin-right:6px}";

/// The context, the rows and all runs, for programs.
#[derive(Debug, Serialize)]
pub(super) struct Everything<'a> {
    #[serde(flatten)]
    context: &'a Context,
    rows: Vec<Row>,
    runs: &'a [Record],
}

/// Of all finished runs.
pub(super) fn everything(ledger: &Ledger) -> Everything<'_> {
    Everything {
        context: ledger.context(),
        rows: super::summary::rows(ledger.records()),
        runs: ledger.records(),
    }
}

/// The page.
pub(super) fn html(ledger: &Ledger, rows: &[Row], flags: &Flags) -> String {
    let (context, records) = (ledger.context(), ledger.records());
    let names = variants(records);
    let key: Vec<(String, plotters::style::RGBColor)> =
        names.iter().enumerate().map(|(i, name)| (name.to_string(), colour(i))).collect();
    let key = legend(&key);
    let ratios = ratios(records);
    let model = escape(&context.model);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{model}: pruning sweep</title>\
         <style>{STYLE}</style></head><body>\n<h1>{model}: quality and speed when pruned</h1>\n{}",
        facts(context, flags, records)
    );
    section(
        &mut page,
        "Perplexity over time",
        "Perplexity over the time of a batch, in % of the dense model's on the same batch right before or after: \
         medians, with quartiles as thin bars. The lines begin at the dense model. Time includes probe, scores, \
         selection and history. PRR is the perplexity lost per % of time saved: lower is better.",
        &format!("{key}{}{}", shapes(&ratios), figures::quality(records, rows, &names)),
        &format!("<div>{}<h3>PRR</h3>\n{}</div>", quality_table(rows), prr_table(rows, &names, &ratios)),
    );
    section(
        &mut page,
        "Where the time goes",
        "In % of the dense model's time; FLOPs are those of the projections, in % of the dense model's. The time of \
         the choice (probe, scores, selection, history) is the difference from a run with the same kept heads and \
         channels given. Static methods have none; with compensation it is not measured separately.",
        &format!("{}{}", legend(&figures::parts_key(records)), figures::breakdown(records, rows)),
        &time_table(rows),
    );
    section(
        &mut page,
        "Overlap of kept sets from batch to batch",
        "Jaccard index of the kept sets of consecutive batches, mean over batches (1: the same sets; dashed: two \
         random sets of that size). Static methods are not shown: their overlap is 1.",
        &format!("{key}{}", figures::overlap(records, &names)),
        &overlap_table(rows),
    );
    section(
        &mut page,
        "Scores",
        "Scores of the last batch in all pruned layers, as multiples of the lowest kept score of their layer: units left \
         of 0 are pruned. The first and the last bin include the scores beyond them.",
        &format!("{key}{}", figures::scores(records, &names)),
        "",
    );
    page + "</body></html>\n"
}

/// What was measured, on which machine, and how to reproduce it.
fn facts(context: &Context, flags: &Flags, records: &[Record]) -> String {
    let Context { seq_len, batch_size, rounds, .. } = context;
    let threads = context.threads.map_or(String::new(), |threads| format!(", {threads} threads"));
    let calibration = if context.calibration.is_empty() { "none" } else { &context.calibration };
    let facts = [
        ("model", format!("{}, fingerprint {}", context.model, &context.fingerprint[..16])),
        ("text", format!("{}, {} tokens, hash {}", context.text, context.tokens, context.tokens_hash)),
        ("batches", format!("{batch_size} windows of {seq_len} tokens, each timed {rounds} times")),
        ("calibration", calibration.to_string()),
        ("machine", format!("{}; {} {}{threads}", context.machine, context.device, context.dtype)),
        ("version", format!("probeprune {}", context.version)),
        ("defaults", flags.defaults()),
    ];
    let items: String =
        facts.iter().map(|(name, value)| format!("<dt>{name}</dt><dd>{}</dd>", escape(value))).collect();
    let commands = escape(&flags.commands(records).join("\n"));
    format!("<dl>{items}</dl>\n<p>To reproduce, with another --out:</p>\n<pre>{commands}</pre>\n")
}

fn section(page: &mut String, title: &str, text: &str, figure: &str, table: &str) {
    let _ = writeln!(
        page,
        "<h2>{title}</h2>\n<p>{text}</p>\n<div class=\"row\"><div>{figure}</div>\n{table}</div>"
    );
}

fn legend(entries: &[(String, plotters::style::RGBColor)]) -> String {
    let items: String = entries
        .iter()
        .map(|(name, colour)| {
            let (r, g, b) = (colour.0, colour.1, colour.2);
            format!("<li><span style=\"background:rgb({r},{g},{b})\"></span>{}</li>", escape(name))
        })
        .collect();
    format!("<ul class=\"key\">{items}</ul>\n")
}

/// The legend of the first chart's marks.
fn shapes(ratios: &[f64]) -> String {
    let mark = |(index, ratio): (usize, &f64)| {
        format!("<li>{} {:.0} % pruned</li>", SHAPES[index % SHAPES.len()], 100.0 * ratio)
    };
    format!("<ul class=\"key\">{}</ul>\n", ratios.iter().enumerate().map(mark).collect::<String>())
}

fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let head: String = header.iter().map(|cell| format!("<th>{cell}</th>")).collect();
    let body: String = rows
        .into_iter()
        .map(|row| {
            let cells: String = row.iter().map(|cell| format!("<td>{}</td>", escape(cell))).collect();
            format!("<tr>{cells}</tr>\n")
        })
        .collect();
    format!("<table><tr>{head}</tr>\n{body}</table>\n")
}

fn quality_table(rows: &[Row]) -> String {
    let cells = |row: &Row| {
        vec![
            row.name(),
            format!("{:.3}", row.perplexity),
            format!("{:.1}", 100.0 * row.time_share),
            format!("{:.0}", row.tokens_per_second),
        ]
    };
    table(&["", "perplexity", "time, %", "tokens/s"], rows.iter().map(cells))
}

/// PRR of every variant at every ratio.
fn prr_table(rows: &[Row], names: &[&str], ratios: &[f64]) -> String {
    let shown: Vec<String> = ratios.iter().map(|ratio| format!("{:.0} %", 100.0 * ratio)).collect();
    let header: Vec<&str> = std::iter::once("").chain(shown.iter().map(String::as_str)).collect();
    let cell = |name: &str, ratio: f64| {
        let row = rows.iter().find(|row| row.variant == name && row.prune_ratio == ratio);
        row.map_or(String::new(), Row::shown_prr)
    };
    let line = |name: &&str| {
        std::iter::once(name.to_string()).chain(ratios.iter().map(|&ratio| cell(name, ratio))).collect()
    };
    table(&header, names.iter().map(line))
}

fn time_table(rows: &[Row]) -> String {
    let percent = |share: f64| format!("{:.1}", 100.0 * share);
    let cells = |row: &Row| {
        vec![
            row.name(),
            percent(row.time_share),
            format!("{} – {}", percent(row.time_share_low), percent(row.time_share_high)),
            percent(row.choice_time_share),
            percent(row.flops_share),
            percent(row.probe_flops_share),
        ]
    };
    table(&["", "time, %", "quartiles", "choice", "FLOPs, %", "probe FLOPs, %"], rows.iter().map(cells))
}

fn overlap_table(rows: &[Row]) -> String {
    let share = |overlap: Option<f64>| overlap.map_or("–".to_string(), |overlap| format!("{overlap:.3}"));
    let cells = |row: &Row| vec![row.name(), share(row.head_overlap), share(row.channel_overlap)];
    let shown = rows.iter().filter(|row| row.head_overlap.or(row.channel_overlap).is_some());
    table(&["", "heads, mean", "channels, mean"], shown.map(cells))
}

/// Text with HTML's special characters escaped.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
