//! `embed`: rows of a token table, with or without positions.

use probeprune::gpu::GpuDtype;

use crate::{
    case::{DTYPES, check, check_once, check_specials, check_traffic, launched_all_of},
    operations::EmbedCase,
    steps::{around, constant, mixed},
};

#[test]
fn embed() {
    for dtype in DTYPES {
        for positions in [None, Some(9)] {
            for (entries, rows, embedding_dim) in
                [(1, 1, 8), (5, 3, 7), (20, 4, 33), (7, 33, 1), (11, 5, 256), (6, 2, 1000)]
            {
                check(&EmbedCase { entries, positions, rows, embedding_dim }, dtype);
            }
            check_once(&EmbedCase { entries: 9, positions, rows: 3, embedding_dim: 8192 }, dtype);
        }
    }
}

#[test]
fn embed_moves_what_its_header_says() {
    for positions in [None, Some(8)] {
        let case = EmbedCase { entries: 50, positions, rows: 6, embedding_dim: 4096 };
        check_traffic(&case, GpuDtype::Bf16);
    }
}

#[test]
fn rows_end_anywhere() {
    let threads = constant!("cuda/embed.cu", "MAX_THREADS");
    let widths = around([8, 256, 8 * threads, 16 * threads]);
    for [embedding_dim, positions, dtype] in mixed([&widths, &[0, 1], &[0, 1]]) {
        let case = EmbedCase { entries: 5, positions: (positions > 0).then_some(3), rows: 4, embedding_dim };
        check_once(&case, DTYPES[dtype]);
    }
    launched_all_of(&["embed"]);
}

#[test]
fn special_values() {
    for dtype in DTYPES {
        for embedding_dim in [7, 8] {
            check_specials(&EmbedCase { entries: 3, positions: Some(2), rows: 9, embedding_dim }, dtype);
        }
    }
}
