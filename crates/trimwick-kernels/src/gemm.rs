//! Matrix products, by faer's kernels behind bounds checks.
//!
//! A large product is cut into tiles of its output, each of which one thread computes. Where the cuts fall depends on
//! the shape alone, so that the result does not depend on the number of threads. On two cores of a machine with
//! AVX-512 the tiles of a linear layer's products run at 1.3 to 1.5 times the rate of the `gemm` crate's own threading.
//!
//! The three shapes a linear layer needs are named by what is transposed: `nt` for y = x·wᵀ, `nn` for dx = g·w and
//! `tn` for dw = gᵀ·x. [`matmul_strided`] takes any strides; attention uses it on the heads of interleaved tensors.

use faer::{Accum, Par};
use rayon::prelude::*;

use crate::real::Real;

/// Below this number of multiplications, waking other threads costs more than they save.
const PARALLEL_FROM: usize = 48 * 48 * 256;
/// Rows and columns of a tile of the output: packed once, its part of the right side stays in the second cache.
const TILE: (usize, usize) = (256, 256);
/// The same for outputs so small that [`TILE`] would leave most threads of a large machine idle.
const SMALL_TILE: (usize, usize) = (128, 192);
/// Elements of the output from which it is cut into [`TILE`]s.
const LARGE: usize = 512 * 1024;

/// Whether a product may use the threads of the current rayon pool. The result is the same, bit for bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threading {
    /// All threads of the pool when the product is large enough.
    Pool,
    /// The calling thread alone: for use inside of parallel tasks.
    Single,
}

/// A read-only matrix over a slice: element (i, j) is `data[i * row_stride + j * col_stride]`.
#[derive(Debug, Clone, Copy)]
pub struct MatRef<'a, T> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

/// A writable matrix over a slice: element (i, j) is `data[i * row_stride + j * col_stride]`.
#[derive(Debug)]
pub struct MatMut<'a, T> {
    data: &'a mut [T],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

/// Panics unless every element of the matrix lies inside of a slice of `len` elements.
fn check_bounds(len: usize, rows: usize, cols: usize, row_stride: usize, col_stride: usize) {
    if rows == 0 || cols == 0 {
        return;
    }
    let last = (rows - 1)
        .checked_mul(row_stride)
        .and_then(|r| (cols - 1).checked_mul(col_stride).and_then(|c| r.checked_add(c)));
    assert!(
        last.is_some_and(|last| last < len && last <= isize::MAX as usize),
        "matrix of {rows}×{cols} with strides {row_stride}, {col_stride} does not fit in {len} elements"
    );
}

impl<'a, T: Real> MatRef<'a, T> {
    /// A matrix of `rows` × `cols` elements with the given strides, in elements.
    ///
    /// # Panics
    /// When an element would lie outside of `data`.
    pub fn new(data: &'a [T], rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> Self {
        check_bounds(data.len(), rows, cols, row_stride, col_stride);
        MatRef { data, rows, cols, row_stride, col_stride }
    }

    /// The transposed matrix over the same data.
    pub fn t(self) -> Self {
        MatRef {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    fn view(self) -> faer::MatRef<'a, T> {
        let strides = (self.row_stride as isize, self.col_stride as isize);
        // SAFETY: `check_bounds` has found every element inside of the slice, which is borrowed for 'a. The strides fit
        // an isize where they are used: the offset of the last element was checked to, and a stride of a dimension of
        // extent 1 is never multiplied by more than 0.
        unsafe {
            faer::MatRef::from_raw_parts(self.data.as_ptr(), self.rows, self.cols, strides.0, strides.1)
        }
    }
}

impl<'a, T: Real> MatMut<'a, T> {
    /// A matrix of `rows` × `cols` elements with the given strides, in elements.
    ///
    /// # Panics
    /// When an element would lie outside of `data`, or when two elements could be the same one: the larger stride
    /// must be greater than the extent of the other dimension.
    pub fn new(data: &'a mut [T], rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> Self {
        check_bounds(data.len(), rows, cols, row_stride, col_stride);
        let apart = |inner: usize, inner_stride: usize, outer: usize, outer_stride: usize| {
            (inner <= 1 || inner_stride > 0) && (outer <= 1 || outer_stride > (inner - 1) * inner_stride)
        };
        assert!(
            rows == 0
                || cols == 0
                || apart(cols, col_stride, rows, row_stride)
                || apart(rows, row_stride, cols, col_stride),
            "matrix of {rows}×{cols} with strides {row_stride}, {col_stride} overlaps itself"
        );
        MatMut { data, rows, cols, row_stride, col_stride }
    }

    fn view(self) -> faer::MatMut<'a, T> {
        let strides = (self.row_stride as isize, self.col_stride as isize);
        // SAFETY: as for `MatRef`; the slice is borrowed mutably for 'a, and the constructor has found no two elements
        // of the matrix to be the same one.
        unsafe {
            faer::MatMut::from_raw_parts_mut(
                self.data.as_mut_ptr(),
                self.rows,
                self.cols,
                strides.0,
                strides.1,
            )
        }
    }
}

