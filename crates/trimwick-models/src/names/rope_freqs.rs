//! `rope_freqs.weight` of GGUF: how llama.cpp stores Llama 3's stretched rotary frequencies.
//!
//! The tensor holds, for each of the head_dim / 2 rotary pairs, what the inverse frequency θ^(−2i/d) is divided by. The
//! parameters it was made from are not in the file. Saving for Hugging Face is better with them, so they are found again
//! by trying those of the published models: they are believed only if they give the stored values.

use trimwick_nn::{RopeScaling, inverse_frequencies};

/// Name of the tensor.
pub(crate) const TENSOR: &str = "rope_freqs.weight";

/// Factors of the published Llama 3.1, 3.2 and 3.3 models; the other parameters are the same in all.
const FACTORS: [f64; 3] = [8.0, 32.0, 16.0];

/// What divisors `[head_dim / 2]` with rotary base `theta` mean: Llama 3's rule where it gives them, else themselves.
pub(crate) fn scaling(divisors: &[f32], theta: f64) -> RopeScaling {
    let head_dim = 2 * divisors.len();
    let plain = inverse_frequencies(head_dim, theta, None);
    let rule = |factor| RopeScaling::Llama3 {
        factor,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_context: 8192,
    };
    let gives_them = |rule: &RopeScaling| {
        let stretched = inverse_frequencies(head_dim, theta, Some(rule));
        let made: Vec<f64> = plain.iter().zip(&stretched).map(|(p, s)| p / s).collect();
        // The converter computes in f32: a few units in the last place.
        let equal = divisors.iter().zip(&made).all(|(&d, &m)| (f64::from(d) / m - 1.0).abs() < 1e-5);
        // Where a rule changes nothing (all wavelengths short), it cannot be told from another.
        equal && made.iter().any(|&m| m > 1.01)
    };
    FACTORS
        .into_iter()
        .map(rule)
        .find(gives_them)
        .unwrap_or_else(|| RopeScaling::Divisors(divisors.iter().copied().map(f64::from).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Divisors by the definition in llama.cpp's converter, written out.
    fn divisors(head_dim: usize, theta: f64, factor: f64) -> Vec<f32> {
        let (low, high, context) = (1.0, 4.0, 8192.0);
        (0..head_dim / 2)
            .map(|i| {
                let wavelength = 2.0 * std::f64::consts::PI * theta.powf(2.0 * i as f64 / head_dim as f64);
                let smooth = (context / wavelength - low) / (high - low);
                let divisor = if wavelength < context / high {
                    1.0
                } else if wavelength > context / low {
                    factor
                } else {
                    1.0 / ((1.0 - smooth) / factor + smooth)
                };
                divisor as f32
            })
            .collect()
    }

    #[test]
    fn published_rules_are_recognized_and_others_are_kept() {
        // Llama 3.1 8B and 3.2 1B.
        for (head_dim, expected) in [(128, 8.0), (64, 32.0)] {
            let mut stored = divisors(head_dim, 5e5, expected);
            assert!(stored.contains(&1.0) && stored.contains(&(expected as f32)));
            assert!(
                matches!(scaling(&stored, 5e5), RopeScaling::Llama3 { factor, .. } if factor == expected)
            );
            stored[head_dim / 4] *= 1.001;
            let kept: Vec<f64> = stored.iter().copied().map(f64::from).collect();
            assert_eq!(scaling(&stored, 5e5), RopeScaling::Divisors(kept));
        }
        assert_eq!(scaling(&[1.0; 32], 1e4), RopeScaling::Divisors(vec![1.0; 32]));
        assert!(matches!(scaling(&[f32::NAN; 32], 5e5), RopeScaling::Divisors(_)));
    }
}
