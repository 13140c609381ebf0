//! `attention`: prefill and decode.

use probeprune::gpu::GpuDtype;

use crate::{
    case::{
        DTYPES, check, check_devices, check_on_the_cpu, check_once, check_specials, check_traffic,
        launched_all_of,
    },
    operations::AttentionCase,
    steps::{around, constant, mixed},
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
    // Windows that begin where a tile of 64 keys does, for the last of a warp's 16 or 32 queries.
    for window in around([64 + 16, 64 + 32]) {
        let case = AttentionCase::new(128, 256).samples(2);
        check_devices(&AttentionCase { window: Some(window), ..case }, BF16);
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

/// Scores of about 80 and -80: probabilities underflow, nothing overflows. With scores ten times as large, of which each
/// query sees one, a maximum that starts at 0 would leave nothing of a negative one.
#[test]
fn large_scores() {
    // In decoding also more than 8 rows, whose largest scores lie far apart.
    for case in [square(3), square(3).heads(TWO_GROUPS, 2), square(70)] {
        check_both(&AttentionCase { scale: 1.0, magnitude: 40.0, ..case.clone() });
        check_both(&AttentionCase { scale: 1.0, magnitude: 400.0, window: Some(1), ..case });
    }
}

const TWO_GROUPS: &[u32] = &[0, 0, 0, 0, 1, 1, 1, 1];

/// 128 queries per block: enough heads for the planner, and key tiles that go round the ring twice.
#[test]
fn many_queries() {
    for (head_dim, tokens) in [(16, 65), (64, 33), (96, 130), (128, 20)] {
        check_both(&AttentionCase { head_dim, ..square(tokens).heads(TWO_GROUPS, 2) });
    }
    let case = AttentionCase { head_dim: 64, ..square(450).heads(TWO_GROUPS, 2) };
    check_once(&AttentionCase { pads: Some(200), window: Some(300), ..case.samples(2) }, BF16);
}

#[test]
fn long() {
    for head_dim in [64, 128, 256] {
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
        check_traffic(&AttentionCase { window: Some(90), ..traffic_case(tokens, head_dim) }, BF16);
    }
}

#[test]
fn decode_moves_what_its_header_says() {
    for (tokens, head_dim) in [(1, 64), (2, 128), (4, 256)] {
        check_traffic(&traffic_case(tokens, head_dim), BF16);
        check_traffic(&AttentionCase { window: Some(90), ..traffic_case(tokens, head_dim) }, BF16);
    }
    // As many query heads as a warp looks at together: two passes over the keys.
    check_traffic(&traffic_case(1, 64).heads(&[0; 32], 1), BF16);
}

/// Head widths of every kernel, queries and keys of every tile, masks, windows and grouped heads, in turn.
#[test]
fn tiles_end_anywhere() {
    let groups: [(&[u32], usize); 2] = [(&[0], 1), (&[0, 0, 1], 3)];
    let of = |[tokens, past, head_dim, group, pads, window]: [usize; 6]| {
        let keys = tokens + past;
        let (kv_head_of, kv_heads) = groups[group];
        AttentionCase {
            head_dim,
            capacity: keys + past % 3,
            pads: (pads > 0).then_some(keys / 2),
            window: [None, Some(1), Some(keys / 2 + 1)][window],
            ..AttentionCase::new(tokens, keys).samples(1 + pads).heads(kv_head_of, kv_heads)
        }
    };
    let widths = around([8, 32, 64, 128, 248]);
    let tokens: Vec<usize> = around([64, 128]).into_iter().filter(|&tokens| tokens > 8).collect();
    // Keys before the queries, so that tiles of 32 and of 64 end anywhere.
    let past = [0, 1, 31, 32, 63, 64, 65, 191];
    for (i, sizes) in mixed([&tokens, &past, &widths, &[0, 1], &[0, 1], &[0, 1, 2]]).into_iter().enumerate() {
        check_devices(&of(sizes), DTYPES[i / 2 % 2]);
    }
    // Decoding: 16 keys to each of eight warps, 16 rows (tokens times query heads of a key/value head) at a time.
    let (warps, keys) =
        (constant!("cuda/attention_decode.cu", "WARPS"), constant!("cuda/attention_decode.cu", "KEYS"));
    let past: Vec<usize> = [0].into_iter().chain(around([keys, warps * keys, 2 * warps * keys])).collect();
    let tokens = [1, 2, 3, 4, 5, 7, constant!("src/gpu/attention.rs", "DECODE_TOKENS")];
    for (i, sizes) in mixed([&tokens, &past, &widths, &[0, 1], &[0, 1], &[0, 1, 2]]).into_iter().enumerate() {
        check_once(&of(sizes), DTYPES[i / 3 % 2]);
    }
    for heads in around([constant!("cuda/attention_decode.cu", "ROWS"), 32]) {
        check_once(&square(1).heads(&vec![0; heads], 1), BF16);
    }
    for dtype in DTYPES {
        for head_dim in [64, 128, 256, 32] {
            check_once(&AttentionCase { head_dim, ..square(3) }, dtype);
            check_devices(&AttentionCase { head_dim, ..square(20).heads(TWO_GROUPS, 2) }, dtype);
        }
    }
    launched_all_of(&["attention", "attention_decode"]);
}

/// Scores that grow: every block of keys has a larger one than those before it, and then a smaller one.
#[test]
fn steps_of_the_cpu_backend() {
    let block = constant!("src/cpu/attention/tile.rs", "KEY_BLOCK");
    // The lowest tiles have 48 rows.
    let tokens = around([
        constant!("src/cpu/attention/tile.rs", "FEW_ROWS"),
        constant!("src/cpu/attention/tile.rs", "STEP_ROWS"),
        48,
    ]);
    for [tokens, past, pads] in mixed([&tokens, &around([block, 2 * block]), &[0, 1]]) {
        let case = AttentionCase { magnitude: 30.0, ..AttentionCase::new(tokens, tokens + past) };
        check_on_the_cpu(
            &AttentionCase { pads: (pads > 0).then_some(block + 3), ..case.samples(1 + pads) },
            BF16,
        );
    }
}

#[test]
fn special_values() {
    for dtype in DTYPES {
        for tokens in [3, 20] {
            check_specials(&square(tokens).samples(2).heads(&[0, 1], 2), dtype);
        }
    }
}
