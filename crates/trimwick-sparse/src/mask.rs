//! A mask: a saved bitset, never inferred from zeros in a weight.
//!
//! It is enforced three times: in the forward pass and the gradient by the layer's chain, and on the stored
//! weight and the optimizer's state through [`trimwick_nn::Param::keep`].

use std::sync::Arc;

use candle_core::{DType, Device, Result as CandleResult, Tensor};
use trimwick_kernels as kernels;
use trimwick_nn::{Layer, Layers, Reparam, Slot, ops};

use crate::Result;

/// Suffix of the buffer that holds a layer's bitset: U8, one bit for each weight, row-major, LSB first, 1 = kept.
pub const MASK_BUFFER: &str = "weight_mask";

/// A mask in a layer's chain.
pub struct Mask {
    bits: Arc<[u8]>,
    decay: Option<f64>,
}

impl Mask {
    /// A fixed mask: forward `M ⊙ W`, gradient `g ⊙ M`.
    pub fn fixed(bits: impl Into<Arc<[u8]>>) -> Self {
        Self { bits: bits.into(), decay: None }
    }

    /// A mask that will be chosen anew: forward `M ⊙ W`, gradient `g + decay·(1−M)⊙W` (SR-STE, arXiv 2102.04010).
    pub fn refreshed(bits: impl Into<Arc<[u8]>>, decay: f64) -> Self {
        Self { bits: bits.into(), decay: Some(decay) }
    }
}

impl Reparam for Mask {
    fn apply(&self, base: &Tensor) -> CandleResult<Tensor> {
        ops::mask(base, &self.bits, self.decay)
    }

    fn name(&self) -> &'static str {
        "mask"
    }
}

/// Fixes `bits` on a layer: the mask acts in forward and gradient, dropped weights become +0.0 now, and an
/// optimizer keeps them and its own state there. The bitset is saved with the model.
///
/// # Errors
/// A bitset of another length than the weight's.
pub fn fix(layer: &Layer, bits: &[u8]) -> Result<()> {
    let bits: Arc<[u8]> = bits.into();
    save(layer, &bits)?;
    layer.weight().set_keep(Some(bits.clone()))?;
    layer.set(Slot::Mask, Arc::new(Mask { bits: bits.clone(), decay: None }));
    let folded = ops::mask(&layer.weight().var().as_detached_tensor(), &bits, None)?;
    Ok(layer.weight().set(&folded)?)
}

/// Lets a layer compute with `bits` while its dropped weights go on learning, pulled to zero by `decay`.
///
/// # Errors
/// A bitset of another length than the weight's.
pub fn refresh(layer: &Layer, bits: &[u8], decay: f64) -> Result<()> {
    save(layer, bits)?;
    layer.weight().set_keep(None)?;
    layer.set(Slot::Mask, Arc::new(Mask::refreshed(bits, decay)));
    Ok(())
}

/// Takes the mask off a layer; the weights stay as they are.
///
/// # Errors
/// None of its own: the signature is that of its siblings.
pub fn lift(layer: &Layer) -> Result<()> {
    layer.clear(Slot::Mask);
    layer.weight().set_keep(None)?;
    layer.remove_buffer(MASK_BUFFER);
    Ok(())
}

/// The bitset of a layer, if it has one.
///
/// # Errors
/// A buffer that is not a U8 vector.
pub fn bits(layer: &Layer) -> Result<Option<Vec<u8>>> {
    match layer.buffer(MASK_BUFFER) {
        None => Ok(None),
        Some(p) => Ok(Some(p.tensor().to_device(&Device::Cpu)?.to_vec1::<u8>()?)),
    }
}

/// Puts masks back on layers from their saved bitsets, after buffers were loaded from a checkpoint. With
/// `decay` the masks are refreshed ones. Returns how many layers have one.
///
/// # Errors
/// A bitset of another length than the weight's.
pub fn restore(layers: &Layers, decay: Option<f64>) -> Result<usize> {
    let mut count = 0;
    for layer in layers {
        let Some(saved) = bits(layer)? else { continue };
        match decay {
            None => fix(layer, &saved)?,
            Some(decay) => refresh(layer, &saved, decay)?,
        }
        count += 1;
    }
    Ok(count)
}

fn save(layer: &Layer, bits: &[u8]) -> Result<()> {
    let old = layer.buffer(MASK_BUFFER).map(|p| p.elem_count());
    if old.is_some_and(|len| len != bits.len()) {
        layer.remove_buffer(MASK_BUFFER);
    }
    let buffer = Tensor::from_slice(bits, bits.len(), &Device::Cpu)?;
    debug_assert_eq!(buffer.dtype(), DType::U8);
    layer.set_buffer(MASK_BUFFER, &buffer)?;
    Ok(())
}

/// How sparse a set of layers is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// Weights in the layers that have a mask.
    pub weights: usize,
    /// Those that the masks drop.
    pub dropped: usize,
}

/// Counts the weights under masks.
///
/// # Errors
/// A broken mask buffer.
pub fn count(layers: &Layers) -> Result<Count> {
    let mut total = Count::default();
    for layer in layers {
        if let Some(bits) = bits(layer)? {
            let weights = layer.weight().elem_count();
            total.weights += weights;
            total.dropped += weights - kernels::count_kept(&bits, weights);
        }
    }
    Ok(total)
}
