//! `accumulate_moments`: energies, and FLAP's baseline and fluctuation, over several batches.

use probeprune::gpu::GpuDtype;

use crate::{
    case::{DTYPES, check, check_once, check_specials, check_traffic, launched_all_of},
    operations::MomentsCase,
    steps::{around, constant, mixed},
};

#[test]
fn moments() {
    let shapes = [
        (vec![1], 1, 1),
        (vec![2, 1], 3, 31),
        (vec![1, 3], 33, 9),
        (vec![2, 2, 1], 5, 8),
        (vec![5, 4], 35, 40),
        (vec![1, 6], 2, 72),
        (vec![4, 1], 70, 128),
    ];
    for dtype in DTYPES {
        for (batches, tokens, channels) in shapes.clone() {
            for flap in [false, true] {
                check(&MomentsCase { batches: batches.clone(), tokens, channels, flap, mean: flap }, dtype);
            }
        }
        let batches = vec![2, 2];
        check_once(&MomentsCase { batches, tokens: 40, channels: 4096, flap: true, mean: true }, dtype);
    }
}

#[test]
fn moments_move_what_their_header_says() {
    for (batches, flap, mean) in
        [(vec![3], false, false), (vec![3], false, true), (vec![3], true, false), (vec![3, 5], true, false)]
    {
        let case = MomentsCase { batches, tokens: 64, channels: 512, flap, mean };
        check_traffic(&case, GpuDtype::Bf16);
    }
}

#[test]
fn blocks_end_anywhere() {
    let (columns, ahead) = (constant!("cuda/moments.cu", "COLUMNS"), constant!("cuda/moments.cu", "AHEAD"));
    let slots = constant!("cuda/moments.cu", "THREADS") / columns;
    let samples: Vec<usize> = (1..=2 * ahead + 1).collect();
    for [samples, tokens, channels, flap, mean, dtype] in
        mixed([&samples, &around([slots]), &around([8, 8 * columns]), &[0, 1], &[0, 1], &[0, 1]])
    {
        let batches = vec![samples, 1, samples];
        check_once(&MomentsCase { batches, tokens, channels, flap: flap > 0, mean: mean > 0 }, DTYPES[dtype]);
    }
    launched_all_of(&["moments"]);
}

#[test]
fn special_values() {
    for dtype in DTYPES {
        for channels in [3, 8] {
            let case = MomentsCase { batches: vec![2, 1], tokens: 3, channels, flap: true, mean: true };
            check_specials(&case, dtype);
        }
    }
}
