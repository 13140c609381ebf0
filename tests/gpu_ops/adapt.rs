//! `adapt`: corrections of folds, by seven kernels.

use crate::{
    case::{
        DTYPES, check, check_on_the_cpu, check_once, check_specials, check_traffic, check_traffic_of,
        launched_all_of,
    },
    operations::{AdaptCase, Traffic},
    steps::{around, constant, mixed},
};
use probeprune::gpu::GpuDtype;

/// Heads, a mask, the diagonal, old tokens that lose weight: several schedules.
#[test]
fn adapt() {
    for dtype in DTYPES {
        let case = AdaptCase::new(5, 12, 7, 9);
        check(&case, dtype);
        check(&AdaptCase { tokens: Some(0.6), forgetting: 0.75, ..case.clone() }, dtype);
        check(&AdaptCase { full: false, forgetting: 0.75, ..case.clone() }, dtype);
        check(&AdaptCase { of: 5, kept: 3, block_width: 6, tokens: Some(0.6), ..case }, dtype);
    }
    // The result is symmetric to the bit.
    check(&AdaptCase { uneven: true, ..AdaptCase::new(9, 20, 13, 3) }, GpuDtype::F16);
    let case = AdaptCase::new(70, 90, 66, 65);
    check(&case, GpuDtype::Bf16);
    check(
        &AdaptCase { of: 9, kept: 6, block_width: 12, full: false, tokens: Some(0.8), ..case },
        GpuDtype::F16,
    );
}

/// One row, nothing but pads, one channel.
#[test]
fn hardly_anything_to_learn_from() {
    for (full, forgetting) in [(true, 1.0), (true, 0.5), (false, 1.0)] {
        let case = AdaptCase { full, forgetting, ..AdaptCase::new(1, 1, 1, 1) };
        check(&case, GpuDtype::Bf16);
        check(&AdaptCase { tokens: Some(0.0), ..case.clone() }, GpuDtype::F16);
        check(&AdaptCase { rows: 5, tokens: Some(0.0), of: 3, kept: 2, hidden: 4, ..case }, GpuDtype::F16);
    }
}

#[test]
fn tiles_end_anywhere() {
    let (tile, depth) = (constant!("cuda/tile.cuh", "TILE"), constant!("cuda/tile.cuh", "DEPTH"));
    let rows = around([4, depth, tile]);
    let columns = around([4, depth, 32, tile]);
    for [rows, n, hidden, tokens, full, dtype] in
        mixed([&rows, &columns, &columns, &[0, 1], &[0, 1, 1], &[0, 1]])
    {
        let case = AdaptCase::new(rows, n + 3, n, hidden);
        let (tokens, full) = ((tokens > 0).then_some(0.8), full > 0);
        check_once(&AdaptCase { tokens, full, forgetting: 0.875, ..case }, DTYPES[dtype]);
    }
    // Several blocks of the factor, and of each kernel that has blocks of rows or columns.
    for (rows, n, hidden) in
        [(2 * tile - 1, 40, 300), (2 * tile, 2 * tile + 1, 33), (2 * tile + 1, 70, 2 * tile)]
    {
        check_once(&AdaptCase::new(rows, n + 5, n, hidden), GpuDtype::Bf16);
    }
    check_once(&AdaptCase::new(200, 30, 20, 25), GpuDtype::F16);
    // Several values of a row for a thread.
    let threads = constant!("cuda/adapt_rows.cu", "THREADS");
    for (i, columns) in around([threads, 2 * threads]).into_iter().enumerate() {
        check_once(&AdaptCase { full: false, ..AdaptCase::new(2, columns + 1, columns, 7) }, DTYPES[i % 2]);
        check_once(&AdaptCase::new(2, 5, 3, columns), DTYPES[(i + 1) % 2]);
    }
    launched_all_of(&["adapt_rows", "adapt_vector", "adapt_error", "adapt_product"]);
    launched_all_of(&["adapt_factor", "adapt_substitute", "adapt_store"]);
}

