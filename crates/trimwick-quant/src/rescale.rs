//! A scale for each input channel, moved from a layer's input into its weight: x_c / s_c and W[:, c]·s_c.
//!
//! Nothing changes in full precision. The division goes into what makes the input where the model names that
//! ([`Feed`]); else the layer does it, by an [`InputScale`] that is saved with the model.

use std::sync::Arc;

use candle_core::{Device, Result as CandleResult, Tensor};
use trimwick_nn::{Feed, FeedSource, Layer, Param, Reparam, Slot};

use crate::attach::weight_quantizer;
use crate::pass::plain;
use crate::saved::{self, host};
use crate::seen::linear;
use crate::{Error, Result};

/// Suffix of the saved scale.
pub(crate) const SCALE: &str = "input_channel_scale";
const NAME: &str = "input scale";

/// Divides a layer's input channel by channel, where nothing before the layer could take the division.
pub struct InputScale {
    scale: Tensor,
}

impl InputScale {
    /// What the channels are divided by, `[in]`.
    pub fn scale(&self) -> &Tensor {
        &self.scale
    }
}

impl Reparam for InputScale {
    fn apply(&self, x: &Tensor) -> CandleResult<Tensor> {
        x.broadcast_div(&self.scale)
    }

    fn name(&self) -> &'static str {
        NAME
    }
}

/// Moves `scale`, `[in]`, from the input of every layer of the feed into its weight, columns multiplied, and lets the
/// feed's source divide by it; without a source the layers do so themselves. Quantizers of changed weights find their
/// scales anew.
///
/// # Errors
/// Scales that are not positive and finite, one for each channel, or that differ between channels made by one row; a
/// layer with an adapter, or whose weight is rounded already. Nothing is changed then.
pub fn absorb(feed: &Feed, scale: &[f32]) -> Result<()> {
    for layer in &feed.layers {
        linear(layer, NAME)?;
        changeable(layer)?;
        if layer.branch().is_some() {
            return Err(refuse(layer, "it has a branch, which reads the same input; scale before that"));
        }
        let cols = layer.weight().shape().dims()[1];
        if cols != scale.len() || scale.iter().any(|s| !(s.is_finite() && *s > 0.)) {
            return Err(refuse(layer, "expected a positive, finite scale for each input channel"));
        }
    }
    let by_row = match &feed.source {
        Some(FeedSource::Rows { layer, rows }) => Some(scales_of_rows(layer, rows, scale)?),
        _ => None,
    };
    for layer in &feed.layers {
        let cols = scale.len();
        change(layer.weight(), |i, w| w * scale[i % cols])?;
    }
    match (&feed.source, by_row) {
        (Some(FeedSource::Norm { gain, offset }), _) => {
            for param in std::iter::once(gain).chain(offset) {
                change(param, |i, v| v / scale[i])?;
            }
        }
        (Some(FeedSource::Rows { layer, .. }), Some(by_row)) => {
            let cols = layer.weight().shape().dims()[1];
            change(layer.weight(), |i, w| w / by_row[i / cols])?;
            if let Some(bias) = layer.bias() {
                change(bias, |i, b| b / by_row[i])?;
            }
            recalibrate(layer)?;
        }
        _ => feed.layers.iter().try_for_each(|layer| divide(layer, scale))?,
    }
    feed.layers.iter().try_for_each(recalibrate)
}

/// Puts the input scales of layers back that were loaded with them.
pub(crate) fn restore(layer: &Layer) -> Result<()> {
    if layer.buffer(SCALE).is_none() {
        layer.set_input_scale(None);
        return Ok(());
    }
    let cols = layer.weight().shape().dims().get(1).copied().unwrap_or(0);
    match saved::floats(layer.place(), SCALE, cols)? {
        Some(scale) => set(layer, &scale),
        None => Ok(()),
    }
}

fn divide(layer: &Layer, scale: &[f32]) -> Result<()> {
    let old = saved::floats(layer.place(), SCALE, scale.len())?;
    let product: Vec<f32> = match old {
        Some(old) => old.iter().zip(scale).map(|(a, b)| a * b).collect(),
        None => scale.to_vec(),
    };
    layer.set_buffer(SCALE, &Tensor::from_slice(&product, product.len(), &Device::Cpu)?)?;
    set(layer, &product)
}

fn set(layer: &Layer, scale: &[f32]) -> Result<()> {
    let scale = Tensor::from_slice(scale, scale.len(), layer.weight().device())?;
    layer.set_input_scale(Some(Arc::new(InputScale { scale })));
    Ok(())
}

fn scales_of_rows(layer: &Layer, rows: &[usize], scale: &[f32]) -> Result<Vec<f32>> {
    changeable(layer)?;
    let count = layer.weight().shape().dims()[0];
    if layer.branch().is_some() {
        return Err(refuse(layer, "it has a branch, whose rows cannot be divided with its own"));
    }
    if rows.len() != scale.len() || rows.iter().any(|r| *r >= count) {
        return Err(refuse(layer, "the model's feed does not name one of its rows for each input channel"));
    }
    let mut of_row = vec![None; count];
    for (&row, &s) in rows.iter().zip(scale) {
        if *of_row[row].get_or_insert(s) != s {
            return Err(refuse(layer, "input channels made by one row need one scale"));
        }
    }
    Ok(of_row.into_iter().map(|s| s.unwrap_or(1.)).collect())
}

/// Whether a layer's weight can be scaled: it is no sum, and no scale belongs to it as it is.
pub(crate) fn changeable(layer: &Layer) -> Result<()> {
    plain(layer, NAME)?;
    if weight_quantizer(layer).is_some_and(|q| q.pinned()) {
        return Err(refuse(layer, "its weight is rounded or clipped already; scale before that"));
    }
    Ok(())
}

fn refuse(layer: &Layer, problem: &'static str) -> Error {
    Error::Layer { layer: layer.path().into(), spec: NAME.into(), problem }
}

fn change(param: &Param, f: impl Fn(usize, f32) -> f32) -> Result<()> {
    let values = host(&param.value()?)?;
    let new: Vec<f32> = values.into_iter().enumerate().map(|(i, v)| f(i, v)).collect();
    let new = Tensor::from_vec(new, param.shape().dims(), &Device::Cpu)?;
    Ok(param.set(&new.to_dtype(param.dtype())?.to_device(param.device())?)?)
}

fn recalibrate(layer: &Layer) -> Result<()> {
    match weight_quantizer(layer) {
        Some(quantizer) => quantizer.calibrate(&layer.weight_before(Slot::FakeQuant)?),
        None => Ok(()),
    }
}
