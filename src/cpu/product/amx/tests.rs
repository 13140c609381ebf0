//! Products by emulated tile instructions, and bit for bit the same on the processor where it has them.

use super::{
    emulated::Emulated,
    tiles::{ROW_BYTES, TILE_COLUMNS},
    *,
};
use crate::cpu::matrix::Matrix;

/// Random bits of a fixed sequence.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    /// Of either sign, from 2⁻⁴ up to 2.
    fn value(&mut self) -> f32 {
        f32::from_bits(self.bits() & 0x807f_ffff | (123 + self.bits() % 5) << 23)
    }
}

/// All of `of`, or blocks of one width.
struct Kept {
    blocks: Option<(Vec<u32>, usize)>,
    of: usize,
}

impl Kept {
    fn all(of: usize) -> Self {
        Self { blocks: None, of }
    }

    /// At least `len` in blocks: two of three, the last one aside, so that two blocks follow each other.
    fn two_thirds(len: usize, width: usize) -> Self {
        let blocks = (0..len.div_ceil(width) as u32).map(|i| i + i / 2).collect::<Vec<_>>();
        let of = blocks.last().map_or(0, |&last| last as usize + 2) * width;
        Self { blocks: Some((blocks, width)), of }
    }

    /// With each fifth block skipped.
    fn some_skipped(len: usize, width: usize) -> Self {
        let mut kept = Self::two_thirds(len, width);
        let blocks = kept.blocks.iter_mut().flat_map(|(blocks, _)| blocks);
        blocks.skip(1).step_by(5).for_each(|block| *block = u32::MAX);
        kept
    }

    fn pick(&self) -> Pick<'_> {
        match &self.blocks {
            Some((indices, block_width)) => Pick::Blocks { indices, block_width: *block_width },
            None => Pick::All(self.of),
        }
    }
}

/// x (t, picked columns) and W (rows, columns).
struct Operands {
    x: Vec<f32>,
    t: usize,
    elements: Vec<u16>,
    rows: Kept,
    columns: Kept,
}

impl Operands {
    fn random(t: usize, rows: Kept, columns: Kept) -> Self {
        let mut random = Random((t + rows.of + columns.of) as u64);
        let elements = (0..rows.of * columns.of).map(|_| (random.value().to_bits() >> 16) as u16).collect();
        let x = (0..t * columns.pick().len()).map(|_| random.value()).collect();
        Self { x, t, elements, rows, columns }
    }

    /// Calls `f` with each output's products, or without any for a skipped row.
    fn each<R>(&self, f: impl Fn(&mut dyn Iterator<Item = (f32, f32)>) -> R) -> Vec<R> {
        let (n, k) = (self.rows.pick().len(), self.columns.pick().len());
        let output = |i: usize| {
            let x = &self.x[i / n * k..][..k];
            let row = self.rows.pick().index(i % n);
            let products = row.into_iter().flat_map(|row| {
                x.iter().enumerate().map(move |(i, &x)| {
                    let column = self.columns.pick().index(i).unwrap();
                    (x, math::bf16(self.elements[row * self.columns.of + column]))
                })
            });
            f(&mut { products })
        };
        (0..self.t * n).map(output).collect()
    }

    fn plain(&self) -> Vec<f32> {
        self.each(|products| products.fold(0.0, |sum, (x, w)| sum + x * w))
    }

    /// Each output in f64, and the sum of its products' magnitudes.
    fn exact(&self) -> Vec<[f64; 2]> {
        self.each(|products| {
            products.fold([0.0; 2], |[sum, size], (x, w)| {
                let product = f64::from(x) * f64::from(w);
                [sum + product, size + product.abs()]
            })
        })
    }

    /// The product of the first `t` tokens, the features cut before each of `cuts`.
    fn product(&self, t: usize, terms: usize, cuts: &[usize]) -> Vec<f32> {
        let mut emulated = Emulated::new();
        emulated
            .readable
            .push(self.elements.as_ptr_range().start.addr()..self.elements.as_ptr_range().end.addr());
        let on_emulated = self.product_on(&mut emulated, t, terms, cuts);
        if available() {
            let on_hardware = self.product_on(&mut Hardware::new(), t, terms, cuts);
            assert!(on_emulated.iter().zip(&on_hardware).all(|(&a, &b)| same(a, b)), "the emulation differs");
        }
        on_emulated
    }

