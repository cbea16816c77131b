//! The gradients of a step by each memory plan, and what they do to the weights.

use trimwick_nn::Clock;

use crate::data::{Batch, Cursor};
use crate::distill::{self, Loss};
use crate::gradients::{Gradients, clip_factor};
use crate::lean::{Handover, Purpose, Uses};
use crate::state::Position;
use crate::trainer::{Run, TrainConfig, Trainer};
use crate::walk::{Ahead, MemoryPlan, Walk};
use crate::{Error, Result};

impl Trainer<'_> {
    /// Forward, backward and update; the losses, and the norm of the gradient before clipping.
    pub(crate) fn learn(&mut self, run: &mut Run, lr: f64) -> Result<(Mean, f64)> {
        let clock = self.store.clock().clone();
        let _training = Training::on(&clock);
        // What was noted before this step is not its fault.
        clock.take_non_finite();
        if self.config.memory == MemoryPlan::Lean {
            return self.learn_lean(run, lr);
        }
        let gradients = &mut run.gradients;
        let mean = self.accumulate(&mut run.at, gradients)?;
        self.config.guards.judge(run.at.step + 1, mean.loss, &run.at.losses)?;
        let norm = match self.config.clip {
            Some(max) => gradients.clip(max)?,
            None => gradients.norm()?,
        };
        self.optimizer.step(gradients, lr)?;
        Ok((mean, norm))
    }

    /// Forward and backward of a step's micro-batches.
    fn accumulate(&self, at: &mut Position, gradients: &mut Gradients) -> Result<Mean> {
        gradients.reset(&self.store.trainable());
        let mut mean = Mean::default();
        let accumulate = self.config.accumulate;
        // Micro-batches of which more is trained count more: each token of the step counts the same.
        let each = self.trained_per_batch(at.cursor)?;
        for _ in 0..accumulate {
            let mut batch = self.next_batch(at)?;
            if let Some(each) = each {
                batch.weight = batch.trained() as f64 / each;
            }
            match self.config.memory {
                MemoryPlan::None => {
                    let loss = distill::loss(self.model, &batch, self.distill.as_ref())?;
                    mean.add(&loss, batch.weight / accumulate as f64, at.step + 1)?;
                    gradients.backward(&loss.total)?;
                }
                MemoryPlan::Blocks | MemoryPlan::Lean => {
                    let walk = self.walk(&batch);
                    let mut ahead = walk.ahead(&batch, self.distill.as_ref())?;
                    mean.add(&ahead.loss, batch.weight / accumulate as f64, at.step + 1)?;
                    walk.back(&mut ahead, false, gradients)?;
                    gradients.close()?;
                }
            }
            at.micro_step += 1;
        }
        Ok(mean)
    }

    fn learn_lean(&mut self, run: &mut Run, lr: f64) -> Result<(Mean, f64)> {
        let Run { at, uses, .. } = run;
        let batch = self.next_batch(at)?;
        let trainable = self.store.trainable();
        if !uses.cover(&trainable) {
            *uses = self.probe(&batch, trainable)?;
        }
        let walk = Walk { model: self.model, clock: self.store.clock(), ids: &batch.inputs };
        let mut ahead = walk.ahead(&batch, self.distill.as_ref())?;
        let mut mean = Mean::default();
        mean.add(&ahead.loss, 1., at.step + 1)?;
        self.config.guards.judge(at.step + 1, mean.loss, &at.losses)?;
        let back = |ahead: &mut Ahead, again: bool, purpose: Purpose<'_>| {
            let mut handover = Handover::new(uses, purpose);
            walk.back(ahead, again, &mut handover)?;
            handover.finish()
        };
        let scale = match (self.config.clip, at.grad_norm) {
            (None, _) => 1.,
            (Some(max), Some(norm)) => clip_factor(max, norm),
            (Some(max), None) => clip_factor(max, back(&mut ahead, true, Purpose::Norm)?),
        };
        let norm = back(&mut ahead, false, Purpose::Update { optimizer: &mut self.optimizer, scale, lr })?;
        at.micro_step += 1;
        // What a run does not depend on is no part of its state.
        at.grad_norm = self.config.clip.map(|_| norm);
        Ok((mean, norm))
    }

    /// Which segment uses which parameter: by two tokens of the batch.
    fn probe(&self, batch: &Batch, params: Vec<trimwick_nn::Param>) -> Result<Uses> {
        let tokens = batch.inputs.dim(1)?.min(2);
        let ids = batch.inputs.narrow(0, 0, 1)?.narrow(1, 0, tokens)?.contiguous()?;
        Uses::probe(&Walk { model: self.model, clock: self.store.clock(), ids: &ids }, params)
    }

    fn walk<'b>(&'b self, batch: &'b Batch) -> Walk<'b> {
        Walk { model: self.model, clock: self.store.clock(), ids: &batch.inputs }
    }

    fn next_batch(&self, at: &mut Position) -> Result<Batch> {
        self.store.clock().set_step(at.micro_step);
        let windows = at.cursor.indices(self.windows, self.config.order_seed, self.config.batch)?;
        Batch::of(self.windows, &windows, self.store.device())
    }

    /// The trained tokens of a step from `cursor` on, in the mean of its micro-batches; none where all of them have as many.
    fn trained_per_batch(&self, mut cursor: Cursor) -> Result<Option<f64>> {
        let TrainConfig { accumulate, batch, order_seed, .. } = self.config;
        if accumulate == 1 || !self.windows.is_marked() {
            return Ok(None);
        }
        let windows = cursor.indices(self.windows, order_seed, accumulate * batch)?;
        let trained: usize = windows.into_iter().map(|index| self.windows.trained_tokens(index)).sum();
        Ok(Some(trained as f64 / accumulate as f64))
    }
}

/// Switches dropout and the like on, and off again on every way out.
pub(crate) struct Training<'a>(&'a Clock);

impl<'a> Training<'a> {
    pub(crate) fn on(clock: &'a Clock) -> Self {
        clock.set_training(true);
        Self(clock)
    }
}

impl Drop for Training<'_> {
    fn drop(&mut self) {
        self.0.set_training(false);
    }
}

/// Means over the micro-batches of a step, each by its part of them.
#[derive(Default)]
pub(crate) struct Mean {
    pub(crate) loss: f64,
    pub(crate) cross_entropy: f64,
    pub(crate) divergence: Option<f64>,
    pub(crate) features: Option<f64>,
}

impl Mean {
    /// # Errors
    /// [`Error::NonFinite`] for a loss that no step may be made from.
    fn add(&mut self, loss: &Loss, part: f64, step: u64) -> Result<()> {
        if !loss.value.is_finite() {
            return Err(Error::NonFinite { what: format!("the loss of step {step}"), value: loss.value });
        }
        self.loss += loss.value * part;
        self.cross_entropy += loss.cross_entropy * part;
        if let Some(divergence) = loss.divergence {
            *self.divergence.get_or_insert_default() += divergence * part;
        }
        if let Some(features) = loss.features {
            *self.features.get_or_insert_default() += features * part;
        }
        Ok(())
    }
}
