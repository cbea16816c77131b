//! Two-dimensional convolution with a weight that may be masked and fake-quantized.

use candle_core::{Result, Tensor, bail};
use candle_nn::{Conv2dConfig, Init, Module};

use crate::builder::VarBuilder;
use crate::layer::{Layer, LayerKind};

/// A convolution: x `[b, in, h, w]`, weight `[out, in/groups, kh, kw]`, bias `[out]`.
#[derive(Clone, Debug)]
pub struct Conv2d {
    layer: Layer,
    config: Conv2dConfig,
}

impl Conv2d {
    pub(crate) fn new(layer: Layer, config: Conv2dConfig) -> Self {
        Self { layer, config }
    }

    /// The registered layer: its weight, chain and hooks.
    pub fn layer(&self) -> &Layer {
        &self.layer
    }

    /// Padding, stride, dilation and groups.
    pub fn config(&self) -> &Conv2dConfig {
        &self.config
    }
}

impl Module for Conv2d {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.layer.see(x)?;
        let c = &self.config;
        let weight = self.layer.effective_weight()?;
        let y = x.conv2d(&weight, c.padding, c.stride, c.dilation, c.groups)?;
        match self.layer.bias() {
            None => Ok(y),
            Some(bias) => {
                let bias = bias.tensor();
                let channels = bias.dims1()?;
                y.broadcast_add(&bias.reshape((1, channels, 1, 1))?)
            }
        }
    }
}

/// A convolution with a bias and a square kernel, initialized as candle_nn does.
///
/// # Errors
/// Missing or misshapen tensors, groups that do not divide the channels, a path used twice.
pub fn conv2d(
    in_channels: usize,
    out_channels: usize,
    kernel: usize,
    config: Conv2dConfig,
    vb: VarBuilder,
) -> Result<Conv2d> {
    build(in_channels, out_channels, kernel, config, true, vb)
}

/// A convolution without a bias.
///
/// # Errors
/// Missing or misshapen tensors, groups that do not divide the channels, a path used twice.
pub fn conv2d_no_bias(
    in_channels: usize,
    out_channels: usize,
    kernel: usize,
    config: Conv2dConfig,
    vb: VarBuilder,
) -> Result<Conv2d> {
    build(in_channels, out_channels, kernel, config, false, vb)
}

fn build(
    inp: usize,
    out: usize,
    kernel: usize,
    config: Conv2dConfig,
    bias: bool,
    vb: VarBuilder,
) -> Result<Conv2d> {
    if config.groups == 0 || !inp.is_multiple_of(config.groups) || !out.is_multiple_of(config.groups) {
        bail!(
            "{}: {} groups do not divide {inp} input and {out} output channels",
            vb.prefix(),
            config.groups
        );
    }
    let shape = (out, inp / config.groups, kernel, kernel);
    let weight = vb.param(shape, "weight", candle_nn::init::DEFAULT_KAIMING_NORMAL)?;
    let bound = 1. / (inp as f64).sqrt();
    let bias = match bias {
        true => Some(vb.param(out, "bias", Init::Uniform { lo: -bound, up: bound })?),
        false => None,
    };
    let layer = vb.register(Layer::new(vb.store(), vb.prefix(), LayerKind::Conv2d, weight, bias))?;
    Ok(Conv2d { layer, config })
}
