//! The loop over columns.

use std::ops::Range;

use rayon::prelude::*;

use super::factor::Factor;
use crate::cpu::wide;
use crate::gemm::{MatMut, MatRef, Threading, matmul_strided};

/// What a weight becomes when its column's turn comes.
pub trait Compress: Sync {
    /// What is kept for each row: its mask, its scales.
    type Row: Send;

    /// Called before the columns of a block are gone through, for choices over all rows together. `w` is
    /// `[rows, cols]`; the block's columns hold all corrections due to the columns before it.
    fn block(&self, _rows: &mut [Self::Row], _w: &[f64], _factor: &Factor, _columns: Range<usize>) {}

    /// The value that column `j` of a row becomes. `w` is the row; its columns from `j` to the end of the block hold all
    /// corrections so far.
    fn column(&self, row: &mut Self::Row, w: &[f64], factor: &Factor, j: usize) -> f64;
}

/// Changes the columns of `w`, `[rows, cols]`, from left to right to what `compress` makes of them, each column's error
/// taken from the columns to its right: within a block of `block` columns at once, beyond it after the block.
///
/// `state` has one element for each row.
///
/// # Panics
/// When the lengths do not agree or `block` is 0.
pub fn solve<C: Compress>(w: &mut [f64], factor: &Factor, block: usize, compress: &C, state: &mut [C::Row]) {
    let cols = factor.cols();
    assert!(block > 0, "solve: a block of 0 columns");
    assert!(w.len() == state.len() * cols, "solve: {} weights for {} rows of {cols}", w.len(), state.len());
    for from in (0..cols).step_by(block) {
        let to = (from + block).min(cols);
        compress.block(state, w, factor, from..to);
        let errors = sweep(w, factor, from..to, compress, state);
        if to < cols {
            pass_on(w, factor, &errors, from..to);
        }
    }
}

/// Goes through the columns of a block. Gives the errors `[rows, width]`.
fn sweep<C: Compress>(
    w: &mut [f64],
    factor: &Factor,
    columns: Range<usize>,
    compress: &C,
    state: &mut [C::Row],
) -> Vec<f64> {
    let (cols, width) = (factor.cols(), columns.len());
    let mut errors = vec![0.; state.len() * width];
    let rows = w.par_chunks_exact_mut(cols).zip(state.par_iter_mut());
    rows.zip(errors.par_chunks_exact_mut(width)).for_each(|((w, row), errors)| {
        for j in columns.clone() {
            let value = compress.column(row, w, factor, j);
            let u = factor.row(j);
            let error = (w[j] - value) / u[j];
            w[j] = value;
            if error != 0. {
                take_from(&mut w[j + 1..columns.end], error, &u[j + 1..columns.end]);
            }
            errors[j - columns.start] = error;
        }
    });
    errors
}

wide! {
    /// `w −= error · u`.
    fn take_from(w: &mut [f64], error: f64, u: &[f64]) {
        for (w, u) in w.iter_mut().zip(u) {
            *w -= error * u;
        }
    }
}

/// `W[:, end..] −= errors · U[start..end, end..]`.
fn pass_on(w: &mut [f64], factor: &Factor, errors: &[f64], columns: Range<usize>) {
    let (cols, width) = (factor.cols(), columns.len());
    let (rows, rest) = (w.len() / cols, cols - columns.end);
    matmul_strided(
        MatRef::new(errors, rows, width, width, 1),
        MatRef::new(&factor.values()[columns.start * cols + columns.end..], width, rest, cols, 1),
        MatMut::new(&mut w[columns.end..], rows, rest, cols, 1),
        -1.,
        true,
        Threading::Pool,
    );
}
