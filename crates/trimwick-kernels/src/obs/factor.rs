//! The upper Cholesky factor of the inverse Hessian.
//!
//! U comes from one Cholesky factorization, without forming H⁻¹: with J the reversal of the order of the
//! columns, J·H·J = L·Lᵀ gives H = R·Rᵀ for the upper triangular R = J·L·J, hence H⁻¹ = (R⁻¹)ᵀ·R⁻¹ and U = R⁻¹.

use std::cmp::Ordering;

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor;
use faer::linalg::triangular_inverse::invert_lower_triangular;
use faer::{Mat, Par};
use rayon::prelude::*;

/// The least damping of a second attempt, when the first was without any.
const LEAST: f64 = 1e-4;

/// Why a Hessian has no factor.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum FactorError {
    /// NaN or infinity in the sums over the inputs.
    #[error("element {index} of the Hessian is NaN or infinite, expected a finite number")]
    NonFinite {
        /// Row-major position.
        index: usize,
    },
    /// Not positive definite, whatever the damping.
    #[error("the Hessian is not positive definite, even with a damping of {damping} of its mean diagonal")]
    NotPositive {
        /// The largest damping tried, as a share of the mean diagonal.
        damping: f64,
    },
}

/// U, with H⁻¹ = Uᵀ·U.
#[derive(Debug, Clone)]
pub struct Factor {
    u: Vec<f64>,
    cols: usize,
    damping: f64,
    retries: u32,
    dead: Vec<usize>,
}

impl Factor {
    /// The factor of H = (2/n)·G + λI, where G = Σ x xᵀ is `gram`, `[cols, cols]`, over n = `tokens` inputs.
    ///
    /// λ is `damping` times the mean diagonal of H. When that does not make H positive definite, H is built anew with
    /// ten times the damping (at least 1e-4), up to `retries` times. A dead input, whose diagonal is 0, gets a
    /// diagonal of 1. With `order`, row and column i of H are those of input `order[i]`.
    ///
    /// # Errors
    /// [`FactorError`].
    ///
    /// # Panics
    /// When `gram` is not `[cols, cols]` or `order` is not of `cols` indices.
    pub fn new(
        gram: &[f32],
        tokens: u64,
        cols: usize,
        damping: f64,
        retries: u32,
        order: Option<&[usize]>,
    ) -> Result<Self, FactorError> {
        assert!(gram.len() == cols * cols, "Factor: a gram of {} elements for {cols} inputs", gram.len());
        if let Some(order) = order {
            assert!(order.len() == cols, "Factor: an order of {} for {cols} inputs", order.len());
        }
        let scale = 2. / tokens as f64;
        if let Some(index) = gram.iter().position(|&g| !(f64::from(g) * scale).is_finite()) {
            return Err(FactorError::NonFinite { index });
        }
        let at = |i: usize| order.map_or(i, |order| order[i]);
        let diagonal = |j: usize| match gram[j * cols + j] {
            0. => 1.,
            g => f64::from(g) * scale,
        };
        let dead = (0..cols).filter(|j| gram[j * cols + j] == 0.).collect();
        let mean = (0..cols).map(diagonal).sum::<f64>() / cols as f64;
        let h = |i: usize, j: usize| {
            let (i, j) = (at(i), at(j));
            if i == j { diagonal(j) } else { f64::from(gram[i * cols + j]) * scale }
        };
        let mut damping = damping;
        for attempt in 0..=retries {
            if let Some(u) = inverse_factor(h, cols, damping * mean) {
                return Ok(Self { u, cols, damping, retries: attempt, dead });
            }
            if attempt < retries {
                damping = (damping * 10.).max(LEAST);
            }
        }
        Err(FactorError::NotPositive { damping })
    }

    /// Row `i` of U, `[cols]`; zero left of its diagonal.
    pub fn row(&self, i: usize) -> &[f64] {
        &self.u[i * self.cols..(i + 1) * self.cols]
    }

    /// U_jj.
    pub fn diagonal(&self, j: usize) -> f64 {
        self.u[j * self.cols + j]
    }

    /// Number of inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The damping with which H was positive definite, as a share of its mean diagonal.
    pub fn damping(&self) -> f64 {
        self.damping
    }

    /// How often the damping had to be raised.
    pub fn retries(&self) -> u32 {
        self.retries
    }

    /// Inputs that were zero in every token, as they were numbered before any reordering.
    pub fn dead(&self) -> &[usize] {
        &self.dead
    }

    pub(super) fn values(&self) -> &[f64] {
        &self.u
    }
}

/// U with H⁻¹ = Uᵀ·U for h + λI, or `None` when that is not positive definite.
fn inverse_factor(h: impl Fn(usize, usize) -> f64, n: usize, lambda: f64) -> Option<Vec<f64>> {
    let flip = |i: usize| n - 1 - i;
    // The lower triangle is all that is read.
    let at = |i: usize, j: usize| match i.cmp(&j) {
        Ordering::Less => 0.,
        Ordering::Equal => h(flip(i), flip(j)) + lambda,
        Ordering::Greater => h(flip(i), flip(j)),
    };
    let mut l = Mat::from_fn(n, n, at);
    // Threads share the products of blocks, whose cuts do not change an element's sum.
    let par = Par::rayon(0);
    let scratch = factor::cholesky_in_place_scratch::<f64>(n, par, Default::default());
    let mut memory = MemBuffer::new(scratch);
    let stack = MemStack::new(&mut memory);
    factor::cholesky_in_place(l.as_mut(), Default::default(), par, stack, Default::default()).ok()?;
    let mut inverse = Mat::<f64>::zeros(n, n);
    invert_lower_triangular(inverse.as_mut(), l.as_ref(), par);
    // Three such matrices of a wide layer would be gigabytes.
    drop(l);
    let mut u = vec![0.; n * n];
    // Columns of the inverse are rows of U, from back to front.
    u.par_chunks_exact_mut(n.max(1)).enumerate().for_each(|(i, row)| {
        for (j, value) in row.iter_mut().enumerate().skip(i) {
            *value = inverse[(flip(i), flip(j))];
        }
    });
    u.iter().all(|v| v.is_finite()).then_some(u)
}
