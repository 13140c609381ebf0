//! `linear`, `gated_linear` and `logits`: products with rows of a weight.

use probeprune::{
    config::Activation,
    gpu::{GpuDtype, Tile},
    prune::BatchShape,
};

use crate::{
    case::{
        DTYPES, check, check_on_the_cpu, check_once, check_specials, check_tile, check_tiles, check_traffic,
        kept_counts, launched_all_of,
    },
    operations::{
        LinearCase,
        LinearKind::{self, Gated, Linear, Logits},
        product::Keep,
    },
    steps::{around, constant, mixed},
};

const BF16: GpuDtype = GpuDtype::Bf16;

#[test]
fn linear_and_logits_of_odd_shapes() {
    for dtype in DTYPES {
        for (rows, weight) in
            [(1, [1, 8]), (20, [1, 40]), (31, [33, 31]), (33, [130, 40]), (130, [72, 136]), (65, [129, 7])]
        {
            for kind in [Linear, Logits, Gated] {
                check(&LinearCase::new(kind, rows, weight), dtype);
            }
        }
    }
}

#[test]
fn a_long_ring_wraps() {
    check(&LinearCase::new(Linear, 5, [9, 32 * 11]), BF16);
    check(&LinearCase::new(Gated, 5, [9, 32 * 11 + 3]), GpuDtype::F16);
}

#[test]
fn kept_rows_are_gathered() {
    for dtype in DTYPES {
        for keep in [
            Keep::channels(1),
            Keep::channels(71),
            Keep::channels(144),
            Keep::Blocks { len: 30, block_width: 2 },
            Keep::Blocks { len: 3, block_width: 16 },
            Keep::Blocks { len: 9, block_width: 16 },
            Keep::Blocks { len: 5, block_width: 6 },
            Keep::Skipping { len: 5, block_width: 16, skipped: 2 },
            Keep::Skipping { len: 7, block_width: 6, skipped: 3 },
        ] {
            let case = |kind| LinearCase::new(kind, 35, [144, 72]).keep(keep.clone()).with_bias();
            check(&LinearCase { scale: 0.25, ..case(Linear) }, dtype);
            if matches!(keep, Keep::Blocks { .. }) {
                check(&case(Gated), dtype);
                for biases in [[true, false], [false, true]] {
                    check_once(&LinearCase { biases, ..case(Gated) }, dtype);
                }
            }
        }
    }
}

#[test]
fn every_number_of_kept_rows() {
    for (all, block_width) in [(144, 1), (9, 16)] {
        for len in kept_counts(all) {
            let keep = Keep::Blocks { len, block_width };
            let case = |kind| LinearCase::new(kind, 35, [all * block_width, 40]).keep(keep.clone());
            if block_width == 1 {
                check_once(&case(Gated), BF16);
            }
            check_once(&case(Linear), BF16);
        }
    }
}

#[test]
fn without_kept_rows_nothing_is_launched() {
    for kind in [Linear, Gated] {
        for rows in [35, 3] {
            let case = LinearCase::new(kind, rows, [144, 40]).keep(Keep::channels(0)).with_bias();
            check_once(&LinearCase { energy: Some(false), ..case }, BF16);
        }
    }
}

#[test]
fn activations() {
    for activation in [Activation::Silu, Activation::Relu, Activation::Gelu, Activation::GeluTanh] {
        for kind in [Linear, Gated] {
            let case = LinearCase::new(kind, 9, [40, 24]).keep(Keep::channels(21)).with_bias();
            check(&case.with(activation, 1.0), GpuDtype::F16);
        }
    }
}

#[test]
fn energies_of_the_epilogue_and_of_a_pass_of_their_own() {
    for kind in [Linear, Gated] {
        // 1, 2, 3, 4 and 32 samples fill a tile to at least 95 %, 5 of 64 rows do (60), 20 and 70 do not.
        for (samples, tokens) in [(1, 65), (2, 40), (3, 50), (4, 17), (5, 13), (32, 3), (20, 4), (70, 1)] {
            for (energy, mask) in [(false, true), (true, false)] {
                let case = LinearCase::new(kind, samples * tokens, [80, 16]).keep(Keep::channels(67));
                let shape = BatchShape { samples, tokens };
                check_once(&LinearCase { shape, energy: Some(energy), mask, ..case }, GpuDtype::F16);
            }
        }
        let (case, shape) = (LinearCase::new(kind, 36, [70, 16]), BatchShape { samples: 2, tokens: 18 });
        check(&LinearCase { shape, energy: Some(false), mask: true, ..case }, BF16);
    }
}

#[test]
fn products_move_what_their_headers_say() {
    let (rows, inputs, kept) = (256, 1024, 512);
    // The emulated device has 4 multiprocessors: 128 rows to a tile.
    let case = |kind| LinearCase::new(kind, rows, [1024, inputs]).keep(Keep::channels(kept));
    check_traffic(&case(Linear), BF16);
    check_traffic(&LinearCase::new(Logits, rows, [kept, inputs]), BF16);
    check_traffic(&LinearCase { energy: Some(false), ..case(Gated) }, BF16);
}

