//! The product that all others are made of: a block of rows times a few vectors of features, accumulated in registers.
//!
//! Every output is the sum of [`SUM_STEPS`] products at a time, in the order of k, whatever block it falls into and wherever k
//! is split, if at a multiple of that: its bits depend neither on the number of rows nor on the number of threads.

use pulp::{MemMask, Simd, WithSimd};

use crate::cpu::Cpu;

/// Most vectors of features of a block.
const fn most_vectors<S: Simd>() -> usize {
    if S::REGISTER_COUNT >= 32 { 4 } else { 2 }
}

/// Rows of a block of V vectors: its sums fill the registers, less those for the operands.
const fn block_rows<S: Simd, const V: usize>() -> usize {
    if S::REGISTER_COUNT >= 32 && V < 4 { 8 } else { 6 }
}

/// Products that are added up before their sum is added to the rest: in one go the error of thousands of them would grow.
pub(in crate::cpu) const SUM_STEPS: usize = 128;
/// Rows of the panel between the one that is used and the one that is fetched: it comes from the second-level cache.
const PREFETCHED: usize = 16;

/// Where a matrix lies, and the distances between its rows and between its columns.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Strided {
    pub(in crate::cpu) start: *const f32,
    pub(in crate::cpu) row: usize,
    pub(in crate::cpu) column: usize,
}

/// out (t, n) = x (t, k) · panel (k, n), or what it holds plus that.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Product {
    /// t, n, k.
    pub(in crate::cpu) shape: [usize; 3],
    pub(in crate::cpu) x: Strided,
    /// The panel's first entry, and the distance between its rows; its columns follow one another.
    pub(in crate::cpu) panel: (*const f32, usize),
    /// The output's first entry, and the distance between its rows; its columns follow one another.
    pub(in crate::cpu) out: (*mut f32, usize),
    pub(in crate::cpu) accumulate: bool,
}

impl Cpu {
    /// Features that lie together in a panel: those of the fastest block for products with weights, which then reads the panel
    /// in one piece.
    pub(in crate::cpu) fn panel_group(&self) -> usize {
        struct Features;
        impl WithSimd for Features {
            type Output = usize;
            #[inline(always)]
            fn with_simd<S: Simd>(self, _: S) -> usize {
                // Without vectors, a multiple of what is transposed together.
                match S::F32_LANES {
                    1 => 16,
                    lanes => lanes * most_vectors::<S>().min(3),
                }
            }
        }
        self.arch.dispatch(Features)
    }

    /// Computes the product.
    ///
    /// # Safety
    /// Every entry that its shape and distances name is valid, and no other thread uses those of `out`.
    pub(in crate::cpu) unsafe fn product(&self, product: Product) {
        self.arch.dispatch(Checked(product));
    }
}

/// As [`Cpu::product`], where the instruction set is known.
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn run<S: Simd>(simd: S, product: Product) {
    simd.vectorize(Checked(product));
}

/// A product whose caller has promised what [`Cpu::product`] asks for.
#[derive(Clone, Copy)]
struct Checked(Product);

impl WithSimd for Checked {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (Self(product), n) = (self, self.0.shape[1]);
        // As few blocks as possible, of about as many vectors each.
        let vectors = n.div_ceil(S::F32_LANES);
        let blocks = vectors.div_ceil(most_vectors::<S>()).max(1);
        let width = vectors.div_ceil(blocks).max(1) * S::F32_LANES;
        for first in (0..n).step_by(width) {
            let columns = width.min(n - first);
            // SAFETY: columns first..first+columns lie in the product, whose entries the caller has promised.
            unsafe {
                match columns.div_ceil(S::F32_LANES) {
                    1 => rows::<S, 1>(simd, product, first, columns),
                    2 => rows::<S, 2>(simd, product, first, columns),
                    3 => rows::<S, 3>(simd, product, first, columns),
                    _ => rows::<S, 4>(simd, product, first, columns),
                }
            }
        }
    }
}

/// All rows of `columns` columns, which fill V vectors, the last one perhaps in part.
///
/// # Safety
/// As [`Cpu::product`], for these columns.
#[inline(always)]
unsafe fn rows<S: Simd, const V: usize>(simd: S, product: Product, first: usize, columns: usize) {
    // Never so, but known to the compiler, which then makes no code of it.
    if V > most_vectors::<S>() {
        return;
    }
    let (t, most) = (product.shape[0], block_rows::<S, V>());
    for row in (0..t).step_by(most) {
        // SAFETY: these rows lie in the product, whose entries the caller has promised.
        unsafe {
            match most.min(t - row) {
                1 => block::<S, 1, V>(simd, product, [row, first], columns),
                2 => block::<S, 2, V>(simd, product, [row, first], columns),
                3 => block::<S, 3, V>(simd, product, [row, first], columns),
                4 => block::<S, 4, V>(simd, product, [row, first], columns),
                5 => block::<S, 5, V>(simd, product, [row, first], columns),
                6 => block::<S, 6, V>(simd, product, [row, first], columns),
                7 => block::<S, 7, V>(simd, product, [row, first], columns),
                _ => block::<S, 8, V>(simd, product, [row, first], columns),
            }
        }
    }
}

/// T rows of these columns.
///
/// # Safety
/// As [`Cpu::product`], for these rows and columns.
#[inline(always)]
unsafe fn block<S: Simd, const T: usize, const V: usize>(
    simd: S,
    product: Product,
    [row, first]: [usize; 2],
    columns: usize,
) {
    let Product { x, panel: (panel, panel_row), out: (out, out_row), .. } = product;
    let last = columns - (V - 1) * S::F32_LANES;
    // SAFETY: these rows and columns lie in the product, whose entries the caller has promised.
    unsafe {
        let product = Product {
            x: Strided { start: x.start.add(row * x.row), ..x },
            panel: (panel.add(first), panel_row),
            out: (out.add(row * out_row + first), out_row),
            ..product
        };
        // Apart, since the compiler does not take the question out of the loops.
        if last == S::F32_LANES {
            sums::<S, T, V>(product, Columns { simd, mask: None });
        } else {
            sums::<S, T, V>(product, Columns { simd, mask: Some(simd.mask_between_m32s(0, last as u32)) });
        }
    }
}

