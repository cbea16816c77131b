//! The training loop.
//!
//! [`Trainer::run`] reads top to bottom: continue or start, then step, validate, save until done; a step is hooks,
//! micro-batches, clipping, optimizer, hooks. Nothing reaches the weights before the step's gradient is known to be
//! finite, and every checkpoint falls between two steps.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use trimwick_formats::checkpoint::{CheckpointDir, Rejected};
use trimwick_nn::{CausalLm, Clock, ParamStore, Role};

use crate::data::{Batch, Windows};
use crate::distill::{self, Distillation, Loss};
use crate::error::BoxError;
use crate::evaluate::{EvaluateOptions, Evaluation, check_context, evaluate};
use crate::gradients::Gradients;
use crate::hooks::StepHook;
use crate::metrics::{Metrics, StepRecord, ValidationRecord};
use crate::optim::AdamW;
use crate::plan::Plan;
use crate::schedule::Schedule;
use crate::state::{Best, Position, TrainState};
use crate::{Error, Result};

/// Settings of the loop.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainConfig {
    /// Optimizer steps of the whole run; the schedule's.
    pub steps: u64,
    /// Windows in a micro-batch.
    pub batch: usize,
    /// Micro-batches in a step.
    pub accumulate: usize,
    /// Norm that the gradient is clipped to; `None` for no clipping.
    pub clip: Option<f64>,
    /// Steps between two checkpoints; 0 for one at the end alone.
    pub save_every: u64,
    /// Seed of the order in which windows are visited.
    pub order_seed: u64,
    /// Name of the run, such as a digest of its recipe: only checkpoints of this name are continued.
    pub fingerprint: String,
}

/// What to score while training.
#[derive(Debug, Clone)]
pub struct Validation {
    /// The held-out windows.
    pub windows: Windows,
    /// Steps between two validations, at least 1.
    pub every: u64,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are done.
    Finished,
    /// The stop flag was seen after that many steps; the state is saved when there is a checkpoint folder.
    Stopped {
        /// Steps done.
        step: u64,
    },
}

/// What a run tells while it goes on.
#[derive(Debug)]
pub enum Progress<'a> {
    /// The run begins.
    Started {
        /// Steps done before: 0 for a fresh start.
        step: u64,
        /// Newer checkpoints that could not be used, and why.
        rejected: &'a [Rejected],
    },
    /// A step is done.
    Step(&'a StepReport),
    /// A validation is done.
    Validated {
        /// Steps done.
        step: u64,
        /// Its outcome.
        evaluation: &'a Evaluation,
    },
    /// A checkpoint is on the disk and verified.
    Saved {
        /// Steps done.
        step: u64,
        /// Its folder.
        path: &'a Path,
    },
}

/// A step, for people to watch.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// The line of the metrics file.
    pub record: StepRecord,
    /// Steps of the whole run.
    pub steps: u64,
    /// Mean of the last losses, at most 50.
    pub smoothed: f64,
    /// Tokens of this step.
    pub step_tokens: u64,
    /// Wall-clock seconds of this step: the one number that differs from run to run.
    pub seconds: f64,
}

/// A run: a model, what it learns from, and how.
pub struct Trainer<'a> {
    /// The model; its trainable parameters are those of `store`.
    pub model: &'a dyn CausalLm,
    /// The parameters.
    pub store: &'a ParamStore,
    /// The training data.
    pub windows: &'a Windows,
    /// The optimizer, over all trainable parameters.
    pub optimizer: AdamW,
    /// The learning rates.
    pub schedule: Schedule,
    /// A teacher to learn from besides the text.
    pub distill: Option<Distillation<'a>>,
    /// Held-out text to score on the way.
    pub validation: Option<Validation>,
    /// What else happens between the steps, in this order.
    pub hooks: Vec<&'a mut dyn StepHook>,
    /// Settings of the loop.
    pub config: TrainConfig,
    /// Where to save the state, and where to continue from. Without it nothing survives the process.
    pub checkpoints: Option<&'a CheckpointDir>,
    /// The metrics file (JSONL), which is replaced at a fresh start.
    pub metrics: Option<PathBuf>,
    /// Set by a signal handler to end the run after the current step.
    pub stop: &'a AtomicBool,
    /// Is told what happens.
    pub report: &'a mut dyn FnMut(Progress<'_>),
}

