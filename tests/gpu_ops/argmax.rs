//! `argmax`: the most likely token of each row.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{
    case::{ANY, check, check_traffic},
    operations::ArgmaxCase,
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