/// The first T rows of these columns of a product.
///
/// # Safety
/// As [`Cpu::product`], for these rows and columns.
#[inline(always)]
unsafe fn sums<S: Simd, const T: usize, const V: usize>(product: Product, columns: Columns<S>) {
    let Product { shape: [_, _, k], x, panel: (panel, panel_row), out: (out, out_row), accumulate } = product;
    for from in (0..k.max(1)).step_by(SUM_STEPS) {
        let steps = SUM_STEPS.min(k - from);
        // SAFETY: the caller promises the entries of `x`, `panel` and `out` in these rows and columns.
        unsafe {
            let x = Strided { start: x.start.add(from * x.column), ..x };
            let mut sums: [[S::f32s; V]; T] =
                sum(steps, x, (panel.add(from * panel_row), panel_row), columns);
            for t in 0..T {
                if accumulate || from > 0 {
                    columns.add(out.add(t * out_row), &mut sums[t]);
                }
                columns.store(out.add(t * out_row), &sums[t]);
            }
        }
    }
}

/// x (T, k) · panel (k, columns).
///
/// # Safety
/// All of these entries are valid.
#[inline(always)]
unsafe fn sum<S: Simd, const T: usize, const V: usize>(
    k: usize,
    x: Strided,
    (mut panel, panel_row): (*const f32, usize),
    columns: Columns<S>,
) -> [[S::f32s; V]; T] {
    let simd = columns.simd;
    let mut sums = [[simd.splat_f32s(0.0); V]; T];
    let (mut x_at, mut weights) = ([x.start; T], [simd.splat_f32s(0.0); V]);
    for t in 0..T {
        x_at[t] = x.start.wrapping_add(t * x.row);
    }
    for _ in 0..k {
        // SAFETY: step by step the entries that the caller promises.
        unsafe {
            columns.load(panel, &mut weights);
            for v in 0..V {
                prefetch::<false>(panel.wrapping_add(PREFETCHED * panel_row + v * S::F32_LANES).cast());
            }
            for t in 0..T {
                let x_value = simd.splat_f32s(*x_at[t]);
                x_at[t] = x_at[t].wrapping_add(x.column);
                for v in 0..V {
                    sums[t][v] = multiply_add(simd, x_value, weights[v], sums[t][v]);
                }
            }
        }
        panel = panel.wrapping_add(panel_row);
    }
    sums
}

/// Columns that fill V vectors, but for the last one, of which only those of the mask are there.
#[derive(Clone, Copy)]
struct Columns<S: Simd> {
    simd: S,
    mask: Option<MemMask<S::m32s>>,
}

impl<S: Simd> Columns<S> {
    /// # Safety
    /// The columns are valid from `from` on.
    #[inline(always)]
    unsafe fn load<const V: usize>(self, from: *const f32, to: &mut [S::f32s; V]) {
        for v in 0..V {
            // SAFETY: the caller's promise, of which the last vector takes no more than its mask.
            unsafe {
                let from = from.add(v * S::F32_LANES);
                to[v] = match self.mask {
                    Some(mask) if v + 1 == V => self.simd.mask_load_ptr_f32s(mask, from),
                    _ => from.cast::<S::f32s>().read_unaligned(),
                };
            }
        }
    }

    /// to += what is there.
    ///
    /// # Safety
    /// The columns are valid from `from` on.
    #[inline(always)]
    unsafe fn add<const V: usize>(self, from: *const f32, to: &mut [S::f32s; V]) {
        let mut values = [self.simd.splat_f32s(0.0); V];
        // SAFETY: the caller's promise.
        unsafe { self.load(from, &mut values) };
        for v in 0..V {
            to[v] = self.simd.add_f32s(values[v], to[v]);
        }
    }

    /// # Safety
    /// The columns are valid from `to` on.
    #[inline(always)]
    unsafe fn store<const V: usize>(self, to: *mut f32, from: &[S::f32s; V]) {
        for v in 0..V {
            // SAFETY: as in `load`.
            unsafe {
                let to = to.add(v * S::F32_LANES);
                match self.mask {
                    Some(mask) if v + 1 == V => self.simd.mask_store_ptr_f32s(mask, to, from[v]),
                    _ => to.cast::<S::f32s>().write_unaligned(from[v]),
                }
            }
        }
    }
}

/// Asks for a line to be brought into the first level of the cache, or no nearer than the second; it need not be there.
#[inline(always)]
pub(super) fn prefetch<const SECOND_LEVEL: bool>(from: *const i8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
        // SAFETY: every x86-64 has this instruction, and it reads nothing from an address that is not valid.
        unsafe {
            if SECOND_LEVEL { _mm_prefetch::<_MM_HINT_T1>(from) } else { _mm_prefetch::<_MM_HINT_T0>(from) }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = from;
}

/// a·b + c, rounded once where the processor can.
#[inline(always)]
pub(super) fn multiply_add<S: Simd>(simd: S, a: S::f32s, b: S::f32s, c: S::f32s) -> S::f32s {
    // Without vectors there is no such instruction either, and a library call for each would take a hundred times as long.
    if S::F32_LANES == 1 { simd.add_f32s(simd.mul_f32s(a, b), c) } else { simd.mul_add_f32s(a, b, c) }
}
