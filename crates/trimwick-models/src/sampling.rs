//! Choosing the next token from logits: greedy, or by temperature and nucleus.
//!
//! With temperature τ the probabilities are softmax(logits / τ); with top-p (nucleus sampling, Holtzman et al. 2019,
//! arXiv 1904.09751) only the smallest set of most probable tokens whose probabilities reach p is drawn from. The random
//! number of step i depends on the seed and on i alone, so a generation can be repeated, or continued at any step.

use trimwick_kernels::Rng;

use crate::error::{Error, Result};

/// How tokens are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplingOptions {
    /// τ; 0 is greedy. Finite, ≥ 0.
    pub temperature: f64,
    /// p of the nucleus, in (0, 1]; 1 keeps every token.
    pub top_p: f64,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for SamplingOptions {
    /// Greedy.
    fn default() -> Self {
        Self { temperature: 0.0, top_p: 1.0, seed: 0 }
    }
}

/// Draws one token per call.
///
/// ```
/// use trimwick_models::{Sampler, SamplingOptions};
///
/// let mut greedy = Sampler::new(SamplingOptions::default())?;
/// assert_eq!(greedy.sample(&[0.5, 2.0, -1.0])?, 1);
/// # Ok::<(), trimwick_models::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Sampler {
    options: SamplingOptions,
    step: u64,
}

impl Sampler {
    /// A sampler at step 0.
    ///
    /// # Errors
    /// [`Error::Sampling`] for a temperature that is negative or not finite, or a `top_p` outside (0, 1].
    pub fn new(options: SamplingOptions) -> Result<Self> {
        let SamplingOptions { temperature, top_p, .. } = options;
        if !(temperature.is_finite() && temperature >= 0.0) {
            let expected = "a finite number of at least 0";
            return Err(Error::Sampling { what: "temperature", expected, found: temperature.to_string() });
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            let expected = "a number above 0 and at most 1";
            return Err(Error::Sampling { what: "top_p", expected, found: top_p.to_string() });
        }
        Ok(Self { options, step: 0 })
    }

    /// The number of tokens drawn so far.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Draws the next token from `logits`, `[vocab]`. A logit of −∞ is a token that cannot be drawn. Ties go to the
    /// lowest id.
    ///
    /// # Errors
    /// [`Error::Sampling`] if there is no logit, one is NaN or +∞, or all are −∞.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32> {
        let bad = |i: usize, x: f32| Error::Sampling {
            what: "logits",
            expected: "finite numbers",
            found: format!("{x} for token {i}"),
        };
        if let Some((i, &x)) = logits.iter().enumerate().find(|(_, x)| x.is_nan() || **x == f32::INFINITY) {
            return Err(bad(i, x));
        }
        let best = argmax(logits);
        let best =
            best.ok_or(Error::Sampling { what: "logits", expected: "at least one", found: "none".into() })?;
        let max = logits[best];
        if max == f32::NEG_INFINITY {
            return Err(bad(best, max));
        }
        let uniform = Rng::new(self.options.seed, "sampling", self.step, "").uniform_at(0);
        self.step += 1;
        let chosen =
            if self.options.temperature == 0.0 { best } else { self.draw(logits, f64::from(max), uniform) };
        Ok(chosen as u32)
    }

    /// The token at the point `uniform` in [0, 1) of the nucleus laid out from the most probable token down.
    fn draw(&self, logits: &[f32], max: f64, uniform: f64) -> usize {
        let weight = |x: f32| ((f64::from(x) - max) / self.options.temperature).exp();
        let mut weights: Vec<(usize, f64)> =
            logits.iter().enumerate().map(|(i, &x)| (i, weight(x))).filter(|(_, w)| *w > 0.0).collect();
        weights.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let total: f64 = weights.iter().map(|(_, w)| w).sum();
        let mut mass = 0.0;
        let mut kept = 0;
        for (_, w) in &weights {
            mass += w;
            kept += 1;
            if mass >= self.options.top_p * total {
                break;
            }
        }
        let mut left = uniform * mass;
        for &(i, w) in &weights[..kept] {
            left -= w;
            if left < 0.0 {
                return i;
            }
        }
        // Rounding can leave a little beyond the last.
        weights[kept - 1].0
    }
}