#[test]
fn steps_of_the_cpu_backend() {
    let [task_rows, task_tokens, transposed, block, together, width] = [
        constant!("src/cpu/adapt.rs", "TASK_ROWS"),
        constant!("src/cpu/adapt.rs", "TASK_TOKENS"),
        constant!("src/cpu/adapt.rs", "TRANSPOSED"),
        constant!("src/cpu/factor.rs", "BLOCK"),
        constant!("src/cpu/factor.rs", "TOGETHER"),
        constant!("src/cpu/factor.rs", "WIDTH"),
    ];
    for (i, n) in around([transposed]).into_iter().enumerate() {
        let case = AdaptCase { forgetting: [1.0, 0.75][i % 2], ..AdaptCase::new(3 + i, n, n, 7) };
        check_on_the_cpu(&case, DTYPES[i % 2]);
        check_on_the_cpu(&AdaptCase { full: false, hidden: n, ..AdaptCase::new(4, 9, 5, 7) }, DTYPES[i % 2]);
    }
    let steps = [task_tokens, together, width, block, task_rows, 2 * block];
    for (i, rows) in around(steps).into_iter().enumerate() {
        check_on_the_cpu(&AdaptCase { full: i % 2 == 0, ..AdaptCase::new(rows, 9, 5, 3) }, DTYPES[i % 2]);
    }
    for (i, hidden) in around([task_rows, 2 * task_rows]).into_iter().enumerate() {
        check_on_the_cpu(&AdaptCase { full: i % 2 == 0, ..AdaptCase::new(3, 4, 3, hidden) }, DTYPES[i % 2]);
    }
}

/// What is not finite changes nothing but the error.
#[test]
fn special_values() {
    for dtype in DTYPES {
        for full in [false, true] {
            check_specials(&AdaptCase { full, ..AdaptCase::new(5, 7, 4, 6) }, dtype);
        }
    }
    check_specials(&AdaptCase { tokens: Some(0.7), ..AdaptCase::new(66, 5, 3, 2) }, GpuDtype::Bf16);
}

#[test]
fn kernels_move_what_their_headers_say() {
    let (t, n, h) = (128, 128, 192);
    for full in [false, true] {
        let case = AdaptCase { full, block_width: 64, ..AdaptCase::new(t, 3, 2, h) };
        let of = |kernel, read, written| {
            check_traffic_of(&case, GpuDtype::Bf16, Traffic::new(kernel, read, written))
        };
        let with_scale = if full { 0 } else { 4 * t * n };
        // Each warp reads one entry of the list for its 32 channels.
        of("adapt_rows", 6 * t * (n + h) + t * n + with_scale, 4 * t * (n + h) + with_scale + 32 * t);
        let vector = |rows| 4 * rows * h + h * rows + 4 * h;
        of("adapt_vector", 2 * vector(n) + vector(t) + 256 * h / 32, 3 * 4 * h);
        if !full {
            of("adapt_precision", 4 * t * n + 4 * n + 256 * n / 32, 4 * n);
        }
        of("adapt_squares", 4 * t * h, 32 * t);
        of("adapt_error", 8 * t, 64);
        check_traffic(&case, GpuDtype::Bf16);
        let square = 2 * 64 * 64;
        of("adapt_factor", 8 * 64 * 64 + 2 * (square + 16 * 64), 2 * (square + 16 * 64));
        // The rows below the first square and the one behind S, that one alone, and all of U and E.
        let substitute = |columns: usize, first: usize| {
            columns.div_ceil(64) * (4 * 64 * first + square + 16 * 64) + 4 * columns * (first + 64)
        };
        let read: usize =
            [(65, 0), (1, 64), (n, 0), (n, 64), (h, 0), (h, 64)].map(|(c, r)| substitute(c, r)).iter().sum();
        of("adapt_substitute", read, 4 * 64 * (66 + 2 * n + 2 * h));
        of("adapt_store", 4 * n * h + 256 * n * h / 1024, 2 * n * h);
    }
}
