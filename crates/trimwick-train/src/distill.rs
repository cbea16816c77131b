//! The loss of a training step: cross-entropy, and with a teacher the divergence from its predictions.
//!
//! ```text
//! loss = (1 − w)·CE(student, next token) + w·T²·KL(softmax(teacher/T) ‖ softmax(student/T))
//! ```
//!
//! T² keeps the size of the gradient independent of the temperature (Hinton, Vinyals and Dean, arXiv 1503.02531).

use candle_core::{DType, Tensor};
use trimwick_nn::{CausalLm, ops};

use crate::data::Batch;
use crate::evaluate::infer;
use crate::{Error, Result};

/// A target that is not scored; no vocabulary is that large.
pub(crate) const IGNORE: u32 = u32::MAX;

/// Learning from the predictions of another model over the same vocabulary.
#[derive(Clone, Copy)]
pub struct Distillation<'a> {
    teacher: &'a dyn CausalLm,
    weight: f64,
    temperature: f64,
}

impl<'a> Distillation<'a> {
    /// A teacher whose divergence makes up `weight` of the loss, at temperature T.
    ///
    /// The teacher must have parameters of its own: one that shares the student's store would learn with it.
    ///
    /// # Errors
    /// A weight outside of (0, 1], a temperature that is not positive.
    pub fn new(teacher: &'a dyn CausalLm, weight: f64, temperature: f64) -> Result<Self> {
        if !(weight > 0. && weight <= 1.) {
            return Err(Error::setting("distill.weight", "a number in (0, 1]", weight));
        }
        if !(temperature.is_finite() && temperature > 0.) {
            return Err(Error::setting("distill.temperature", "a number > 0", temperature));
        }
        Ok(Self { teacher, weight, temperature })
    }

    /// The teacher.
    pub fn teacher(&self) -> &'a dyn CausalLm {
        self.teacher
    }

    /// Part of the divergence in the loss, in (0, 1].
    pub fn weight(&self) -> f64 {
        self.weight
    }

    /// The temperature T.
    pub fn temperature(&self) -> f64 {
        self.temperature
    }
}

impl std::fmt::Debug for Distillation<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Distillation {{ weight: {}, temperature: {} }}", self.weight, self.temperature)
    }
}

/// The loss of one micro-batch.
#[derive(Debug)]
pub struct Loss {
    /// What to call `backward` on: a scalar.
    pub total: Tensor,
    /// Its value.
    pub value: f64,
    /// Cross-entropy in nats per token.
    pub cross_entropy: f64,
    /// Divergence from the teacher in nats per token, without the factor T².
    pub divergence: Option<f64>,
}

/// Runs the student, and the teacher if there is one, on a batch.
///
/// # Errors
/// Ids that a model does not take, vocabularies that differ.
pub fn loss(student: &dyn CausalLm, batch: &Batch, distill: Option<&Distillation<'_>>) -> Result<Loss> {
    // The teacher goes first: what it needs has been given back before the student's graph is built.
    let teacher = distill.map(|d| infer(d.teacher, &batch.inputs)).transpose()?;
    let logits = student.forward(&batch.inputs)?.flatten_to(1)?;
    let cross_entropy = ops::cross_entropy(&logits, &batch.targets, IGNORE)?;
    let (total, divergence) = match (distill, teacher) {
        (Some(d), Some(teacher)) => {
            let kl = ops::kl_divergence(&logits, &teacher.flatten_to(1)?, d.temperature)?;
            (d.mix(&cross_entropy, &kl)?, Some(scalar(&kl)?))
        }
        _ => (cross_entropy.clone(), None),
    };
    Ok(Loss { value: scalar(&total)?, cross_entropy: scalar(&cross_entropy)?, divergence, total })
}

impl Distillation<'_> {
    fn mix(&self, cross_entropy: &Tensor, kl: &Tensor) -> Result<Tensor> {
        let kl = (kl * (self.weight * self.temperature * self.temperature))?;
        // Candle prunes the graph below a factor of 0, so a weight of 1 costs no backward of the cross-entropy.
        Ok(((cross_entropy * (1. - self.weight))? + kl)?)
    }
}

fn scalar(t: &Tensor) -> Result<f64> {
    Ok(t.to_dtype(DType::F64)?.to_scalar::<f64>()?)
}
