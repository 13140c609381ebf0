//! Products of matrices that lie in memory as they are, for what is computed beside the forward: folds, and P of their
//! corrections. Work is cut into pieces that do not depend on the number of threads, so neither do results.

use rayon::prelude::*;

/// Columns of a product of `n` that one task computes: the number that divides the work over two threads most evenly, and the
/// largest of those, since every task reads all of the left factor.
fn task_columns(n: usize) -> usize {
    let cost = |width: usize| n.div_ceil(width).next_multiple_of(2) * width;
    [256, 192, 128, 96, 64].into_iter().min_by_key(|&width| cost(width)).expect("not empty")
}

/// A number that products are made of.
pub(crate) trait Scalar: Copy + Send + Sync + 'static {
    /// 1.
    const ONE: Self;
}

impl Scalar for f32 {
    const ONE: Self = 1.0;
}

impl Scalar for f64 {
    const ONE: Self = 1.0;
}

/// A matrix in memory: its entries, and the distances between rows and between columns.
#[derive(Clone, Copy)]
pub(crate) struct View<'a, T> {
    pub(crate) values: &'a [T],
    strides: [usize; 2],
}

impl<'a, T> View<'a, T> {
    /// A row-major matrix of rows that are `stride` entries apart.
    pub(crate) fn rows(values: &'a [T], stride: usize) -> Self {
        Self { values, strides: [stride, 1] }
    }

    /// Its transpose.
    pub(crate) fn transposed(self) -> Self {
        let [rows, columns] = self.strides;
        Self { strides: [columns, rows], ..self }
    }

    /// Without its first rows.
    pub(crate) fn rows_from(self, row: usize) -> Self {
        Self { values: &self.values[row * self.strides[0]..], ..self }
    }

    fn fits(&self, rows: usize, columns: usize) -> bool {
        let [row, column] = self.strides;
        rows == 0 || columns == 0 || (rows - 1) * row + (columns - 1) * column < self.values.len()
    }
}

/// out (m, n; rows `stride` apart) += scale · left (m, k) · right (k, n).
pub(crate) fn add_product<T: Scalar>(
    out: &mut [T],
    stride: usize,
    shape: [usize; 3],
    scale: T,
    left: View<'_, T>,
    right: View<'_, T>,
) {
    check(out, stride, shape, left, right);
    // SAFETY: just checked.
    unsafe { add_unchecked(out.as_mut_ptr(), stride, shape, scale, left, right) };
}

/// [`add_product`] with the columns of `out` shared among threads.
pub(crate) fn add_product_parallel<T: Scalar>(
    out: &mut [T],
    stride: usize,
    [m, n, k]: [usize; 3],
    scale: T,
    left: View<'_, T>,
    right: View<'_, T>,
) {
    struct Shared<T>(*mut T);
    // SAFETY: every task writes columns of its own.
    unsafe impl<T> Sync for Shared<T> {}
    impl<T> Shared<T> {
        /// The first entry of a column.
        ///
        /// # Safety
        /// The column lies in the output.
        unsafe fn column(&self, first: usize) -> *mut T {
            // SAFETY: the caller promises that it lies in the output.
            unsafe { self.0.add(first) }
        }
    }
    check(out, stride, [m, n, k], left, right);
    let (shared, columns) = (Shared(out.as_mut_ptr()), task_columns(n));
    (0..n.div_ceil(columns)).into_par_iter().for_each(|task| {
        let first = task * columns;
        let right = View { values: &right.values[first * right.strides[1]..], ..right };
        // SAFETY: the whole product was checked to fit; these columns of it are this task's.
        unsafe {
            add_unchecked(shared.column(first), stride, [m, columns.min(n - first), k], scale, left, right);
        }
    });
}

fn check<T>(out: &[T], stride: usize, [m, n, k]: [usize; 3], left: View<'_, T>, right: View<'_, T>) {
    assert!(left.fits(m, k) && right.fits(k, n), "the factors have the product's shape");
    assert!(m == 0 || n == 0 || (n <= stride && (m - 1) * stride + n <= out.len()), "the output holds it");
}

/// # Safety
/// Every entry that the shapes and strides name is valid, and no other thread uses those of `out`.
unsafe fn add_unchecked<T: Scalar>(
    out: *mut T,
    stride: usize,
    [m, n, k]: [usize; 3],
    scale: T,
    left: View<'_, T>,
    right: View<'_, T>,
) {
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    let step = |stride: usize| stride as isize;
    let (none, [a, b]) = (gemm::Parallelism::None, [left, right]);
    let [a_at, b_at] = [a, b].map(|factor| factor.values.as_ptr());
    let [[a_row, a_column], [b_row, b_column]] = [a, b].map(|factor| factor.strides.map(step));
    // SAFETY: the caller promises that every entry named is valid and that those of `out` are used by this thread alone.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out,
            1,
            step(stride),
            true,
            a_at,
            a_column,
            a_row,
            b_at,
            b_column,
            b_row,
            T::ONE,
            scale,
            false,
            false,
            false,
            none,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Around the columns of tasks; the left factor transposed, rows of the output apart.
    #[test]
    fn products_are_added_where_they_belong() {
        for (m, n, k) in
            [(1, 1, 1), (3, 63, 2), (5, 64, 4), (2, 65, 9), (3, 256, 2), (2, 577, 9), (0, 4, 4), (4, 4, 0)]
        {
            let value = |seed: usize, at: usize| ((at * 7 + seed) % 13) as f64 - 6.0;
            let left: Vec<f64> = (0..k * m).map(|at| value(1, at)).collect();
            let right: Vec<f64> = (0..k * n).map(|at| value(2, at)).collect();
            let stride = n + 3;
            let before: Vec<f64> = (0..m * stride).map(|at| value(3, at)).collect();
            let views = [View::rows(&left, m.max(1)).transposed(), View::rows(&right, n)];
            let (mut one, mut shared) = (before.clone(), before.clone());
            add_product(&mut one, stride, [m, n, k], -2.0, views[0], views[1]);
            add_product_parallel(&mut shared, stride, [m, n, k], -2.0, views[0], views[1]);
            for (at, &before) in before.iter().enumerate() {
                let (i, j) = (at / stride, at % stride);
                let sum: f64 = (0..k).map(|l| left[l * m + i] * right[l * n + j.min(n - 1)]).sum();
                let want = if j < n { before - 2.0 * sum } else { before };
                assert_eq!([one[at], shared[at]], [want; 2], "{m} × {n} × {k}: {i}, {j}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "the factors have the product's shape")]
    fn factors_must_fit() {
        add_product(&mut [0.0; 4], 2, [2, 2, 2], 1.0, View::rows(&[1.0; 4], 2), View::rows(&[1.0; 3], 2));
    }
}
