//! A layer's matrix as one, for formats of plain weights.
//!
//! With an input scale s and a branch L a layer computes (x / s)·FQ(W)ᵀ + (x / s)·Lᵀ, which without a quantized input is
//! x·((FQ(W) + L) / s)ᵀ.

use candle_core::Tensor;
use trimwick_nn::Layer;

use crate::rescale::InputScale;
use crate::svd::LowRank;
use crate::{Error, Result};

/// What the layer multiplies its input with: the effective weight with its [`LowRank`] branch added, divided by its
/// [`InputScale`]; the effective weight, bit for bit, where there is neither. The shape of the weight, detached.
///
/// # Errors
/// A branch or a scale of another type; whatever a reparametrization reports.
pub fn whole_weight(layer: &Layer) -> Result<Tensor> {
    let Beside { branch, scale } = Beside::of(layer)?;
    let mut weight = layer.effective_weight()?.detach();
    if let Some(branch) = branch {
        weight = (weight + branch)?;
    }
    if let Some(scale) = scale {
        weight = weight.broadcast_div(&scale)?;
    }
    Ok(weight)
}

/// The opposite: takes branch and scale, which [`restore`](crate::restore) has put on the layer, out of a stored weight that
/// [`whole_weight`] gave. What stays is put on the grid of the layer's quantizer, which undoes the rounding of the sum where the
/// quantizer has its scales of before; without a quantizer it is the weight of before to within that rounding. A layer with
/// neither branch nor scale is left as it is.
///
/// # Errors
/// As [`whole_weight`].
pub fn take_apart(layer: &Layer) -> Result<()> {
    let Beside { branch, scale } = Beside::of(layer)?;
    if branch.is_none() && scale.is_none() {
        return Ok(());
    }
    let mut weight = layer.weight().value()?.detach();
    if let Some(scale) = scale {
        weight = weight.broadcast_mul(&scale)?;
    }
    if let Some(branch) = branch {
        weight = (weight - branch)?;
    }
    layer.weight().set(&weight)?;
    Ok(layer.weight().set(&layer.effective_weight()?.detach())?)
}

/// Bits of a layer's branch, its factors in 16 bits as weights without a quantizer are counted; 0 without one.
pub fn branch_bits(layer: &Layer) -> u64 {
    let factors = |branch: &LowRank| branch.up().elem_count() + branch.down().elem_count();
    layer.branch().and_then(|branch| low_rank(&*branch).map(factors)).map_or(0, |values| 16 * values as u64)
}

/// The product of the branch's factors, and the scale.
struct Beside {
    branch: Option<Tensor>,
    scale: Option<Tensor>,
}

impl Beside {
    fn of(layer: &Layer) -> Result<Self> {
        let refuse = |problem| {
            let spec = "plain weight".to_string();
            Error::Layer { layer: layer.path().into(), spec, problem }
        };
        let branch = match layer.branch() {
            None => None,
            Some(branch) => {
                let branch = low_rank(&*branch).ok_or_else(|| refuse("its branch is no part of a weight"))?;
                Some(branch.up().matmul(branch.down())?)
            }
        };
        let scale = match layer.input_scale() {
            None => None,
            Some(scale) => {
                let any: &dyn std::any::Any = &*scale;
                let scale = any.downcast_ref::<InputScale>();
                Some(scale.ok_or_else(|| refuse("its input scale is no part of a weight"))?.scale().clone())
            }
        };
        Ok(Self { branch, scale })
    }
}

fn low_rank(branch: &dyn trimwick_nn::Branch) -> Option<&LowRank> {
    let any: &dyn std::any::Any = branch;
    any.downcast_ref::<LowRank>()
}
