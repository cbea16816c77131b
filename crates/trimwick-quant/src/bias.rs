//! Bias correction: E[(W − Ŵ)·x] goes into the bias.
//!
//! Rounding shifts the mean of a layer's output; over calibration inputs the shift is known, and a bias undoes it.

use candle_core::Tensor;
use trimwick_nn::{Layer, LayerReport, decibels};

use crate::attach::{input_quantizer, weight_quantizer};
use crate::pass::{Part, Pass};
use crate::saved::host;
use crate::seen::Needs;
use crate::trial::{Trial, largest};
use crate::{Error, Result};

/// Bias correction of quantized layers, against the weights as they are stored: those that GPTQ has rounded show no error
/// any more. It comes last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BiasCorrection {
    /// Give layers without a bias one. A model's file format may have no place for it.
    pub create: bool,
    /// Tokens over which the mean, and the signal-to-noise ratio, are taken.
    pub samples: usize,
}

impl Default for BiasCorrection {
    /// Existing biases alone, on 512 tokens.
    fn default() -> Self {
        Self { create: false, samples: 512 }
    }
}

impl Pass for BiasCorrection {
    fn name(&self) -> &'static str {
        "bias-correction"
    }

    fn needs(&self) -> Needs {
        Needs { samples: self.samples, gram: false }
    }

    fn check(&self, layer: &Layer) -> Result<()> {
        let problem = match layer.bias() {
            _ if weight_quantizer(layer).is_none() && input_quantizer(layer).is_none() => {
                "nothing of it is quantized, so there is no shift; attach a scheme first"
            }
            None if !self.create => "it has no bias; exclude it, or let the correction create one",
            _ => return Ok(()),
        };
        Err(Error::Layer { layer: layer.path().into(), spec: self.name().into(), problem })
    }

    fn apply(&self, part: &Part<'_>) -> Result<Vec<LayerReport>> {
        let mut reports = Vec::new();
        for (layer, seen) in part.seen {
            let trial = Trial::of(layer)?;
            // The scales that the layer computes with, chosen ones included.
            let weight = host(&layer.effective_weight()?)?;
            let x = trial.input(&seen.samples, largest(&seen.amax, None))?;
            let y = trial.output(&seen.samples, &trial.weight);
            let mut found = trial.output(&x, &weight);
            let before = decibels(&y, &found);

            let tokens = (found.len() / trial.rows).max(1) as f64;
            let mut shift = vec![0f64; trial.rows];
            for (y, f) in y.chunks_exact(trial.rows).zip(found.chunks_exact(trial.rows)) {
                shift.iter_mut().zip(y.iter().zip(f)).for_each(|(s, (y, f))| *s += f64::from(y - f) / tokens);
            }
            let shift: Vec<f32> = shift.iter().map(|s| *s as f32).collect();
            for f in found.chunks_exact_mut(trial.rows) {
                f.iter_mut().zip(&shift).for_each(|(f, s)| *f += s);
            }
            let shift = Tensor::from_vec(shift, trial.rows, layer.weight().device())?;
            match layer.bias() {
                Some(bias) => bias.set(&(bias.value()?.detach() + shift.to_dtype(bias.dtype())?)?)?,
                None => drop(layer.add_bias(&shift)?),
            }
            reports.push(LayerReport::new(layer.path(), self.name(), before, decibels(&y, &found)));
        }
        Ok(reports)
    }
}
