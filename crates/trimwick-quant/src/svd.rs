//! SVDQuant (arXiv 2411.05007): a branch of low rank carries what is hard to quantize.
//!
//! W = L + R with L the part of the largest singular values; the layer computes FQ(x)·FQ(R)ᵀ + x·Lᵀ, the branch in full
//! precision on the unquantized input. Smooth first: then the outliers are in the weight, where the branch takes them.
//!
//! The branch's factors are saved as buffers beside the weight, which holds R from then on; they are not trained.

use std::sync::Arc;

use candle_core::{Device, Result as CandleResult, Tensor};
use trimwick_kernels::low_rank;
use trimwick_nn::{Branch, Layer, LayerReport, Slot, decibels, ops};

use crate::attach::weight_quantizer;
use crate::pass::{Part, Pass};
use crate::rescale;
use crate::saved::{self, host};
use crate::seen::{InputSeen, Needs};
use crate::trial::{Trial, largest};
use crate::{Error, Result};

/// Suffix of the first factor, `[rank, in]`.
pub(crate) const DOWN: &str = "svd_down";
/// Suffix of the second factor, `[out, rank]`.
pub(crate) const UP: &str = "svd_up";
const NAME: &str = "svdquant";

/// A branch of low rank: `x·downᵀ·upᵀ`.
pub struct LowRank {
    down: Tensor,
    up: Tensor,
}

impl LowRank {
    /// The first factor, `[rank, in]`.
    pub fn down(&self) -> &Tensor {
        &self.down
    }

    /// The second factor, `[out, rank]`.
    pub fn up(&self) -> &Tensor {
        &self.up
    }
}

impl Branch for LowRank {
    fn forward(&self, x: &Tensor) -> CandleResult<Tensor> {
        ops::linear(&ops::linear(x, &self.down)?, &self.up)
    }

    fn name(&self) -> &'static str {
        "svd"
    }
}

/// SVDQuant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SvdQuant {
    /// Rank of the branch, ≥ 1; the paper takes 32.
    pub rank: usize,
    /// Tokens on which the signal-to-noise ratio is taken.
    pub samples: usize,
}

impl Default for SvdQuant {
    /// Rank 32.
    fn default() -> Self {
        Self { rank: 32, samples: 512 }
    }
}

impl Pass for SvdQuant {
    fn name(&self) -> &'static str {
        NAME
    }

    fn needs(&self) -> Needs {
        Needs { samples: self.samples, gram: false }
    }

    fn check(&self, layer: &Layer) -> Result<()> {
        if self.rank == 0 {
            return Err(Error::Option { what: "svd rank", expected: "at least 1", found: 0. });
        }
        let problem = if weight_quantizer(layer).is_none() {
            "the residual of its branch needs a quantizer; attach one first"
        } else if layer.branch().is_some() {
            "it has a branch already"
        } else if layer.chain().get(Slot::Mask).is_some() {
            "a residual has no zeros where the mask has; leave the pruning or the branch out"
        } else {
            return rescale::changeable(layer);
        };
        Err(Error::Layer { layer: layer.path().into(), spec: NAME.into(), problem })
    }

    fn apply(&self, part: &Part<'_>) -> Result<Vec<LayerReport>> {
        part.seen.iter().map(|(layer, seen)| self.layer(layer, seen)).collect()
    }
}

impl SvdQuant {
    fn layer(&self, layer: &Layer, seen: &InputSeen) -> Result<LayerReport> {
        let trial = Trial::of(layer)?;
        let (rows, cols) = (trial.rows, trial.cols);
        let Some((up, down)) = low_rank(&trial.weight, rows, cols, self.rank) else {
            let index = trial.weight.iter().position(|w| !w.is_finite()).unwrap_or(0);
            let (path, found) = (layer.path().into(), trial.weight[index]);
            return Err(Error::NonFinite { layer: path, what: "weight", found, index });
        };
        let rank = up.len() / rows;
        let device = layer.weight().device();
        let branch = LowRank {
            down: Tensor::from_vec(down, (rank, cols), &Device::Cpu)?,
            up: Tensor::from_vec(up, (rows, rank), &Device::Cpu)?,
        };
        let product = host(&branch.up.matmul(&branch.down)?)?;
        let rest: Vec<f32> = trial.weight.iter().zip(&product).map(|(w, l)| w - l).collect();

        let x = trial.input(&seen.samples, largest(&seen.amax, None))?;
        let y = trial.output(&seen.samples, &trial.weight);
        let before = decibels(&y, &trial.output(&x, &trial.weight(&trial.weight)?));
        let mut found = trial.output(&x, &trial.weight(&rest)?);
        let beside = trial.output(&seen.samples, &product);
        found.iter_mut().zip(&beside).for_each(|(f, b)| *f += b);
        let after = decibels(&y, &found);

        layer.weight().set(&Tensor::from_vec(rest, (rows, cols), device)?)?;
        layer.set_buffer(DOWN, &branch.down)?;
        layer.set_buffer(UP, &branch.up)?;
        restore(layer)?;
        if let Some(quantizer) = weight_quantizer(layer) {
            quantizer.calibrate(&layer.weight_before(Slot::FakeQuant)?)?;
        }
        let dead = seen.amax.iter().filter(|a| **a == 0.).count();
        Ok(LayerReport { dead, ..LayerReport::new(layer.path(), NAME, before, after) })
    }
}

/// Puts the branches of layers back that were loaded with them.
pub(crate) fn restore(layer: &Layer) -> Result<()> {
    let is_ours = |branch: &Arc<dyn Branch>| {
        let any: &dyn std::any::Any = branch.as_ref();
        any.is::<LowRank>()
    };
    let (Some(down), Some(up)) = (layer.buffer(DOWN), layer.buffer(UP)) else {
        if layer.branch().as_ref().is_some_and(is_ours) {
            layer.set_branch(None);
        }
        return Ok(());
    };
    let dims = layer.weight().shape().dims();
    let rank = up.shape().dims().last().copied().unwrap_or(0);
    saved::check(layer.place(), DOWN, &down, rank * dims.get(1).copied().unwrap_or(0))?;
    saved::check(layer.place(), UP, &up, rank * dims[0])?;
    let device = layer.weight().device();
    let place = |t: Tensor| t.detach().to_device(device);
    let branch = LowRank { down: place(down.tensor())?, up: place(up.tensor())? };
    layer.set_branch(Some(Arc::new(branch)));
    Ok(())
}
