//! SparseGPT (arXiv 2301.00774): prune column by column and let the columns to the right make up for the error.
//!
//! With H = (2/n)·Σ x xᵀ + λI and H⁻¹ = Uᵀ·U (U upper triangular), dropping w_j costs (w_j / U_jj)²; the error
//! (w_j − q_j) / U_jj times row j of U is taken from the columns after j. **The updated weights are kept.**
//!
//! U comes from one Cholesky factorization, without forming H⁻¹: with J the reversal of the order of the
//! columns, J·H·J = L·Lᵀ gives H = R·Rᵀ for the upper triangular R = J·L·J, hence H⁻¹ = (R⁻¹)ᵀ·R⁻¹ and U = R⁻¹.
//! All of it is in f64 and on one thread for each row, so the result does not depend on the number of threads.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor;
use faer::linalg::triangular_inverse::invert_lower_triangular;
use faer::{Mat, Par};
use rayon::prelude::*;
use trimwick_kernels::{MatMut, MatRef, Threading, matmul_strided};

use crate::method::{Method, Weight, require};
use crate::pattern::Pattern;
use crate::statistics::{InputStats, Needs};
use crate::{Error, Result};

/// Raise the damping this many times, tenfold each, before giving a Hessian up.
const RETRIES: u32 = 3;

/// SparseGPT with its weight update.
#[derive(Debug, Clone, Copy)]
pub struct SparseGpt {
    /// λ as a share of H's mean diagonal; the paper takes 0.01.
    pub damping: f64,
    /// Columns whose error is passed on together; a multiple of M for an N:M pattern. The paper takes 128.
    pub block: usize,
}

impl Default for SparseGpt {
    fn default() -> Self {
        Self { damping: 0.01, block: 128 }
    }
}

impl Method for SparseGpt {
    fn name(&self) -> &'static str {
        "sparsegpt"
    }

    fn needs(&self) -> Needs {
        Needs::Gram
    }

    fn prune(&self, weight: Weight<'_>, pattern: Pattern, stats: Option<&InputStats>) -> Result<Vec<u8>> {
        let Weight { layer, values, cols } = weight;
        pattern.check(layer, cols)?;
        let stats = require(stats, layer, self.name())?;
        if let Some(index) = values.iter().position(|w| !w.is_finite()) {
            return Err(Error::NonFinite { layer: layer.into(), what: "weight", index });
        }
        let mut w: Vec<f64> = values.iter().map(|&w| f64::from(w)).collect();
        let u = self.factor(layer, stats, cols, &mut w)?;
        let mut kept = vec![true; w.len()];
        // A block must hold whole groups, or the scores of a group would mix updated and stale columns.
        let block = match pattern {
            Pattern::Nm { m, .. } => self.block.next_multiple_of(m),
            Pattern::Unstructured { .. } => self.block.max(1),
        };
        for from in (0..cols).step_by(block) {
            let to = (from + block).min(cols);
            if let Pattern::Unstructured { sparsity } = pattern {
                choose_in_block(&w, &u, &mut kept, [from, to, cols], sparsity);
            }
            let errors = sweep(&mut w, &u, &mut kept, [from, to, cols], pattern);
            if to < cols {
                pass_on(&mut w, &u, &errors, [from, to, cols]);
            }
        }
        for (out, w) in values.iter_mut().zip(&w) {
            *out = *w as f32;
        }
        Ok(pack(&kept))
    }
}

impl SparseGpt {
    /// U `[cols, cols]`, upper triangular, row-major. Weights of dead inputs (H_jj = 0) become zero.
    fn factor(&self, layer: &str, stats: &InputStats, cols: usize, w: &mut [f64]) -> Result<Vec<f64>> {
        let scale = 2. / stats.tokens as f64;
        let mut h: Vec<f64> = stats.gram.iter().map(|&g| f64::from(g) * scale).collect();
        if let Some(index) = h.iter().position(|v| !v.is_finite()) {
            return Err(Error::NonFinite { layer: layer.into(), what: "Hessian", index });
        }
        for j in (0..cols).filter(|j| stats.gram[j * cols + j] == 0.) {
            h[j * cols + j] = 1.;
            w.iter_mut().skip(j).step_by(cols).for_each(|v| *v = 0.);
        }
        let mean = (0..cols).map(|j| h[j * cols + j]).sum::<f64>() / cols as f64;
        let mut damping = self.damping;
        for attempt in 0..=RETRIES {
            if let Some(u) = inverse_factor(&h, cols, damping * mean) {
                return Ok(u);
            }
            if attempt < RETRIES {
                damping = (damping * 10.).max(1e-4);
            }
        }
        Err(Error::Cholesky { layer: layer.into(), damping })
    }
}

