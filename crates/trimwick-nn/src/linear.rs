//! `y = x·Wᵀ + b` with a weight that may be masked and fake-quantized.

use candle_core::{Result, Tensor};
use candle_nn::{Init, Module};

use crate::builder::VarBuilder;
use crate::embedding::Embedding;
use crate::layer::{Layer, LayerKind};
use crate::ops::{self, Logits};
use crate::param::Param;

/// A linear layer: x `[.., in]`, weight `[out, in]`, bias `[out]`, y `[.., out]`.
#[derive(Clone, Debug)]
pub struct Linear {
    layer: Layer,
}

impl Linear {
    pub(crate) fn new(layer: Layer) -> Self {
        Self { layer }
    }

    /// The registered layer: its weight, chain and hooks.
    pub fn layer(&self) -> &Layer {
        &self.layer
    }

    /// A projection onto a vocabulary that shares the embedding's weight: one parameter, one registry entry.
    pub fn tied(embedding: &Embedding) -> Self {
        Self { layer: embedding.layer().clone() }
    }

    /// The output as a product that has not been made yet; with a bias or a branch, the output.
    ///
    /// # Errors
    /// Those of a forward.
    pub fn logits(&self, x: &Tensor) -> Result<Logits> {
        match (self.layer.bias(), self.layer.branch()) {
            (None, None) => {
                Ok(Logits::Product { hidden: self.see(x)?.1, weight: self.layer.effective_weight()? })
            }
            _ => Ok(Logits::Whole(self.forward(x)?)),
        }
    }

    /// The input as it arrives, and as the weight is multiplied with it: quantized.
    fn see(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        if self.layer.kind() == LayerKind::Embedding {
            // Tied: what the layer does with its inputs is about token ids.
            return Ok((x.clone(), x.clone()));
        }
        let arrived = self.layer.arrive(x)?;
        let seen = self.layer.activate(&arrived)?;
        Ok((arrived, seen))
    }
}

impl Module for Linear {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (arrived, seen) = self.see(x)?;
        let bias = self.layer.bias().map(Param::tensor);
        let y = ops::linear_with_bias(&seen, &self.layer.effective_weight()?, bias.as_ref())?;
        match self.layer.branch() {
            Some(branch) => y + branch.forward(&arrived)?,
            None => Ok(y),
        }
    }
}

/// A linear layer with a bias, initialized as candle_nn does: Kaiming normal weight, uniform bias.
///
/// # Errors
/// Missing or misshapen tensors, a path used twice.
pub fn linear(in_dim: usize, out_dim: usize, vb: VarBuilder) -> Result<Linear> {
    linear_b(in_dim, out_dim, true, vb)
}

/// A linear layer without a bias.
///
/// # Errors
/// Missing or misshapen tensors, a path used twice.
pub fn linear_no_bias(in_dim: usize, out_dim: usize, vb: VarBuilder) -> Result<Linear> {
    linear_b(in_dim, out_dim, false, vb)
}

/// A linear layer with or without a bias.
///
/// # Errors
/// Missing or misshapen tensors, a path used twice.
pub fn linear_b(in_dim: usize, out_dim: usize, bias: bool, vb: VarBuilder) -> Result<Linear> {
    linear_init(in_dim, out_dim, bias, candle_nn::init::DEFAULT_KAIMING_NORMAL, vb)
}

/// A linear layer whose weight is initialized by `init`, for models with their own rule.
///
/// # Errors
/// Missing or misshapen tensors, a path used twice.
pub fn linear_init(in_dim: usize, out_dim: usize, bias: bool, init: Init, vb: VarBuilder) -> Result<Linear> {
    let weight = vb.param((out_dim, in_dim), "weight", init)?;
    let bound = 1. / (in_dim as f64).sqrt();
    let bias = match bias {
        true => Some(vb.param(out_dim, "bias", Init::Uniform { lo: -bound, up: bound })?),
        false => None,
    };
    let layer = vb.register(Layer::new(vb.store(), vb.prefix(), LayerKind::Linear, weight, bias))?;
    Ok(Linear { layer })
}
