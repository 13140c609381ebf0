//! `accumulate_moments`: energies, and FLAP's baseline and fluctuation, over several batches.

use probeprune::gpu::GpuDtype;

use crate::{
    case::{DTYPES, check, check_once, check_traffic},
    operations::MomentsCase,
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
