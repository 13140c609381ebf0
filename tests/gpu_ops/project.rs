//! `project`: products with columns of a weight.

use probeprune::gpu::{GpuDtype, Tile};

use crate::{
    case::{
        DTYPES, check, check_on_the_cpu, check_once, check_specials, check_tile, check_tiles, check_traffic,
        count, kept_counts, launched_all_of,
    },
    operations::{Case, ProjectCase, product::Keep},
    steps::{around, constant, mixed},
};

/// With a bias and a residual.
fn full(rows: usize, weight: [usize; 2]) -> ProjectCase {
    ProjectCase::new(rows, weight).with_bias().with_residual()
}

#[test]
fn project_of_odd_shapes() {
    for dtype in DTYPES {
        for (rows, weight) in
            [(1, [8, 1]), (20, [1, 40]), (31, [33, 31]), (33, [130, 40]), (130, [72, 136]), (65, [7, 129])]
        {
            check(&ProjectCase::new(rows, weight).with_residual(), dtype);
            check(&ProjectCase::new(rows, weight).with_bias(), dtype);
        }
    }
}

#[test]
fn kept_columns_are_gathered() {
    for dtype in DTYPES {
        for (len, block_width) in
            [(1, 1), (71, 1), (144, 1), (30, 2), (3, 16), (9, 16), (5, 6), (17, 6), (2, 48), (3, 40)]
        {
            check(&full(35, [72, 144]).keep(Keep::Blocks { len, block_width }), dtype);
        }
    }
    // The ring wraps, in the gathered dimension.
    check(&full(5, [24, 700]).keep(Keep::channels(361)), GpuDtype::Bf16);
    check(&full(5, [24, 720]).keep(Keep::Blocks { len: 5, block_width: 80 }), GpuDtype::F16);
}

#[test]
fn every_number_of_kept_columns() {
    for (all, block_width) in [(144, 1), (9, 16)] {
        // Without any, the residual and the bias are left.
        for len in [0].into_iter().chain(kept_counts(all)) {
            // A tile's kernel, and the matrix-vector one.
            for rows in [35, 3] {
                let keep = Keep::Blocks { len, block_width };
                check_once(&full(rows, [72, all * block_width]).keep(keep), GpuDtype::Bf16);
            }
        }
    }
}

#[test]
fn low_rank_products_are_more_columns_and_a_constant() {
    for dtype in DTYPES {
        // Few rows go to the matrix-vector kernel.
        for (rows, weight, keep, rank) in [
            (1, [33, 31], Keep::Dense, 0),
            (3, [40, 64], Keep::channels(37), 5),
            (16, [72, 144], Keep::Blocks { len: 9, block_width: 8 }, 32),
            (33, [130, 40], Keep::Dense, 0),
            (35, [72, 144], Keep::channels(71), 32),
            (130, [66, 144], Keep::Blocks { len: 3, block_width: 16 }, 7),
            (65, [24, 720], Keep::Blocks { len: 40, block_width: 8 }, 200),
        ] {
            for case in [ProjectCase::new(rows, weight), full(rows, weight)] {
                check(&ProjectCase { low_rank: Some(rank), ..case.keep(keep.clone()) }, dtype);
            }
        }
    }
}

#[test]
fn project_moves_what_its_header_says() {
    let plain = full(256, [512, 2048]).keep(Keep::channels(1024));
    check_traffic(&plain, GpuDtype::Bf16);
    let added = ProjectCase { low_rank: Some(32), ..plain.clone() };
    let more = added.traffic().read - plain.traffic().read;
    let [Some(plain), Some(added)] = [&plain, &added].map(|case| count(case, GpuDtype::Bf16, "project"))
    else {
        return;
    };
    let near = (added.read - plain.read) as f64 / more as f64;
    assert!((near - 1.0).abs() < 0.02 && added.conflicts == 0, "{added:?} for {plain:?} and {more} more");
}

/// Cases with these many rows, outputs and kept columns: dense, gathered by channel and by block, of several ranks, with a bias
/// and a residual or not, in turn.
pub fn cases(sizes: [&[usize]; 3]) -> Vec<(ProjectCase, GpuDtype)> {
    let [rows, outputs, columns] = sizes;
    mixed([rows, outputs, columns, &[0, 1, 2], &[0, 1, 2, 9, 10, 32, 33, 34], &[0, 1, 2, 3], &[0, 1]])
        .into_iter()
        .map(|[rows, outputs, columns, keep, rank, added, dtype]| {
            let blocks = columns.div_ceil(4);
            let (all, keep) = match keep {
                0 => (columns, Keep::Dense),
                1 => (columns * 3 / 2 + 1, Keep::channels(columns)),
                _ => (4 * blocks + 8, Keep::Blocks { len: blocks, block_width: 4 }),
            };
            let (bias, residual) = (added % 2 == 0, added / 2 == 0);
            let case = ProjectCase::new(rows, [outputs, all]).keep(keep);
            (ProjectCase { bias, residual, low_rank: rank.checked_sub(1), ..case }, DTYPES[dtype])
        })
        .collect()
}

#[test]
fn tiles_end_anywhere() {
    let (tile, depth) = (constant!("src/gpu/tile.rs", "TILE_COLUMNS"), constant!("cuda/gemm.cuh", "K"));
    let rows: Vec<usize> = around(Tile::ALL.map(Tile::rows)).into_iter().filter(|&rows| rows > 16).collect();
    for (case, dtype) in cases([&rows, &around([8, tile]), &around([8, depth, 4 * depth, 6 * depth])]) {
        check_tiles(&case, dtype);
    }
    launched_all_of(&["project"]);
}

/// Blocks go down a group of row tiles before they go on to the next columns.
#[test]
fn more_rows_than_a_raster_group_has() {
    let columns = constant!("src/gpu/tile.rs", "TILE_COLUMNS");
    for tile in Tile::ALL {
        for (dtype, outputs) in DTYPES.into_iter().zip([columns, columns + 1]) {
            check_tile(&full(2049, [outputs, 8]), dtype, tile);
        }
    }
}

#[test]
fn steps_of_the_cpu_backend() {
    let rows = around([
        constant!("src/cpu/product/few_rows.rs", "MOST_ROWS"),
        constant!("src/cpu/product/mod.rs", "GROUP_ROWS"),
    ]);
    // Words of 16 rows of W are transposed together.
    let outputs = around([16, constant!("src/cpu/product/panel.rs", "PANEL_FEATURES")]);
    let columns = around([
        32,
        constant!("src/cpu/product/microkernel.rs", "SUM_STEPS"),
        constant!("src/cpu/product/panel.rs", "PANEL_COLUMNS"),
    ]);
    for (case, dtype) in cases([&rows, &outputs, &columns]) {
        check_on_the_cpu(&case, dtype);
    }
    // A head that two panels share.
    let panel = constant!("src/cpu/product/panel.rs", "PANEL_COLUMNS");
    let heads = Keep::Blocks { len: panel / 80 + 2, block_width: 80 };
    check_on_the_cpu(&full(17, [33, 80 * (panel / 80 + 9)]).keep(heads), GpuDtype::F16);
}

#[test]
fn special_values() {
    for dtype in DTYPES {
        for rows in [3, 18] {
            for keep in [Keep::Dense, Keep::channels(7)] {
                let case = full(rows, [12, 10]).keep(keep);
                check_specials(&case, dtype);
                check_specials(&ProjectCase { low_rank: Some(2), ..case }, dtype);
            }
        }
    }
}