    fn product_on(&self, tiles: &mut impl Observed, t: usize, terms: usize, cuts: &[usize]) -> Vec<f32> {
        let (n, k) = (self.rows.pick().len(), self.columns.pick().len());
        let mut packed: Vec<Tile> = bytemuck::zeroed_vec(t.div_ceil(16) * tiles_of_16(k, terms));
        pack(&self.x, k, [t, k], terms, &mut packed);
        let mut buffers = Buffers::new();
        // What is left in them from another product has no say.
        buffers.panel.fill(Tile([0x7fc0; 512]));
        buffers.sums.fill(Sums([f32::NAN; 256]));
        tiles.may_read(&packed);
        tiles.may_read(&buffers.panel);
        tiles.may_read(&buffers.sums);
        let x = Packed::new(&packed, [t, k], terms);
        // SAFETY: the elements outlive the matrix and are not written.
        let weight = unsafe {
            Matrix::borrow(self.elements.as_ptr().cast(), Dtype::BF16, [self.rows.of, self.columns.of])
        };
        let factors = Factors { x, t, weight: &weight, rows: self.rows.pick(), columns: self.columns.pick() };
        let stride = n + 3;
        let mut out = vec![-7.0f32; t * stride];
        for (i, &from) in cuts.iter().enumerate() {
            let to = cuts.get(i + 1).copied().unwrap_or(n);
            // SAFETY: `out` has t rows of these features.
            unsafe { product(tiles, &mut buffers, factors, from..to, out[from..].as_mut_ptr(), stride) };
        }
        assert!(
            out.chunks_exact(stride).all(|row| row[n..] == [-7.0; 3]),
            "what lies beside the output stays"
        );
        out.chunks_exact(stride).flat_map(|row| &row[..n]).copied().collect()
    }
}

/// Tiles that may know which memory a product reads.
trait Observed: Tiles {
    fn may_read<T>(&mut self, _: &[T]) {}
}

impl Observed for Hardware {}

impl Observed for Emulated {
    fn may_read<T>(&mut self, memory: &[T]) {
        let memory = memory.as_ptr_range();
        self.readable.push(memory.start.addr()..memory.end.addr());
    }
}

/// The same bits, or both NaN.
fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

/// The largest error over the sum of the products' magnitudes; outputs without products are 0.
fn worst(got: &[f32], exact: &[[f64; 2]]) -> f64 {
    let errors = got.iter().zip(exact).map(|(&got, &[sum, size])| {
        assert!(size > 0.0 || got.to_bits() == 0, "a skipped row gives {got}");
        (f64::from(got) - sum).abs() / size.max(f64::MIN_POSITIVE)
    });
    errors.fold(0.0, |worst, error| if error <= worst { worst } else { error })
}

/// Three terms are as exact as f32 arithmetic: within what a plain loop errs by, or within two roundings where that hardly
/// errs at all. Two terms leave 2⁻¹⁷ of each x beside that, one leaves 2⁻⁸.
fn check(operands: &Operands, what: &str) {
    let exact = operands.exact();
    let plain = worst(&operands.plain(), &exact).max(2f64.powi(-23));
    for (terms, left) in [(3, 0.0), (2, 2f64.powi(-17)), (1, 2f64.powi(-8))] {
        let error = worst(&operands.product(operands.t, terms, &[0]), &exact);
        assert!(error <= plain + left, "{what}, {terms} terms: {error:e}, plain f32 {plain:e}");
    }
}

#[test]
fn products_are_as_exact_as_their_terms() {
    for (t, n, k) in [(1, 1, 1), (17, 33, 35), (64, 48, 576), (100, 61, 922)] {
        let what = |kept: &str| format!("({t}, {n}, {k}), {kept}");
        check(&Operands::random(t, Kept::all(n), Kept::all(k)), &what("dense"));
        for (width, rows) in [(1, "rows"), (8, "rows by 8"), (16, "rows by 16")] {
            check(&Operands::random(t, Kept::two_thirds(n, width), Kept::all(k)), &what(rows));
        }
        check(&Operands::random(t, Kept::some_skipped(n, 8), Kept::all(k)), &what("some rows skipped"));
        for (width, columns) in [(1, "columns"), (6, "columns by 6")] {
            let kept = Operands::random(t, Kept::some_skipped(n, 20), Kept::two_thirds(k.div_ceil(2), width));
            check(&kept, &what(columns));
        }
    }
}