fn argmax(logits: &[f32]) -> Option<usize> {
    (0..logits.len()).reduce(|best, i| if logits[i] > logits[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(temperature: f64, top_p: f64, seed: u64) -> Sampler {
        Sampler::new(SamplingOptions { temperature, top_p, seed }).unwrap()
    }

    fn random_logits(case: u64, n: usize, spread: f64) -> Vec<f32> {
        let rng = Rng::new(case, "test", 0, "logits");
        (0..n).map(|i| (spread * rng.normal_at(i as u64)) as f32).collect()
    }

    #[test]
    fn greedy_takes_the_largest_and_the_lowest_of_ties() {
        let mut greedy = sampler(0.0, 1.0, 9);
        assert_eq!(greedy.sample(&[1.0, 3.0, 3.0, -2.0]).unwrap(), 1);
        assert_eq!(greedy.sample(&[f32::NEG_INFINITY, -7.0]).unwrap(), 1);
        assert_eq!(greedy.sample(&[-0.0, 0.0]).unwrap(), 0);
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        for temperature in [0.5, 1.0, 2.0] {
            let logits = random_logits(3, 6, 1.0);
            let mut s = sampler(temperature, 1.0, 1);
            let draws = 40_000;
            let mut counts = [0_u32; 6];
            (0..draws).for_each(|_| counts[s.sample(&logits).unwrap() as usize] += 1);
            let weights: Vec<f64> = logits.iter().map(|&x| (f64::from(x) / temperature).exp()).collect();
            let total: f64 = weights.iter().sum();
            for (i, &count) in counts.iter().enumerate() {
                let p = weights[i] / total;
                let sigma = (p * (1.0 - p) / f64::from(draws)).sqrt();
                let found = f64::from(count) / f64::from(draws);
                assert!((found - p).abs() < 5.0 * sigma, "τ {temperature}, token {i}: {found} for {p}");
            }
        }
    }

    /// Whatever is drawn lies in the nucleus, and the nucleus is the smallest one: defined anew here by sorting.
    #[test]
    fn top_p_never_leaves_the_nucleus_and_reaches_all_of_it() {
        for case in 0..60 {
            let logits = random_logits(case, 3 + case as usize % 40, 0.1 + case as f64 / 20.0);
            let (temperature, top_p) = (0.3 + case as f64 / 30.0, [0.05, 0.5, 0.9, 1.0][case as usize % 4]);
            let weights: Vec<f64> = logits.iter().map(|&x| (f64::from(x) / temperature).exp()).collect();
            let total: f64 = weights.iter().sum();
            let mut order: Vec<usize> = (0..logits.len()).collect();
            order.sort_by(|&a, &b| weights[b].total_cmp(&weights[a]));
            let mut nucleus = vec![];
            let mut mass = 0.0;
            for i in order {
                if mass < top_p - 1e-9 {
                    nucleus.push(i as u32);
                    mass += weights[i] / total;
                }
            }
            let mut s = sampler(temperature, top_p, case);
            let mut seen = std::collections::BTreeSet::new();
            for _ in 0..400 {
                seen.insert(s.sample(&logits).unwrap());
            }
            assert!(seen.iter().all(|t| nucleus.contains(t)), "case {case}: {seen:?} beyond {nucleus:?}");
            let likely = nucleus.iter().filter(|&&t| weights[t as usize] / total > 0.05);
            assert!(
                likely.clone().all(|t| seen.contains(t)),
                "case {case}: {seen:?} misses one of {nucleus:?}"
            );
        }
    }

    #[test]
    fn the_same_seed_repeats_and_another_differs() {
        let logits = random_logits(5, 100, 1.0);
        let run = |seed| {
            let mut s = sampler(1.0, 0.95, seed);
            (0..50).map(|_| s.sample(&logits).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }

    #[test]
    fn masked_tokens_are_never_drawn_and_extremes_do_not_overflow() {
        let mut s = sampler(1.0, 1.0, 0);
        for _ in 0..200 {
            assert_ne!(s.sample(&[0.0, f32::NEG_INFINITY, 0.1]).unwrap(), 1);
        }
        assert_eq!(sampler(1e-3, 1.0, 0).sample(&[f32::MAX, f32::MIN]).unwrap(), 0);
        assert!(sampler(1e300, 1.0, 0).sample(&[f32::MAX, f32::MIN]).unwrap() < 2);
        assert_eq!(sampler(5e-324, 1e-300, 0).sample(&[1.0, 2.0]).unwrap(), 1);
    }

    #[test]
    fn impossible_requests_are_errors() {
        let nan = f64::NAN;
        let options =
            [(nan, 1.0), (-1.0, 1.0), (f64::INFINITY, 1.0), (1.0, 0.0), (1.0, 1.1), (1.0, nan), (1.0, -0.5)];
        for (temperature, top_p) in options {
            assert!(
                Sampler::new(SamplingOptions { temperature, top_p, seed: 0 }).is_err(),
                "{temperature} {top_p}"
            );
        }
        for logits in [&[][..], &[f32::NAN, 1.0], &[1.0, f32::INFINITY], &[f32::NEG_INFINITY; 3]] {
            for temperature in [0.0, 1.0] {
                assert!(sampler(temperature, 1.0, 0).sample(logits).is_err(), "{logits:?}");
            }
        }
    }
}
