//! The SwiGLU feed-forward layer: `down(silu(gate(x)) · up(x))` (arXiv 2002.05202).

use candle_core::{Result, Tensor};
use candle_nn::{Init, Module};

use crate::builder::VarBuilder;
use crate::feed::{Feed, FeedSource};
use crate::layer::Layers;
use crate::linear::{Linear, linear_init};
use crate::ops;

/// Sizes of a feed-forward layer.
#[derive(Debug, Clone)]
pub struct SwiGluMlpConfig {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width between the projections.
    pub intermediate: usize,
    /// Biases on all three projections.
    pub bias: bool,
    /// Initialization of the projections.
    pub init: Init,
}

/// A feed-forward layer over `[.., hidden]` with parameters `gate_proj`, `up_proj` and `down_proj`.
#[derive(Clone, Debug)]
pub struct SwiGluMlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

impl SwiGluMlp {
    /// Builds the layer below `vb`.
    ///
    /// # Errors
    /// Missing or misshapen tensors.
    pub fn new(config: &SwiGluMlpConfig, vb: VarBuilder) -> Result<Self> {
        let SwiGluMlpConfig { hidden, intermediate, bias, init } = *config;
        Ok(Self {
            gate_proj: linear_init(hidden, intermediate, bias, init, vb.pp("gate_proj"))?,
            up_proj: linear_init(hidden, intermediate, bias, init, vb.pp("up_proj"))?,
            down_proj: linear_init(intermediate, hidden, bias, init, vb.pp("down_proj"))?,
        })
    }

    /// The layers that read the input: gate and up.
    pub fn inputs(&self) -> Layers {
        [&self.gate_proj, &self.up_proj].into_iter().map(|l| l.layer().clone()).collect()
    }

    /// What feeds down: it is linear in the rows of up.
    pub fn inner_feed(&self) -> Feed {
        let layer = self.up_proj.layer().clone();
        let rows = (0..layer.weight().shape().dims()[0]).collect();
        Feed {
            source: Some(FeedSource::Rows { layer, rows }),
            layers: [self.down_proj.layer().clone()].into_iter().collect(),
        }
    }
}

impl Module for SwiGluMlp {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.down_proj.forward(&ops::swiglu(&self.gate_proj.forward(x)?, &self.up_proj.forward(x)?)?)
    }
}
