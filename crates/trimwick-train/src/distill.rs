//! The loss of a training step: cross-entropy, and with a teacher the divergence from its predictions and from
//! the outputs of its blocks.
//!
//! ```text
//! loss = (1 − w)·CE(student, next token) + w·T²·KL(softmax(teacher/T) ‖ softmax(student/T)) + f·E
//! E    = mean over blocks and tokens of ‖student block output − teacher's‖² / ‖teacher's‖²
//! ```
//!
//! T² keeps the size of the gradient independent of the temperature (Hinton, Vinyals and Dean, arXiv 1503.02531).
//! E is the feature loss of SquareHead (Kurtic et al., arXiv 2310.06927) with the error taken relative to each
//! token's own norm: the first token of a Llama has activations a thousand times the others', and relative to a
//! whole tensor's norm no other token would be heard.

use candle_core::{D, DType, Result as CandleResult, Tensor};
use serde::{Deserialize, Serialize};
use trimwick_nn::CausalLm;
use trimwick_nn::ops::{self, Logits};

use crate::data::Batch;
use crate::evaluate::infer_blocks;
use crate::{Error, Result};

/// A target that is not scored; no vocabulary is that large.
pub(crate) const IGNORE: u32 = u32::MAX;

/// How much a teacher counts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistillConfig {
    /// Share w of the divergence from the teacher's predictions, in (0, 1]; cross-entropy has the rest.
    pub weight: f64,
    /// Temperature T, above 0.
    pub temperature: f64,
    /// Factor f on the error of the blocks' outputs, at least 0.
    pub features: f64,
}

impl Default for DistillConfig {
    fn default() -> Self {
        Self { weight: 0.5, temperature: 1., features: 0. }
    }
}

/// Learning from another model over the same vocabulary.
#[derive(Clone, Copy)]
pub struct Distillation<'a> {
    teacher: &'a dyn CausalLm,
    config: DistillConfig,
}

impl<'a> Distillation<'a> {
    /// Learning from `teacher`, which must have parameters of its own: one that shares the student's store would
    /// learn with it. With `features` it must have the student's blocks.
    ///
    /// # Errors
    /// A weight outside of (0, 1], a temperature that is not positive, a factor below 0.
    pub fn new(teacher: &'a dyn CausalLm, config: DistillConfig) -> Result<Self> {
        let DistillConfig { weight, temperature, features } = config;
        if !(weight > 0. && weight <= 1.) {
            return Err(Error::setting("distill.weight", "a number in (0, 1]", weight));
        }
        if !(temperature.is_finite() && temperature > 0.) {
            return Err(Error::setting("distill.temperature", "a number > 0", temperature));
        }
        if !(features.is_finite() && features >= 0.) {
            return Err(Error::setting("distill.features", "a number >= 0", features));
        }
        Ok(Self { teacher, config })
    }

    /// The teacher.
    pub fn teacher(&self) -> &'a dyn CausalLm {
        self.teacher
    }

    /// How much it counts.
    pub fn config(&self) -> DistillConfig {
        self.config
    }
}

impl std::fmt::Debug for Distillation<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Distillation {:?}", self.config)
    }
}

/// The loss of one micro-batch.
#[derive(Debug)]
pub struct Loss {
    /// What to call `backward` on: a scalar, times the [weight](Batch::weight) of the batch.
    pub total: Tensor,
    /// Its value, without the weight.
    pub value: f64,
    /// Cross-entropy in nats per token.
    pub cross_entropy: f64,
    /// Divergence from the teacher in nats per token, without the factor T².
    pub divergence: Option<f64>,
    /// Mean relative error of the blocks' outputs, where it is part of the loss.
    pub features: Option<f64>,
}

