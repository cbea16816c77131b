//! SparseGPT (arXiv 2301.00774): prune column by column and let the columns to the right make up for the error.
//!
//! With H = (2/n)·Σ x xᵀ + λI and H⁻¹ = Uᵀ·U (U upper triangular), dropping w_j costs (w_j / U_jj)²; the error
//! (w_j − q_j) / U_jj times row j of U is taken from the columns after j. **The updated weights are kept.** The solver
//! is [`trimwick_kernels::obs`], which GPTQ shares.

use trimwick_kernels::obs::{FactorError, Prune, Select, solve};

use crate::method::{Method, Pruned, Weight, require};
use crate::pattern::Pattern;
use crate::statistics::{InputStats, Needs};
use crate::{Error, Result};

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

    fn prune(&self, weight: Weight<'_>, pattern: Pattern, stats: Option<&InputStats>) -> Result<Pruned> {
        let Weight { layer, values, cols } = weight;
        pattern.check(layer, cols)?;
        let stats = require(stats, layer, self.name())?;
        if let Some(index) = values.iter().position(|w| !w.is_finite()) {
            return Err(Error::NonFinite { layer: layer.into(), what: "weight", index });
        }
        let factor = stats.factor(cols, self.damping).map_err(|e| unfactored(e, layer))?;
        let mut w: Vec<f64> = values.iter().map(|&w| f64::from(w)).collect();
        for &dead in factor.dead() {
            w.iter_mut().skip(dead).step_by(cols).for_each(|v| *v = 0.);
        }
        let (select, block) = match pattern {
            // A block must hold whole groups, or the scores of a group would mix updated and stale columns.
            Pattern::Nm { n, m } => (Select::Nm { n, m }, self.block.next_multiple_of(m)),
            Pattern::Unstructured { sparsity } => (Select::Share(sparsity), self.block),
        };
        let mut kept = vec![vec![true; cols]; w.len() / cols];
        solve(&mut w, &factor, block.max(1), &Prune(select), &mut kept);
        for (out, w) in values.iter_mut().zip(&w) {
            *out = *w as f32;
        }
        let (retries, dead) = (factor.retries(), factor.dead().len());
        Ok(Pruned { bits: pack(&kept.concat()), damping: Some(factor.damping()), retries, dead })
    }
}

fn unfactored(e: FactorError, layer: &str) -> Error {
    match e {
        FactorError::NonFinite { index } => Error::NonFinite { layer: layer.into(), what: "Hessian", index },
        FactorError::NotPositive { damping } => Error::Cholesky { layer: layer.into(), damping },
    }
}

fn pack(kept: &[bool]) -> Vec<u8> {
    kept.chunks(8).map(|c| c.iter().enumerate().fold(0, |byte, (i, &k)| byte | (u8::from(k) << i))).collect()
}
