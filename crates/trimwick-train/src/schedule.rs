//! The learning rate of each step: linear warmup, then a decay to the least rate.
//!
//! With S steps of which W are warmup, counted from 0:
//!
//! ```text
//! s < W    peak · (s + 1)/(W + 1)                     never 0, reaches the peak at s = W
//! s ≥ W    least + (peak − least) · f(p)              p = (s − W)/(S − W)
//!          constant f = 1,  linear f = 1 − p,  cosine f = (1 + cos πp)/2
//! ```

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// What follows the warmup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// The peak rate to the end; the least rate is the peak, and may be given as that or as 0.
    Constant,
    /// A straight line to the least rate.
    Linear,
    /// Half a cosine to the least rate (arXiv 1608.03983, without restarts).
    Cosine,
}

/// Length of the warmup.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Warmup {
    /// That many steps.
    Steps(u64),
    /// That part of all steps, rounded up, but never all of them.
    Fraction(f64),
}

/// A learning rate as a pure function of the step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    decay: Decay,
    peak: f64,
    least: f64,
    warmup: u64,
    steps: u64,
}

impl Schedule {
    /// A schedule over `steps` steps.
    ///
    /// # Errors
    /// No steps; a rate that is not finite or not positive; a least rate above the peak, or below it for a constant
    /// rate; a warmup that leaves no step.
    pub fn new(decay: Decay, peak: f64, least: f64, warmup: Warmup, steps: u64) -> Result<Self> {
        if steps == 0 {
            return Err(Error::setting("steps", "at least 1", steps));
        }
        if !(peak.is_finite() && peak > 0.) {
            return Err(Error::setting("lr", "a number > 0", peak));
        }
        if !(0. ..=peak).contains(&least) {
            return Err(Error::setting("min_lr", format!("a number from 0 to lr = {peak}"), least));
        }
        if decay == Decay::Constant && least != 0. && least != peak {
            let expected = format!("0 or lr = {peak} with a constant schedule, which never decays");
            return Err(Error::setting("min_lr", expected, least));
        }
        let warmup = match warmup {
            Warmup::Steps(n) if n >= steps => {
                return Err(Error::setting("warmup", format!("fewer than the {steps} steps of the run"), n));
            }
            Warmup::Steps(n) => n,
            Warmup::Fraction(f) if !(0. ..1.).contains(&f) => {
                return Err(Error::setting("warmup", "a fraction in [0, 1) or a number of steps", f));
            }
            Warmup::Fraction(f) => ((f * steps as f64).ceil() as u64).min(steps - 1),
        };
        Ok(Self { decay, peak, least, warmup, steps })
    }

    /// The rate of step `step`, counted from 0; beyond the last step, the least rate.
    pub fn rate(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.peak * (step + 1) as f64 / (self.warmup + 1) as f64;
        }
        let p = ((step - self.warmup) as f64 / (self.steps - self.warmup) as f64).min(1.);
        let part = match self.decay {
            Decay::Constant => return self.peak,
            Decay::Linear => 1. - p,
            Decay::Cosine => (1. + (PI * p).cos()) / 2.,
        };
        self.least + (self.peak - self.least) * part
    }

    /// Number of steps of the run.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Number of warmup steps.
    pub fn warmup(&self) -> u64 {
        self.warmup
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_follow_the_table() -> Result<()> {
        use Decay::{Constant, Cosine, Linear};
        use Warmup::{Fraction, Steps};
        // (decay, peak, least, warmup, steps, [(step, rate)])
        let cases = [
            (Constant, 0.5, 0., Steps(0), 4, vec![(0, 0.5), (3, 0.5), (9, 0.5)]),
            (Constant, 0.5, 0.5, Steps(3), 8, vec![(0, 0.125), (1, 0.25), (2, 0.375), (3, 0.5), (7, 0.5)]),
            (Linear, 1., 0.2, Steps(0), 4, vec![(0, 1.), (1, 0.8), (2, 0.6), (3, 0.4), (4, 0.2), (9, 0.2)]),
            (Linear, 1., 0., Steps(1), 5, vec![(0, 0.5), (1, 1.), (2, 0.75), (3, 0.5), (4, 0.25), (5, 0.)]),
            (Cosine, 2., 0., Steps(0), 4, vec![(0, 2.), (1, 1. + 0.5f64.sqrt()), (2, 1.), (4, 0.)]),
            (
                Cosine,
                1e-4,
                1e-5,
                Fraction(0.05),
                160,
                vec![(0, 1e-4 / 9.), (8, 1e-4), (84, 5.5e-5), (160, 1e-5)],
            ),
        ];
        for (decay, peak, least, warmup, steps, table) in cases {
            let schedule = Schedule::new(decay, peak, least, warmup, steps)?;
            for (step, want) in table {
                let got = schedule.rate(step);
                assert!(
                    (got - want).abs() < 1e-12,
                    "{decay:?} {warmup:?} of {steps}: step {step}: {got}, want {want}"
                );
            }
        }
        Ok(())
    }

    #[test]
    fn a_fraction_is_rounded_up_and_leaves_a_step() -> Result<()> {
        for (fraction, steps, want) in
            [(0.05, 160, 8), (0.05, 161, 9), (0., 10, 0), (0.05, 1, 0), (0.99, 3, 2)]
        {
            let schedule = Schedule::new(Decay::Cosine, 1., 0., Warmup::Fraction(fraction), steps)?;
            assert_eq!(schedule.warmup(), want, "{fraction} of {steps}");
        }
        Ok(())
    }

    #[test]
    fn the_rate_is_never_zero_within_the_run() -> Result<()> {
        for decay in [Decay::Constant, Decay::Linear, Decay::Cosine] {
            let schedule = Schedule::new(decay, 1e-3, 0., Warmup::Steps(4), 20)?;
            assert!((0..20).all(|s| schedule.rate(s) > 0.), "{decay:?}");
        }
        Ok(())
    }

    #[test]
    fn faults_name_the_key() {
        use Decay::{Constant, Cosine};
        let cases = [
            ("steps", Cosine, 1., 0., Warmup::Steps(0), 0),
            ("lr", Cosine, f64::NAN, 0., Warmup::Steps(0), 4),
            ("lr", Cosine, -1., 0., Warmup::Steps(0), 4),
            ("lr", Cosine, f64::INFINITY, 0., Warmup::Steps(0), 4),
            ("min_lr", Cosine, 1., 2., Warmup::Steps(0), 4),
            ("min_lr", Cosine, 1., f64::NAN, Warmup::Steps(0), 4),
            ("min_lr", Constant, 1., 0.5, Warmup::Steps(0), 4),
            ("warmup", Cosine, 1., 0., Warmup::Steps(4), 4),
            ("warmup", Cosine, 1., 0., Warmup::Fraction(1.), 4),
            ("warmup", Cosine, 1., 0., Warmup::Fraction(f64::NAN), 4),
        ];
        for (want, decay, peak, least, warmup, steps) in cases {
            match Schedule::new(decay, peak, least, warmup, steps) {
                Err(Error::Setting { key, .. }) => assert_eq!(key, want),
                other => panic!("{want}: {other:?}"),
            }
        }
    }
}
