//! Normalization layers: `RmsNorm` (arXiv 1910.07467) and `LayerNorm` (arXiv 1607.06450).

use candle_core::{Result, Tensor};
use candle_nn::{Init, Module};

use crate::builder::VarBuilder;
use crate::feed::{Feed, FeedSource};
use crate::layer::Layers;
use crate::ops;
use crate::param::Param;

/// `x / sqrt(mean(x²) + eps) · weight` over the last axis, weight `[size]`.
#[derive(Clone, Debug)]
pub struct RmsNorm {
    weight: Param,
    eps: f64,
}

impl RmsNorm {
    /// The gain, `[size]`.
    pub fn weight(&self) -> &Param {
        &self.weight
    }

    /// The norm as what feeds `layers`, all that read its output.
    pub fn feed(&self, layers: Layers) -> Feed {
        let source = FeedSource::Norm { gain: self.weight.clone(), offset: None };
        Feed { source: Some(source), layers }
    }
}

impl Module for RmsNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::rms_norm(x, &self.weight.tensor(), self.eps)
    }
}

/// An RMS norm whose gain starts at one.
///
/// # Errors
/// A missing or misshapen tensor.
pub fn rms_norm(size: usize, eps: f64, vb: VarBuilder) -> Result<RmsNorm> {
    Ok(RmsNorm { weight: vb.param(size, "weight", Init::Const(1.))?, eps })
}

/// `(x − mean) / sqrt(var + eps) · weight + bias` over the last axis, weight and bias `[size]`.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight: Param,
    bias: Param,
    eps: f64,
}

impl LayerNorm {
    /// The gain, `[size]`.
    pub fn weight(&self) -> &Param {
        &self.weight
    }

    /// The offset, `[size]`.
    pub fn bias(&self) -> &Param {
        &self.bias
    }

    /// The norm as what feeds `layers`, all that read its output.
    pub fn feed(&self, layers: Layers) -> Feed {
        let source = FeedSource::Norm { gain: self.weight.clone(), offset: Some(self.bias.clone()) };
        Feed { source: Some(source), layers }
    }
}

impl Module for LayerNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::layer_norm(x, &self.weight.tensor(), &self.bias.tensor(), self.eps)
    }
}

/// A layer norm that starts as the identity's: gain one, offset zero.
///
/// # Errors
/// A missing or misshapen tensor.
pub fn layer_norm(size: usize, eps: f64, vb: VarBuilder) -> Result<LayerNorm> {
    let weight = vb.param(size, "weight", Init::Const(1.))?;
    let bias = vb.param(size, "bias", Init::Const(0.))?;
    Ok(LayerNorm { weight, bias, eps })
}
