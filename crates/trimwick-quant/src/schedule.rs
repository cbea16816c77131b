//! Quantizers that start late and scales that stop moving.

use trimwick_nn::{KvSlot, Layers};

use crate::attach::{calibrate_weights, input_quantizer, refresh, restore, set_enabled, weight_quantizer};
use crate::kv;
use crate::options::ScalePolicy;
use crate::{Error, Result};

/// When the quantizers of a set of layers act while they train. Call [`QuantSchedule::before_step`] before every
/// optimizer step; it is also what moves ema scales.
///
/// What it does is a function of the step and of what is saved with the model, so that a resumed run needs nothing more
/// than [`QuantSchedule::resume`].
pub struct QuantSchedule {
    layers: Layers,
    slots: Vec<KvSlot>,
    start: u64,
    freeze: Option<u64>,
}

impl QuantSchedule {
    /// Quantizers that act from step `start` on (0: from the beginning), whose ema and learned scales stand still from
    /// step `freeze` on. Until `start` the model trains in full precision; there, scales of weights are found anew.
    ///
    /// Build the optimizer before the first step: until `start`, learned scales are frozen.
    ///
    /// # Errors
    /// A `freeze` that is not after `start`, or that stops nothing because all scales are dynamic or frozen.
    pub fn new(layers: Layers, start: u64, freeze: Option<u64>) -> Result<Self> {
        if let Some(step) = freeze {
            let moves = |policy| matches!(policy, ScalePolicy::Ema(_) | ScalePolicy::Learned);
            let moving = layers.iter().any(|layer| {
                weight_quantizer(layer).is_some_and(|q| moves(q.policy()))
                    || input_quantizer(layer).is_some_and(|q| moves(q.policy()))
            });
            if step <= start || !moving {
                let expected = match moving {
                    true => "a step after the one at which the quantizers start",
                    false => "nothing, since no scale is ema or learned",
                };
                return Err(Error::Option { what: "freeze", expected, found: step as f64 });
            }
        }
        Ok(Self { layers, slots: Vec::new(), start, freeze })
    }

    /// Lets the quantizers of keys and values start at the same step.
    #[must_use]
    pub fn with_kv(self, slots: Vec<KvSlot>) -> Self {
        Self { slots, ..self }
    }

    /// Does what is due before `step` (from 0). Returns whether quantizers were switched, or scales moved or frozen.
    ///
    /// # Errors
    /// NaN or infinity in a weight.
    pub fn before_step(&mut self, step: u64) -> Result<bool> {
        if step < self.start {
            self.switch(step);
            return Ok(step == 0);
        }
        if step == self.start {
            if step > 0 {
                // The weights have moved since the quantizers were attached.
                calibrate_weights(&self.layers)?;
            }
            self.switch(step);
            return Ok(step > 0);
        }
        let frozen = self.freeze.is_some_and(|freeze| step >= freeze);
        if frozen {
            self.switch(step);
            return Ok(self.freeze == Some(step));
        }
        refresh(&self.layers)?;
        Ok(self.layers.iter().any(|layer| {
            let ema = |policy| matches!(policy, ScalePolicy::Ema(_));
            weight_quantizer(layer).is_some_and(|q| ema(q.policy()))
                || input_quantizer(layer).is_some_and(|q| ema(q.policy()))
        }))
    }

    /// Takes scales and switches as they were, after a checkpoint taken before `step` was loaded.
    ///
    /// # Errors
    /// A scale that is missing or of another scheme.
    pub fn resume(&mut self, step: u64) -> Result<()> {
        restore(&self.layers)?;
        kv::restore(&self.slots)?;
        // What holds is what the last step set: `before_step(step)` is still to come.
        self.switch(step.saturating_sub(1));
        Ok(())
    }

    /// Sets every switch as it is during `step`.
    fn switch(&self, step: u64) {
        let on = step >= self.start;
        let frozen = self.freeze.is_some_and(|freeze| step >= freeze);
        set_enabled(&self.layers, on);
        kv::set_enabled(&self.slots, on);
        for layer in &self.layers {
            if let Some(quantizer) = weight_quantizer(layer) {
                quantizer.train_scales(on && !frozen);
            }
            if let Some(quantizer) = input_quantizer(layer) {
                quantizer.train_scales(on && !frozen);
                quantizer.set_frozen(frozen);
            }
        }
    }
}
