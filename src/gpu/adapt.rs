//! Corrections of folds: the steps of src/cpu/adapt.rs, each a launch or a few. Whether they may change anything is known on
//! the device alone: kernels that do read a fault word.

use super::{
    Driver, Geometry, Gpu, Kernel, PerDtype,
    args::{
        AdaptErrorArgs, AdaptFactorArgs, AdaptProductArgs, AdaptRowsArgs, AdaptSquaresArgs, AdaptStoreArgs,
        AdaptSubstituteArgs, AdaptVectorArgs,
    },
    per_dtype,
};
use crate::backend::{AdaptOperands, AdaptScratch, CheckFiniteOperands, Precision, WeightUse};

const ROWS: PerDtype = per_dtype!("adapt_rows");
const VECTOR: Kernel = Kernel { module: "adapt_vector", name: "adapt_vector" };
const PRECISION: Kernel = Kernel { module: "adapt_vector", name: "adapt_precision" };
const SQUARES: Kernel = Kernel { module: "adapt_error", name: "adapt_squares" };
const ERROR: Kernel = Kernel { module: "adapt_error", name: "adapt_error" };
const PRODUCT: Kernel = Kernel { module: "adapt_product", name: "adapt_product" };
const FACTOR: Kernel = Kernel { module: "adapt_factor", name: "adapt_factor" };
const SUBSTITUTE: Kernel = Kernel { module: "adapt_substitute", name: "adapt_substitute" };
const STORE: PerDtype = per_dtype!("adapt_store");

const THREADS: u32 = 256;
/// Rows and columns of a product's tile, and of the factor's blocks.
const TILE: usize = 64;
/// Columns of a block of `adapt_vector`.
const VECTOR_COLUMNS: usize = 32;
/// Values of a block of `adapt_store`.
const STORED: usize = 1024;
/// In the fault word.
const NOT_FINITE: u32 = 1;

fn blocks(columns: usize, rows: usize) -> Geometry {
    Geometry { grid: [columns as u32, rows as u32, 1], threads: THREADS, shared: 0 }
}

/// A product that is written as it is.
fn product([rows, columns, depth]: [usize; 3], a: u64, b: u64, out: u64) -> AdaptProductArgs {
    let [rows, columns, depth] = [rows, columns, depth].map(|size| size as i32);
    AdaptProductArgs { a, b, out, rows, columns, depth, sign: 1.0, divisor: 1.0, ..Default::default() }
}

