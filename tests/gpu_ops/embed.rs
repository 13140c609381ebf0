//! `embed`: rows of a token table, with or without positions.

use probeprune::gpu::GpuDtype;

use crate::{
    case::{DTYPES, check, check_once, check_traffic},
    operations::EmbedCase,
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
