//! `centre_energy`, `gather_pruned` and `accumulate_product`: what compensation of pruned channels needs.

use probeprune::{gpu::GpuDtype, prune::BatchShape};

use crate::{
    case::{
        ANY, DTYPES, check, check_on_the_cpu, check_once, check_specials, check_traffic, launched_all_of,
    },
    operations::{CentreCase, GatherPrunedCase, ProductCase},
    steps::{around, constant, mixed},
};

#[test]
fn centre_energy() {
    for (samples, tokens, channels) in
        [(1, 2, 1), (1, 9, 31), (3, 8, 32), (2, 33, 40), (5, 17, 97), (40, 3, 70), (1, 128, 576)]
    {
        for (masked, prior) in [(false, false), (true, true), (false, true)] {
            check(&CentreCase::new(BatchShape { samples, tokens }, channels, masked, prior), ANY);
        }
    }
}

/// One token, nothing but pads, and equal values, whose energies around the mean are 0 but for roundings: never less.
#[test]
fn nothing_to_centre() {
    for (samples, tokens) in [(1, 1), (3, 5)] {
        let case = CentreCase::new(BatchShape { samples, tokens }, 70, false, false);
        for masked in [None, Some(true), Some(false)] {
            check(&CentreCase { masked, ..case.clone() }, ANY);
            check(&CentreCase { masked, share: 1.0, equal: true, ..case.clone() }, ANY);
        }
    }
}

#[test]
fn steps_of_the_cpu_backend() {
    let chunk = constant!("src/cpu/score.rs", "COLUMN_CHUNK");
    for (channels, prior) in around([chunk, 2 * chunk]).into_iter().zip([false, true].into_iter().cycle()) {
        check_on_the_cpu(&CentreCase::new(BatchShape { samples: 2, tokens: 3 }, channels, false, prior), ANY);
    }
}

#[test]
fn centre_energy_moves_what_its_header_says() {
    let shape = BatchShape { samples: 2, tokens: 64 };
    check_traffic(&CentreCase::new(shape, 1024, false, true), ANY);
}

#[test]
fn gather_pruned() {
    for dtype in DTYPES {
        for (of, kept, block_width, rank) in [
            (2, 1, 1, 0),
            (33, 31, 1, 3),
            (300, 0, 1, 1),
            (1000, 613, 1, 5),
            (257, 256, 1, 2),
            (9, 3, 64, 4),
            (32, 18, 128, 2),
            (7, 4, 80, 0),
            (70, 40, 8, 33),
            (4, 2, 300, 1),
        ] {
            check(&GatherPrunedCase { of, kept, block_width, rank }, dtype);
        }
    }
    check_once(&GatherPrunedCase { of: 11008, kept: 6208, block_width: 1, rank: 32 }, GpuDtype::Bf16);
}

#[test]
fn gather_pruned_moves_what_its_header_says() {
    // Whole heads, so that pruned channels lie in whole sectors.
    check_traffic(&GatherPrunedCase { of: 32, kept: 18, block_width: 128, rank: 32 }, GpuDtype::Bf16);
}

#[test]
fn accumulate_product() {
    for dtype in DTYPES {
        for (rows, m, n) in [(1, 1, 1), (15, 3, 70), (16, 64, 64), (33, 65, 31), (50, 32, 130)] {
            check(&ProductCase { rows, m, n: Some(n) }, dtype);
        }
    }
}

#[test]
fn accumulate_product_moves_what_its_header_says() {
    check_traffic(&ProductCase { rows: 64, m: 128, n: Some(192) }, GpuDtype::F16);
}

#[test]
fn blocks_end_anywhere() {
    let warps = constant!("cuda/centre_energy.cu", "WARPS");
    for [samples, tokens, channels, masked, prior] in
        mixed([&around([2, 32]), &around([warps, 4 * warps]), &around([32]), &[0, 1], &[0, 1, 1]])
    {
        let shape = BatchShape { samples, tokens };
        check_once(&CentreCase::new(shape, channels, masked > 0, prior > 0), ANY);
    }
    let threads = constant!("cuda/gather_pruned.cu", "THREADS");
    for (i, [of, pruned, rank]) in
        mixed([&around([32, threads, 2 * threads]), &[1, 2, 3, 0], &[0, 1, 4, 5]]).into_iter().enumerate()
    {
        for block_width in [1, 3] {
            let pruned = [0, 1, of / 2, of - 1][pruned];
            check_once(&GatherPrunedCase { of, kept: of - pruned, block_width, rank }, DTYPES[i % 2]);
        }
    }
    let (tile, depth) =
        (constant!("cuda/accumulate_product.cu", "TILE"), constant!("cuda/accumulate_product.cu", "DEPTH"));
    for [rows, m, n, dtype] in
        mixed([&around([depth, 2 * depth]), &around([4, tile]), &around([4, tile]), &[0, 1]])
    {
        check_once(&ProductCase { rows, m, n: Some(n) }, DTYPES[dtype]);
    }
    check_once(&ProductCase { rows: 20, m: 66, n: None }, DTYPES[0]);
    launched_all_of(&["centre_energy", "gather_pruned", "accumulate_product"]);
}

#[test]
fn special_values() {
    for masked in [false, true] {
        let shape = BatchShape { samples: 3, tokens: 4 };
        check_specials(&CentreCase::new(shape, 5, masked, true), ANY);
    }
    for dtype in DTYPES {
        check_specials(&GatherPrunedCase { of: 9, kept: 2, block_width: 1, rank: 2 }, dtype);
        check_specials(&ProductCase { rows: 5, m: 6, n: Some(7) }, dtype);
    }
}
