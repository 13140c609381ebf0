//! `history_update`: momentum on kept channels in both formats, with the CPU backend's bits.

use probeprune::{
    gpu::GpuDtype,
    prune::{history::HistoryLayout, settings::HistoryDtype},
};

use crate::{
    case::{agrees_with_the_cpu, check, check_once, check_specials, check_traffic, launched_all_of},
    operations::UpdateCase,
    steps::{around, constant, mixed},
};

const F16: GpuDtype = GpuDtype::F16;

#[test]
fn history_update() {
    let shapes = [
        (1, 1, 1, 1, 1, 0),
        (3, 6, 2, 2, 2, 1),
        (20, 33, 20, 1, 20, 0),
        (9, 31, 31, 1, 30, 3),
        (17, 40, 3, 8, 11, 6),
        (5, 300, 280, 1, 2, 4),
        (4, 6, 1, 3, 5, 9),
    ];
    for dtype in [HistoryDtype::F32, HistoryDtype::F16] {
        for bucket in [1, 2, 3, 16] {
            for (i, (slots, channels, kept, block_width, tokens, at)) in shapes.into_iter().enumerate() {
                let momentum = [0.99, 0.0, 1.0][(i + bucket) % 3];
                let layout = HistoryLayout { dtype, bucket };
                let overflow = i % 2 == 1;
                let case =
                    UpdateCase { layout, slots, channels, kept, block_width, tokens, at, momentum, overflow };
                check(&case, F16);
                agrees_with_the_cpu(&case, F16);
            }
        }
    }
}

fn wide_case(dtype: HistoryDtype, bucket: usize, kept: usize, block_width: usize) -> UpdateCase {
    let layout = HistoryLayout { dtype, bucket };
    let (slots, channels, tokens, at, momentum) = (64, 4096, 32, 8, 0.99);
    UpdateCase { layout, slots, channels, kept, block_width, tokens, at, momentum, overflow: false }
}

#[test]
fn history_update_at_real_widths() {
    for dtype in [HistoryDtype::F32, HistoryDtype::F16] {
        for bucket in [1, 4] {
            for (kept, block_width) in [(18, 128), (2304, 1)] {
                let case = wide_case(dtype, bucket, kept, block_width);
                check_once(&case, F16);
                agrees_with_the_cpu(&case, F16);
            }
        }
    }
}

#[test]
fn history_update_moves_what_its_header_says() {
    for dtype in [HistoryDtype::F32, HistoryDtype::F16] {
        for bucket in [1, 4] {
            check_traffic(&wide_case(dtype, bucket, 18, 128), F16);
        }
    }
}

#[test]
fn blocks_end_anywhere() {
    let (rows, threads) =
        (constant!("cuda/history_update.cu", "ROWS"), constant!("cuda/history_update.cu", "THREADS"));
    for [tokens, kept, bucket, at, format] in
        mixed([&around([2, rows, 2 * rows]), &around([32, threads]), &[1, 2, 3, 8], &[0, 1, 3, 9], &[0, 1]])
    {
        let dtype = [HistoryDtype::F32, HistoryDtype::F16][format];
        let (slots, channels, momentum, overflow) = (at + tokens + at % 2, kept + 7, 0.9, at == 1);
        let wide = wide_case(dtype, bucket, kept, 1);
        let case = UpdateCase { slots, channels, tokens, at, momentum, overflow, ..wide };
        check_once(&case, F16);
        agrees_with_the_cpu(&case, F16);
    }
    launched_all_of(&["history_update"]);
}

/// Among them the largest energy, which an f16 entry cannot hold: it ends at 65504².
#[test]
fn special_values() {
    for dtype in [HistoryDtype::F32, HistoryDtype::F16] {
        for bucket in [1, 2] {
            let wide = wide_case(dtype, bucket, 6, 1);
            let case = UpdateCase { slots: 5, channels: 6, tokens: 5, at: 0, momentum: 0.75, ..wide };
            check_specials(&case, F16);
        }
    }
}
