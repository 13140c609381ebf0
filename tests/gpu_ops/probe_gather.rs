//! `probe_gather`: the probe's rows.

use probeprune::{gpu::GpuDtype, prune::BatchShape};

use crate::{
    case::{DTYPES, check, check_traffic},
    operations::ProbeGatherCase,
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