/// c = scale · a·b, or c += scale · a·b with `accumulate`.
///
/// `a` is `[m, k]`, `b` is `[k, n]` and `c` is `[m, n]`, each with its own strides.
///
/// # Panics
/// When the shapes do not agree.
pub fn matmul_strided<T: Real>(
    a: MatRef<'_, T>,
    b: MatRef<'_, T>,
    c: MatMut<'_, T>,
    scale: T,
    accumulate: bool,
    threading: Threading,
) {
    assert!(
        a.cols == b.rows && a.rows == c.rows && b.cols == c.cols,
        "matmul: [{}, {}] · [{}, {}] into [{}, {}]",
        a.rows,
        a.cols,
        b.rows,
        b.cols,
        c.rows,
        c.cols
    );
    let (m, n, k) = (c.rows, c.cols, a.cols);
    let accumulate = if accumulate { Accum::Add } else { Accum::Replace };
    let (a, b, c) = (a.view(), b.view(), c.view());
    if threading == Threading::Single || m.saturating_mul(n).saturating_mul(k) <= PARALLEL_FROM {
        return faer::linalg::matmul::matmul(c, accumulate, a, b, scale, Par::Seq);
    }
    let (rows, cols) = if m.saturating_mul(n) < LARGE { SMALL_TILE } else { TILE };
    c.par_row_chunks_mut(rows).enumerate().for_each(|(i, c)| {
        let a = a.subrows(i * rows, c.nrows());
        c.par_col_chunks_mut(cols).enumerate().for_each(|(j, c)| {
            let b = b.subcols(j * cols, c.ncols());
            faer::linalg::matmul::matmul(c, accumulate, a, b, scale, Par::Seq);
        });
    });
}

/// y = x·wᵀ, or y += x·wᵀ with `accumulate`: the forward of a linear layer.
///
/// `x` is `[m, k]`, `w` is `[n, k]`, `y` is `[m, n]`.
///
/// # Panics
/// When a slice does not have the length of its shape.
pub fn matmul_nt<T: Real>(x: &[T], w: &[T], y: &mut [T], m: usize, k: usize, n: usize, accumulate: bool) {
    check("x", x.len(), m, k);
    check("w", w.len(), n, k);
    check("y", y.len(), m, n);
    let (a, b) = (MatRef::new(x, m, k, k, 1), MatRef::new(w, n, k, k, 1).t());
    matmul_strided(a, b, MatMut::new(y, m, n, n, 1), T::ONE, accumulate, Threading::Pool);
}

/// dx = g·w, or dx += g·w with `accumulate`: the gradient of a linear layer with respect to its input.
///
/// `g` is `[m, n]`, `w` is `[n, k]`, `dx` is `[m, k]`.
///
/// # Panics
/// When a slice does not have the length of its shape.
pub fn matmul_nn<T: Real>(g: &[T], w: &[T], dx: &mut [T], m: usize, n: usize, k: usize, accumulate: bool) {
    check("g", g.len(), m, n);
    check("w", w.len(), n, k);
    check("dx", dx.len(), m, k);
    let (a, b) = (MatRef::new(g, m, n, n, 1), MatRef::new(w, n, k, k, 1));
    matmul_strided(a, b, MatMut::new(dx, m, k, k, 1), T::ONE, accumulate, Threading::Pool);
}

/// dw = gᵀ·x, or dw += gᵀ·x with `accumulate`: the gradient of a linear layer with respect to its weight.
///
/// `g` is `[m, n]`, `x` is `[m, k]`, `dw` is `[n, k]`.
///
/// # Panics
/// When a slice does not have the length of its shape.
pub fn matmul_tn<T: Real>(g: &[T], x: &[T], dw: &mut [T], m: usize, n: usize, k: usize, accumulate: bool) {
    check("g", g.len(), m, n);
    check("x", x.len(), m, k);
    check("dw", dw.len(), n, k);
    let (a, b) = (MatRef::new(g, m, n, n, 1).t(), MatRef::new(x, m, k, k, 1));
    matmul_strided(a, b, MatMut::new(dw, n, k, k, 1), T::ONE, accumulate, Threading::Pool);
}

/// g += xᵀ·x on and above the diagonal, of `x` `[m, k]` and `g` `[k, k]`; [`mirror`] fills in the rest when all is added.
/// Below the diagonal `g` holds nothing of use until then.
///
/// # Panics
/// When a slice does not have the length of its shape.
pub fn add_gram<T: Real>(x: &[T], g: &mut [T], k: usize) {
    let m = x.len() / k.max(1);
    check("x", x.len(), m, k);
    check("g", g.len(), k, k);
    let (a, b) = (MatRef::new(x, m, k, k, 1).t().view(), MatRef::new(x, m, k, k, 1).view());
    let g = MatMut::new(g, k, k, k, 1).view();
    let (rows, cols) = if k * k < LARGE { SMALL_TILE } else { TILE };
    g.par_row_chunks_mut(rows).enumerate().for_each(|(i, g)| {
        let a = a.subrows(i * rows, g.nrows());
        g.par_col_chunks_mut(cols).enumerate().filter(|(j, g)| j * cols + g.ncols() > i * rows).for_each(
            |(j, g)| {
                let b = b.subcols(j * cols, g.ncols());
                faer::linalg::matmul::matmul(g, Accum::Add, a, b, T::ONE, Par::Seq);
            },
        );
    });
}

/// Copies what is above the diagonal of `g`, `[k, k]`, to below it. An empty one stays empty.
///
/// # Panics
/// When `g` is neither empty nor `[k, k]`.
pub fn mirror<T: Real>(g: &mut [T], k: usize) {
    if g.is_empty() {
        return;
    }
    check("g", g.len(), k, k);
    for i in 1..k {
        let (above, row) = g.split_at_mut(i * k);
        (0..i).for_each(|j| row[j] = above[j * k + i]);
    }
}

fn check(name: &str, len: usize, rows: usize, cols: usize) {
    assert!(Some(len) == rows.checked_mul(cols), "matmul: {name} has {len} elements, expected {rows}×{cols}");
}
