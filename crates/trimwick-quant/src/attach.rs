//! Quantizers onto layers and off again, calibrated, restored.

use std::any::Any;
use std::sync::Arc;

use trimwick_nn::{KvSlot, Layer, LayerKind, Layers, Reparam, Slot};

use crate::input::{InputQuant, Rows};
use crate::kv;
use crate::options::Options;
use crate::saved::INPUT;
use crate::scheme::Scheme;
use crate::weight::WeightQuant;
use crate::{Error, Result, rescale, svd};

/// Quantizes every layer by `scheme` with the usual [`Options`]: see [`attach_with`].
///
/// # Errors
/// See [`attach_with`].
pub fn attach(layers: &Layers, scheme: &Scheme) -> Result<()> {
    attach_with(layers, scheme, &Options::default())
}

/// Quantizes every layer by `scheme`: from here on each computes with its weight, masked and adapted, on the grid, and
/// with its input on the grid. Quantizers that were there are taken off before.
///
/// The scales of weights are those of the weights as they are now. Static inputs need [`calibrate`] before the next
/// forward pass. Learned scales enter the store here, so that an optimizer built afterwards trains them.
///
/// # Errors
/// A layer that cannot take the scheme (all are checked before the first is changed), options that make no sense for
/// it, NaN or infinity in a weight.
pub fn attach_with(layers: &Layers, scheme: &Scheme, options: &Options) -> Result<()> {
    options.check(scheme)?;
    for layer in layers {
        scheme.check(layer.path(), layer.kind(), layer.weight().shape().dims())?;
    }
    for layer in layers {
        detach_layer(layer);
        if let Some(spec) = scheme.weight {
            WeightQuant::attach(layer, spec, options)?;
        }
        let rows = match layer.kind() {
            LayerKind::Linear => Rows::Last,
            LayerKind::Conv2d => Rows::Images,
            // Its input are ids.
            LayerKind::Embedding => continue,
        };
        if let Some(input) = scheme.input {
            let (policy, range) = (options.input_scales, options.input_range);
            let quantizer = InputQuant::new(layer.place(), &INPUT, input, policy, range, rows)?;
            layer.set_activation(Some(Arc::new(quantizer)));
        }
    }
    Ok(())
}

/// Takes every quantizer off, with what it saved. Weights stay as they are trained, off the grid.
pub fn detach(layers: &Layers) {
    layers.iter().for_each(detach_layer);
}

fn detach_layer(layer: &Layer) {
    if let Some(quantizer) = weight_quantizer(layer) {
        quantizer.discard();
        layer.clear(Slot::FakeQuant);
    }
    if let Some(quantizer) = input_quantizer(layer) {
        quantizer.discard();
        layer.set_activation(None);
    }
}

/// Switches the quantizers of the layers on or off. Off, a layer computes what it would without them, bit for bit, and
/// its learned scales are frozen.
pub fn set_enabled(layers: &Layers, on: bool) {
    for layer in layers {
        if let Some(quantizer) = weight_quantizer(layer) {
            quantizer.set_enabled(on);
        }
        if let Some(quantizer) = input_quantizer(layer) {
            quantizer.set_enabled(on);
        }
    }
}

/// Finds every scale that is not dynamic: those of weights from the weights as they are now, those of static inputs
/// from what `forward` lets the layers see, unquantized. `forward` should run the model once over calibration data; it
/// is not called when no layer has a static input. Static quantizers of other layers, keys and values that have no scale
/// yet let their values pass meanwhile: one calibration can follow another.
///
/// The statistics of inputs are saved with the model, and another call goes on from them. [`attach`] starts anew.
///
/// # Errors
/// A layer with a static input that saw no data, NaN or infinity in a weight or an input, whatever `forward` reports.
pub fn calibrate(layers: &Layers, forward: impl FnOnce() -> candle_core::Result<()>) -> Result<()> {
    calibrate_all(layers, &[], forward)
}

/// [`calibrate`] and [`kv::calibrate`](crate::kv::calibrate) in one pass, in which everything is in full precision.
///
/// # Errors
/// Those of both.
pub fn calibrate_all(
    layers: &Layers,
    slots: &[KvSlot],
    forward: impl FnOnce() -> candle_core::Result<()>,
) -> Result<()> {
    calibrate_weights(layers)?;
    let inputs = layers.iter().filter_map(input_quantizer).chain(slots.iter().flat_map(kv::quantizers));
    let observation = Observation {
        weights: layers.iter().filter_map(weight_quantizer).collect(),
        inputs: inputs.collect(),
    };
    let static_ones = || observation.inputs.iter().filter(|quantizer| quantizer.wants_data());
    if static_ones().next().is_none() {
        return Ok(());
    }
    observation.weights.iter().for_each(|weight| weight.pause(true));
    observation.inputs.iter().try_for_each(|input| input.observe())?;
    forward()?;
    static_ones().try_for_each(|input| input.finish())
}

