//! `norm`: RMSNorm, LayerNorm, copy.

use probeprune::{backend::NormKind, gpu::GpuDtype};

use crate::{
    case::{DTYPES, check, check_once, check_specials, check_traffic, launched_all_of},
    operations::NormCase,
    steps::{around, constant, mixed},
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
    // The variance is a 30,000th of the mean square: a sum of squares in f32 would leave three digits of it. Or two
    // millionths: a sum of values times their distances from the mean would be off by the mean's rounding.
    for (hidden_size, scale) in [(520, 1.0), (1001, 1.0), (520, 0.125), (1001, 0.125)] {
        let layer = NormCase::new(Some(NormKind::Layer), 2, hidden_size);
        check(&NormCase { affine: false, mean: 100.0, scale, ..layer }, GpuDtype::F16);
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

/// A row is kept in registers, 16 elements a thread, up to the most threads of a block; longer and odd ones are read again.
#[test]
fn rows_end_anywhere() {
    let most = 8 * constant!("cuda/norm.cu", "KEEP") * constant!("cuda/norm.cu", "MAX_THREADS");
    let kinds = [None, Some(NormKind::Rms), Some(NormKind::Layer)];
    for [hidden_size, kind, affine, dtype] in
        mixed([&around([8, 32, 512, most]), &[0, 1, 2], &[0, 1, 1], &[0, 1]])
    {
        let case = NormCase::new(kinds[kind], 2, hidden_size);
        check_once(&NormCase { affine: affine > 0, ..case }, DTYPES[dtype]);
    }
    launched_all_of(&["norm"]);
}

/// Where the mean square is about eps, below it, and above: eps is under the root, and it is the one given.
#[test]
fn eps_counts() {
    for kind in [NormKind::Rms, NormKind::Layer] {
        for (scale, eps) in
            [(2f32.powi(-8), 1e-5), (2f32.powi(-12), 1e-5), (1.0, 0.25), (2f32.powi(-8), 1e-12)]
        {
            for (hidden_size, dtype) in [(40, DTYPES[0]), (33, DTYPES[1])] {
                check_once(&NormCase { scale, eps, ..NormCase::new(Some(kind), 3, hidden_size) }, dtype);
            }
        }
    }
}

#[test]
fn special_values() {
    for dtype in DTYPES {
        for kind in [None, Some(NormKind::Rms), Some(NormKind::Layer)] {
            for hidden_size in [7, 16] {
                check_specials(&NormCase::new(kind, 2, hidden_size), dtype);
            }
        }
    }
}
