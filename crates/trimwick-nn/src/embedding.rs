//! A table of token vectors.

use candle_core::{Result, Tensor};
use candle_nn::{Init, Module};

use crate::builder::VarBuilder;
use crate::layer::{Layer, LayerKind};
use crate::ops;

/// Token ids (u32, any shape) to rows of a weight `[vocabulary, hidden]`.
#[derive(Clone, Debug)]
pub struct Embedding {
    layer: Layer,
}

impl Embedding {
    pub(crate) fn new(layer: Layer) -> Self {
        Self { layer }
    }

    /// The registered layer: its weight, chain and hooks.
    pub fn layer(&self) -> &Layer {
        &self.layer
    }
}

impl Module for Embedding {
    fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        ops::embedding(&self.layer.effective_weight()?, ids)
    }
}

/// An embedding, initialized from a unit normal as candle_nn does.
///
/// # Errors
/// Missing or misshapen tensors, a path used twice.
pub fn embedding(vocabulary: usize, hidden: usize, vb: VarBuilder) -> Result<Embedding> {
    embedding_init(vocabulary, hidden, Init::Randn { mean: 0., stdev: 1. }, vb)
}

/// An embedding whose weight is initialized by `init`.
///
/// # Errors
/// Missing or misshapen tensors, a path used twice.
pub fn embedding_init(vocabulary: usize, hidden: usize, init: Init, vb: VarBuilder) -> Result<Embedding> {
    let weight = vb.param((vocabulary, hidden), "weight", init)?;
    let layer = vb.register(Layer::new(vb.store(), vb.prefix(), LayerKind::Embedding, weight, None))?;
    Ok(Embedding { layer })
}
