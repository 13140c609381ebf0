//! The report's charts and their data.

use plotters::style::RGBColor;

use super::{
    plots::{Axis, Bar, Line, Mark, bars, colour, lines},
    record::{Histogram, LayerRecord, Record},
    summary::{Row, ratios},
};

const UNITS: [&str; 2] = ["heads", "channels"];
const WIDE: (u32, u32) = (570, 430);
const SMALL: (u32, u32) = (540, 300);
const GREY: RGBColor = RGBColor(120, 120, 120);
const KEPT: RGBColor = RGBColor(120, 170, 205);
/// Colours of all parts of the time but the first.
const PARTS: [RGBColor; 4] =
    [RGBColor(213, 94, 0), RGBColor(0, 158, 115), RGBColor(204, 121, 167), RGBColor(230, 159, 0)];

/// Perplexity over time, one line per variant.
pub(super) fn quality(records: &[Record], rows: &[Row], names: &[&str]) -> String {
    let Some((dense, pruned)) = rows.split_first() else { return String::new() };
    let start = (100.0, dense.perplexity);
    let ratios = ratios(records);
    let drawn: Vec<Line> = names
        .iter()
        .enumerate()
        .map(|(index, name)| {
            let marks: Vec<Mark> = pruned
                .iter()
                .filter(|row| row.variant == *name)
                .map(|row| Mark {
                    at: (100.0 * row.time_share, row.perplexity),
                    spread: (100.0 * row.time_share_low, 100.0 * row.time_share_high),
                    shape: ratios.iter().position(|ratio| *ratio == row.prune_ratio).unwrap_or(0),
                })
                .collect();
            let points = std::iter::once(start).chain(marks.iter().map(|mark| mark.at)).collect();
            Line { colour: colour(index), points, dashed: false, marks }
        })
        .collect();
    let lowest = rows.iter().map(|row| 100.0 * row.time_share_low).fold(f64::INFINITY, f64::min);
    let highest = rows.iter().map(|row| 100.0 * row.time_share_high).fold(0.0, f64::max);
    let worst = rows.iter().map(|row| row.perplexity).fold(0.0, f64::max);
    let best = rows.iter().map(|row| row.perplexity).fold(f64::INFINITY, f64::min);
    let logarithmic = worst > 4.0 * best;
    let margin = 0.08 * (worst - best).max(0.01 * best);
    let range = if logarithmic { best / 1.15..worst * 1.25 } else { best - margin..worst + 2.0 * margin };
    let digits = if logarithmic {
        0
    } else if worst - best < 1.0 {
        2
    } else if worst < 100.0 {
        1
    } else {
        0
    };
    let x = Axis {
        label: "time of a batch, % of dense",
        range: lowest.min(98.0) - 3.0..highest.max(102.0) + 4.0,
        digits: 0,
        logarithmic: false,
    };
    let label = if logarithmic { "perplexity (logarithmic)" } else { "perplexity" };
    let across = vec![(x.range.start, dense.perplexity), (x.range.end, dense.perplexity)];
    let reference = Line { colour: GREY, points: across, dashed: true, marks: Vec::new() };
    let drawn: Vec<Line> = std::iter::once(reference).chain(drawn).collect();
    let title = format!("Perplexity and time, batches of {} tokens", records[0].batch_tokens);
    lines(&title, WIDE, &x, &Axis { label, range, digits, logarithmic }, &drawn)
}

/// The names of the parts of the time and their colours.
pub(super) fn parts_key(records: &[Record]) -> Vec<(String, RGBColor)> {
    let longest = records.iter().map(|record| &record.parts).max_by_key(|parts| parts.len());
    let parts = longest.into_iter().flatten().enumerate();
    parts.map(|(index, part)| (part.name.clone(), part_colour(index))).collect()
}

fn part_colour(index: usize) -> RGBColor {
    if index == 0 { KEPT } else { PARTS[(index - 1) % PARTS.len()] }
}

/// One bar per variant and ratio, in the order of the rows.
pub(super) fn breakdown(records: &[Record], rows: &[Row]) -> String {
    let dense = Bar { label: "dense".to_string(), parts: vec![(100.0, RGBColor(190, 190, 190))] };
    let pruned = rows.iter().skip(1).filter_map(|row| {
        let same = |record: &&Record| record.variant == row.variant && record.prune_ratio == row.prune_ratio;
        let record = records.iter().find(same)?;
        let parts = record.parts.iter().enumerate();
        let parts = parts.map(|(index, part)| (100.0 * part.share, part_colour(index))).collect();
        Some(Bar { label: row.name(), parts })
    });
    let all: Vec<Bar> = std::iter::once(dense).chain(pruned).collect();
    // The names stand to the right of the bars, at about 9 pixels a letter.
    let room = |bar: &Bar| 1.0 - 9.0 * bar.label.len() as f64 / f64::from(WIDE.0);
    let ends = all.iter().map(|bar| bar.parts.iter().map(|part| part.0).sum::<f64>() / room(bar).max(0.2));
    let x = Axis {
        label: "time of a batch, % of dense",
        range: 0.0..ends.fold(0.0, f64::max),
        digits: 0,
        logarithmic: false,
    };
    bars("Time by part", WIDE.0, &x, &all)
}

