//! `channel_score`: fusion with history in both formats, sums over tokens, metrics, heads.

use probeprune::prune::{
    Unit,
    history::HistoryLayout,
    settings::{HistoryDtype, Metric},
};

use crate::{
    case::{ANY, check, check_on_the_cpu, check_once, check_specials, check_traffic, launched_all_of},
    operations::{Past, ScoreCase},
    steps::{around, constant, mixed},
};

fn unit(head_dim: Option<usize>) -> Unit {
    head_dim.map_or(Unit::Channel, Unit::Head)
}

/// No history, then both formats with buckets, with all and with some of the slots, weights computed and fixed.
fn pasts(tokens: usize) -> Vec<Option<Past>> {
    let past = |dtype, bucket, slots, fixed_weight| {
        Some(Past { layout: HistoryLayout { dtype, bucket }, slots, fixed_weight })
    };
    vec![
        None,
        past(HistoryDtype::F32, 1, 2 * tokens, None),
        past(HistoryDtype::F16, 1, 2 * tokens, None),
        past(HistoryDtype::F32, 3, tokens.div_ceil(2), None),
        past(HistoryDtype::F16, 4, tokens + 1, Some(0.25)),
        past(HistoryDtype::F32, 1, tokens, Some(1.0)),
    ]
}

#[test]
fn channel_score() {
    let shapes = [
        (1, 1, None),
        (3, 31, None),
        (5, 33, None),
        (33, 40, None),
        (50, 100, None),
        (17, 64, Some(64)),
        (2, 6, Some(3)),
        (9, 5, Some(1)),
        (40, 160, Some(80)),
        (35, 66, Some(33)),
        (3, 260, Some(260)),
    ];
    for (i, (tokens, channels, head_dim)) in shapes.into_iter().enumerate() {
        for (j, past) in pasts(tokens).into_iter().enumerate() {
            let metric = Metric::ALL[(i + j) % 3];
            check(&ScoreCase { tokens, channels, unit: unit(head_dim), metric, past }, ANY);
        }
    }
    for metric in [Metric::Ppsp, Metric::WandaSp, Metric::Flap] {
        let past = pasts(20)[1];
        check(&ScoreCase { tokens: 20, channels: 256, unit: unit(Some(128)), metric, past }, ANY);
    }
}

#[test]
fn channel_score_at_real_widths() {
    for (tokens, channels, head_dim) in [(70, 11008, None), (300, 4096, Some(128))] {
        for past in [None, pasts(tokens)[1], pasts(tokens)[2]] {
            let unit = unit(head_dim);
            check_once(&ScoreCase { tokens, channels, unit, metric: Metric::Ppsp, past }, ANY);
        }
    }
}

#[test]
fn channel_score_moves_what_its_header_says() {
    for unit in [Unit::Channel, Unit::Head(128)] {
        for past in [None, pasts(128)[1], pasts(128)[2]] {
            check_traffic(&ScoreCase { tokens: 128, channels: 4096, unit, metric: Metric::Ppsp, past }, ANY);
        }
    }
}

#[test]
fn groups_of_channels_have_one_score() {
    for (i, (tokens, channels, group)) in
        [(3, 8, 8), (5, 48, 16), (33, 40, 8), (17, 112, 16), (20, 1000, 8)].into_iter().enumerate()
    {
        for (j, past) in pasts(tokens).into_iter().enumerate() {
            let metric = Metric::ALL[(i + j) % 3];
            check(&ScoreCase { tokens, channels, unit: Unit::Group(group), metric, past }, ANY);
        }
    }
}

/// Runs of 16 tokens and their most, quarters of a warp, and heads of up to and of more than eight warps.
#[test]
fn blocks_end_anywhere() {
    let ahead = constant!("cuda/channel_score.cu", "AHEAD");
    let tokens = around([4, 4 * ahead, 32, 64, 256]);
    let widths = around([4, 32, 256]);
    for [tokens, width, kind, past, metric] in
        mixed([&tokens, &widths, &[0, 1, 2], &[0, 1, 2, 3, 4, 5], &[0, 1, 2]])
    {
        let (unit, channels) = match kind {
            0 => (Unit::Channel, width),
            1 => (Unit::Head(width), 2 * width),
            _ => (Unit::Group(8), width.next_multiple_of(8)),
        };
        let (metric, past) = (Metric::ALL[metric], pasts(tokens)[past]);
        check_once(&ScoreCase { tokens, channels, unit, metric, past }, ANY);
    }
    // A warp for each run of a head of one warp.
    for (&metric, tokens) in Metric::ALL.iter().zip(around([32 * 16])) {
        let past = pasts(tokens)[1];
        check_once(&ScoreCase { tokens, channels: 64, unit: Unit::Head(32), metric, past }, ANY);
    }
    launched_all_of(&["channel_score"]);
}

#[test]
fn steps_of_the_cpu_backend() {
    let chunk = constant!("src/cpu/score.rs", "COLUMN_CHUNK");
    for (i, channels) in around([chunk, 2 * chunk]).into_iter().enumerate() {
        let (metric, past) = (Metric::ALL[i % 3], pasts(5)[i % 6]);
        for (unit, channels) in [(Unit::Channel, channels), (Unit::Head(channels), 3 * channels)] {
            check_on_the_cpu(&ScoreCase { tokens: 5, channels, unit, metric, past }, ANY);
        }
    }
}

#[test]
fn special_values() {
    for metric in [Metric::Ppsp, Metric::WandaSp, Metric::Flap] {
        for past in pasts(6) {
            for unit in [Unit::Channel, Unit::Head(6)] {
                check_specials(&ScoreCase { tokens: 6, channels: 12, unit, metric, past }, ANY);
            }
        }
    }
}