/// U with H⁻¹ = Uᵀ·U for H = h + λI, or `None` when H is not positive definite.
fn inverse_factor(h: &[f64], n: usize, lambda: f64) -> Option<Vec<f64>> {
    let flip = |i: usize| n - 1 - i;
    let mut l = Mat::from_fn(n, n, |i, j| h[flip(i) * n + flip(j)] + if i == j { lambda } else { 0. });
    let scratch = factor::cholesky_in_place_scratch::<f64>(n, Par::Seq, Default::default());
    let mut memory = MemBuffer::new(scratch);
    let stack = MemStack::new(&mut memory);
    factor::cholesky_in_place(l.as_mut(), Default::default(), Par::Seq, stack, Default::default()).ok()?;
    let mut inverse = Mat::<f64>::zeros(n, n);
    invert_lower_triangular(inverse.as_mut(), l.as_ref(), Par::Seq);
    let mut u = vec![0.; n * n];
    for i in 0..n {
        for j in i..n {
            u[i * n + j] = inverse[(flip(i), flip(j))];
        }
    }
    u.iter().all(|v| v.is_finite()).then_some(u)
}

/// Marks the `sparsity` share of a block's weights that cost least to drop, over all rows together.
fn choose_in_block(w: &[f64], u: &[f64], kept: &mut [bool], [from, to, cols]: [usize; 3], sparsity: f64) {
    let mut costs: Vec<(f64, usize)> = (0..w.len() / cols)
        .flat_map(|r| (from..to).map(move |c| (r, c)))
        .map(|(r, c)| ((w[r * cols + c] / u[c * cols + c]).powi(2), r * cols + c))
        .collect();
    let drop = (costs.len() as f64 * sparsity).round() as usize;
    // Among equal costs the highest index goes: the lowest stays.
    let order = |a: &(f64, usize), b: &(f64, usize)| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1));
    if drop > 0 && drop < costs.len() {
        costs.select_nth_unstable_by(drop - 1, order);
    }
    for &(_, i) in &costs[..drop] {
        kept[i] = false;
    }
}

/// Prunes the columns of a block, passing each column's error on inside the block. Gives the errors
/// `[rows, to − from]`.
fn sweep(
    w: &mut [f64],
    u: &[f64],
    kept: &mut [bool],
    [from, to, cols]: [usize; 3],
    pattern: Pattern,
) -> Vec<f64> {
    let width = to - from;
    let mut errors = vec![0.; w.len() / cols * width];
    let rows = w.par_chunks_exact_mut(cols).zip(kept.par_chunks_exact_mut(cols));
    rows.zip(errors.par_chunks_exact_mut(width)).for_each(|((w, kept), errors)| {
        for j in from..to {
            if let Pattern::Nm { n, m } = pattern
                && j % m == 0
            {
                choose_in_group(&w[j..j + m], &mut kept[j..j + m], |i| u[(j + i) * cols + j + i], n);
            }
            if kept[j] {
                continue;
            }
            let error = w[j] / u[j * cols + j];
            let to_right = &u[j * cols + j + 1..j * cols + to];
            for (w, u) in w[j + 1..to].iter_mut().zip(to_right) {
                *w -= error * u;
            }
            w[j] = 0.;
            errors[j - from] = error;
        }
    });
    errors
}

/// Keeps the `n` of a group that would cost most to drop; ties: the lowest index stays.
fn choose_in_group(w: &[f64], kept: &mut [bool], diagonal: impl Fn(usize) -> f64, n: usize) {
    let cost = |i: usize| (w[i] / diagonal(i)).powi(2);
    let mut order: Vec<usize> = (0..w.len()).collect();
    order.sort_by(|&a, &b| cost(b).total_cmp(&cost(a)).then(a.cmp(&b)));
    for (rank, &i) in order.iter().enumerate() {
        kept[i] = rank < n;
    }
}

/// `W[:, to..] −= errors · U[from..to, to..]`.
fn pass_on(w: &mut [f64], u: &[f64], errors: &[f64], [from, to, cols]: [usize; 3]) {
    let (rows, width, rest) = (w.len() / cols, to - from, cols - to);
    matmul_strided(
        MatRef::new(errors, rows, width, width, 1),
        MatRef::new(&u[from * cols + to..], width, rest, cols, 1),
        MatMut::new(&mut w[to..], rows, rest, cols, 1),
        -1.,
        true,
        Threading::Pool,
    );
}

fn pack(kept: &[bool]) -> Vec<u8> {
    kept.chunks(8).map(|c| c.iter().enumerate().fold(0, |byte, (i, &k)| byte | (u8::from(k) << i))).collect()
}