/// Overlap of consecutive batches' kept sets, layer by layer: a chart for each ratio and kind of unit.
pub(super) fn overlap(records: &[Record], names: &[&str]) -> String {
    let layers = records.iter().map(|record| record.layers.len()).max().unwrap_or(0);
    let x = Axis { label: "layer", range: -0.5..layers as f64 - 0.5, digits: 0, logarithmic: false };
    let y = Axis { label: "Jaccard index", range: 0.0..1.02, digits: 1, logarithmic: false };
    let over_layers = |record: &Record, value: &dyn Fn(&LayerRecord) -> Option<f64>| -> Vec<(f64, f64)> {
        let values = record.layers.iter().map(value).enumerate();
        values.filter_map(|(layer, value)| Some((layer as f64, value?))).collect()
    };
    by_ratio(records, |ratio, of, unit| {
        let mut drawn = Vec::new();
        for record in of {
            let overlaps = over_layers(record, &|layer| layer.overlap[unit]);
            if overlaps.is_empty() {
                continue;
            }
            let chance = over_layers(record, &|layer| {
                let (kept, all) = (layer.kept[unit] as f64, layer.of[unit] as f64);
                layer.overlap[unit].map(|_| kept / (2.0 * all - kept))
            });
            let colour = variant_colour(record, names);
            drawn.push(Line { colour: GREY, points: chance, dashed: true, marks: Vec::new() });
            drawn.push(Line { colour, points: overlaps, dashed: false, marks: Vec::new() });
        }
        let title = format!("{} kept at {ratio:.0} %", UNITS[unit]);
        (!drawn.is_empty()).then(|| lines(&title, SMALL, &x, &y, &drawn))
    })
}

/// Histograms of scores: a chart for each ratio and kind of unit.
pub(super) fn scores(records: &[Record], names: &[&str]) -> String {
    let x = Axis {
        label: "score / lowest kept score, decades",
        range: -Histogram::DECADES..Histogram::DECADES,
        digits: 1,
        logarithmic: false,
    };
    let width = 2.0 * Histogram::DECADES / Histogram::BINS as f64;
    by_ratio(records, |ratio, of, unit| {
        let mut drawn = Vec::new();
        let mut highest: f64 = 0.0;
        for record in of {
            let Some(histogram) = &record.histograms[unit] else { continue };
            let total: u32 = histogram.counts.iter().sum();
            let mut points = Vec::new();
            for (bin, &count) in histogram.counts.iter().enumerate() {
                let (left, share) =
                    (-Histogram::DECADES + bin as f64 * width, 100.0 * f64::from(count) / f64::from(total));
                points.extend([(left, share), (left + width, share)]);
                highest = highest.max(share);
            }
            let colour = variant_colour(record, names);
            drawn.push(Line { colour, points, dashed: false, marks: Vec::new() });
        }
        let cut = vec![(0.0, 0.0), (0.0, highest * 1.08)];
        drawn.push(Line { colour: GREY, points: cut, dashed: true, marks: Vec::new() });
        let y = Axis { label: "share, %", range: 0.0..highest * 1.08, digits: 0, logarithmic: false };
        let title = format!("scores of {} at {ratio:.0} %", UNITS[unit]);
        (drawn.len() > 1).then(|| lines(&title, SMALL, &x, &y, &drawn))
    })
}

fn variant_colour(record: &Record, names: &[&str]) -> RGBColor {
    colour(names.iter().position(|name| *name == record.variant).unwrap_or(0))
}

/// A chart of the runs at each ratio, for heads and for channels; `draw` gets the ratio in percent.
fn by_ratio(records: &[Record], draw: impl Fn(f64, &[&Record], usize) -> Option<String>) -> String {
    let mut page = String::from("<div class=\"row\">");
    for ratio in ratios(records) {
        let of: Vec<&Record> = records.iter().filter(|record| record.prune_ratio == ratio).collect();
        for unit in 0..UNITS.len() {
            page += &draw(100.0 * ratio, &of, unit).unwrap_or_default();
        }
    }
    page + "</div>"
}
