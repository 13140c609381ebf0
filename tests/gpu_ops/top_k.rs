//! `top_k_keep`, `check_finite` and `keep_kv_heads`: exactly what a sort says.

use crate::{
    case::{ANY, check, check_once, check_traffic, count, kept_counts, launched_all_of},
    operations::{FiniteCase, KvCase, Scores, TopKCase},
    steps::{around, constant, mixed},
};

const KINDS: [Scores; 6] =
    [Scores::Decades, Scores::Signed, Scores::Ties, Scores::Near, Scores::Equal, Scores::NotFinite];

#[test]
fn top_k() {
    for (i, (of, ks)) in [
        (1, vec![1]),
        (31, vec![1, 30, 31]),
        (33, vec![1, 20, 33]),
        (256, vec![100]),
        (257, vec![1, 200, 257]),
    ]
    .into_iter()
    .enumerate()
    {
        for (j, scores) in KINDS.into_iter().enumerate() {
            check(&TopKCase::new(scores, of, ks[(i + j) % ks.len()]), ANY);
        }
    }
    check(&TopKCase { fault: 5, ..TopKCase::new(Scores::NotFinite, 40, 7) }, ANY);
    check(&TopKCase { fault: 5, ..TopKCase::new(Scores::NotFinite, 300, 7) }, ANY);
}

#[test]
fn top_k_of_nothing_still_reports_faults() {
    check(&TopKCase::new(Scores::Decades, 40, 0), ANY);
    check(&TopKCase::new(Scores::NotFinite, 40, 0), ANY);
}

#[test]
fn top_k_at_real_widths() {
    // 24576 scores are the most that stay in registers.
    let widths = [
        (1000, 600),
        (1025, 1),
        (4096, 2304),
        (4097, 4097),
        (11008, 6208),
        (12289, 12288),
        (14336, 1),
        (24576, 9000),
        (24577, 9000),
        (28672, 20000),
    ];
    for (i, (of, k)) in widths.into_iter().enumerate() {
        for scores in [KINDS[i % 6], KINDS[(i + 2) % 6], KINDS[(i + 3) % 6]] {
            check_once(&TopKCase::new(scores, of, k), ANY);
        }
    }
}

/// The largest float is finite; infinity and the NaN with the next bits are not. Each size takes another path of the kernel.
#[test]
fn one_special_score() {
    for of in [40, 300, 5000, 9000, 13_000, 17_000, 24_600] {
        for bits in [f32::MAX.to_bits(), f32::INFINITY.to_bits(), f32::INFINITY.to_bits() + 1] {
            check_once(&TopKCase::new(Scores::Last(bits), of, of / 3), ANY);
        }
    }
}

#[test]
fn every_number_of_kept_scores() {
    for len in kept_counts(300) {
        check_once(&TopKCase::new(Scores::Ties, 300, len), ANY);
    }
}

#[test]
fn top_k_moves_what_its_header_says() {
    check_traffic(&TopKCase::new(Scores::Decades, 256, 256), ANY);
    // Kept indices of a warp's 32 neighbours begin anywhere in a sector, so a sector may be written twice.
    let case = TopKCase::new(Scores::Decades, 8192, 8192);
    let got = count(&case, ANY, "top_k_keep");
    // Only the histogram's atomics meet at a bank: with digits that are all the same, nothing does.
    let equal = count(&TopKCase::new(Scores::Equal, 8192, 4096), ANY, "top_k_keep");
    let (Some(got), Some(equal)) = (got, equal) else { return };
    assert_eq!((got.read, got.written), (4 * 8192, 4 * 8192), "{case:?}");
    assert_eq!(equal.conflicts, 0);
}

#[test]
fn check_finite() {
    for (len, fault) in [(1, 0), (31, 0), (33, 9), (1000, 0), (1025, 0), (4096, 3)] {
        check(&FiniteCase { len, bad: None, fault }, ANY);
        // The last one is what GPUs make.
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN, f32::from_bits(0x7fff_ffff)] {
            for at in [0, len / 2, len - 1] {
                check_once(&FiniteCase { len, bad: Some((at, bad)), fault }, ANY);
            }
        }
        check(&FiniteCase { len, bad: Some((len - 1, f32::NAN)), fault }, ANY);
    }
    check_traffic(&FiniteCase { len: 8192, bad: None, fault: 0 }, ANY);
}

#[test]
fn kv_heads() {
    for (heads, gqa_group, kept) in
        [(1, 1, 1), (9, 3, 4), (32, 1, 18), (32, 8, 3), (64, 8, 33), (96, 2, 50), (140, 1, 140), (71, 71, 40)]
    {
        check(&KvCase { heads, gqa_group, kept }, ANY);
    }
    check_traffic(&KvCase { heads: 64, gqa_group: 1, kept: 64 }, ANY);
}

/// Few scores are compared with one another, more are held in registers, 4, 8, 12, 16 or 24 by each thread, and most are
/// looked up.
#[test]
fn blocks_end_anywhere() {
    let threads = constant!("cuda/select.cuh", "SELECT_THREADS");
    let few = constant!("cuda/select.cuh", "SELECT_FEW");
    let sizes =
        around([4, 32, few, threads, 4 * threads, 8 * threads, 12 * threads, 16 * threads, 24 * threads]);
    for [of, k, kind] in mixed([&sizes, &[0, 1, 2, 3], &[0, 1, 2, 3, 4, 5]]) {
        let k = [1, of / 3 + 1, of.saturating_sub(1).max(1), of][k];
        check_once(&TopKCase::new(KINDS[kind], of, k), ANY);
    }
    for len in around([4, 1024, 2048]) {
        for bad in [None, Some((0, f32::NAN)), Some((len - 1, f32::INFINITY))] {
            check_once(&FiniteCase { len, bad, fault: 0 }, ANY);
        }
    }
    for kept in around([32, 64]) {
        for gqa_group in [1, 3] {
            check_once(&KvCase { heads: 96, gqa_group, kept }, ANY);
        }
    }
    launched_all_of(&["top_k_keep", "check_finite", "keep_kv_heads"]);
}
