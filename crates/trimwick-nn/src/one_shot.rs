//! What one-shot algorithms have in common, whether they prune or quantize: tokens that are kept, and the report of a layer.

use serde::{Deserialize, Serialize};

/// Output without any noise is given this many decibels.
const SILENT: f64 = 200.;

/// What a one-shot algorithm did to one layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerReport {
    /// Layer path.
    pub layer: String,
    /// Name of the algorithm.
    pub pass: String,
    /// Signal-to-noise ratio in dB of the layer's output on calibration inputs, as it would be without the algorithm:
    /// rounded to nearest, or with the mask that magnitude chooses.
    pub before_db: f64,
    /// The same after it.
    pub after_db: f64,
    /// The exponent that was chosen (SmoothQuant, AWQ); `None` when no scaling was better, or there is none to choose.
    pub alpha: Option<f64>,
    /// The damping with which the Hessian was positive definite, as a share of its mean diagonal (SparseGPT, GPTQ).
    pub damping: Option<f64>,
    /// How often the damping had to be raised.
    pub retries: u32,
    /// Inputs that were zero in every calibration token.
    pub dead: usize,
}

impl LayerReport {
    /// A report of nothing but the two ratios.
    pub fn new(layer: &str, pass: &str, before_db: f64, after_db: f64) -> Self {
        let (layer, pass) = (layer.into(), pass.into());
        Self { layer, pass, before_db, after_db, alpha: None, damping: None, retries: 0, dead: 0 }
    }
}

/// Who follows an algorithm through a model.
pub struct Watch<'a> {
    /// Told each block's index and their number, the head counting as one when it is selected, and what was done so far.
    pub progress: &'a mut dyn FnMut(usize, usize, &[LayerReport]),
    /// Asked between windows, and where it takes long between layers, whether to end.
    pub stop: &'a dyn Fn() -> bool,
}

/// `10·log10(Σ y² / Σ (ŷ − y)²)`, at most 200 and at least −200.
pub fn decibels(y: &[f32], found: &[f32]) -> f64 {
    let (mut signal, mut noise) = (0f64, 0f64);
    for (y, f) in y.iter().zip(found) {
        signal += f64::from(*y) * f64::from(*y);
        noise += (f64::from(*f) - f64::from(*y)).powi(2);
    }
    if noise == 0. { SILENT } else { (10. * (signal / noise).log10()).clamp(-SILENT, SILENT) }
}

/// At most so many of the rows that come along, evenly spread over all of them, the same however they come in pieces.
#[derive(Debug, Clone)]
pub struct EvenRows {
    limit: usize,
    cols: usize,
    seen: u64,
    /// Every so many rows one is kept: doubled whenever there are too many.
    stride: u64,
    kept: Vec<f32>,
}

impl EvenRows {
    /// Keeps at most `limit` rows of `cols` values each; with 0, none.
    pub fn new(limit: usize, cols: usize) -> Self {
        Self { limit, cols, seen: 0, stride: 1, kept: Vec::new() }
    }

    /// Looks at the next row.
    pub fn see(&mut self, row: &[f32]) {
        let wanted = self.limit > 0 && self.seen.is_multiple_of(self.stride);
        self.seen += 1;
        if !wanted {
            return;
        }
        if self.kept.len() == self.limit * self.cols {
            let half = self.kept.chunks_exact(self.cols).step_by(2).flatten().copied().collect();
            self.kept = half;
            self.stride *= 2;
            if !(self.seen - 1).is_multiple_of(self.stride) {
                return;
            }
        }
        self.kept.extend_from_slice(row);
    }

    /// The rows that were kept, `[kept, cols]`.
    pub fn into_rows(self) -> Vec<f32> {
        self.kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_of_noise_is_twenty_decibels() {
        assert!((decibels(&[1., -1.], &[1.1, -0.9]) - 20.).abs() < 1e-4);
        assert_eq!(decibels(&[1.], &[1.]), 200.);
        assert_eq!(decibels(&[0.], &[1.]), -200.);
    }

    #[test]
    fn rows_are_kept_evenly() {
        let kept = |limit: usize, rows: usize| -> Vec<f32> {
            let mut even = EvenRows::new(limit, 2);
            (0..rows).for_each(|i| even.see(&[i as f32, -1.]));
            even.into_rows().chunks_exact(2).map(|row| row[0]).collect()
        };
        assert_eq!(kept(8, 100), [0., 16., 32., 48., 64., 80., 96.]);
        assert_eq!(kept(8, 8), [0., 1., 2., 3., 4., 5., 6., 7.]);
        assert_eq!(kept(8, 9), [0., 2., 4., 6., 8.]);
        assert_eq!(kept(1, 5), [0.]);
        assert!(kept(0, 5).is_empty());
    }
}
