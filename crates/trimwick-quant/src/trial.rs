//! What a layer would compute with other weights and inputs, quantized as it is.

use std::sync::Arc;

use trimwick_kernels as kernels;
use trimwick_nn::{Layer, Slot};

use crate::Result;
use crate::attach::{input_quantizer, weight_quantizer};
use crate::input::InputQuant;
use crate::observer::Extremes;
use crate::saved::host;
use crate::weight::WeightQuant;

/// A linear layer `[rows, cols]` and its quantizers, apart from the model.
pub(crate) struct Trial {
    pub(crate) path: String,
    /// The weight as it enters the quantizer: masked.
    pub(crate) weight: Vec<f32>,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) on_weight: Option<Arc<WeightQuant>>,
    pub(crate) on_input: Option<Arc<InputQuant>>,
}

impl Trial {
    pub(crate) fn of(layer: &Layer) -> Result<Self> {
        let dims = layer.weight().shape().dims();
        Ok(Self {
            path: layer.path().into(),
            weight: host(&layer.weight_before(Slot::FakeQuant)?)?,
            rows: dims[0],
            cols: dims[1],
            on_weight: weight_quantizer(layer),
            on_input: input_quantizer(layer),
        })
    }

    /// A weight on its grid, with scales of its own.
    pub(crate) fn weight(&self, w: &[f32]) -> Result<Vec<f32>> {
        match &self.on_weight {
            Some(quantizer) => quantizer.trial(w),
            None => Ok(w.to_vec()),
        }
    }

    /// Inputs on their grid; `largest` is the largest magnitude over all calibration data, which a static scale covers.
    pub(crate) fn input(&self, x: &[f32], largest: f32) -> Result<Vec<f32>> {
        let Some(quantizer) = &self.on_input else { return Ok(x.to_vec()) };
        let range = Extremes::of(&self.path, "input", x)?.unwrap_or(Extremes { least: 0., largest: 0. });
        let range = if quantizer.spec().asymmetric() {
            range
        } else {
            Extremes { least: -largest, largest }.and(Some(range))
        };
        quantizer.trial(x, self.cols, range)
    }

    /// `x·wᵀ`, `[tokens, rows]`.
    pub(crate) fn output(&self, x: &[f32], w: &[f32]) -> Vec<f32> {
        let tokens = x.len() / self.cols;
        let mut y = vec![0f32; tokens * self.rows];
        kernels::matmul_nt(x, w, &mut y, tokens, self.cols, self.rows, false);
        y
    }
}

/// The largest magnitude of channels, each divided by its scale.
pub(crate) fn largest(amax: &[f32], scale: Option<&[f32]>) -> f32 {
    match scale {
        Some(scale) => amax.iter().zip(scale).map(|(a, s)| a / s).fold(0., f32::max),
        None => amax.iter().copied().fold(0., f32::max),
    }
}
