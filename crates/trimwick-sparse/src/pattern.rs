//! Which elements of a weight a mask may keep.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use trimwick_kernels as kernels;

use crate::{Error, Result};

/// Largest group of an N:M pattern.
const MAX_GROUP: usize = 64;

/// A sparsity pattern over a weight `[out, in]` (a convolution's `[out, in, kh, kw]` counts as `[out·kh·kw, in]`).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Pattern {
    /// At most `n` of every `m` consecutive inputs are kept.
    Nm {
        /// Kept in each group.
        n: usize,
        /// Group along the input axis.
        m: usize,
    },
    /// The share `sparsity` of each layer's weights is dropped, wherever they are.
    Unstructured {
        /// Share dropped, in (0, 1).
        sparsity: f64,
    },
}

impl Pattern {
    /// Two of four: what sparse tensor cores take.
    pub const TWO_FOUR: Self = Self::Nm { n: 2, m: 4 };

    /// An N:M pattern.
    ///
    /// # Errors
    /// Unless `0 < n < m ≤ 64`.
    pub fn nm(n: usize, m: usize) -> Result<Self> {
        match n > 0 && n < m && m <= MAX_GROUP {
            true => Ok(Self::Nm { n, m }),
            false => Err(Error::Pattern { found: format!("{n}:{m}") }),
        }
    }

    /// An unstructured pattern.
    ///
    /// # Errors
    /// Unless `0 < sparsity < 1`.
    pub fn unstructured(sparsity: f64) -> Result<Self> {
        match sparsity > 0. && sparsity < 1. {
            true => Ok(Self::Unstructured { sparsity }),
            false => Err(Error::Pattern { found: format!("unstructured {sparsity}") }),
        }
    }

    /// Share of weights dropped.
    pub fn sparsity(&self) -> f64 {
        match *self {
            Self::Nm { n, m } => 1. - n as f64 / m as f64,
            Self::Unstructured { sparsity } => sparsity,
        }
    }

    /// Whether a layer of `inputs` inputs can take the pattern.
    ///
    /// # Errors
    /// [`Error::Shape`], naming the layer.
    pub fn check(&self, layer: &str, inputs: usize) -> Result<()> {
        match *self {
            Self::Nm { m, .. } if !inputs.is_multiple_of(m) => {
                Err(Error::Shape { layer: layer.into(), pattern: self.to_string(), group: m, inputs })
            }
            _ => Ok(()),
        }
    }

    /// The mask of the best-scored elements of `[rows, cols]` scores; ties go to the lowest index.
    ///
    /// # Errors
    /// [`Error::Score`] on a NaN score, [`Error::Shape`].
    pub fn select(&self, layer: &str, scores: &[f32], cols: usize) -> Result<Vec<u8>> {
        self.check(layer, cols)?;
        let mut bits = vec![0; kernels::bits_len(scores.len())];
        let selected = match *self {
            Self::Nm { n, m } => kernels::select_nm(scores, cols, n, m, &mut bits),
            Self::Unstructured { sparsity } => {
                let keep = scores.len() - (scores.len() as f64 * sparsity).round() as usize;
                kernels::select_top(scores, keep, &mut bits)
            }
        };
        selected.map_err(|source| Error::Score { layer: layer.into(), source })?;
        Ok(bits)
    }

    /// Number of groups in which `values` `[rows, cols]` hold more than N elements that are not +0.0; 0 for an
    /// unstructured pattern, which has no groups.
    pub fn violations(&self, values: &[f32], cols: usize) -> usize {
        match *self {
            Self::Nm { n, m } => kernels::violations_nm(values, cols, n, m),
            Self::Unstructured { .. } => 0,
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nm { n, m } => write!(f, "{n}:{m}"),
            Self::Unstructured { sparsity } => write!(f, "unstructured {sparsity}"),
        }
    }
}

impl FromStr for Pattern {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let bad = || Error::Pattern { found: s.into() };
        if let Some(share) = s.strip_prefix("unstructured") {
            return Self::unstructured(share.trim().parse().map_err(|_| bad())?).map_err(|_| bad());
        }
        let (n, m) = s.split_once(':').ok_or_else(bad)?;
        Self::nm(n.parse().map_err(|_| bad())?, m.parse().map_err(|_| bad())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_it_prints() {
        for text in ["2:4", "4:8", "1:4", "unstructured 0.5"] {
            assert_eq!(text.parse::<Pattern>().unwrap().to_string(), text);
        }
        for text in
            ["", "2", "4:4", "0:4", "2:128", "unstructured", "unstructured 1", "unstructured NaN", "2:4:8"]
        {
            assert!(text.parse::<Pattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_layer_that_does_not_divide_is_named() {
        let e = Pattern::TWO_FOUR.check("model.x", 10).unwrap_err().to_string();
        assert!(e.contains("model.x") && e.contains("10 % 4"), "{e}");
    }
}
