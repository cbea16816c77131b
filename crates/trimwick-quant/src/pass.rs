//! One-shot passes over layers, and over a language model block after block.

use std::sync::Arc;

use candle_core::Tensor;
use trimwick_nn::{CausalLm, Clock, Feed, Layer, LayerReport, Layers, Slot, Watch};

use crate::attach::{calibrate, input_quantizer, weight_quantizer};
use crate::input::InputQuant;
use crate::seen::{InputSeen, Needs, Watching, linear};
use crate::weight::WeightQuant;
use crate::{Error, Result};

/// A one-shot algorithm: it looks at what layers see of calibration data, and changes their weights or scales.
pub trait Pass {
    /// Name in recipes, reports and errors.
    fn name(&self) -> &'static str;

    /// What it must know about the layers' inputs.
    fn needs(&self) -> Needs;

    /// Whether it can take a layer, as that is now: asked of every layer before the first is changed.
    ///
    /// # Errors
    /// What is in the way, with the layer's path.
    fn check(&self, layer: &Layer) -> Result<()>;

    /// Does its work on layers that were seen together.
    ///
    /// # Errors
    /// Whatever stands against it, with the layer's path.
    fn apply(&self, part: &Part<'_>) -> Result<Vec<LayerReport>>;
}

/// Layers with what they saw.
pub struct Part<'a> {
    /// What makes the inputs of which layers, as far as the model says so.
    pub feeds: &'a [Feed],
    /// The layers to work on.
    pub seen: &'a [(Layer, Arc<InputSeen>)],
}

/// Runs a pass over layers, after running `forward` once on calibration data. Quantizers of the layers are off
/// meanwhile. `feeds` says where scales can be absorbed: leave it empty when nothing is known.
///
/// # Errors
/// A layer that the pass cannot take, that sees no data, or a NaN; whatever `forward` reports.
pub fn run_pass(
    layers: &Layers,
    feeds: &[Feed],
    pass: &dyn Pass,
    forward: impl FnOnce() -> candle_core::Result<()>,
) -> Result<Vec<LayerReport>> {
    check(layers, pass)?;
    let seen = {
        let _off = Off::new(layers);
        let watching = Watching::start(layers, pass.needs(), pass.name())?;
        forward()?;
        watching.finish()?
    };
    pass.apply(&Part { feeds, seen: &seen })
}

/// Runs a pass over the selected layers of a language model, block after block: each is seen on the outputs of the blocks
/// that are done, quantized as they now are, and its static inputs are calibrated when it is done. Only one block's
/// statistics are in memory at a time; beside them the hidden states of the calibration `windows` (ids `[b, t]`, u32).
///
/// `None` when it was told to end: some layers are done, others are not.
///
/// # Errors
/// As [`run_pass`].
pub fn run_pass_on_model(
    model: &dyn CausalLm,
    layers: &Layers,
    pass: &dyn Pass,
    windows: &[Tensor],
    watch: Watch<'_>,
) -> Result<Option<Vec<LayerReport>>> {
    check(layers, pass)?;
    let Watch { progress, stop } = watch;
    let prefix = |index: usize| format!("{}.", model.block_path(index));
    let inside = |index: usize| layers.retain(|l| l.path().starts_with(&prefix(index)));
    let of_head = layers.retain(|l| !(0..model.blocks()).any(|i| l.path().starts_with(&prefix(i))));
    let total = model.blocks() + usize::from(!of_head.is_empty());
    let mut reports = Vec::new();
    let mut states = windows.iter().map(|ids| Ok(model.embed(ids)?.detach())).collect::<Result<Vec<_>>>()?;
    for index in 0..total {
        progress(index, total, &reports);
        let head = index == model.blocks();
        let block = if head { of_head.clone() } else { inside(index) };
        let forward = |x: &Tensor| match head {
            false => model.block(index, x),
            // The logits of a window are large and nobody reads them: keep none.
            true => model.head(x)?.narrow(0, 0, 0),
        };
        let run = |states: &[Tensor]| -> Result<Option<Vec<Tensor>>> {
            let _passing = Passing::new(layers);
            let mut out = Vec::with_capacity(states.len());
            for x in states {
                if stop() {
                    return Ok(None);
                }
                out.push(forward(x)?.detach());
            }
            Ok(Some(out))
        };
        if !block.is_empty() {
            let off = Off::new(&block);
            let watching = Watching::start(&block, pass.needs(), pass.name())?;
            if run(&states)?.is_none() {
                return Ok(None);
            }
            let seen = watching.finish()?;
            drop(off);
            reports.extend(pass.apply(&Part { feeds: &model.feeds(index), seen: &seen })?);
            drop(seen);
            calibrate(&block, || states.iter().try_for_each(|x| forward(x).map(drop)))?;
        }
        if !head {
            let Some(next) = run(&states)? else { return Ok(None) };
            states = next;
        }
    }
    progress(total, total, &reports);
    Ok(Some(reports))
}

fn check(layers: &Layers, pass: &dyn Pass) -> Result<()> {
    layers.iter().try_for_each(|layer| {
        linear(layer, pass.name())?;
        plain(layer, pass.name())?;
        pass.check(layer)
    })
}

/// Whether the stored weight is all that the layer computes with, but for a mask and a quantizer.
pub(crate) fn plain(layer: &Layer, name: &'static str) -> Result<()> {
    let problem = match layer.chain().get(Slot::Adapter) {
        Some(_) => "the layer has an adapter, which changes its weight; merge it first",
        None if layer.weight().dtype() != candle_core::DType::F32 => "it works on f32 weights",
        None if layer.weight().compacted().is_some() => "the weight is kept compact; expand it first",
        None => return Ok(()),
    };
    Err(Error::Layer { layer: layer.path().into(), spec: name.into(), problem })
}

/// Quantizers that are off while layers are looked at, and then as they were, whichever way that ends.
struct Off {
    weights: Vec<Arc<WeightQuant>>,
    inputs: Vec<Arc<InputQuant>>,
    _passing: Passing,
}

impl Off {
    fn new(layers: &Layers) -> Self {
        let weights: Vec<_> = layers.iter().filter_map(weight_quantizer).filter(|q| q.enabled()).collect();
        let inputs: Vec<_> = layers.iter().filter_map(input_quantizer).filter(|q| q.enabled()).collect();
        weights.iter().for_each(|q| q.set_enabled(false));
        inputs.iter().for_each(|q| q.set_enabled(false));
        Self { weights, inputs, _passing: Passing::new(layers) }
    }
}

impl Drop for Off {
    fn drop(&mut self) {
        self.weights.iter().for_each(|q| q.set_enabled(true));
        self.inputs.iter().for_each(|q| q.set_enabled(true));
    }
}

/// Lets static quantizers pass that have no scale yet, such as those of keys and values.
struct Passing(Option<Clock>);

impl Passing {
    fn new(layers: &Layers) -> Self {
        let clock = layers.iter().find_map(|l| l.place().clock());
        if let Some(clock) = &clock {
            clock.set_calibrating(true);
        }
        Self(clock)
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        if let Some(clock) = &self.0 {
            clock.set_calibrating(false);
        }
    }
}
