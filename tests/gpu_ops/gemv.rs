//! Products of up to 16 rows: `linear`, `logits`, `gated_linear`, `project`.

use probeprune::{config::Activation, gpu::GpuDtype};

use crate::{
    case::{DTYPES, check, check_once, check_traffic, launched_all_of},
    linear,
    operations::{LinearCase, LinearKind, ProjectCase, product::Keep},
    project,
    steps::{around, constant},
};

const BF16: GpuDtype = GpuDtype::Bf16;

fn first(kind: LinearKind, rows: usize, out_features: usize, in_features: usize) -> LinearCase {
    LinearCase::new(kind, rows, [out_features, in_features])
}

fn blocks(block_width: usize, len: usize) -> Keep {
    Keep::Blocks { len, block_width }
}

fn skipping(block_width: usize, len: usize, skipped: usize) -> Keep {
    Keep::Skipping { len, block_width, skipped }
}

#[test]
fn linear_of_few_rows() {
    use Activation::{Gelu, GeluTanh, Relu, Silu};
    let case = |rows, out_features, in_features| first(LinearKind::Linear, rows, out_features, in_features);
    for dtype in DTYPES {
        // Every row count of a tile, widths that are no multiple of 8, of 32, of what is under way at once.
        check(&case(1, 1, 8), dtype);
        check(&case(1, 33, 7).with_bias(), dtype);
        check(&case(2, 31, 33).with(Relu, 1.0), dtype);
        check(&case(3, 40, 64).with_bias().with(Gelu, 0.5), dtype);
        check(&case(7, 32, 264).with(GeluTanh, 2.0), dtype);
        check(&case(8, 70, 1).with(Silu, 1.0), dtype);
        check(&case(9, 5, 72).with_bias().with(Silu, 0.25), dtype);
        check(&case(15, 65, 31), dtype);
        check(&case(16, 100, 4104).with_bias(), dtype);
        check(&case(4, 50, 4104), dtype);
    }
}

#[test]
fn linear_of_kept_rows() {
    let case = |rows, out_features, in_features| first(LinearKind::Linear, rows, out_features, in_features);
    for dtype in DTYPES {
        check(&case(1, 100, 64).keep(blocks(1, 37)).with_bias(), dtype);
        check(&case(12, 48, 40).keep(blocks(1, 48)), dtype);
        check(&case(2, 50, 24).keep(blocks(2, 19)), dtype);
        // Query heads, then key/value heads of which the last are skipped.
        check(&case(3, 96, 128).keep(blocks(16, 4)).with_bias(), dtype);
        check(&case(10, 96, 56).keep(skipping(16, 5, 2)).with_bias(), dtype);
        check(&case(1, 80, 33).keep(skipping(10, 6, 1)).with_bias().with(Activation::Relu, 0.5), dtype);
        check(&case(2, 64, 24).keep(skipping(32, 2, 2)), dtype);
    }
}

#[test]
fn gated_linear() {
    let case = |rows, out_features, in_features| first(LinearKind::Gated, rows, out_features, in_features);
    for dtype in DTYPES {
        check(&case(1, 17, 64), dtype);
        check(&case(2, 100, 72).keep(blocks(1, 61)).with_bias(), dtype);
        check(&case(8, 16, 7).with_bias().with(Activation::Gelu, 1.0), dtype);
        check(&case(9, 50, 136).keep(blocks(1, 19)).with(Activation::GeluTanh, 1.0), dtype);
        check(&case(16, 33, 2064).with_bias(), dtype);
        check(&case(3, 40, 40).keep(skipping(8, 3, 1)).with_bias().with(Activation::Relu, 1.0), dtype);
        for biases in [[true, false], [false, true]] {
            check(&LinearCase { biases, ..case(2, 50, 24) }.keep(blocks(2, 19)), dtype);
        }
    }
}

#[test]
fn logits() {
    for dtype in DTYPES {
        for (rows, out_features, in_features) in [(1, 101, 64), (8, 33, 72), (11, 48, 33)] {
            check(&first(LinearKind::Logits, rows, out_features, in_features), dtype);
        }
    }
}

