//! `linear`, `gated_linear` and `logits`: products with rows of a weight.

use probeprune::{config::Activation, gpu::GpuDtype, prune::BatchShape};

use crate::{
    case::{DTYPES, check, check_once, check_traffic, kept_counts},
    operations::{
        LinearCase,
        LinearKind::{Gated, Linear, Logits},
        product::Keep,
    },
};

const BF16: GpuDtype = GpuDtype::Bf16;

#[test]
fn linear_and_logits_of_odd_shapes() {
    for dtype in DTYPES {
        for (rows, weight) in [(1, [1, 8]), (31, [33, 31]), (33, [130, 40]), (130, [72, 136]), (65, [129, 7])]
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
    // More than one group of tiles.
    check_once(&LinearCase::new(Linear, 1200, [260, 24]), BF16);
}

#[test]
fn kept_rows_are_gathered() {
    for dtype in DTYPES {
        for keep in [
            Keep::channels(1),
            Keep::channels(71),
            Keep::channels(144),
            Keep::Blocks { len: 3, block_width: 16 },
            Keep::Blocks { len: 9, block_width: 16 },
            Keep::Blocks { len: 5, block_width: 6 },
            Keep::Skipping { len: 5, block_width: 16, skipped: 2 },
            Keep::Skipping { len: 7, block_width: 6, skipped: 3 },
        ] {
            let case = |kind| LinearCase::new(kind, 35, [144, 72]).keep(keep.clone()).with_bias();
            check(&LinearCase { scale: 0.25, ..case(Linear) }, dtype);
            if let Keep::Blocks { block_width: 1, .. } = keep {
                check(&case(Gated), dtype);
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
