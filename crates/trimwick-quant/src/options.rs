//! How scales are found, and how they move while a model trains.

use crate::scheme::{InputSpec, Scheme};
use crate::spec::{Granularity, QuantSpec};
use crate::{Error, Result};

/// Which range of values the codes are spread over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Range {
    /// Up to the largest magnitude: nothing is clipped.
    Max,
    /// Up to the magnitude that this percentage of the values, in (0, 100], does not exceed.
    Percentile(f64),
    /// The clipped range whose histogram, once quantized, tells least apart from what it was (Kullback–Leibler).
    Entropy,
    /// The share of the largest magnitude, from an eighth to slightly above one and one itself among them, with the
    /// least squared error: for each block of a weight on its own.
    Mse,
}

/// The names of learned scales, as a glob: for an optimizer's group with a learning rate of their own.
///
/// An Adam step of rate r moves a scale by a share of about .7·r. Rates that suit weights, 1e-5 to 1e-4, hardly move a
/// scale within a short run; 10 to 100 times as much does.
pub const LEARNED_SCALES: &str = "*_log2_scale";

/// How the scales of a weight, or of a static input, move while the model trains.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ScalePolicy {
    /// Found anew from the values in every forward pass. Nothing is clipped, so the gradient passes unchanged. Of
    /// weights; an input that should is one with a dynamic spec.
    Dynamic,
    /// As calibrated. Values outside the range get no gradient.
    Frozen,
    /// An average of the largest magnitudes, `d·old + (1 − d)·new` once a step, d in [0, 1). Values outside the range
    /// get no gradient. Needs a [`QuantSchedule`](crate::QuantSchedule), or [`refresh`](crate::refresh) after steps.
    Ema(f64),
    /// Trained with the weights (LSQ, arXiv 1902.08153), from the calibrated scale on. The trained number is the base-2
    /// logarithm of the scale, so that an optimizer's step is a relative one: [`LEARNED_SCALES`].
    Learned,
}

/// What a scheme leaves open.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// Scales of weights.
    pub scales: ScalePolicy,
    /// Range of weights.
    pub range: Range,
    /// Scales of static inputs.
    pub input_scales: ScalePolicy,
    /// Range of static inputs.
    pub input_range: Range,
}

impl Default for Options {
    /// Weights follow their own maximum, static inputs keep the calibrated one.
    fn default() -> Self {
        Self {
            scales: ScalePolicy::Dynamic,
            range: Range::Max,
            input_scales: ScalePolicy::Frozen,
            input_range: Range::Max,
        }
    }
}

impl Options {
    /// Whether the options make sense for a scheme. Those of inputs are not looked at where it has no static input.
    ///
    /// # Errors
    /// [`Error::Option`] and [`Error::Spec`].
    pub fn check(&self, scheme: &Scheme) -> Result<()> {
        if let Some(weight) = &scheme.weight {
            check(weight, self.scales, self.range)?;
            let whole = weight.granularity == Granularity::Tensor;
            if self.range == Range::Entropy && !whole {
                return Err(fault(
                    weight,
                    "an entropy range needs the histogram of a whole tensor; take mse or percentile",
                ));
            }
        }
        if let Some(InputSpec { spec, dynamic: false }) = &scheme.input {
            if self.input_scales == ScalePolicy::Dynamic {
                return Err(fault(
                    spec,
                    "the input is static; take frozen, ema or learned scales, or a dynamic input",
                ));
            }
            if self.input_scales == ScalePolicy::Learned && spec.has_global() {
                return Err(fault(spec, "the scale behind an input's e4m3 scales is frozen or ema"));
            }
            if spec.has_global() && matches!(self.input_range, Range::Entropy | Range::Mse) {
                return Err(fault(
                    spec,
                    "the scale behind an input's e4m3 scales bounds them and clips nothing itself; take max or percentile",
                ));
            }
            check(spec, self.input_scales, self.input_range)?;
        }
        Ok(())
    }
}

fn fault(spec: &QuantSpec, problem: &'static str) -> Error {
    Error::Spec { spec: spec.to_string(), problem }
}

fn check(spec: &QuantSpec, policy: ScalePolicy, range: Range) -> Result<()> {
    if let Range::Percentile(found) = range
        && !(found > 0. && found <= 100.)
    {
        return Err(Error::Option { what: "percentile", expected: "a percentage in (0, 100]", found });
    }
    if let ScalePolicy::Ema(found) = policy
        && !(0. ..1.).contains(&found)
    {
        return Err(Error::Option { what: "ema", expected: "a decay in [0, 1)", found });
    }
    match (policy, range) {
        (ScalePolicy::Dynamic, range) if range != Range::Max => Err(fault(
            spec,
            "dynamic scales follow the largest magnitude; another range needs frozen or learned scales",
        )),
        (ScalePolicy::Ema(_), range) if range != Range::Max => Err(fault(
            spec,
            "ema scales average the largest magnitude; another range needs frozen or learned scales",
        )),
        (ScalePolicy::Learned, _) if spec.asymmetric() => {
            Err(fault(spec, "zero points are not learned; take a symmetric code, or frozen or ema scales"))
        }
        (_, range) if spec.asymmetric() && range != Range::Max => {
            Err(fault(spec, "the range of a grid with zero points is that of the values; take max"))
        }
        _ => Ok(()),
    }
}
