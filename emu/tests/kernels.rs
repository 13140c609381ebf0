//! The study kernels under every policy and every kind of completion: right results, no reports.

mod common;

use common::{Gemm, module, reduce, topk, warp_sum};
use ptx_emu::{Counters, Settings};

/// Runs under every schedule; results have to be right, and the work the same.
fn everywhere(name: &str, run: impl Fn(&Settings) -> common::Outcome) {
    let mut first: Option<Counters> = None;
    for settings in Settings::matrix(11) {
        match run(&settings) {
            Ok((c, right)) => {
                assert!(right, "{name}: wrong result under {settings:?}");
                let same = first.get_or_insert_with(|| c.clone());
                assert_eq!(c.global_read_bytes, same.global_read_bytes, "{name} under {settings:?}");
                assert_eq!(c.tensor_flops, same.tensor_flops, "{name} under {settings:?}");
            }
            Err(e) => panic!("{name} under {settings:?}: {e}"),
        }
    }
}

#[test]
fn reduces() {
    let m = module("reduce");
    for (n, blocks) in [(0, 1), (1, 1), (255, 1), (10_001, 3), (30_000, 40)] {
        everywhere(&format!("reduce {n} over {blocks}"), |s| reduce(&m, n, blocks, s));
    }
    everywhere("warp_sum_shared", |s| warp_sum(&m, s));
}

#[test]
fn selects() {
    let m = module("topk");
    for (rows, n, k, threads) in [(1, 1, 1, 32), (2, 33, 33, 64), (3, 1000, 33, 128), (2, 3000, 50, 256)] {
        everywhere(&format!("topk {k} of {n}"), |s| topk(&m, rows, n, k, threads, s));
    }
}

#[test]
fn multiplies_with_mma() {
    let m = module("gemm_mma");
    for (rows, columns, k) in [(64, 64, 32), (100, 72, 136), (1, 1, 8)] {
        let g = Gemm::new(rows, columns, k);
        everywhere(&format!("gemm_mma {rows}x{columns}x{k}"), |s| g.mma(&m, s));
    }
    let g = Gemm::new(128, 128, 128);
    let (c, _) = g.mma(&m, &Settings::default()).unwrap();
    assert_eq!(c.tensor_flops, 2 * 128 * 128 * 128);
    assert_eq!(c.shared_conflicts, 0, "its header says there are none");
    // Each of the 2x2 blocks reads its 64 rows of A and of B once.
    assert_eq!(c.cp_async_bytes, 4 * 2 * 64 * 128 * 2);
}

#[test]
fn multiplies_with_wgmma() {
    let m = module("gemm_wgmma");
    // 640 is ten steps: every one of the three stages is used three times and more.
    for (rows, columns, k) in [(64, 64, 64), (100, 72, 200), (64, 64, 640)] {
        let g = Gemm::new(rows, columns, k);
        everywhere(&format!("gemm_wgmma {rows}x{columns}x{k}"), |s| g.wgmma(&m, s));
    }
    let g = Gemm::new(128, 64, 128);
    let (c, _) = g.wgmma(&m, &Settings::default()).unwrap();
    assert_eq!(c.tensor_flops, 2 * 128 * 64 * 128);
    // Two blocks, two steps of two boxes of 8 KiB, and a result of 16 KiB each.
    assert_eq!(c.bulk_bytes, 2 * (2 * 2 * 8192 + 16384));
}
