//! `probe_gather`: the probe's rows.

use probeprune::{gpu::GpuDtype, prune::BatchShape};

use crate::{
    case::{DTYPES, check, check_once, check_specials, check_traffic, launched_all_of},
    operations::ProbeGatherCase,
    steps::{around, constant},
};

fn shape(samples: usize, tokens: usize) -> BatchShape {
    BatchShape { samples, tokens }
}

#[test]
fn probe_gather() {
    for dtype in DTYPES {
        for (of, probe, hidden_size) in [
            (shape(1, 1), shape(1, 1), 1),
            (shape(3, 5), shape(2, 3), 7),
            (shape(4, 9), shape(1, 4), 33),
            (shape(2, 31), shape(2, 31), 8),
            (shape(5, 6), shape(3, 2), 1000),
            (shape(2, 3), shape(1, 2), 4096),
        ] {
            check(&ProbeGatherCase { shape: of, probe, hidden_size }, dtype);
        }
    }
}

#[test]
fn probe_gather_moves_what_its_header_says() {
    let case = ProbeGatherCase { shape: shape(4, 9), probe: shape(2, 5), hidden_size: 4096 };
    check_traffic(&case, GpuDtype::Bf16);
}

#[test]
fn rows_end_anywhere() {
    let threads = constant!("cuda/probe_gather.cu", "MAX_THREADS");
    for (i, hidden_size) in around([8, 256, 8 * threads, 16 * threads]).into_iter().enumerate() {
        let case = ProbeGatherCase { shape: shape(3, 4), probe: shape(2, 3), hidden_size };
        check_once(&case, DTYPES[i % 2]);
    }
    launched_all_of(&["probe_gather"]);
}

#[test]
fn special_values() {
    for dtype in DTYPES {
        check_specials(&ProbeGatherCase { shape: shape(2, 3), probe: shape(2, 3), hidden_size: 9 }, dtype);
    }
}
