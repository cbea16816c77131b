//! Layers of this crate from built layers of candle_nn, so that a model that was not written for this crate can
//! carry masks and fake-quantizers.

use candle_core::Result;

use crate::builder::VarBuilder;
use crate::conv::Conv2d;
use crate::embedding::Embedding;
use crate::layer::{Layer, LayerKind};
use crate::linear::Linear;

/// A layer of candle_nn that this crate has a counterpart of.
pub trait Wrap {
    /// The counterpart.
    type Wrapped;

    /// See [`wrap`].
    ///
    /// # Errors
    /// See [`wrap`].
    fn wrap(&self, vb: VarBuilder) -> Result<Self::Wrapped>;
}

/// A layer of this crate that computes what `layer` computes, registered under `vb`'s path.
///
/// Its parameters, `weight` and `bias` below that path, enter the store with the values and the dtype that they have
/// in `layer`; a source behind the store is not asked for them. A candle variable on the store's device is taken over
/// as it is, not copied: the `VarMap` it came from goes on seeing it, and its gradient has the key it had. Any other
/// tensor is copied into a new variable.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use trimwick_nn::{Module, ParamStore, wrap};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let built = candle_nn::Linear::new(Tensor::ones((2, 3), DType::F32, &Device::Cpu)?, None);
/// let store = ParamStore::new(DType::F32, &Device::Cpu);
/// let fc = wrap(&built, store.var_builder().pp("fc"))?;
/// let x = Tensor::ones((1, 3), DType::F32, &Device::Cpu)?;
/// assert_eq!(fc.forward(&x)?.to_vec2::<f32>()?, built.forward(&x)?.to_vec2::<f32>()?);
/// assert!(store.layers().get("fc").is_some());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// A path that another layer has, a parameter of that name that is not the layer's own.
pub fn wrap<L: Wrap>(layer: &L, vb: VarBuilder) -> Result<L::Wrapped> {
    layer.wrap(vb)
}

impl Wrap for candle_nn::Linear {
    type Wrapped = Linear;

    fn wrap(&self, vb: VarBuilder) -> Result<Linear> {
        self.weight().dims2()?;
        Ok(Linear::new(register(&vb, LayerKind::Linear, self.weight(), self.bias())?))
    }
}

impl Wrap for candle_nn::Embedding {
    type Wrapped = Embedding;

    fn wrap(&self, vb: VarBuilder) -> Result<Embedding> {
        self.embeddings().dims2()?;
        Ok(Embedding::new(register(&vb, LayerKind::Embedding, self.embeddings(), None)?))
    }
}

impl Wrap for candle_nn::Conv2d {
    type Wrapped = Conv2d;

    fn wrap(&self, vb: VarBuilder) -> Result<Conv2d> {
        self.weight().dims4()?;
        Ok(Conv2d::new(register(&vb, LayerKind::Conv2d, self.weight(), self.bias())?, *self.config()))
    }
}

fn register(
    vb: &VarBuilder,
    kind: LayerKind,
    weight: &candle_core::Tensor,
    bias: Option<&candle_core::Tensor>,
) -> Result<Layer> {
    let weight = vb.adopt("weight", weight)?;
    let bias = bias.map(|bias| vb.adopt("bias", bias)).transpose()?;
    Ok(vb.register(Layer::new(vb.store(), vb.prefix(), kind, weight, bias))?)
}
