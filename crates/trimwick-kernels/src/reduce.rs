//! Whole-tensor reductions for the training loop.

use rayon::prelude::*;

use crate::cpu::wide;

const CHUNK: usize = 64 * 1024;
const LANES: usize = 8;

/// Σ x², in f64.
///
/// Pieces of a fixed size are summed over eight lanes each and the pieces are added in order, so the result does not
/// depend on the number of threads. Squares of f32 are exact in f64.
pub fn sum_squares(x: &[f32]) -> f64 {
    let parts: Vec<f64> = x.par_chunks(CHUNK).map(chunk_sum_squares).collect();
    parts.iter().sum()
}

wide! {
    fn chunk_sum_squares(x: &[f32]) -> f64 {
        let mut acc = [0.0f64; LANES];
        let (chunks, rest) = x.as_chunks::<LANES>();
        for chunk in chunks {
            for (a, &v) in acc.iter_mut().zip(chunk) {
                *a += f64::from(v) * f64::from(v);
            }
        }
        for (a, &v) in acc.iter_mut().zip(rest) {
            *a += f64::from(v) * f64::from(v);
        }
        acc.iter().sum()
    }
}

/// Whether no element is NaN or infinite. True for an empty slice.
pub fn all_finite(x: &[f32]) -> bool {
    x.par_chunks(CHUNK).all(chunk_is_finite)
}

wide! {
    fn chunk_is_finite(x: &[f32]) -> bool {
        const EXPONENT: u32 = 0x7f80_0000;
        // Without an early exit, so that the loop vectorizes.
        !x.iter().fold(false, |bad, v| bad | (v.to_bits() & EXPONENT == EXPONENT))
    }
}