#[test]
fn project_of_few_rows() {
    // Rows, channels, outputs.
    let case = |rows, channels, outputs| ProjectCase::new(rows, [outputs, channels]);
    for dtype in DTYPES {
        check(&case(1, 1, 1), dtype);
        check(&case(1, 64, 8).with_bias(), dtype);
        check(&case(2, 33, 31).with_residual(), dtype);
        check(&case(3, 100, 33).keep(blocks(1, 37)).with_bias().with_residual(), dtype);
        check(&case(7, 300, 36).keep(blocks(1, 160)).with_residual(), dtype);
        check(&case(8, 120, 100).keep(blocks(10, 7)).with_bias(), dtype);
        check(&case(6, 90, 20).keep(blocks(2, 31)), dtype);
        check(&case(9, 256, 64).keep(blocks(64, 3)).with_bias().with_residual(), dtype);
        check(&case(16, 4100, 40).with_residual(), dtype);
        check(&case(15, 70, 34).keep(blocks(1, 70)), dtype);
        check(&case(5, 4200, 44).keep(blocks(1, 4103)).with_bias(), dtype);
    }
}

#[test]
fn linear_moves_what_its_header_says() {
    for rows in [1, 8, 16] {
        let case = first(LinearKind::Linear, rows, 2048, 4096);
        check_traffic(&case, BF16);
        check_traffic(&case.keep(blocks(128, 9)), BF16);
    }
    check_traffic(&first(LinearKind::Logits, 1, 1024, 4096), BF16);
}

#[test]
fn gated_linear_moves_what_its_header_says() {
    for rows in [1, 8, 16] {
        check_traffic(&first(LinearKind::Gated, rows, 1024, 4096).keep(blocks(1, 512)), BF16);
    }
}

#[test]
fn project_moves_what_its_header_says() {
    for rows in [1, 8, 16] {
        let case = ProjectCase::new(rows, [4096, 1024]).keep(blocks(1, 512)).with_residual();
        check_traffic(&case, BF16);
    }
}

/// Blocks, vectors, tiles of 8 rows, and what the warps of a block, 8 or 16, have under way at once: so that every size is
/// met one below, at and one above.
#[test]
fn blocks_end_anywhere() {
    let rows = around([8, constant!("src/gpu/gemv.rs", "MAX_ROWS") - 1]);
    let rows: Vec<usize> = rows.into_iter().filter(|&rows| rows <= 16).collect();
    let warp = 32;
    let warps = constant!("cuda/gemv.cuh", "MAX_WARPS");
    let inputs = around([8, warp, warp * warps, 3 * warp * warps, 4 * warp * warps]);
    for (kind, block) in [
        (LinearKind::Linear, constant!("cuda/linear_gemv.cu", "TILE")),
        (LinearKind::Gated, constant!("cuda/gated_linear_gemv.cu", "TILE")),
        (LinearKind::Logits, constant!("cuda/linear_gemv.cu", "TILE")),
    ] {
        for (case, dtype) in linear::cases(kind, [&rows, &around([block]), &inputs]) {
            check_once(&case, dtype);
        }
        // From here on, blocks have half the warps.
        let columns = around([constant!("src/gpu/gemv.rs", "FEW_BLOCKS") * block]);
        for (case, dtype) in linear::cases(kind, [&[1, 8, 9, 16], &columns, &[40, 264, 1032]]) {
            check_once(&case, dtype);
        }
    }
    let (slab, channels) =
        (constant!("cuda/project_gemv.cu", "SLAB"), constant!("cuda/project_gemv.cu", "CHANNELS"));
    let columns = around([4, channels, channels * warps, 6 * channels * warps, 8 * channels * warps]);
    for (case, dtype) in project::cases([&rows, &around([4, slab]), &columns]) {
        check_once(&case, dtype);
    }
    let outputs = around([constant!("src/gpu/gemv.rs", "FEW_BLOCKS") * slab]);
    for (case, dtype) in project::cases([&[1, 8, 9, 16], &outputs, &[20, 136, 1100]]) {
        check_once(&case, dtype);
    }
    launched_all_of(&["linear_gemv", "gated_linear_gemv", "project_gemv"]);
}