/// More features, columns or tokens than one panel is used for.
#[test]
fn panels_meet() {
    check(&Operands::random(20, Kept::all(2 * PANEL_FEATURES + 5), Kept::all(40)), "features");
    check(&Operands::random(20, Kept::two_thirds(PANEL_FEATURES, 8), Kept::all(40)), "half tiles");
    check(&Operands::random(70, Kept::all(37), Kept::all(2 * PANEL_COLUMNS + 33)), "columns");
    check(&Operands::random(33, Kept::all(40), Kept::two_thirds(PANEL_COLUMNS + 32, 1)), "kept columns");
    check(&Operands::random(TOKENS + 20, Kept::all(3), Kept::all(PANEL_COLUMNS + 1)), "tokens");
}

/// An output's bits depend on its row, its token and the number of terms alone.
#[test]
fn cuts_do_not_change_bits() {
    for rows in [Kept::all(75), Kept::two_thirds(75, 8), Kept::some_skipped(75, 4)] {
        let operands = Operands::random(40, rows, Kept::all(PANEL_COLUMNS + 100));
        let n = operands.rows.pick().len();
        let whole = operands.product(40, 2, &[0]);
        let each = (0..n).collect::<Vec<_>>();
        for cuts in [&[0, 16][..], &[0, 13, 14, 40], &each] {
            assert_eq!(operands.product(40, 2, cuts), whole, "cut at {cuts:?}");
        }
        // Half tiles, where rows are in blocks of 8.
        assert_eq!(operands.product(HALF_TOKENS, 2, &[0]), whole[..HALF_TOKENS * n], "fewer tokens");
        assert_eq!(operands.product(5, 2, &[0]), whole[..5 * n], "still fewer tokens");
    }
}

/// Infinities, NaN and the largest finite values come out as they do in f32 arithmetic, and skipped rows stay 0.
#[test]
fn extreme_activations_are_those_of_f32() {
    let largest = f32::from_bits(0x7f7f_8001);
    let extremes: [&[f32]; 7] = [
        &[f32::INFINITY],
        &[f32::NEG_INFINITY],
        &[f32::INFINITY, f32::NEG_INFINITY],
        &[f32::NAN],
        &[f32::from_bits(0x7f80_0001)],
        &[f32::MAX],
        &[-largest, 1.0],
    ];
    let mut operands = Operands::random(extremes.len() + 1, Kept::some_skipped(40, 8), Kept::all(70));
    // Weights below 1: no f32 sum overflows.
    operands.elements.iter_mut().for_each(|w| *w = *w & 0x807f | 0x3f00);
    for (x, extremes) in operands.x.chunks_exact_mut(70).zip(extremes) {
        for (x, extreme) in x[30..].iter_mut().step_by(3).zip(extremes) {
            *x = *extreme;
        }
    }
    let (plain, exact) = (operands.plain(), operands.exact());
    // What a value that is cut off leaves, and the rounding of sums.
    for (terms, left) in [(3, 0.0), (2, 2f64.powi(-16)), (1, 2f64.powi(-7))] {
        let got = operands.product(operands.t, terms, &[0]);
        for (i, (got, plain)) in got.iter().zip(&plain).enumerate() {
            if !plain.is_finite() {
                assert!(same(*got, *plain), "{terms} terms, output {i}: {got}, f32 {plain}");
                continue;
            }
            let error = worst(&[*got], &exact[i..=i]);
            assert!(error <= left + 2f64.powi(-22), "{terms} terms, output {i}: {error:e}");
        }
    }
}

