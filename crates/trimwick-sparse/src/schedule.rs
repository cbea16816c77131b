//! Masks that change while a model trains.
//!
//! Both schedules are functions of the step and of what is saved with the model (weights and mask buffers), so a
//! resumed run needs nothing more than [`MaskSchedule::resume`].

use trimwick_kernels as kernels;
use trimwick_nn::Layers;

use crate::mask;
use crate::method::{Magnitude, Method, Weight};
use crate::pattern::Pattern;
use crate::prune::Geometry;
use crate::{Error, Result};

/// When and how masks are chosen anew, by magnitude.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Plan {
    /// Sparsity rises from 0 to the pattern's over steps `0..end`, every `every` steps, along the cubic of Zhu &
    /// Gupta (arXiv 1710.01878). An N:M pattern drops its groups' smallest one by one: M−1 of M, … N of M.
    Gradual {
        /// Steps between changes.
        every: u64,
        /// The step at which the full pattern holds.
        end: u64,
    },
    /// SR-STE (arXiv 2102.04010): the full pattern from the start; dropped weights go on learning with a pull of
    /// `decay` to zero, and masks are chosen anew every `every` steps until `end`, when they are fixed.
    Refreshed {
        /// Steps between changes.
        every: u64,
        /// The step from which the masks are fixed.
        end: u64,
        /// λ of the pull.
        decay: f64,
    },
}

/// A [`Plan`] at work on a set of layers. Call [`MaskSchedule::before_step`] before every optimizer step.
pub struct MaskSchedule {
    layers: Layers,
    pattern: Pattern,
    plan: Plan,
    flips: u64,
}

impl MaskSchedule {
    /// A schedule over `layers`.
    ///
    /// # Errors
    /// [`Error::Shape`] for a layer that the pattern does not divide.
    pub fn new(layers: Layers, pattern: Pattern, plan: Plan) -> Result<Self> {
        layers.iter().try_for_each(|l| pattern.check(l.path(), Geometry::of(l).cols))?;
        Ok(Self { layers, pattern, plan, flips: 0 })
    }

    /// Mask bits that changed since the schedule was made or resumed.
    pub fn flips(&self) -> u64 {
        self.flips
    }

    /// Chooses and sets masks where the plan says so at `step` (from 0). Returns whether any were set.
    ///
    /// # Errors
    /// A weight that is not finite.
    pub fn before_step(&mut self, step: u64) -> Result<bool> {
        let (every, end) = match self.plan {
            Plan::Gradual { every, end } | Plan::Refreshed { every, end, .. } => (every.max(1), end),
        };
        if step > end || (step < end && !step.is_multiple_of(every)) {
            return Ok(false);
        }
        match self.plan {
            Plan::Gradual { end, .. } => {
                let Some(stage) = stage(self.pattern, step, end)? else { return Ok(false) };
                self.choose(mask::fix, stage)?;
            }
            Plan::Refreshed { end, .. } if step >= end => {
                self.choose(mask::fix, self.pattern)?;
            }
            Plan::Refreshed { decay, .. } => {
                self.choose(|layer, bits| mask::refresh(layer, bits, decay), self.pattern)?;
            }
        }
        Ok(true)
    }

    /// Puts the saved masks back into the layers after a checkpoint taken before `step` was loaded.
    ///
    /// # Errors
    /// A broken mask buffer.
    pub fn resume(&mut self, step: u64) -> Result<()> {
        let decay = match self.plan {
            Plan::Refreshed { end, decay, .. } if step <= end => Some(decay),
            _ => None,
        };
        mask::restore(&self.layers, decay)?;
        Ok(())
    }

    fn choose(
        &mut self,
        set: impl Fn(&trimwick_nn::Layer, &[u8]) -> Result<()>,
        pattern: Pattern,
    ) -> Result<()> {
        for layer in &self.layers {
            let geometry = Geometry::of(layer);
            let mut values = geometry.gather(layer)?;
            if let Some(index) = values.iter().position(|w| !w.is_finite()) {
                return Err(Error::NonFinite { layer: layer.path().into(), what: "weight", index });
            }
            let weight = Weight { layer: layer.path(), values: &mut values, cols: geometry.cols };
            let bits = geometry.scatter_bits(&Magnitude.prune(weight, pattern, None)?.bits);
            if let Some(old) = mask::bits(layer)? {
                self.flips +=
                    old.iter().zip(&bits).map(|(a, b)| u64::from((a ^ b).count_ones())).sum::<u64>();
            }
            set(layer, &bits)?;
        }
        Ok(())
    }
}

/// The pattern that holds from `step` on, or `None` while nothing is dropped.
fn stage(pattern: Pattern, step: u64, end: u64) -> Result<Option<Pattern>> {
    let done = if end == 0 { 1. } else { (step as f64 / end as f64).min(1.) };
    let share = 1. - (1. - done).powi(3);
    match pattern {
        Pattern::Nm { n, m } => {
            // Rounded down, so that the full pattern holds at the end and not before.
            let dropped = ((m - n) as f64 * share).floor() as usize;
            if dropped == 0 { Ok(None) } else { Pattern::nm(m - dropped, m).map(Some) }
        }
        Pattern::Unstructured { sparsity } => {
            if share == 0. {
                Ok(None)
            } else {
                Pattern::unstructured(sparsity * share).map(Some)
            }
        }
    }
}

/// Number of N:M groups, over all layers, in which the weight that the layer computes with holds more than N
/// elements that are not +0.0.
///
/// # Errors
/// Tensor operations.
pub fn violations(layers: &Layers, pattern: Pattern) -> Result<usize> {
    let Pattern::Nm { n, m } = pattern else { return Ok(0) };
    let mut total = 0;
    for layer in layers {
        let w = layer.effective_weight()?.detach();
        let w = if w.rank() == 4 { w.permute((0, 2, 3, 1))?.contiguous()? } else { w };
        let cols = w.dim(candle_core::D::Minus1)?;
        let values = w.flatten_all()?.to_vec1::<f32>()?;
        total += kernels::violations_nm(&values, cols, n, m);
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradual_stages_end_at_the_pattern_and_never_go_back() {
        let mut last = 0.;
        for step in 0..=100 {
            let s = stage(Pattern::TWO_FOUR, step, 100).unwrap().map_or(0., |p| p.sparsity());
            assert!(s >= last, "step {step}");
            last = s;
        }
        assert_eq!(last, 0.5);
        assert_eq!(stage(Pattern::TWO_FOUR, 99, 100).unwrap().unwrap().to_string(), "3:4");
        let u = Pattern::unstructured(0.5).unwrap();
        assert_eq!(stage(u, 100, 100).unwrap().unwrap().sparsity(), 0.5);
        assert!(stage(u, 0, 100).unwrap().is_none());
        assert_eq!(stage(u, 0, 0).unwrap().unwrap().sparsity(), 0.5);
    }
}