impl<D: Driver> Gpu<D> {
    pub(super) fn adapt_kernels(&self, operands: AdaptOperands<'_, Self>) {
        let AdaptOperands {
            a,
            target,
            rows: t,
            mask,
            kept,
            means,
            precision,
            bias_gain,
            forgetting,
            weight,
            bias,
            last,
            error,
            scratch,
        } = operands;
        let AdaptScratch { features, images, errors, gram, at_mean, fault } = scratch;
        debug_assert_eq!(last.weight.usage, WeightUse::Columns, "stored as W'ᵀ is");
        let (n, h) = (kept.channels(), last.out_features);
        let out_of_gram = self.floats(gram);
        let [features, images, errors, at_mean, weight, bias, means] =
            [&*features, images, errors, at_mean, weight, bias, means].map(|floats| self.floats(floats));
        // S (t, t), and behind it, as one more row, o.
        let (s, ones) = (out_of_gram, out_of_gram + 4 * (t * t) as u64);
        let ok = self.words(fault);
        let (full, diagonal) = match precision {
            Precision::Full(p) => (Some(self.floats(p)), None),
            Precision::Diagonal(p) => (None, Some(self.floats(p))),
        };

        // F, and E = target − (output at the mean) − F·W'ᵀ.
        let rows = AdaptRowsArgs { mask: self.optional_words(mask), block_width: 1, ..Default::default() };
        let arguments = AdaptRowsArgs {
            x: self.elements(a),
            kept: self.words(&kept.indices),
            centre: means,
            scale: diagonal.unwrap_or(0),
            out: features,
            images: diagonal.map_or(0, |_| images),
            ones,
            columns: n as i32,
            block_width: kept.block_width as i32,
            width: (kept.of * kept.block_width) as i32,
            ..rows
        };
        self.launch(self.of_dtype(ROWS), blocks(t, 1), &arguments);
        let to_the_mean = AdaptVectorArgs {
            base: bias,
            x: means,
            matrix: weight,
            fault: 0,
            out: at_mean,
            rows: n as i32,
            columns: h as i32,
            scale: 1.0,
            reserved: 0,
        };
        self.add_vector(to_the_mean);
        let arguments = AdaptRowsArgs {
            x: self.elements(target),
            centre: at_mean,
            out: errors,
            columns: h as i32,
            width: h as i32,
            ..rows
        };
        self.launch(self.of_dtype(ROWS), blocks(t, 1), &arguments);
        let explained = product([t, h, n], features, weight, errors);
        self.multiply(AdaptProductArgs { sign: -1.0, add: 1, ..explained });
        // Rows' sums go where S will be.
        let arguments = AdaptSquaresArgs { x: errors, sums: s, columns: h as i32, reserved: 0 };
        self.launch(SQUARES, blocks(t, 1), &arguments);
        let arguments = AdaptErrorArgs {
            sums: s,
            ones,
            error: self.floats(error),
            fault: ok,
            rows: t as i32,
            reserved: 0,
        };
        self.launch(ERROR, blocks(1, 1), &arguments);

        // U and S.
        if let Some(p) = full {
            self.multiply(product([t, n, n], features, p, images));
        }
        let of_images = product([t, t, n], images, features, s);
        self.multiply(AdaptProductArgs { b_transposed: 1, ones, gain: bias_gain, ..of_images });
        self.check_finite_kernel(CheckFiniteOperands { values: gram, len: t * t, tag: NOT_FINITE, fault });

        // V and G; v stands where o stood.
        self.factor(s, t);
        self.substitute(s, t, images, n);
        self.substitute(s, t, errors, h);

        // The output at the mean, W', and b' from both.
        let corrected = AdaptVectorArgs {
            base: at_mean,
            x: ones,
            matrix: errors,
            rows: t as i32,
            scale: bias_gain,
            ..to_the_mean
        };
        self.add_vector(corrected);
        let correction = product([n, h, t], images, errors, weight);
        self.multiply(AdaptProductArgs { a_transposed: 1, add: 1, fault: ok, ..correction });
        self.add_vector(AdaptVectorArgs { base: at_mean, out: bias, scale: -1.0, fault: ok, ..to_the_mean });
        if let Some(p) = diagonal {
            let features = AdaptVectorArgs {
                base: p,
                x: 0,
                matrix: features,
                fault: ok,
                out: p,
                rows: t as i32,
                columns: n as i32,
                scale: forgetting,
                reserved: 0,
            };
            self.launch(PRECISION, blocks(n.div_ceil(VECTOR_COLUMNS), 1), &features);
        }
        if let Some(p) = full {
            self.multiply(AdaptProductArgs {
                a_transposed: 1,
                add: 1,
                symmetric: 1,
                sign: -1.0,
                divisor: forgetting,
                fault: ok,
                ..product([n, n, t], images, images, p)
            });
        }
        let arguments = AdaptStoreArgs {
            weight,
            fault: ok,
            out: self.address(&last.weight.buffer),
            count: (n * h) as i64,
        };
        self.launch(self.of_dtype(STORE), blocks((n * h).div_ceil(STORED), 1), &arguments);
    }

    fn multiply(&self, arguments: AdaptProductArgs) {
        let [columns, rows] = [arguments.columns, arguments.rows].map(|size| (size as usize).div_ceil(TILE));
        self.launch(PRODUCT, blocks(columns, rows), &arguments);
    }

    fn add_vector(&self, arguments: AdaptVectorArgs) {
        let columns = (arguments.columns as usize).div_ceil(VECTOR_COLUMNS);
        self.launch(VECTOR, blocks(columns, 1), &arguments);
    }

    /// The Cholesky factor L of S (t, t), in place, block of columns by block of columns; the row behind S becomes L⁻¹ of
    /// itself, as a row of the factor does.
    fn factor(&self, s: u64, t: usize) {
        for first in (0..t).step_by(TILE) {
            let arguments = AdaptFactorArgs { matrix: s, size: t as i32, first: first as i32 };
            self.launch(FACTOR, blocks(1, 1), &arguments);
            // A row of L below the square is L⁻¹ of that row of S.
            let end = t.min(first + TILE);
            let below = AdaptSubstituteArgs {
                factor: s,
                x: s + 4 * (end * t) as u64,
                size: t as i32,
                columns: (t + 1 - end) as i32,
                first: first as i32,
                end: end as i32,
                transposed: 1,
                reserved: 0,
            };
            self.launch(SUBSTITUTE, blocks((t + 1 - end).div_ceil(TILE), 1), &below);
        }
    }

    /// L⁻¹·X for X (t, n), in place.
    fn substitute(&self, factor: u64, t: usize, x: u64, n: usize) {
        let arguments = AdaptSubstituteArgs {
            factor,
            x,
            size: t as i32,
            columns: n as i32,
            first: 0,
            end: t as i32,
            transposed: 0,
            reserved: 0,
        };
        self.launch(SUBSTITUTE, blocks(n.div_ceil(TILE), 1), &arguments);
    }
}
