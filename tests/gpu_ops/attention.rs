//! `attention`: prefill and decode.

use probeprune::gpu::GpuDtype;

use crate::{
    case::{DTYPES, check, check_once, check_traffic},
    operations::AttentionCase,
};

const BF16: GpuDtype = GpuDtype::Bf16;

/// S tokens that attend to one another.
fn square(tokens: usize) -> AttentionCase {
    AttentionCase::new(tokens, tokens)
}

/// Both dtypes.
fn check_both(case: &AttentionCase) {
    for dtype in DTYPES {
        check(case, dtype);
    }
}

#[test]
fn lengths() {
    for tokens in [1, 2, 8, 9, 31, 33, 64, 65, 130] {
        check_both(&square(tokens));
    }
}

#[test]
fn head_widths() {
    for head_dim in [1, 6, 13, 32, 40, 64, 65, 80, 128, 132, 256] {
        for tokens in [3, 34] {
            check_both(&AttentionCase { head_dim, ..square(tokens) });
        }
    }
}

/// Grouped heads, kept ones in uneven groups, with key/value heads that none of them uses.
#[test]
fn groups() {
    let kinds: [(&[u32], usize); 4] =
        [(&[0, 0, 1, 1], 2), (&[0, 1, 2], 3), (&[0, 0, 0, 2], 4), (&[1; 35], 2)];
    for (kv_head_of, kv_heads) in kinds {
        for tokens in [1, 3, 17] {
            let case = square(tokens).samples(2).heads(kv_head_of, kv_heads);
            check(&case, BF16);
            check(&AttentionCase { head_dim: 12, ..case }, GpuDtype::F16);
        }
    }
}

#[test]
fn padding() {
    for (tokens, pads) in [(5, 2), (40, 13), (40, 40), (70, 35), (130, 66)] {
        check_both(&AttentionCase { pads: Some(pads), ..square(tokens).samples(3) });
    }
}

#[test]
fn caches() {
    for (tokens, keys, capacity) in
        [(1, 7, 9), (1, 300, 301), (3, 130, 140), (9, 20, 33), (33, 100, 128), (66, 70, 71), (20, 82, 82)]
    {
        let case = AttentionCase { capacity, ..AttentionCase::new(tokens, keys) };
        let case = case.samples(2).heads(&[0, 1, 1], 2);
        check_both(&case);
        check(&AttentionCase { pads: Some(keys / 2), ..case }, BF16);
    }
}

#[test]
fn windows() {
    for (tokens, keys, window) in [
        (1, 40, 9),
        (40, 40, 1),
        (40, 40, 0),
        (2, 200, 33),
        (100, 200, 20),
        (130, 130, 70),
        (20, 120, 38),
        (65, 128, 0),
        (10, 10, 500),
    ] {
        let case = AttentionCase { window: Some(window), ..AttentionCase::new(tokens, keys) };
        check_both(&case);
        check(&AttentionCase { pads: Some(keys / 3), ..case.samples(2) }, BF16);
    }
}

/// A probe's tokens: the window is in slots of the batch.
#[test]
fn probes() {
    for (tokens, slots, window) in [(4, 9, 3), (40, 400, 50), (130, 260, 140), (40, 40, 7)] {
        let case = AttentionCase { probe_of: Some(slots), window: Some(window), ..square(tokens) };
        check_both(&case);
        check(&AttentionCase { window: None, ..case.clone() }, BF16);
        check(&AttentionCase { pads: Some(tokens / 2), ..case.samples(2) }, BF16);
    }
}

/// Scores of about 80 and -80: probabilities underflow, nothing overflows.
#[test]
fn large_scores() {
    for tokens in [3, 70] {
        check_both(&AttentionCase { scale: 1.0, magnitude: 40.0, ..square(tokens) });
    }
}

const TWO_GROUPS: &[u32] = &[0, 0, 0, 0, 1, 1, 1, 1];

/// 128 queries per block: enough heads for the planner, every width, and key tiles that go round the ring twice.
#[test]
fn many_queries() {
    for (head_dim, tokens) in [(16, 65), (64, 33), (96, 130), (128, 20)] {
        check_both(&AttentionCase { head_dim, ..square(tokens).heads(TWO_GROUPS, 2) });
    }
    for head_dim in [32, 64, 128] {
        let case = AttentionCase { head_dim, ..square(450).heads(TWO_GROUPS, 2) };
        check_once(&case, BF16);
        let case = AttentionCase { pads: Some(200), window: Some(300), ..case.samples(2) };
        check_once(&case, BF16);
    }
}

#[test]
fn long() {
    for head_dim in [64, 128, 256] {
        check_once(&AttentionCase { head_dim, ..square(450) }, BF16);
        check_once(&AttentionCase { head_dim, ..AttentionCase::new(1, 1500) }, BF16);
    }
}

/// Grouped heads of two samples with a mask.
fn traffic_case(tokens: usize, head_dim: usize) -> AttentionCase {
    let case = AttentionCase { head_dim, pads: Some(3), ..AttentionCase::new(tokens, 512) };
    case.samples(2).heads(TWO_GROUPS, 2)
}

#[test]
fn prefill_moves_what_its_header_says() {
    for (tokens, head_dim) in [(512, 32), (512, 64), (256, 128), (256, 256)] {
        check_traffic(&traffic_case(tokens, head_dim), BF16);
    }
}

#[test]
fn decode_moves_what_its_header_says() {
    for (tokens, head_dim) in [(1, 64), (2, 128), (4, 256)] {
        check_traffic(&traffic_case(tokens, head_dim), BF16);
    }
}
