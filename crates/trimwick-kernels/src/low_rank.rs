//! The nearest matrix of low rank.

use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::svd::{ComputeSvdVectors, svd, svd_scratch};
use faer::{Mat, Par};

/// Factors `up` `[rows, rank]` and `down` `[rank, cols]` whose product is, of all matrices of that rank, nearest to `w`
/// `[rows, cols]` in the sum of squares: the largest singular values, shared out to both by their roots. The rank is at
/// most that of the smaller side. f64 inside, on the calling thread.
///
/// `None` when `w` holds a NaN or infinity, or the singular values do not converge.
///
/// # Panics
/// When `w` does not have the length of its shape.
pub fn low_rank(w: &[f32], rows: usize, cols: usize, rank: usize) -> Option<(Vec<f32>, Vec<f32>)> {
    assert!(w.len() == rows * cols, "low_rank: {} elements, expected {rows}×{cols}", w.len());
    if w.iter().any(|v| !v.is_finite()) {
        return None;
    }
    let size = rows.min(cols);
    let rank = rank.min(size);
    let a = Mat::from_fn(rows, cols, |i, j| f64::from(w[i * cols + j]));
    let (mut u, mut v) = (Mat::<f64>::zeros(rows, size), Mat::<f64>::zeros(cols, size));
    let mut s = Diag::<f64>::zeros(size);
    let thin = ComputeSvdVectors::Thin;
    let mut memory = MemBuffer::new(svd_scratch::<f64>(rows, cols, thin, thin, Par::Seq, Default::default()));
    let stack = MemStack::new(&mut memory);
    svd(a.as_ref(), s.as_mut(), Some(u.as_mut()), Some(v.as_mut()), Par::Seq, stack, Default::default())
        .ok()?;
    let root = |k: usize| s.column_vector()[k].max(0.).sqrt();
    let up = (0..rows).flat_map(|i| (0..rank).map(move |k| (i, k))).map(|(i, k)| u[(i, k)] * root(k));
    let down = (0..rank).flat_map(|k| (0..cols).map(move |j| (k, j))).map(|(k, j)| v[(j, k)] * root(k));
    Some((up.map(|v| v as f32).collect(), down.map(|v| v as f32).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_of_that_rank_comes_back() {
        for (rows, cols) in [(5, 9), (9, 5)] {
            // 3·a·bᵀ + c·dᵀ.
            let w: Vec<f32> = (0..rows * cols)
                .map(|i| {
                    let (r, c) = ((i / cols) as f32, (i % cols) as f32);
                    3. * (r - 1.5) * (0.5 + c) + (r * r - 2.) * (c - 2.)
                })
                .collect();
            let (up, down) = low_rank(&w, rows, cols, 2).unwrap();
            let product = |r: usize, c: usize| up[r * 2] * down[c] + up[r * 2 + 1] * down[cols + c];
            for (i, w) in w.iter().enumerate() {
                assert!((product(i / cols, i % cols) - w).abs() < 1e-4 * w.abs().max(10.), "element {i}");
            }
            assert_eq!(low_rank(&w, rows, cols, 99).unwrap().0.len(), rows * 5);
            let mut broken = w.clone();
            broken[3] = f32::NAN;
            assert!(low_rank(&broken, rows, cols, 2).is_none());
        }
    }
}