/// Cases of a kind with these many rows, output columns and inputs: dense, gathered by channel and by block, with skipped
/// blocks, and every activation, in turn.
pub fn cases(kind: LinearKind, sizes: [&[usize]; 3]) -> Vec<(LinearCase, GpuDtype)> {
    let activations = [
        None,
        Some(Activation::Silu),
        Some(Activation::Relu),
        Some(Activation::Gelu),
        Some(Activation::GeluTanh),
    ];
    let [rows, columns, inputs] = sizes;
    mixed([rows, columns, inputs, &[0, 1, 2, 3], &[0, 1, 2, 3, 4], &[0, 1]])
        .into_iter()
        .map(|[rows, columns, inputs, keep, activation, dtype]| {
            let blocks = columns.div_ceil(4);
            let (all, keep) = match keep {
                _ if kind == Logits => (columns, Keep::Dense),
                0 => (columns, Keep::Dense),
                1 => (columns * 3 / 2 + 1, Keep::channels(columns)),
                2 => (4 * blocks + 8, Keep::Blocks { len: blocks, block_width: 4 }),
                _ => (4 * blocks + 8, Keep::Skipping { len: blocks, block_width: 4, skipped: 1 }),
            };
            let case = LinearCase::new(kind, rows, [all, inputs]).keep(keep);
            let case = match (kind, activations[activation]) {
                (Logits, _) => case,
                (Gated, activation) => case.with_bias().with(activation.unwrap_or(Activation::Relu), 1.0),
                (Linear, None) => case,
                (Linear, Some(activation)) => case.with_bias().with(activation, 0.3),
            };
            (case, DTYPES[dtype])
        })
        .collect()
}

#[test]
fn tiles_end_anywhere() {
    let (tile, depth) = (constant!("src/gpu/tile.rs", "TILE_COLUMNS"), constant!("cuda/gemm.cuh", "K"));
    let rows: Vec<usize> = around(Tile::ALL.map(Tile::rows)).into_iter().filter(|&rows| rows > 16).collect();
    // A step of the ring, and rings of four and six steps.
    let inputs = around([8, depth, 4 * depth, 6 * depth]);
    for kind in [Linear, Gated, Logits] {
        for (case, dtype) in cases(kind, [&rows, &around([8, tile / 2, tile]), &inputs]) {
            check_tiles(&case, dtype);
        }
    }
    launched_all_of(&["linear", "gated_linear"]);
}

/// Blocks go down a group of row tiles before they go on to the next columns.
#[test]
fn more_rows_than_a_raster_group_has() {
    let columns = constant!("src/gpu/tile.rs", "TILE_COLUMNS");
    for (kind, dtype) in [Linear, Gated, Logits].into_iter().zip(DTYPES.into_iter().cycle()) {
        for (tile, out_features) in
            Tile::ALL.into_iter().flat_map(|tile| [(tile, columns), (tile, columns + 1)])
        {
            check_tile(&LinearCase::new(kind, 2049, [out_features, 8]), dtype, tile);
        }
    }
}

/// Tiles of whole slots: they end within a slot, at its end, and hold one slot or none.
#[test]
fn slots_end_anywhere() {
    for tile in Tile::ALL {
        let m = tile.rows();
        for samples in [1, 2, 3, m / 2, m / 2 + 1, m - 1, m, m + 1] {
            let slots = (m / samples).max(1);
            for tokens in [slots, slots + 1, 2 * slots] {
                let shape = BatchShape { samples, tokens };
                if shape.rows() <= 16 {
                    continue;
                }
                for (kind, mask, energy) in
                    [(Linear, true, false), (Gated, false, true), (Gated, true, false)]
                {
                    let case = LinearCase::new(kind, shape.rows(), [70, 8]).with_bias();
                    let case = LinearCase { shape, energy: Some(energy), mask, ..case };
                    check_tile(&case, DTYPES[usize::from(mask)], tile);
                }
            }
        }
    }
    // 32 tiles of a slot each, whose rows would fit into 31.
    let shape = BatchShape { samples: 31, tokens: 32 };
    for kind in [Linear, Gated] {
        let case = LinearCase::new(kind, shape.rows(), [70, 8]);
        check_tile(&LinearCase { shape, energy: Some(false), ..case }, BF16, Tile::Rows32);
    }
}

#[test]
fn steps_of_the_cpu_backend() {
    let rows = around([
        constant!("src/cpu/product/few_rows.rs", "MOST_ROWS"),
        constant!("src/cpu/product/mod.rs", "GROUP_ROWS"),
        constant!("src/cpu/product/mod.rs", "ROW_CHUNK"),
    ]);
    // Words of 16 rows of W are transposed together.
    let columns = around([16, constant!("src/cpu/product/panel.rs", "PANEL_FEATURES")]);
    let inputs = around([
        32,
        constant!("src/cpu/product/microkernel.rs", "SUM_STEPS"),
        constant!("src/cpu/product/panel.rs", "PANEL_COLUMNS"),
    ]);
    for kind in [Linear, Gated, Logits] {
        for (case, dtype) in cases(kind, [&rows, &columns, &inputs]) {
            // Long ones with many rows take long, and their ends are apart.
            if case.shape.rows() * case.in_features < 1 << 20 {
                check_on_the_cpu(&case, dtype);
            }
        }
    }
}

#[test]
fn special_values() {
    for dtype in DTYPES {
        for rows in [3, 18] {
            for activation in [Activation::Silu, Activation::Relu, Activation::Gelu, Activation::GeluTanh] {
                let case = LinearCase::new(Linear, rows, [12, 10]).with_bias().with(activation, 0.5);
                check_specials(&case, dtype);
                let case = LinearCase::new(Gated, rows, [12, 10]).keep(Keep::channels(7)).with_bias();
                check_specials(&case.with(activation, 1.0), dtype);
            }
            check_specials(&LinearCase::new(Logits, rows, [12, 10]), dtype);
            let shape = BatchShape { samples: rows / 3, tokens: 3 };
            let case = LinearCase::new(Linear, rows, [12, 10]);
            check_specials(&LinearCase { shape, energy: Some(false), ..case }, dtype);
        }
    }
}
