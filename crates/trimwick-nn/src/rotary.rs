//! Tables of rotary angles (arXiv 2104.09864), with the frequency scaling of Llama 3.

use candle_core::{DType, Device, Result, Tensor};

use crate::ops;

/// How a model stretches its rotary frequencies beyond the context it was trained with.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Every frequency divided by `factor` (arXiv 2306.15595).
    Linear {
        /// The divisor, ≥ 1.
        factor: f64,
    },
    /// Llama 3.1: long wavelengths divided by `factor`, short ones kept, a linear blend between.
    Llama3 {
        /// The divisor of the lowest frequencies.
        factor: f64,
        /// Wavelengths above `original_context / low_freq_factor` are divided in full.
        low_freq_factor: f64,
        /// Wavelengths below `original_context / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// The context, in tokens, before the stretch.
        original_context: usize,
    },
    /// A divisor for each frequency, `[head_dim / 2]`, as GGUF's `rope_freqs.weight` carries them.
    Divisors(Vec<f64>),
}

/// Inverse frequencies `[head_dim / 2]`: `theta^(−2i/head_dim)`, scaled.
pub fn inverse_frequencies(head_dim: usize, theta: f64, scaling: Option<&RopeScaling>) -> Vec<f64> {
    let base = (0..head_dim / 2).map(|i| theta.powf(-2. * i as f64 / head_dim as f64));
    base.enumerate()
        .map(|(i, f)| match scaling {
            None => f,
            Some(RopeScaling::Linear { factor }) => f / factor,
            Some(RopeScaling::Divisors(d)) => f / d.get(i).copied().unwrap_or(1.),
            Some(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context }) => {
                let context = *original_context as f64;
                let wavelength = 2. * std::f64::consts::PI / f;
                // 0 at the long end (divided in full), 1 at the short end (kept).
                let kept = (context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                let kept = kept.clamp(0., 1.);
                (1. - kept) * f / factor + kept * f
            }
        })
        .collect()
}

/// Cosines and sines for positions `0..context`, `[context, head_dim / 2]` each.
#[derive(Clone, Debug)]
pub struct Rotary {
    cos: Tensor,
    sin: Tensor,
}

impl Rotary {
    /// Tables for `context` positions.
    ///
    /// # Errors
    /// An odd head dimension; allocation or device errors.
    pub fn new(
        head_dim: usize,
        context: usize,
        theta: f64,
        scaling: Option<&RopeScaling>,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        if head_dim == 0 || !head_dim.is_multiple_of(2) {
            candle_core::bail!("rotary: head dimension {head_dim} is not a positive even number");
        }
        let freqs = inverse_frequencies(head_dim, theta, scaling);
        let angles = || (0..context).flat_map(|t| freqs.iter().map(move |f| t as f64 * f));
        // The tables stay in f32 at least: positions in the thousands do not fit narrower floats.
        let dtype = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
        let table = |values: Vec<f64>| {
            Tensor::from_vec(values, (context, head_dim / 2), &Device::Cpu)?
                .to_dtype(dtype)?
                .to_device(device)
        };
        Ok(Self {
            cos: table(angles().map(f64::cos).collect())?,
            sin: table(angles().map(f64::sin).collect())?,
        })
    }

    /// Number of positions in the tables.
    pub fn context(&self) -> usize {
        self.cos.dims()[0]
    }

    /// Rotates x `[b, tokens, heads, head_dim]` whose first token stands at position `offset`.
    ///
    /// # Errors
    /// Positions beyond the tables.
    pub fn apply(&self, x: &Tensor, offset: usize) -> Result<Tensor> {
        let tokens = x.dim(1)?;
        if offset + tokens > self.context() {
            candle_core::bail!(
                "rotary: position {} is beyond the context of {}",
                offset + tokens - 1,
                self.context()
            );
        }
        let (cos, sin) = (self.cos.narrow(0, offset, tokens)?, self.sin.narrow(0, offset, tokens)?);
        ops::rope(x, &cos, &sin)
    }
}
