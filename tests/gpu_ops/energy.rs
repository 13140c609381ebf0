//! `energy`: the mean over samples of a².

use probeprune::{gpu::GpuDtype, prune::BatchShape};

use crate::{
    case::{DTYPES, check, check_once, check_specials, check_traffic, launched_all_of, run, same_bits},
    device::backend,
    operations::EnergyCase,
    steps::{around, constant, mixed},
};

#[test]
fn energy() {
    let shapes = [
        (1, 1, 1),
        (2, 3, 0),
        (1, 1, 8),
        (3, 2, 31),
        (5, 3, 33),
        (2, 3, 8),
        (4, 3, 40),
        (9, 1, 1000),
        (2, 5, 1000),
        (7, 4, 257),
    ];
    for dtype in DTYPES {
        for (samples, tokens, channels) in shapes {
            for masked in [false, true] {
                let shape = BatchShape { samples, tokens };
                let case = EnergyCase { shape, channels, masked, sums: false };
                check(&case, dtype);
                let with_sums = EnergyCase { sums: true, ..case.clone() };
                check(&with_sums, dtype);
                let [alone, both] =
                    [&case, &with_sums].map(|case| run(case, &backend(dtype), dtype).unwrap());
                assert!(same_bits(&alone, &both[..1]), "sums change no energy: {case:?}");
            }
        }
        let shape = BatchShape { samples: 3, tokens: 7 };
        check_once(&EnergyCase { shape, channels: 11008, masked: true, sums: false }, dtype);
    }
}

#[test]
fn energy_moves_what_its_header_says() {
    for (samples, tokens, channels) in [(5, 8, 1024), (1, 3, 11008)] {
        for masked in [false, true] {
            let shape = BatchShape { samples, tokens };
            check_traffic(&EnergyCase { shape, channels, masked, sums: false }, GpuDtype::F16);
        }
    }
}

#[test]
fn blocks_end_anywhere() {
    let (threads, ahead) = (constant!("cuda/energy.cu", "THREADS"), constant!("cuda/energy.cu", "AHEAD"));
    let samples: Vec<usize> = (1..=2 * ahead + 1).collect();
    let channels = around([8, threads, 8 * threads]);
    for [samples, channels, tokens, masked, sums, dtype] in
        mixed([&samples, &channels, &[1, 2, 3], &[0, 1], &[0, 1], &[0, 1]])
    {
        let shape = BatchShape { samples, tokens };
        check_once(&EnergyCase { shape, channels, masked: masked > 0, sums: sums > 0 }, DTYPES[dtype]);
    }
    launched_all_of(&["energy"]);
}

#[test]
fn special_values() {
    for dtype in DTYPES {
        for channels in [7, 16] {
            for masked in [false, true] {
                let shape = BatchShape { samples: 3, tokens: 2 };
                check_specials(&EnergyCase { shape, channels, masked, sums: true }, dtype);
            }
        }
    }
}
