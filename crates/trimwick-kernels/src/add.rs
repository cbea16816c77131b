//! Sums of tensors: what a residual stream and the gradients of a graph are made of.

use rayon::prelude::*;

use crate::cpu::wide;
use crate::real::Real;

/// Elements one task works on.
const CHUNK: usize = 16 * 1024;
/// Below this length, clearing memory takes less time than waking other threads.
const PARALLEL_FROM: usize = 128 * 1024;

/// `len` zeros. Unlike `vec![0; len]`, large ones are cleared (and their pages touched) by all threads.
pub fn zeros<T: Real>(len: usize) -> Vec<T> {
    if len < PARALLEL_FROM {
        return vec![T::ZERO; len];
    }
    let mut out = Vec::with_capacity(len);
    out.spare_capacity_mut()[..len].par_chunks_mut(CHUNK).for_each(|chunk| {
        for slot in chunk {
            slot.write(T::ZERO);
        }
    });
    // SAFETY: the capacity is at least `len`, and the loop has written each of the first `len` elements.
    unsafe { out.set_len(len) };
    out
}

wide! {
    fn add_chunk<T: Real>(a: &[T], b: &[T], y: &mut [T]) {
        for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
            *y = a + b;
        }
    }
}

wide! {
    fn add_assign_chunk<T: Real>(y: &mut [T], x: &[T]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y += x;
        }
    }
}

wide! {
    fn scale_chunk<T: Real>(x: &[T], factor: T, y: &mut [T], accumulate: bool) {
        if accumulate {
            for (y, &x) in y.iter_mut().zip(x) {
                *y += x * factor;
            }
        } else {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = x * factor;
            }
        }
    }
}

wide! {
    pub(crate) fn scale_chunk_in_place<T: Real>(x: &mut [T], factor: T) {
        for x in x {
            *x *= factor;
        }
    }
}

/// y = a + b.
///
/// # Panics
/// When the slices differ in length.
pub fn add<T: Real>(a: &[T], b: &[T], y: &mut [T]) {
    assert!(a.len() == b.len() && a.len() == y.len(), "add: a, b and y differ in length");
    (y.par_chunks_mut(CHUNK), a.par_chunks(CHUNK), b.par_chunks(CHUNK))
        .into_par_iter()
        .for_each(|(y, a, b)| add_chunk(a, b, y));
}

/// y += x.
///
/// # Panics
/// When the slices differ in length.
pub fn add_assign<T: Real>(y: &mut [T], x: &[T]) {
    assert!(x.len() == y.len(), "add_assign: x and y differ in length");
    (y.par_chunks_mut(CHUNK), x.par_chunks(CHUNK)).into_par_iter().for_each(|(y, x)| add_assign_chunk(y, x));
}

/// y = factor · x, or y += factor · x with `accumulate`.
///
/// # Panics
/// When the slices differ in length.
pub fn scale_into<T: Real>(x: &[T], factor: T, y: &mut [T], accumulate: bool) {
    assert!(x.len() == y.len(), "scale_into: x and y differ in length");
    (y.par_chunks_mut(CHUNK), x.par_chunks(CHUNK))
        .into_par_iter()
        .for_each(|(y, x)| scale_chunk(x, factor, y, accumulate));
}

/// x = factor · x.
pub fn scale<T: Real>(x: &mut [T], factor: T) {
    x.par_chunks_mut(CHUNK).for_each(|x| scale_chunk_in_place(x, factor));
}

/// Adds `row` `[d]` to every row of `y` `[rows, d]`: the bias of a linear layer.
///
/// # Panics
/// When `y` is not whole rows.
pub fn add_row<T: Real>(y: &mut [T], row: &[T]) {
    let rows = rows_per_task("add_row", y.len(), row.len());
    y.par_chunks_mut(rows * row.len()).for_each(|y| {
        y.chunks_exact_mut(row.len()).for_each(|y| add_assign_chunk(y, row));
    });
}

/// out = Σ over the rows of `x` `[rows, d]`: the gradient of a bias `[d]`. Pieces of some rows are added first, then the
/// pieces in their order.
///
/// # Panics
/// When `x` is not whole rows.
pub fn sum_rows<T: Real>(x: &[T], out: &mut [T]) {
    let d = out.len();
    let rows = rows_per_task("sum_rows", x.len(), d);
    let mut parts = vec![T::ZERO; x.len().div_ceil(rows * d) * d];
    (parts.par_chunks_exact_mut(d), x.par_chunks(rows * d)).into_par_iter().for_each(|(part, x)| {
        x.chunks_exact(d).for_each(|x| add_assign_chunk(part, x));
    });
    add_parts(&parts, out);
}

/// out = the sum of the rows of `parts`, in their order.
pub(crate) fn add_parts<T: Real>(parts: &[T], out: &mut [T]) {
    out.fill(T::ZERO);
    parts.chunks_exact(out.len()).for_each(|part| add_assign_chunk(out, part));
}

/// Rows of width `d` that one task works on: a function of the shape alone, since it decides the order of sums.
fn rows_per_task(op: &str, len: usize, d: usize) -> usize {
    assert!(d > 0 && len.is_multiple_of(d), "{op}: {len} elements are not a whole number of rows of {d}");
    (CHUNK / d).max(1)
}
