//! `probe_select`: every order, padding, ties, few and many tokens and samples; the CPU backend's choice exactly.

use probeprune::prune::{BatchShape, settings::ProbeOrder};

use crate::{
    case::{ANY, agrees_with_the_cpu, check, check_once, check_traffic, launched_all_of},
    operations::{Padding, SelectCase, Squares},
    steps::{around, constant, mixed},
};

const PADDINGS: [Padding; 3] = [Padding::None, Padding::Left, Padding::Anywhere];

fn case(samples: usize, tokens: usize, order: ProbeOrder, padding: Padding, squares: Squares) -> SelectCase {
    SelectCase::with_shares(BatchShape { samples, tokens }, (0.4, 0.3), order, padding, squares)
}

#[test]
fn probe_select() {
    let shapes = [(1, 1), (1, 31), (2, 33), (5, 9), (20, 40), (33, 7), (3, 300), (300, 3)];
    for (i, (samples, tokens)) in shapes.into_iter().enumerate() {
        for (j, &order) in ProbeOrder::ALL.iter().enumerate() {
            check(&case(samples, tokens, order, PADDINGS[(i + j) % 3], Squares::Exact), ANY);
        }
    }
}

#[test]
fn few_tokens_include_the_first() {
    for padding in PADDINGS {
        for order in [ProbeOrder::TokensSamples, ProbeOrder::SamplesTokens] {
            for tokens in [64, 400] {
                // 2 and 10 tokens, and 11, which are no longer few.
                for share in [1e-3, 10.0 / tokens as f64, 10.5 / tokens as f64] {
                    let (shape, shares) = (BatchShape { samples: 4, tokens }, (share, 0.5));
                    let case = SelectCase::with_shares(shape, shares, order, padding, Squares::Exact);
                    check_once(&case, ANY);
                }
            }
        }
    }
    // A thread looks at every 1024th slot.
    let (shape, order) = (BatchShape { samples: 2, tokens: 2500 }, ProbeOrder::TokensSamples);
    check_once(&SelectCase::with_shares(shape, (2e-3, 0.5), order, Padding::Long, Squares::Exact), ANY);
}

/// Norms that are equal once they are rounded tie, as in the published code, though their squares are not equal.
#[test]
fn rounded_norms_tie() {
    for (samples, tokens) in [(1, 60), (2, 90), (3, 400), (2, 9000)] {
        for padding in [Padding::None, Padding::Left] {
            // Sums over samples are in order; over more tokens than a warp has lanes they are not.
            let case = case(samples, tokens, ProbeOrder::Tokens, padding, Squares::Near);
            check_once(&case, ANY);
            agrees_with_the_cpu(&case, ANY);
        }
    }
    for (samples, tokens) in [(60, 1), (300, 2)] {
        check_once(&case(samples, tokens, ProbeOrder::Samples, Padding::None, Squares::Near), ANY);
    }
}

/// A slot of pads alone, the first one too, or a sample of pads alone comes after those of norm 0.
#[test]
fn pads_come_after_norms_of_0() {
    for (samples, tokens) in [(2, 12), (3, 400), (300, 12), (2, 9000)] {
        for &order in ProbeOrder::ALL {
            for padding in [Padding::Left, Padding::Anywhere] {
                let shape = BatchShape { samples, tokens };
                let case = SelectCase::with_shares(shape, (0.95, 0.95), order, padding, Squares::Zero);
                check_once(&case, ANY);
                agrees_with_the_cpu(&case, ANY);
            }
        }
    }
}

/// Sums of any floats may tie or not within f64's last bits: there the CPU backend decides, which has the same order.
#[test]
fn sums_round_as_the_cpu_backends_do() {
    for (samples, tokens) in [(7, 200), (20, 128), (20, 333), (41, 70)] {
        for &order in ProbeOrder::ALL {
            for padding in PADDINGS {
                agrees_with_the_cpu(&case(samples, tokens, order, padding, Squares::Rough), ANY);
            }
        }
    }
    let (shape, order) = (BatchShape { samples: 64, tokens: 96 }, ProbeOrder::TokensSamples);
    let case = SelectCase::with_shares(shape, (1.0, 0.5), order, Padding::None, Squares::Turned);
    agrees_with_the_cpu(&case, ANY);
}

#[test]
fn probe_select_at_real_sizes() {
    let (order, other) = (ProbeOrder::TokensSamples, ProbeOrder::SamplesTokens);
    // Above 8192 keys are computed again in every pass.
    for (samples, tokens, order, padding) in [
        (20, 1024, order, Padding::None),
        (20, 1024, other, Padding::Left),
        (4, 2048, order, Padding::Left),
        (1, 8192, order, Padding::None),
        (2, 8200, order, Padding::Anywhere),
        (2, 8200, other, Padding::None),
        (8200, 2, other, Padding::Anywhere),
        (8200, 3, order, Padding::None),
    ] {
        check_once(&case(samples, tokens, order, padding, Squares::Exact), ANY);
    }
}

#[test]
fn probe_select_moves_what_its_header_says() {
    // Every token is kept, so that they are read as whole sectors, and only samples are to be chosen.
    let (shape, order) = (BatchShape { samples: 16, tokens: 1024 }, ProbeOrder::TokensSamples);
    let case = SelectCase::with_shares(shape, (1.0, 0.25), order, Padding::None, Squares::Rough);
    check_traffic(&case, ANY);
}

/// Few keys are compared with one another, more go through histograms, and most are computed again in every pass.
#[test]
fn blocks_end_anywhere() {
    let (few, staged) = (constant!("cuda/select.cuh", "SELECT_FEW"), constant!("src/gpu/probe.rs", "STAGED"));
    let sizes = around([32, few, 1024]);
    for [long, short, order, padding, turned] in mixed([&sizes, &[1, 2, 5, 33], &[0, 1], &[0, 1, 2], &[0, 1]])
    {
        let (samples, tokens) = if turned > 0 { (long, short) } else { (short, long) };
        let order = [ProbeOrder::TokensSamples, ProbeOrder::SamplesTokens][order];
        check_once(&case(samples, tokens, order, PADDINGS[padding], Squares::Exact), ANY);
    }
    for (i, tokens) in around([staged]).into_iter().enumerate() {
        let order = ProbeOrder::ALL[i % ProbeOrder::ALL.len()];
        check_once(&case(2, tokens, order, PADDINGS[i % 3], Squares::Exact), ANY);
    }
    launched_all_of(&["probe_select"]);
}