/// What the instruction does to one element, from values for which each step's rounding shows.
#[test]
fn the_emulation_follows_the_manual() {
    let bf16 = |x: f32| (x.to_bits() >> 16) as u16;
    // Column j of A is `a[j]`, of row j of B `b[j]`; the sum starts at `c`.
    let dot = |a: &[f32], b: &[f32], c: f32| {
        let (mut left, mut right) = ([0u16; 512], [0u16; 512]);
        for (j, (&a, &b)) in a.iter().zip(b).enumerate() {
            (left[j], right[j / 2 * TILE_COLUMNS + j % 2]) = (bf16(a), bf16(b));
        }
        let (sums, mut result) = ([c; 256], [0.0f32; 256]);
        let mut emulated = Emulated::new();
        // SAFETY: the arrays are as large as tiles.
        unsafe {
            emulated.load::<0>(sums.as_ptr().cast(), ROW_BYTES);
            emulated.load::<4>(left.as_ptr().cast(), ROW_BYTES);
            emulated.load::<6>(right.as_ptr().cast(), ROW_BYTES);
            emulated.multiply_add::<0, 4, 6>();
            emulated.store::<0>(result.as_mut_ptr().cast(), ROW_BYTES);
        }
        result[0]
    };
    let (large, tiny) = (2f32.powi(24), f32::MIN_POSITIVE);
    assert_eq!(dot(&[2.0, 3.0], &[5.0, 7.0], 1.0), 32.0);
    // 2²⁴ + 1 is 2²⁴: columns 1 and 3 make 2 before they meet column 0, which columns 0 and 2 would not.
    assert_eq!(dot(&[large, 1.0, 0.0, 1.0], &[1.0; 4], 0.0), large + 2.0);
    assert_eq!(dot(&[large, 0.0, 1.0, 0.0, 1.0], &[1.0; 5], 0.0), large);
    // The tile's own value comes last.
    assert_eq!(dot(&[1.0, 1.0], &[1.0; 2], large), large + 2.0);
    // A product is not rounded before it is added, and so 2²⁴ + 1 + 2⁻⁷, beyond half, is 2²⁴ + 2.
    assert_eq!(dot(&[large, 0.0, 1.0 + 2f32.powi(-7)], &[1.0; 3], 0.0), large + 2.0);
    // Subnormal operands, sums and results are 0.
    assert_eq!(dot(&[tiny / 2.0], &[large], 0.0), 0.0);
    assert_eq!(dot(&[tiny], &[0.5], 1e-40), 0.0);
    assert_eq!(dot(&[tiny], &[1.0], 0.0), tiny);
    // The smallest normal number less ½ or ¾ of 2⁻¹⁵⁰, which is the last bit that a number below it could have.
    assert_eq!(dot(&[tiny, 0.0, -2f32.powi(-75)], &[1.0, 0.0, 2f32.powi(-76)], 0.0), tiny);
    assert_eq!(dot(&[tiny, 0.0, -1.5 * 2f32.powi(-75)], &[1.0, 0.0, 2f32.powi(-76)], 0.0), 0.0);
    assert!(dot(&[f32::INFINITY], &[tiny / 2.0], 0.0).is_nan());
    assert_eq!(dot(&[f32::INFINITY], &[-1.0], 5.0), f32::NEG_INFINITY);
    assert!(dot(&[f32::INFINITY, f32::INFINITY], &[1.0, -1.0], 0.0).is_nan());
}

/// Random tiles with values of every kind.
#[test]
fn the_processor_follows_the_emulation() {
    if !available() {
        return println!("the processor has no AMX; only the emulation was tested");
    }
    let mut tiles = Hardware::new();
    let mut random = Random(1);
    for round in 0..400 {
        // Of the bf16, few are special, so that most sums are finite; sums are of like size, or else of any.
        let mut element = |spread: u32| {
            let (bits, kind) = (random.bits(), random.bits() % 512);
            let near = bits & 0x807f | (127 - spread / 2 + random.bits() % spread) << 7;
            let special = [0, 0x8000, 0x7f80, 0xff80, 0x7fc0, 0x0001, 0x807f, 0x7f7f];
            if kind < 8 && round % 4 == 0 { special[kind as usize] } else { near as u16 }
        };
        let spread = [2, 8, 60, 250][round / 4 % 4];
        let [a, b] = [(); 2].map(|()| Tile(std::array::from_fn(|_| element(spread))));
        let c: [f32; 256] =
            std::array::from_fn(|_| f32::from_bits(u32::from(element(spread)) << 16 | 0x1234));
        let rows = [16, 8][round % 2];
        let one = |tiles: &mut dyn FnMut(&mut [f32; 256])| {
            let mut result = [0.0f32; 256];
            tiles(&mut result);
            result
        };
        let on_emulated = one(&mut |result| multiply_tiles(&mut Emulated::new(), rows, &a, &b, &c, result));
        let on_hardware = one(&mut |result| multiply_tiles(&mut tiles, rows, &a, &b, &c, result));
        for (i, (a, b)) in on_emulated.iter().zip(&on_hardware).enumerate() {
            assert!(same(*a, *b), "round {round}, element {i}: {b:e}, emulated {a:e}");
        }
    }
}

fn multiply_tiles(
    tiles: &mut impl Tiles,
    rows: usize,
    a: &Tile,
    b: &Tile,
    c: &[f32; 256],
    to: &mut [f32; 256],
) {
    tiles.configure(rows);
    // SAFETY: all of these are as large as tiles.
    unsafe {
        tiles.load::<3>(c.as_ptr().cast(), ROW_BYTES);
        tiles.load::<5>(a.0.as_ptr().cast(), ROW_BYTES);
        tiles.load::<7>(b.0.as_ptr().cast(), ROW_BYTES);
        tiles.multiply_add::<3, 5, 7>();
        tiles.store::<3>(to.as_mut_ptr().cast(), ROW_BYTES);
    }
}
