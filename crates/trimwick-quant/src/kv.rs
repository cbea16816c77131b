//! Quantized keys and values: what a cache of 8-bit codes would hold, in training and in generation alike.
//!
//! Keys are quantized after their rotation and values as projected, before attention and before a
//! [`KvCache`](trimwick_nn::KvCache) takes them, so that a sequence generated token by token sees what the whole sequence
//! saw. A scale per token is that of one token and head and follows the values; one of the tensor is calibrated, because
//! a maximum over the tokens so far would differ from one over all.

use std::sync::Arc;

use trimwick_nn::{KvSlot, Layers};

use crate::attach::{calibrate_all, own};
use crate::input::{InputQuant, Rows};
use crate::options::{Range, ScalePolicy};
use crate::saved::{KEYS, VALUES};
use crate::scheme::InputSpec;
use crate::spec::{Granularity, QuantSpec};
use crate::{Error, Result};

/// Quantizes keys and values of every slot, taking off what was there: a scale per token and head
/// ([`Granularity::Token`]), or one for the keys and one for the values of each layer ([`Granularity::Tensor`]), which
/// [`calibrate`] finds.
///
/// # Errors
/// Another granularity, a quantizer that does not exist.
pub fn attach(slots: &[KvSlot], spec: &QuantSpec) -> Result<()> {
    attach_with(slots, spec, Range::Max)
}

/// [`attach`] with a range other than the largest magnitude for the static scales.
///
/// # Errors
/// Another granularity than token and tensor, a quantizer that does not exist, a range with scales per token.
pub fn attach_with(slots: &[KvSlot], spec: &QuantSpec, range: Range) -> Result<()> {
    let fault = |problem| Err(Error::Spec { spec: spec.to_string(), problem });
    spec.check()?;
    let dynamic = match spec.granularity {
        Granularity::Token => true,
        Granularity::Tensor => false,
        Granularity::Channel | Granularity::Group(_) => {
            return fault(
                "keys and values have one scale per token and head, or one of the tensor; give token or tensor",
            );
        }
    };
    if range != Range::Max && (dynamic || spec.asymmetric()) {
        return fault("scales per token, and ranges with zero points, follow the values; take max");
    }
    detach(slots);
    let input = InputSpec { spec: *spec, dynamic };
    for slot in slots {
        let quantizer = |names| {
            let policy = ScalePolicy::Frozen;
            InputQuant::new(slot.place(), names, input, policy, range, Rows::Last).map(Arc::new)
        };
        slot.set(Some(quantizer(&KEYS)?), Some(quantizer(&VALUES)?));
    }
    Ok(())
}

/// Takes the quantizers off, with what they saved.
pub fn detach(slots: &[KvSlot]) {
    for slot in slots {
        let pair = quantizers(slot);
        if !pair.is_empty() {
            pair.iter().for_each(|quantizer| quantizer.discard());
            slot.set(None, None);
        }
    }
}

/// Switches the quantizers on or off.
pub fn set_enabled(slots: &[KvSlot], on: bool) {
    slots.iter().flat_map(quantizers).for_each(|quantizer| quantizer.set_enabled(on));
}

/// Finds the static scales from what `forward` lets the slots see; `forward` is not called when all are dynamic.
///
/// # Errors
/// A slot that saw no data, NaN or infinity in keys or values, whatever `forward` reports.
pub fn calibrate(slots: &[KvSlot], forward: impl FnOnce() -> candle_core::Result<()>) -> Result<()> {
    calibrate_all(&Layers::default(), slots, forward)
}

/// Takes the scales from the buffers of the store, after those were loaded from a checkpoint.
///
/// # Errors
/// A scale of another quantizer.
pub fn restore(slots: &[KvSlot]) -> Result<()> {
    slots.iter().flat_map(quantizers).try_for_each(|quantizer| quantizer.restore())
}

/// The quantizers of a slot: of its keys, then of its values; none if there are none.
pub fn quantizers(slot: &KvSlot) -> Vec<Arc<InputQuant>> {
    [slot.k(), slot.v()].into_iter().flatten().filter_map(own).collect()
}
