//! `norm`: RMSNorm, LayerNorm, copy.

use probeprune::{backend::NormKind, gpu::GpuDtype};

use crate::{
    case::{DTYPES, check, check_once, check_traffic},
    operations::NormCase,
};

#[test]
fn norm() {
    for dtype in DTYPES {
        for kind in [None, Some(NormKind::Rms), Some(NormKind::Layer)] {
            for (rows, hidden_size, affine) in
                [(1, 1, true), (4, 7, false), (1, 8, true), (3, 33, true), (2, 256, false), (2, 1000, true)]
            {
                check(&NormCase { affine, ..NormCase::new(kind, rows, hidden_size) }, dtype);
            }
            // Kept in registers; read again.
            for hidden_size in [8192, 8200, 16384, 16392, 9001] {
                check_once(&NormCase::new(kind, 1, hidden_size), dtype);
            }
        }
    }
}

#[test]
fn layer_norm_far_from_zero() {
    // The variance is a 30,000th of the mean square: a sum of squares in f32 would leave three digits of it.
    for hidden_size in [520, 1001] {
        let case =
            NormCase { affine: false, mean: 100.0, ..NormCase::new(Some(NormKind::Layer), 2, hidden_size) };
        check(&case, GpuDtype::F16);
    }
}

#[test]
fn norm_moves_what_its_header_says() {
    for kind in [None, Some(NormKind::Rms), Some(NormKind::Layer)] {
        for hidden_size in [4096, 8192] {
            let case = NormCase::new(kind, 4, hidden_size);
            check_traffic(&case, GpuDtype::Bf16);
        }
    }
}