/// Runs the student, and the teacher if there is one, on a batch.
///
/// # Errors
/// Ids that a model does not take, vocabularies that differ.
pub fn loss(student: &dyn CausalLm, batch: &Batch, distill: Option<&Distillation<'_>>) -> Result<Loss> {
    // The teacher goes first: what it needs has been given back before the student's graph is built.
    let mut lesson = distill.map(|distill| distill.teach(batch)).transpose()?;
    let theirs = lesson.as_mut().map(|lesson| std::mem::take(&mut lesson.blocks)).unwrap_or_default();
    let mut errors = Vec::with_capacity(theirs.len());
    let mut x = student.embed(&batch.inputs)?;
    for index in 0..student.blocks() {
        x = student.block(index, &x)?;
        if let Some(theirs) = theirs.get(index) {
            errors.push(relative_error(&x, theirs, batch.counted(x.dtype())?.as_ref())?);
        }
    }
    drop(theirs);
    let mut loss = at_head(student, &x, batch, lesson)?;
    if let Some(distill) = distill
        && !errors.is_empty()
    {
        let mean = Tensor::stack(&errors, 0)?.mean_all()?;
        let (error, factor) = (scalar(&mean)?, distill.config.features);
        loss.total = (loss.total + (mean * (factor * batch.weight))?)?;
        loss.value += error * factor;
        loss.features = Some(error);
    }
    Ok(loss)
}

/// What a teacher says about a batch.
pub(crate) struct Lesson {
    config: DistillConfig,
    logits: Logits,
    /// Outputs of its blocks, `[b, t, hidden]` each; none when features do not count.
    pub(crate) blocks: Vec<Tensor>,
}

impl Distillation<'_> {
    /// Runs the teacher.
    pub(crate) fn teach(&self, batch: &Batch) -> Result<Lesson> {
        let mut blocks = Vec::new();
        let hidden = infer_blocks(self.teacher, &batch.inputs, |x| {
            if self.config.features > 0. {
                blocks.push(x.clone());
            }
        })?;
        Ok(Lesson { config: self.config, logits: self.teacher.logits(&hidden)?.detach(), blocks })
    }
}

/// The part of the loss that logits give: all of it but the features. `x` is the last block's output.
pub(crate) fn at_head(
    student: &dyn CausalLm,
    x: &Tensor,
    batch: &Batch,
    lesson: Option<Lesson>,
) -> Result<Loss> {
    let teacher = lesson.as_ref().map(|Lesson { config, logits, .. }| {
        let DistillConfig { weight, temperature, features: _ } = *config;
        ops::Teacher { logits, weight, temperature }
    });
    let head = ops::head_loss(&student.logits(x)?, &batch.targets, IGNORE, teacher)?;
    // A factor of 1 is none, so that no graph grows by it.
    let total = if batch.weight == 1. { head.total } else { (head.total * batch.weight)? };
    Ok(Loss {
        total,
        value: head.value,
        cross_entropy: head.cross_entropy,
        divergence: head.divergence,
        features: None,
    })
}

/// Mean over tokens of `‖student − teacher‖² / ‖teacher‖²`, both `[b, t, hidden]`; over those that `counted`, ones and
/// zeros `[b, t]`, has a one for.
pub(crate) fn relative_error(
    student: &Tensor,
    teacher: &Tensor,
    counted: Option<&Tensor>,
) -> CandleResult<Tensor> {
    let norm = teacher.sqr()?.sum(D::Minus1)?;
    // A token whose vector is 0 has no error to be relative to.
    let norm = norm.maximum(f64::from(f32::MIN_POSITIVE))?;
    let each = ((student - teacher)?.sqr()?.sum(D::Minus1)? / norm)?;
    match counted {
        None => each.mean_all(),
        Some(counted) => {
            let ones = counted.sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?;
            (each * counted)?.sum_all()? / ones.max(1.)
        }
    }
}

pub(crate) fn scalar(t: &Tensor) -> Result<f64> {
    Ok(t.to_dtype(DType::F64)?.to_scalar::<f64>()?)
}
