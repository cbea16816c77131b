//! How well a layer's output survives.

use serde::{Deserialize, Serialize};

/// Output without any noise is given this many decibels.
const SILENT: f64 = 200.;

/// What a pass did to one layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerReport {
    /// Layer path.
    pub layer: String,
    /// Name of the pass.
    pub pass: String,
    /// Signal-to-noise ratio in dB of the layer's output on calibration inputs, quantized as it would be without the
    /// pass.
    pub before_db: f64,
    /// The same after the pass.
    pub after_db: f64,
    /// The exponent that was chosen (SmoothQuant, AWQ); `None` when no scaling was better, or there is none to choose.
    pub alpha: Option<f64>,
    /// The damping with which the Hessian was positive definite, as a share of its mean diagonal (GPTQ).
    pub damping: Option<f64>,
    /// How often the damping had to be raised.
    pub retries: u32,
    /// Inputs that were zero in every calibration token.
    pub dead: usize,
}

impl LayerReport {
    pub(crate) fn new(layer: &str, pass: &'static str, before_db: f64, after_db: f64) -> Self {
        let (layer, pass) = (layer.into(), pass.into());
        Self { layer, pass, before_db, after_db, alpha: None, damping: None, retries: 0, dead: 0 }
    }
}

/// `10·log10(Σ y² / Σ (ŷ − y)²)`, at most 200.
pub(crate) fn decibels(y: &[f32], found: &[f32]) -> f64 {
    let (mut signal, mut noise) = (0f64, 0f64);
    for (y, f) in y.iter().zip(found) {
        signal += f64::from(*y) * f64::from(*y);
        noise += (f64::from(*f) - f64::from(*y)).powi(2);
    }
    ratio(signal, noise)
}

fn ratio(signal: f64, noise: f64) -> f64 {
    if noise == 0. { SILENT } else { (10. * (signal / noise).log10()).clamp(-SILENT, SILENT) }
}

#[cfg(test)]
mod tests {
    use super::decibels;

    #[test]
    fn a_tenth_of_noise_is_twenty_decibels() {
        assert!((decibels(&[1., -1.], &[1.1, -0.9]) - 20.).abs() < 1e-4);
        assert_eq!(decibels(&[1.], &[1.]), 200.);
        assert_eq!(decibels(&[0.], &[1.]), -200.);
    }
}
