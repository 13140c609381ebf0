//! `cross_entropy`: losses without logits in memory.

use probeprune::{
    backend::{Backend, CrossEntropyOperands, WeightUse},
    checkpoint::Tensor,
    gpu::{Gpu, GpuDtype, Tile},
};

use crate::{
    case::{
        DTYPES, check, check_on_the_cpu, check_once, check_specials, check_tile, check_tiles, check_traffic,
        launched_all_of,
    },
    device::TestDevice,
    operations::{CrossEntropyCase, Put, source::Source},
    steps::{around, constant, mixed},
};

#[test]
fn cross_entropy() {
    let case = CrossEntropyCase::new;
    for dtype in DTYPES {
        for (rows, vocab_size, embedding_dim) in
            [(1, 1, 8), (2, 300, 24), (5, 128, 40), (70, 129, 33), (131, 500, 16)]
        {
            check(&case(rows, vocab_size, embedding_dim), dtype);
        }
        check(&CrossEntropyCase { scale: 40.0, ..case(5, 300, 24) }, dtype);
        check_tiles(&CrossEntropyCase { low: true, ..case(70, 300, 24) }, dtype);
    }
}

#[test]
fn logits_that_are_not_finite_give_losses_that_are_not() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let gpu = Gpu::new(TestDevice::new(ptx_emu::Settings::default()), GpuDtype::Bf16);
        let (rows, vocab, width) = (3, 300, 16);
        let mut weight = Source::Exact(GpuDtype::Bf16).stream(1).scaled(vocab, width);
        weight[200 * width] = bad;
        let weight = Tensor::from_f32(vec![vocab, width], weight);
        let head = gpu.put_linear(&weight, None, WeightUse::Rows).unwrap();
        let mut scratch = gpu.statistics(gpu.cross_entropy_scratch(rows, vocab)).unwrap();
        let mut out = gpu.statistics(rows).unwrap();
        let x = gpu.put_activations(rows * width, &vec![1.0; rows * width]).unwrap();
        let targets = gpu.put_indices(&[0, 200, u32::MAX]).unwrap();
        gpu.cross_entropy(CrossEntropyOperands {
            x: &x,
            rows,
            head: &head,
            targets: &targets,
            scratch: &mut scratch,
            out: &mut out,
        });
        let losses = gpu.download_statistics(&out, rows).unwrap();
        assert!(!losses[0].is_finite(), "{bad}: {losses:?}");
        assert!(!losses[1].is_finite() && losses[2] == 0.0, "{losses:?}");
    }
}

#[test]
fn cross_entropy_moves_what_its_header_says() {
    let case = CrossEntropyCase::new(256, 1024, 512);
    check_traffic(&case, GpuDtype::Bf16);
}

#[test]
fn tiles_end_anywhere() {
    let tile = constant!("src/gpu/tile.rs", "TILE_COLUMNS");
    let rows = around(Tile::ALL.map(Tile::rows));
    // The second kernel takes eight tiles of columns at a time.
    let sizes = mixed([&rows, &around([8, tile, 8 * tile]), &around([8, 32]), &[0, 1]]);
    for [rows, vocab_size, embedding_dim, dtype] in sizes {
        let case = CrossEntropyCase { scale: 3.0, ..CrossEntropyCase::new(rows, vocab_size, embedding_dim) };
        check_tiles(&case, DTYPES[dtype]);
        check_once(&CrossEntropyCase { outlier: true, ..case }, DTYPES[dtype]);
    }
    launched_all_of(&["cross_entropy"]);
}

/// Blocks go down a group of row tiles before they go on to the next columns.
#[test]
fn more_rows_than_a_raster_group_has() {
    let columns = constant!("src/gpu/tile.rs", "TILE_COLUMNS");
    for tile in Tile::ALL {
        for (dtype, vocab_size) in DTYPES.into_iter().zip([columns, columns + 1]) {
            check_tile(&CrossEntropyCase::new(2049, vocab_size, 8), dtype, tile);
        }
    }
}

#[test]
fn steps_of_the_cpu_backend() {
    let rows = around([constant!("src/cpu/product/mod.rs", "ROW_CHUNK")]);
    let vocab_sizes = around([constant!("src/cpu/product/panel.rs", "PANEL_FEATURES")]);
    for [rows, vocab_size] in mixed([&rows, &vocab_sizes]) {
        let case = CrossEntropyCase { scale: 3.0, ..CrossEntropyCase::new(rows, vocab_size, 16) };
        check_on_the_cpu(&case, GpuDtype::Bf16);
    }
}

#[test]
fn special_values() {
    for dtype in DTYPES {
        check_specials(&CrossEntropyCase::new(5, 140, 10), dtype);
    }
}
