//! SmoothQuant (arXiv 2211.10438): move what is hard to quantize from the input into the weight.
//!
//! With a_c = max|x_c| and w_c = max over the outputs of |W[:, c]|, s_c = a_c^α / w_c^(1−α), clamped to [1e−4, 1e4];
//! then x_c / s_c and W[:, c]·s_c. A channel with a zero statistic keeps s = 1. Layers that read one input share s, and w_c
//! is the largest of theirs.

use trimwick_nn::{Layer, LayerReport};

use crate::attach::input_quantizer;
use crate::pass::{Part, Pass};
use crate::scaling::{self, BOUNDS, Search};
use crate::seen::Needs;
use crate::{Error, Result};

/// The exponent of SmoothQuant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Alpha {
    /// The same for all layers, in [0, 1]; the paper takes 0.5.
    Fixed(f64),
    /// For each group of layers that share an input the one, of so many equal steps from 0 to 1, whose quantized outputs
    /// have the least noise on calibration inputs; no smoothing at all is tried too.
    Search(usize),
}

/// SmoothQuant of layers whose inputs are quantized.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SmoothQuant {
    /// The exponent.
    pub alpha: Alpha,
    /// Tokens on which a search, and the signal-to-noise ratio, are taken.
    pub samples: usize,
}

impl Default for SmoothQuant {
    /// A search in 20 steps on 512 tokens.
    fn default() -> Self {
        Self { alpha: Alpha::Search(20), samples: 512 }
    }
}

impl Pass for SmoothQuant {
    fn name(&self) -> &'static str {
        "smoothquant"
    }

    fn needs(&self) -> Needs {
        Needs { samples: self.samples, gram: false }
    }

    fn check(&self, layer: &Layer) -> Result<()> {
        let found = match self.alpha {
            Alpha::Fixed(alpha) if !(0. ..=1.).contains(&alpha) => Some(alpha),
            Alpha::Search(0) => Some(0.),
            _ => None,
        };
        if let Some(found) = found {
            let expected = "an exponent in [0, 1], or at least one step of a search";
            return Err(Error::Option { what: "smooth alpha", expected, found });
        }
        let problem =
            "smoothing helps inputs that are quantized; attach a scheme that quantizes the input first";
        scaling::check(layer, self.name(), problem, input_quantizer(layer).is_some())
    }

    fn apply(&self, part: &Part<'_>) -> Result<Vec<LayerReport>> {
        let mut reports = Vec::new();
        for shared in scaling::shared(part) {
            let Some(search) = Search::new(shared)? else { continue };
            let mut a = search.seen().amax.clone();
            let mut w = vec![0f32; a.len()];
            for (weight, _) in search.weights()? {
                for row in weight.chunks_exact(w.len()) {
                    w.iter_mut().zip(row).for_each(|(w, v)| *w = w.max(v.abs()));
                }
            }
            search.tie(&mut a, f32::max);
            search.tie(&mut w, f32::max);
            let scale = |alpha: f64| scale(&a, &w, alpha);
            let chosen = match self.alpha {
                Alpha::Fixed(alpha) => Some((alpha, scale(alpha))),
                Alpha::Search(steps) => search.best(&scaling::exponents(steps), true, scale)?,
            };
            reports.extend(search.finish(self.name(), chosen)?);
        }
        Ok(reports)
    }
}

fn scale(a: &[f32], w: &[f32], alpha: f64) -> Vec<f32> {
    let of = |(a, w): (&f32, &f32)| {
        if *a == 0. || *w == 0. {
            return 1.;
        }
        let s = f64::from(*a).powf(alpha) / f64::from(*w).powf(1. - alpha);
        (s as f32).clamp(BOUNDS.0, BOUNDS.1)
    };
    a.iter().zip(w).map(of).collect()
}
