//! `rope_cache`: rotary positions and the cache write.

use probeprune::{gpu::GpuDtype, prune::BatchShape};

use crate::{
    case::{DTYPES, check, check_once, check_specials, check_traffic, launched_all_of, run},
    device::backend,
    operations::RopeCase,
    steps::{around, constant},
};

const BASE: RopeCase = RopeCase {
    shape: BatchShape { samples: 2, tokens: 3 },
    heads: 3,
    kv_heads: 3,
    head_dim: 16,
    rotary: true,
    cache: None,
};

#[test]
fn rope_cache() {
    for dtype in DTYPES {
        for (heads, kv_heads, head_dim) in
            [(3, 3, 16), (4, 2, 6), (3, 1, 10), (5, 5, 80), (33, 3, 32), (2, 1, 128), (1, 1, 2), (1, 1, 258)]
        {
            let base = RopeCase { heads, kv_heads, head_dim, ..BASE };
            for cache in [None, Some((3, 0)), Some((7, 2))] {
                check(&RopeCase { cache, ..base.clone() }, dtype);
            }
            check(&RopeCase { rotary: false, cache: Some((5, 2)), ..base.clone() }, dtype);
            let shape = BatchShape { samples: 1, tokens: 1 };
            check(&RopeCase { shape, cache: Some((9, 8)), ..base }, dtype);
        }
        // Heads of odd width exist without rotary positions only.
        check(&RopeCase { head_dim: 5, rotary: false, cache: Some((4, 1)), ..BASE }, dtype);
        let (shape, cache) = (BatchShape { samples: 2, tokens: 5 }, Some((9, 3)));
        check_once(&RopeCase { shape, heads: 32, kv_heads: 8, head_dim: 128, cache, ..BASE }, dtype);
        let shape = BatchShape { samples: 1, tokens: 2 };
        check_once(&RopeCase { shape, heads: 4, kv_heads: 4, head_dim: 4096, ..BASE }, dtype);
    }
}

#[test]
fn rope_cache_moves_what_its_header_says() {
    let (shape, cache) = (BatchShape { samples: 2, tokens: 4 }, Some((8, 2)));
    let case = RopeCase { shape, heads: 32, kv_heads: 32, head_dim: 128, cache, ..BASE };
    check_traffic(&case, GpuDtype::Bf16);
}

#[test]
fn nothing_to_do_launches_nothing() {
    let gpu = backend(GpuDtype::Bf16);
    run(&RopeCase { rotary: false, ..BASE }, &gpu, GpuDtype::Bf16).unwrap();
    assert_eq!(gpu.driver().launches(), 0);
}

/// A copied row takes several pieces to a thread, and another round where it is longer than those of a block.
#[test]
fn rows_end_anywhere() {
    let (threads, batch) =
        (constant!("cuda/rope_cache.cu", "THREADS"), constant!("cuda/rope_cache.cu", "BATCH"));
    let round = 2 * batch * threads;
    for dtype in DTYPES {
        // As single elements, and as vectors of 8.
        for head_dim in around([threads, round, 8 * round]) {
            let base = RopeCase { heads: 1, kv_heads: 1, head_dim, cache: Some((4, 1)), ..BASE };
            check_once(&RopeCase { rotary: false, ..base.clone() }, dtype);
            if head_dim % 2 == 0 {
                check_once(&base, dtype);
            }
        }
        for heads in around([8, 16, threads]) {
            let base = RopeCase { heads, kv_heads: heads.div_ceil(3), cache: Some((4, 1)), ..BASE };
            check_once(&base, dtype);
            check_once(&RopeCase { head_dim: 6, ..base }, dtype);
        }
    }
    launched_all_of(&["rope_cache"]);
}

#[test]
fn special_values() {
    for dtype in DTYPES {
        for head_dim in [6, 16] {
            for rotary in [false, true] {
                check_specials(&RopeCase { head_dim, rotary, cache: Some((4, 1)), ..BASE }, dtype);
            }
        }
    }
}
