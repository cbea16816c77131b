//! Low-rank adapters that merge exactly: `W + (alpha/r)·B·A` (LoRA, arXiv 2106.09685), inside of the mask and the
//! fake-quantizer, so that a layer trains `FQ(M ⊙ (W + sBA))`, which is what it exports.
//!
//! Elsewhere the adapter runs beside the quantized weight, `FQ(W)·x + sBA·x`: merging it and quantizing again then
//! deploys a point that was never trained. Here merged and unmerged weights are one function of the same values,
//! equal bit for bit.
//!
//! The base is frozen and may be stored in bf16, int8 or NF4 (QLoRA, arXiv 2305.14314): the adapters learn around
//! the rounding of their base, since merging expands it to what they were trained on.

use std::sync::Arc;

use candle_core::{DType, Device, Result as CandleResult, Tensor};
use trimwick_kernels::Rng;
use trimwick_nn::{Layer, LayerKind, Layers, Param, Reparam, Role, Slot};

use crate::base;
pub use crate::base::BaseFormat;
use crate::{Error, Result};

/// Suffix of A, `[rank, in]`.
const A: &str = "lora_a";
/// Suffix of B, `[out, rank]`.
const B: &str = "lora_b";

/// Size of the adapters, and how their base is kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoraConfig {
    /// Rank r of B·A, at least 1.
    pub rank: usize,
    /// The adapter's factor is alpha / r.
    pub alpha: f64,
    /// How the frozen base is stored.
    pub base: BaseFormat,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self { rank: 16, alpha: 32., base: BaseFormat::Full }
    }
}

struct Adapter {
    a: Param,
    b: Param,
    factor: f64,
}

impl Reparam for Adapter {
    fn apply(&self, base: &Tensor) -> CandleResult<Tensor> {
        let delta = (self.b.tensor().matmul(&self.a.tensor())? * self.factor)?;
        base + delta.reshape(base.shape())?.to_dtype(base.dtype())?
    }

    fn name(&self) -> &'static str {
        "lora"
    }
}

/// Freezes every layer's weight and gives it an adapter: A from a normal distribution of variance 1/in, keyed by
/// the layer's path and `seed`, B zero, so that the model computes what it did. Build the optimizer afterwards.
///
/// # Errors
/// A rank of 0 or above the smaller side of a weight, a layer that is not linear, a layer that has an adapter, a
/// base whose blocks do not divide the weight.
pub fn adapt(layers: &Layers, config: &LoraConfig, seed: u64) -> Result<()> {
    let LoraConfig { rank, alpha, base } = *config;
    if !(alpha.is_finite() && alpha > 0.) {
        return Err(Error::setting("lora.alpha", "a number > 0", alpha));
    }
    for layer in layers {
        let fault =
            |expected: String, found: String| Error::Adapter { layer: layer.path().into(), expected, found };
        let &[out, cols] = layer.weight().shape().dims() else {
            return Err(fault("a linear layer".into(), format!("{:?}", layer.kind())));
        };
        if layer.kind() != LayerKind::Linear {
            return Err(fault("a linear layer".into(), format!("{:?}", layer.kind())));
        }
        if rank == 0 || rank > out.min(cols) {
            return Err(fault(format!("a rank from 1 to {}", out.min(cols)), rank.to_string()));
        }
        if layer.chain().get(Slot::Adapter).is_some() {
            return Err(fault("a layer without an adapter".into(), "one that has it".into()));
        }
        base::check(layer, base)?;
    }
    layers.iter().try_for_each(|layer| adapt_one(layer, config, seed))
}

fn adapt_one(layer: &Layer, config: &LoraConfig, seed: u64) -> Result<()> {
    let (weight, rank) = (layer.weight(), config.rank);
    let (out, cols) = (weight.shape().dims()[0], weight.shape().dims()[1]);
    let mut values = vec![0f32; rank * cols];
    let rng = Rng::new(seed, "init", 0, &format!("{}.{A}", layer.path()));
    rng.fill_normal(0., 1. / (cols as f64).sqrt(), &mut values);
    let a = Tensor::from_vec(values, (rank, cols), &Device::Cpu)?;
    let place = |t: Tensor| t.to_dtype(weight.dtype())?.to_device(weight.device());
    let a = layer.add_param(A, &place(a)?)?;
    let b = layer.add_param(B, &place(Tensor::zeros((out, rank), DType::F32, &Device::Cpu)?)?)?;
    base::store(layer, config.base)?;
    weight.set_role(Role::Frozen);
    layer.set(Slot::Adapter, Arc::new(Adapter { a, b, factor: config.alpha / rank as f64 }));
    Ok(())
}

/// Adds every adapter to its weight and takes it off: the layers compute the same bits as before, and their weights
/// are plain and trainable again. Layers without an adapter are left alone; the count of the others is returned.
///
/// # Errors
/// Tensor operations.
pub fn merge(layers: &Layers) -> Result<usize> {
    let mut merged = 0;
    for layer in layers {
        let Some(adapter) = layer.chain().get(Slot::Adapter).cloned() else { continue };
        let weight = layer.weight();
        let value = adapter.apply(&weight.value()?)?.detach();
        weight.expand()?;
        weight.set(&value)?;
        weight.set_role(Role::Trainable);
        layer.clear(Slot::Adapter);
        layer.remove_param(A);
        layer.remove_param(B);
        merged += 1;
    }
    Ok(merged)
}
