//! `argmax`: the most likely token of each row.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{
    case::{ANY, check, check_once, check_traffic, launched_all_of},
    operations::ArgmaxCase,
    steps::{around, constant},
};

fn logits(seed: u64, n: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| rng.random_range(-3.0..3.0)).collect()
}

#[test]
fn argmax() {
    for (rows, vocab_size) in [(1, 1), (3, 31), (2, 1000), (2, 2049)] {
        let x = logits(1, rows * vocab_size);
        check(&ArgmaxCase { x: x.clone(), rows }, ANY);
        // Few values: the first of many equal ones.
        let few = x.iter().map(|x| x.round() * 0.0 + x.signum().min(0.0)).collect();
        check(&ArgmaxCase { x: few, rows }, ANY);
        check(&ArgmaxCase { x: vec![-f32::MAX; rows * vocab_size], rows }, ANY);
    }
}

#[test]
fn argmax_reports_rows_that_are_not_finite() {
    for (at, value) in [(0, f32::NAN), (1500, f32::INFINITY), (2999, f32::NEG_INFINITY)] {
        let mut x = logits(2, 3000);
        x[at] = value;
        check(&ArgmaxCase { x, rows: 3 }, ANY);
    }
}

#[test]
fn argmax_moves_what_its_header_says() {
    let rows = 8;
    check_traffic(&ArgmaxCase { x: logits(3, rows * 32_000), rows }, ANY);
}

/// The largest value in every place that a warp or a block ends or begins, once, twice and with NaN beside it.
#[test]
fn rows_end_anywhere() {
    let threads = constant!("cuda/argmax.cu", "THREADS");
    for vocab_size in around([32, threads, 2 * threads]) {
        for at in [0, 31, 32, threads - 1, threads, vocab_size - 1].into_iter().filter(|&at| at < vocab_size)
        {
            let mut x = logits(4, 2 * vocab_size);
            x[at] = 5.0;
            x[vocab_size + at] = 5.0;
            x[2 * vocab_size - 1] = 5.0;
            check_once(&ArgmaxCase { x, rows: 2 }, ANY);
        }
    }
    launched_all_of(&["argmax"]);
}

#[test]
fn special_values() {
    let largest = [f32::MIN_POSITIVE / 2.0, 0.0, -0.0, -f32::MAX, f32::MAX];
    for (i, &value) in largest.iter().enumerate() {
        // Zeros of both signs are equal; subnormal numbers are larger.
        check(&ArgmaxCase { x: vec![-0.0, value.min(0.0), 0.0, value, value], rows: 1 }, ANY);
        check(&ArgmaxCase { x: largest[i..].to_vec(), rows: 1 }, ANY);
    }
}
