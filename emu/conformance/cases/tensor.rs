//! Bulk copies, flat and by tensor map.

use super::{Case, Map};

/// Where 16-byte chunk `c` of row `r` lies within its row, for 128-byte rows: the manual's figure of the 128-byte swizzle.
pub const CHUNKS_128: [[usize; 8]; 8] = [
    [0, 1, 2, 3, 4, 5, 6, 7],
    [1, 0, 3, 2, 5, 4, 7, 6],
    [2, 3, 0, 1, 6, 7, 4, 5],
    [3, 2, 1, 0, 7, 6, 5, 4],
    [4, 5, 6, 7, 0, 1, 2, 3],
    [5, 4, 7, 6, 1, 0, 3, 2],
    [6, 7, 4, 5, 2, 3, 0, 1],
    [7, 6, 5, 4, 3, 2, 1, 0],
];
/// The same for 64-byte rows, whose pattern changes every second row.
pub const CHUNKS_64: [[usize; 4]; 8] = [
    [0, 1, 2, 3],
    [0, 1, 2, 3],
    [1, 0, 3, 2],
    [1, 0, 3, 2],
    [2, 3, 0, 1],
    [2, 3, 0, 1],
    [3, 2, 1, 0],
    [3, 2, 1, 0],
];
/// The same for 32-byte rows, whose pattern changes after four.
pub const CHUNKS_32: [[usize; 2]; 8] = [[0, 1], [0, 1], [0, 1], [0, 1], [1, 0], [1, 0], [1, 0], [1, 0]];

/// Place of chunk `c` of row `r`.
pub fn chunk(span: usize, r: usize, c: usize) -> usize {
    match span {
        128 => CHUNKS_128[r % 8][c],
        64 => CHUNKS_64[r % 8][c],
        32 => CHUNKS_32[r % 8][c],
        _ => c,
    }
}

fn flat() -> Case {
    let input: Vec<u32> = (0..128).map(|i| i * 3).collect();
    let mut expected = input.clone();
    expected[5] += 1;
    Case::new("conformance_sm90", "bulk_copy", 32, input, expected)
}

/// A box of 8 rows of `span` bytes of a tensor of 40 x 20 words, partly outside.
fn load(kernel: &'static str, span: usize, swizzle: u32, x: i32, y: i32) -> Case {
    let (columns, rows) = (40i32, 20i32);
    let data: Vec<u32> = (0..columns * rows).map(|i| 1 + i as u32).collect();
    let words = span / 4;
    let mut expected = vec![0; 8 * words];
    for r in 0..8 {
        for w in 0..words {
            let (cx, cy) = (x + w as i32, y + r as i32);
            let inside = (0..columns).contains(&cx) && (0..rows).contains(&cy);
            let place = if swizzle == 0 { w / 4 } else { chunk(span, r, w / 4) };
            expected[r * words + place * 4 + w % 4] =
                if inside { data[(cy * columns + cx) as usize] } else { 0 };
        }
    }
    let map = Map {
        element_bytes: 4,
        size: vec![columns as u64, rows as u64],
        stride: vec![columns as u64 * 4],
        box_size: vec![words as u32, 8],
        swizzle,
        data,
        is_output: false,
    };
    let case = Case::new("conformance_sm90", kernel, 128, vec![x as u32, y as u32], expected);
    Case { shared: 1024, map: Some(map), ..case }
}

fn store() -> Case {
    let (columns, rows) = (24, 10);
    let (x, y) = (12, 5);
    let mut expected = vec![7u32; columns * rows];
    for r in 0..8 {
        for c in 0..16 {
            if x + c < columns && y + r < rows {
                expected[(y + r) * columns + x + c] = (1000 + r * 16 + c) as u32;
            }
        }
    }
    let map = Map {
        element_bytes: 4,
        size: vec![columns as u64, rows as u64],
        stride: vec![columns as u64 * 4],
        box_size: vec![16, 8],
        swizzle: 0,
        data: vec![7; columns * rows],
        is_output: true,
    };
    let case = Case::new("conformance_sm90", "tensor_store", 32, vec![x as u32, y as u32], expected);
    Case { map: Some(map), ..case }
}

pub fn cases() -> Vec<Case> {
    vec![
        flat(),
        load("tensor_load_128", 128, 128, 4, 3),
        load("tensor_load_128", 128, 128, -3, 15),
        load("tensor_load_128", 128, 0, 20, -2),
        load("tensor_load_64", 64, 64, 8, 0),
        load("tensor_load_64", 64, 64, 33, 14),
        load("tensor_load_32", 32, 32, 0, 5),
        load("tensor_load_32", 32, 32, -5, -5),
        store(),
    ]
}