/// The scales of weights from the weights as they are now.
pub(crate) fn calibrate_weights(layers: &Layers) -> Result<()> {
    for layer in layers {
        if let Some(quantizer) = weight_quantizer(layer) {
            quantizer.calibrate(&layer.weight_before(Slot::FakeQuant)?)?;
        }
    }
    Ok(())
}

/// Quantizers that are off while the model runs on calibration data, whichever way that ends.
struct Observation {
    weights: Vec<Arc<WeightQuant>>,
    inputs: Vec<Arc<InputQuant>>,
}

impl Drop for Observation {
    fn drop(&mut self) {
        self.weights.iter().for_each(|weight| weight.pause(false));
        self.inputs.iter().for_each(|input| input.stop());
    }
}

/// Takes every scale from the buffers and parameters of the store, after those were loaded from a checkpoint. The
/// layers have to carry the quantizers that they carried when it was written: [`attach_with`] the same scheme first.
/// Input scales and branches that passes left are put back too.
///
/// # Errors
/// A scale that is missing or of another scheme.
pub fn restore(layers: &Layers) -> Result<()> {
    for layer in layers {
        rescale::restore(layer)?;
        svd::restore(layer)?;
        if let Some(quantizer) = weight_quantizer(layer) {
            quantizer.restore()?;
        }
        if let Some(quantizer) = input_quantizer(layer) {
            quantizer.restore()?;
        }
    }
    Ok(())
}

/// Moves the averages of ema scales by one step: those of weights toward the weights as they are now, those of inputs
/// toward what training passes saw since the last call. For training loops without a
/// [`QuantSchedule`](crate::QuantSchedule); passes are training passes while the store's clock says so.
///
/// # Errors
/// NaN or infinity in a weight.
pub fn refresh(layers: &Layers) -> Result<()> {
    for layer in layers {
        if let Some(quantizer) = weight_quantizer(layer) {
            quantizer.refresh(&layer.weight_before(Slot::FakeQuant)?)?;
        }
        if let Some(quantizer) = input_quantizer(layer) {
            quantizer.refresh()?;
        }
    }
    Ok(())
}

/// Gives layers that a runtime fuses into one (q, k and v; gate and up) one scale of the tensor behind their e4m3 block
/// scales: the largest of theirs. From here on it is fixed, whatever the policy of the block scales.
///
/// # Errors
/// A layer whose weight has no such scale.
pub fn share_global(layers: &Layers) -> Result<()> {
    share_as(layers, |largest| largest)
}

/// [`share_global`] with a number near the largest.
pub(crate) fn share_as(layers: &Layers, near: impl Fn(f32) -> f32) -> Result<()> {
    let mut members = Vec::new();
    let mut largest = 0f32;
    for layer in layers {
        let Some(quantizer) = weight_quantizer(layer).filter(|q| q.spec().has_global()) else {
            let spec = weight_quantizer(layer).map_or("no quantizer".into(), |q| q.spec().to_string());
            let problem = "there is no scale of the tensor to share; only e4m3 scales have one";
            return Err(Error::Layer { layer: layer.path().into(), spec, problem });
        };
        let weight = layer.weight_before(Slot::FakeQuant)?;
        largest = largest.max(quantizer.scales_of(&crate::saved::host(&weight)?)?.1);
        members.push((quantizer, weight));
    }
    members.iter().try_for_each(|(quantizer, weight)| quantizer.share(near(largest), weight))
}

/// The quantizer of a layer's weight.
pub fn weight_quantizer(layer: &Layer) -> Option<Arc<WeightQuant>> {
    own(layer.chain().get(Slot::FakeQuant)?.clone())
}

/// The quantizer of a layer's input.
pub fn input_quantizer(layer: &Layer) -> Option<Arc<InputQuant>> {
    own(layer.activation()?)
}

/// A reparametrization as the type of this crate that it is.
pub(crate) fn own<T: Any + Send + Sync>(reparam: Arc<dyn Reparam>) -> Option<Arc<T>> {
    let any: Arc<dyn Any + Send + Sync> = reparam;
    any.downcast().ok()
}