impl Trainer<'_> {
    /// Trains to the last step, from the newest checkpoint that verifies if there is one.
    ///
    /// # Errors
    /// Settings that no run can have, before anything is read or written; [`Error::OtherRun`] for a checkpoint of
    /// other settings; [`Error::NonFinite`], [`Error::MissingGradient`] and hook failures, none of which has changed a
    /// weight in its step; checkpoints or metrics that cannot be written.
    pub fn run(mut self) -> Result<Outcome> {
        let plan = self.plan()?;
        let (mut at, mut metrics) = self.start(&plan)?;
        let mut saved = at.step;
        // One for all steps: its memory is used again.
        let mut gradients = Gradients::new(&[]);
        while at.step < self.config.steps {
            if self.stop.load(Ordering::Relaxed) {
                if saved < at.step {
                    self.save(&plan, &at, &metrics)?;
                }
                return Ok(Outcome::Stopped { step: at.step });
            }
            self.step(&mut at, &mut metrics, &mut gradients)?;
            self.validate(&mut at, &mut metrics)?;
            let every = self.config.save_every;
            if at.step == self.config.steps || (every > 0 && at.step.is_multiple_of(every)) {
                self.save(&plan, &at, &metrics)?;
                saved = at.step;
            }
        }
        Ok(Outcome::Finished)
    }

    /// One optimizer step.
    fn step(&mut self, at: &mut Position, metrics: &mut Metrics, gradients: &mut Gradients) -> Result<()> {
        let begun = Instant::now();
        let step = at.step + 1;
        self.each_hook(step, |hook| hook.before_step(step))?;

        let mean = self.accumulate(at, gradients)?;
        let grad_norm = match self.config.clip {
            Some(max) => gradients.clip(max)?,
            None => gradients.norm()?,
        };
        let lr = self.schedule.rate(at.step);
        self.optimizer.step(gradients, lr)?;

        self.each_hook(step, |hook| hook.after_step(step))?;
        let step_tokens = (self.config.accumulate * self.config.batch * self.windows.context()) as u64;
        at.step = step;
        at.tokens += step_tokens;
        at.push_loss(mean.loss);
        let record = StepRecord {
            step,
            epoch: at.cursor.epoch,
            tokens: at.tokens,
            loss: mean.loss,
            cross_entropy: mean.cross_entropy,
            divergence: mean.divergence,
            features: mean.features,
            lr,
            grad_norm,
        };
        metrics.record(&record)?;
        let (steps, smoothed) = (self.config.steps, at.smoothed());
        let seconds = begun.elapsed().as_secs_f64();
        (self.report)(Progress::Step(&StepReport { record, steps, smoothed, step_tokens, seconds }));
        Ok(())
    }

    /// Forward and backward of a step's micro-batches.
    fn accumulate(&self, at: &mut Position, gradients: &mut Gradients) -> Result<Mean> {
        let clock = self.store.clock();
        let _training = Training::on(clock);
        gradients.reset(&self.store.trainable());
        let mut mean = Mean::default();
        for _ in 0..self.config.accumulate {
            clock.set_step(at.micro_step);
            let windows = at.cursor.take(self.windows, self.config.order_seed, self.config.batch)?;
            let batch = Batch::new(&windows, self.store.device())?;
            let loss = distill::loss(self.model, &batch, self.distill.as_ref())?;
            if !loss.value.is_finite() {
                let what = format!("the loss of step {}", at.step + 1);
                return Err(Error::NonFinite { what, value: loss.value });
            }
            mean.add(&loss, self.config.accumulate);
            gradients.backward(&loss.total)?;
            at.micro_step += 1;
        }
        Ok(mean)
    }

    fn each_hook(
        &mut self,
        step: u64,
        mut f: impl FnMut(&mut dyn StepHook) -> Result<(), BoxError>,
    ) -> Result<()> {
        for hook in &mut self.hooks {
            f(&mut **hook).map_err(|source| Error::Hook { hook: hook.name().into(), step, source })?;
        }
        Ok(())
    }

    fn validate(&mut self, at: &mut Position, metrics: &mut Metrics) -> Result<()> {
        let Some(validation) = self.validation.as_ref().filter(|v| at.step.is_multiple_of(v.every)) else {
            return Ok(());
        };
        let (device, options) = (self.store.device(), EvaluateOptions::default());
        let evaluation = evaluate(self.model, device, &validation.windows, options, &mut |_, _, _| {})?;
        let Evaluation { loss, perplexity, context, scored, .. } = evaluation;
        metrics.record(&ValidationRecord {
            step: at.step,
            eval_loss: loss,
            eval_perplexity: perplexity,
            eval_context: context,
            eval_scored: scored,
        })?;
        if at.best.is_none_or(|best| loss < best.loss) {
            at.best = Some(Best { step: at.step, loss });
        }
        (self.report)(Progress::Validated { step: at.step, evaluation: &evaluation });
        Ok(())
    }

    /// Continues from the newest checkpoint that verifies, or starts.
    fn start(&mut self, plan: &Plan) -> Result<(Position, Metrics)> {
        let survey = self.checkpoints.map(|dir| dir.survey(&self.config.fingerprint)).transpose()?;
        let (checkpoint, rejected) = survey.map(|s| (s.checkpoint, s.rejected)).unwrap_or_default();
        let (at, text) = match checkpoint {
            None => <(Position, String)>::default(),
            Some(checkpoint) => {
                let state = TrainState::load(&checkpoint, plan)?;
                state.restore(checkpoint.path(), self.store, &mut self.optimizer, &mut self.hooks)?
            }
        };
        let metrics = Metrics::start(self.metrics.as_deref(), text)?;
        (self.report)(Progress::Started { step: at.step, rejected: &rejected });
        Ok((at, metrics))
    }

    fn save(&mut self, plan: &Plan, at: &Position, metrics: &Metrics) -> Result<()> {
        let Some(dir) = self.checkpoints else { return Ok(()) };
        let state = TrainState::capture(self.store, &self.optimizer, &self.hooks, at, metrics.text())?;
        let path = state.save(dir, &self.config.fingerprint, plan)?;
        (self.report)(Progress::Saved { step: at.step, path: &path });
        Ok(())
    }

    /// Checks the settings against each other and the model, and writes down what decides the run's bytes.
    fn plan(&self) -> Result<Plan> {
        let TrainConfig { steps, batch, accumulate, clip, save_every: _, order_seed, fingerprint: _ } =
            &self.config;
        for (key, value) in [("steps", *steps), ("batch", *batch as u64), ("accumulate", *accumulate as u64)]
        {
            if value == 0 {
                return Err(Error::setting(key, "at least 1", value));
            }
        }
        if let Some(max) = clip
            && !(max.is_finite() && *max > 0.)
        {
            return Err(Error::setting("clip", "a number > 0", max));
        }
        if self.schedule.steps() != *steps {
            return Err(Error::setting("schedule", format!("one of {steps} steps"), self.schedule.steps()));
        }
        self.check_data(self.windows)?;
        if let Some(validation) = &self.validation {
            if validation.every == 0 {
                return Err(Error::setting("validation.every", "at least 1 step", 0));
            }
            self.check_data(&validation.windows)?;
        }
        if let Some(distill) = &self.distill {
            let (student, teacher) = (self.model.vocab_size(), distill.teacher().vocab_size());
            if student != teacher {
                return Err(Error::setting("distill.teacher", format!("a vocabulary of {student}"), teacher));
            }
            check_context(distill.teacher(), self.windows.context())?;
            let (student, teacher) = (self.model.blocks(), distill.teacher().blocks());
            if distill.config().features > 0. && student != teacher {
                return Err(Error::setting(
                    "distill.features",
                    format!("a teacher of {student} blocks"),
                    teacher,
                ));
            }
        }
        let optimized = |name: &str| self.optimizer.params().any(|p| p.name() == name);
        let unknown = self.store.trainable().into_iter().filter(|p| !optimized(p.name()));
        let names: Vec<_> = unknown.map(|p| p.name().to_string()).collect();
        if !names.is_empty() {
            return Err(Error::NotOptimized { names });
        }
        if self.optimizer.params().all(|p| p.role() != Role::Trainable) {
            return Err(Error::AllFrozen);
        }
        Ok(Plan {
            steps: *steps,
            batch: *batch,
            accumulate: *accumulate,
            clip: *clip,
            schedule: self.schedule.clone(),
            optimizer: self.optimizer.config().clone(),
            groups: self
                .optimizer
                .settings()
                .map(|(name, scale, decay)| (name.into(), (scale, decay)))
                .collect(),
            distill: self.distill.as_ref().map(Distillation::config),
            validation: self.validation.as_ref().map(|v| (v.every, (&v.windows).into())),
            data: self.windows.into(),
            order_seed: *order_seed,
            model_seed: self.store.clock().seed(),
        })
    }

    fn check_data(&self, windows: &Windows) -> Result<()> {
        if windows.is_empty() {
            return Err(Error::TooShort { expected: windows.context(), found: windows.ids().len() });
        }
        check_context(self.model, windows.context())?;
        let (vocab, largest) = (self.model.vocab_size(), windows.ids().iter().max().copied().unwrap_or(0));
        if largest as usize >= vocab {
            let expected = format!("token ids below the model's vocabulary of {vocab}");
            return Err(Error::setting("data", expected, largest));
        }
        Ok(())
    }
}

/// Switches dropout and the like on, and off again on every way out.
struct Training<'a>(&'a Clock);

impl<'a> Training<'a> {
    fn on(clock: &'a Clock) -> Self {
        clock.set_training(true);
        Self(clock)
    }
}

impl Drop for Training<'_> {
    fn drop(&mut self) {
        self.0.set_training(false);
    }
}

/// Means over the micro-batches of a step.
#[derive(Default)]
struct Mean {
    loss: f64,
    cross_entropy: f64,
    divergence: Option<f64>,
    features: Option<f64>,
}

impl Mean {
    fn add(&mut self, loss: &Loss, of: usize) {
        let part = 1. / of as f64;
        self.loss += loss.value * part;
        self.cross_entropy += loss.cross_entropy * part;
        if let Some(divergence) = loss.divergence {
            *self.divergence.get_or_insert_default() += divergence * part;
        }
        if let Some(features) = loss.features {
            *self.features.get_or_insert_default() += features * part;
        }
    }
}
