//! How the weights that stay are chosen.

use trimwick_kernels as kernels;

use crate::pattern::Pattern;
use crate::statistics::{InputStats, Needs};
use crate::{Error, Result};

/// A weight `[rows, cols]` to prune, row-major, and the name that errors call it by.
pub struct Weight<'a> {
    /// Layer path.
    pub layer: &'a str,
    /// Values, `[rows, cols]`; a method may update those that stay.
    pub values: &'a mut [f32],
    /// Inputs.
    pub cols: usize,
}

/// What became of a weight.
#[derive(Debug, Clone, PartialEq)]
pub struct Pruned {
    /// Which values stay, a bit each, row-major, least significant first.
    pub bits: Vec<u8>,
    /// The damping with which the Hessian was positive definite, as a share of its mean diagonal, where there is one.
    pub damping: Option<f64>,
    /// How often the damping had to be raised.
    pub retries: u32,
    /// Inputs that were zero in every calibration token.
    pub dead: usize,
}

impl Pruned {
    /// A mask that no Hessian was needed for.
    pub fn by_scores(bits: Vec<u8>) -> Self {
        Self { bits, damping: None, retries: 0, dead: 0 }
    }
}

/// A one-shot pruning method.
pub trait Method: Send + Sync {
    /// Name in recipes and errors.
    fn name(&self) -> &'static str;

    /// What it must know about a layer's inputs.
    fn needs(&self) -> Needs;

    /// Chooses the mask of a weight and, where the method does so, updates the weights that stay. Dropped
    /// values may be left as they are: fixing the mask zeroes them.
    ///
    /// # Errors
    /// A shape that the pattern does not divide, missing or broken statistics.
    fn prune(&self, weight: Weight<'_>, pattern: Pattern, stats: Option<&InputStats>) -> Result<Pruned>;
}

/// Keeps the largest `|w|`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Magnitude;

impl Method for Magnitude {
    fn name(&self) -> &'static str {
        "magnitude"
    }

    fn needs(&self) -> Needs {
        Needs::Nothing
    }

    fn prune(&self, weight: Weight<'_>, pattern: Pattern, _: Option<&InputStats>) -> Result<Pruned> {
        let scores: Vec<f32> = weight.values.iter().map(|w| w.abs()).collect();
        pattern.select(weight.layer, &scores, weight.cols).map(Pruned::by_scores)
    }
}

/// Keeps the largest `|w|·‖x_c‖₂`, x_c being the input that w multiplies, over the calibration tokens
/// (arXiv 2306.11695). An unstructured mask is chosen row by row, as the paper does.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanda;

impl Method for Wanda {
    fn name(&self) -> &'static str {
        "wanda"
    }

    fn needs(&self) -> Needs {
        Needs::Norms
    }

    fn prune(&self, weight: Weight<'_>, pattern: Pattern, stats: Option<&InputStats>) -> Result<Pruned> {
        let stats = require(stats, weight.layer, self.name())?;
        let norms: Vec<f32> = stats.squares.iter().map(|s| s.sqrt() as f32).collect();
        let mut scores = vec![0f32; weight.values.len()];
        for (out, row) in scores.chunks_exact_mut(weight.cols).zip(weight.values.chunks_exact(weight.cols)) {
            for ((s, w), n) in out.iter_mut().zip(row).zip(&norms) {
                *s = w.abs() * n;
            }
        }
        let bits = match pattern {
            Pattern::Nm { .. } => pattern.select(weight.layer, &scores, weight.cols)?,
            Pattern::Unstructured { .. } => by_row(weight.layer, pattern, &scores, weight.cols)?,
        };
        let dead = stats.squares.iter().filter(|&&sum| sum == 0.).count();
        Ok(Pruned { dead, ..Pruned::by_scores(bits) })
    }
}

/// Selects in each row apart and joins the bitsets.
fn by_row(layer: &str, pattern: Pattern, scores: &[f32], cols: usize) -> Result<Vec<u8>> {
    let mut bits = vec![0u8; kernels::bits_len(scores.len())];
    for (r, row) in scores.chunks_exact(cols).enumerate() {
        let kept = pattern.select(layer, row, cols)?;
        for c in (0..cols).filter(|c| kept[c / 8] >> (c % 8) & 1 == 1) {
            let i = r * cols + c;
            bits[i / 8] |= 1 << (i % 8);
        }
    }
    Ok(bits)
}

/// The statistics, or the error that names who needed them.
pub(crate) fn require<'a>(
    stats: Option<&'a InputStats>,
    layer: &str,
    method: &'static str,
) -> Result<&'a InputStats> {
    stats.ok_or_else(|| Error::NoStatistics { layer: layer.into(), method })
}
