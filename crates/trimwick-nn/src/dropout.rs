//! Dropout keyed by (seed, step, path), active while the store's clock says training.

use candle_core::{Result, Tensor};
use candle_nn::Module;

use crate::builder::VarBuilder;
use crate::clock::Clock;
use crate::ops;

/// Zeroes elements with probability `p` in training and is the identity otherwise.
#[derive(Clone, Debug)]
pub struct Dropout {
    p: f64,
    path: String,
    clock: Clock,
}

impl Module for Dropout {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if !self.clock.training() {
            return Ok(x.clone());
        }
        ops::dropout(x, self.p, self.clock.rng("dropout", &self.path))
    }
}

/// A dropout layer; its path is part of the key of its choices, so two layers never drop alike.
///
/// # Errors
/// `p` outside `[0, 1)`.
pub fn dropout(p: f64, vb: VarBuilder) -> Result<Dropout> {
    if !(0. ..1.).contains(&p) {
        candle_core::bail!("{}: dropout probability {p} is outside [0, 1)", vb.prefix());
    }
    Ok(Dropout { p, path: vb.prefix(), clock: vb.store().clock().clone() })
}
