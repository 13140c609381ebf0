//! Exchanges, memory and barriers.

use super::Case;

fn lanes(f: impl Fn(u32) -> u32) -> Vec<u32> {
    (0..32).map(f).collect()
}

fn case(kernel: &'static str, threads: u32, input: Vec<u32>, expected: Vec<Vec<u32>>) -> Case {
    Case::new("conformance_sm80", kernel, threads, input, expected.concat())
}

fn shuffle() -> Case {
    // Lane l holds 100 + l; where the source is outside the segment a lane keeps its own.
    let from = |source: &dyn Fn(u32) -> Option<u32>| lanes(|l| 100 + source(l).unwrap_or(l));
    case(
        "shuffle",
        32,
        vec![0],
        vec![
            from(&|l| l.checked_sub(3)),
            from(&|l| (l + 5 < 32).then_some(l + 5)),
            from(&|l| Some(l ^ 6)),
            from(&|_| Some(7)),
            from(&|l| (l % 8 >= 3).then(|| l - 3)),
            from(&|l| (l % 16 + 5 < 16).then_some(l + 5)),
            // 6 has bits above the segment of 4: lanes whose partner lies in a later segment keep their own value, the others
            // may read from an earlier one.
            from(&|l| ((l ^ 6) <= (l | 3)).then_some(l ^ 6)),
            from(&|l| Some(l / 4 * 4 + 7 % 4)),
            lanes(|l| u32::from(l + 4 < 32)),
        ],
    )
}

fn vote() -> Case {
    let group = |l: u32| (0..32).filter(|o| o / 5 == l / 5).map(|o| 1 << o).sum();
    case(
        "vote",
        32,
        vec![0],
        vec![
            lanes(|_| 0xaaaa_aaaa),
            lanes(|_| 0b0110),
            lanes(group),
            lanes(|_| u32::MAX),
            lanes(|_| 1),
            lanes(|l| if l < 12 { 0b0010_0100_1001 } else { u32::MAX }),
        ],
    )
}

fn redux() -> Case {
    let input: Vec<u32> = (0..32).map(|i| (i * 37 % 19 - 9) as u32).collect();
    let (mut sum, mut least, mut most, mut parity) = (0i64, i32::MAX, 0u32, 0u32);
    for &v in &input {
        sum += i64::from(v as i32);
        least = if (v as i32) < least { v as i32 } else { least };
        most = if v > most { v } else { most };
        parity ^= v;
    }
    let expected = [sum as u32, least as u32, most, parity].map(|v| vec![v; 32]).to_vec();
    case("redux", 32, input, expected)
}

fn loads() -> Case {
    let input: Vec<u32> = (0..16).map(|i: u32| i.wrapping_mul(0x9e37_79b9)).collect();
    let byte = |i: u32| input[i as usize / 4] >> (8 * (i % 4)) & 255;
    let expected = vec![
        lanes(|l| if byte(l) > 127 { byte(l) | 0xffff_ff00 } else { byte(l) }),
        lanes(byte),
        lanes(|l| {
            let v = byte(2 * l) | byte(2 * l + 1) << 8;
            if v > 0x7fff { v | 0xffff_0000 } else { v }
        }),
        lanes(|l| (0..4).fold(0, |x, i| x ^ input[(l as usize % 4) * 4 + i] << i)),
    ];
    case("loads", 32, input, expected)
}

fn atomics() -> Case {
    let expected = vec![
        1000 + 496,   // 0 + 1 + ... + 31
        -5i32 as u32, // the least of -5 ... 26
        990 + 31,     // the most of 990 ... 1021
        u32::MAX,     // every bit set by some lane
        0,            // every bit cleared by some lane
        1000 ^ 1,     // 3 << l flips bit 0 once, all others twice
        28,           // 1000, 1001, 1002, 1003, then 0 and on: 32 steps
        1000 - 32,    // never reaches 0
        2000,         // whoever comes first finds 1000
    ];
    case("atomics", 32, vec![0], vec![expected])
}

fn zero_fill() -> Case {
    let input: Vec<u32> = (0..128).map(|i: u32| (i + 1).wrapping_mul(0x0101_0101)).collect();
    let expected = (0..128)
        .map(|w| {
            let kept = (w / 4) % 17;
            let byte = |i: u32| if (w % 4) * 4 + i < kept { input[w as usize] >> (8 * i) & 255 } else { 0 };
            (0..4).map(|i| byte(i) << (8 * i)).sum()
        })
        .collect();
    case("cp_async_zero_fill", 32, input, vec![expected])
}

fn barrier() -> Case {
    let input: Vec<u32> = (0..32).map(|i| i * i).collect();
    let expected = input.iter().rev().copied().collect();
    case("named_barrier", 64, input, vec![expected])
}

fn reductions() -> Case {
    // 0, 3, ..., 63: 22 of 64 threads.
    case("barrier_reductions", 64, vec![0], vec![vec![22 | 1 << 8; 64]])
}

fn phases() -> Case {
    let input: Vec<u32> = (10..16).collect();
    let expected = input.iter().zip(0..).map(|(v, i)| 2 * v + i).collect();
    Case::new("conformance_sm90", "mbarrier_phases", 64, input, expected)
}

fn elect() -> Case {
    // The manual leaves the choice open but deterministic; every implementation so far takes the lowest lane.
    Case::new("conformance_sm90", "elect", 32, vec![0], lanes(|l| u32::from(l == 0)))
}

pub fn cases() -> Vec<Case> {
    vec![
        shuffle(),
        vote(),
        redux(),
        loads(),
        atomics(),
        zero_fill(),
        barrier(),
        reductions(),
        phases(),
        elect(),
    ]
}
