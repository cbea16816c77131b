//! The training loop.
//!
//! [`Trainer::run`] reads top to bottom: continue or start, then step, validate, save until done; a step is hooks,
//! micro-batches, clipping, optimizer, hooks. Nothing reaches the weights before the step's gradient is known to be
//! finite (but for [`MemoryPlan::Lean`], which says so), and every checkpoint falls between two steps.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use trimwick_formats::checkpoint::{CheckpointDir, Rejected};
use trimwick_nn::{CausalLm, ParamStore};

use crate::data::Windows;
use crate::distill::Distillation;
use crate::error::BoxError;
use crate::evaluate::{EvaluateOptions, Evaluation, evaluate};
use crate::gradients::Gradients;
use crate::guards::{Guards, step_tokens};
use crate::hooks::StepHook;
use crate::lean::Uses;
use crate::metrics::{Metrics, StepRecord, ValidationRecord};
use crate::optim::AdamW;
use crate::plan::Plan;
use crate::schedule::Schedule;
use crate::state::{Best, Position, TrainState};
use crate::walk::MemoryPlan;
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
    /// Steps between two checkpoints; 0 for one at the end alone. Where the guards rewind it decides the run's bytes,
    /// and there is one at the start too.
    pub save_every: u64,
    /// Seed of the order in which windows are visited.
    pub order_seed: u64,
    /// Name of the run, such as a digest of its recipe: only checkpoints of this name are continued.
    pub fingerprint: String,
    /// What a step keeps in memory.
    pub memory: MemoryPlan,
    /// What to do about a broken step.
    pub guards: Guards,
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
    /// A step was broken, and the guards of the run went on: its gradient was dropped, or the weights went back.
    Guarded {
        /// The step.
        step: u64,
        /// What was broken.
        cause: &'a str,
        /// The step that the weights went back to; none when the step was left out.
        rewound_to: Option<u64>,
        /// Steps left out and rewinds so far, this one included.
        skips: u32,
    },
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
    /// Set it to have the state saved after this step.
    pub save: Cell<bool>,
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

/// A run under way.
pub(crate) struct Run {
    /// Where it is.
    pub(crate) at: Position,
    pub(crate) metrics: Metrics,
    /// One for all steps: its memory is used again.
    pub(crate) gradients: Gradients,
    /// Found out when [`MemoryPlan::Lean`] needs them.
    pub(crate) uses: Uses,
    /// Whether whoever watches wants the state of this step saved.
    pub(crate) asked: bool,
}

impl Trainer<'_> {
    /// Trains to the last step, from the newest checkpoint that verifies if there is one.
    ///
    /// # Errors
    /// Settings that no run can have, before anything is read or written; [`Error::OtherRun`] for a checkpoint of
    /// other settings; [`Error::NonFinite`], [`Error::MissingGradient`] and hook failures, none of which has changed a
    /// weight in its step; [`Error::HalfStep`] and [`Error::Late`] of [`MemoryPlan::Lean`], which have;
    /// [`Error::GaveUp`] when the guards had enough; checkpoints or metrics that cannot be written.
    pub fn run(mut self) -> Result<Outcome> {
        let plan = self.plan()?;
        let mut run = self.start(&plan)?;
        let mut saved = run.at.step;
        while run.at.step < self.config.steps {
            if self.stop.load(Ordering::Relaxed) {
                if saved < run.at.step {
                    self.save(&plan, &run)?;
                }
                return Ok(Outcome::Stopped { step: run.at.step });
            }
            let before = run.at.step;
            self.step(&mut run)?;
            if run.at.step <= before {
                saved = run.at.step;
                continue;
            }
            self.validate(&mut run)?;
            let every = self.config.save_every;
            let due = every > 0 && run.at.step.is_multiple_of(every);
            if run.at.step == self.config.steps || due || run.asked {
                self.save(&plan, &run)?;
                saved = run.at.step;
            }
        }
        Ok(Outcome::Finished)
    }

    /// One optimizer step; one that is broken is left out, or takes the run back, where the guards say so.
    fn step(&mut self, run: &mut Run) -> Result<()> {
        let begun = Instant::now();
        let step = run.at.step + 1;
        self.each_hook(step, |hook| hook.before_step(step))?;

        let data = (run.at.cursor, run.at.micro_step);
        let lr = self.schedule.rate(run.at.step);
        let (mean, grad_norm) = match self.learn(run, lr) {
            Ok(learned) => learned,
            Err(error) => return self.guard(run, data, error),
        };

        self.each_hook(step, |hook| hook.after_step(step))?;
        let step_tokens = step_tokens(&self.config, self.windows);
        let at = &mut run.at;
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
        run.metrics.record(&record)?;
        let (steps, smoothed) = (self.config.steps, run.at.smoothed());
        let seconds = begun.elapsed().as_secs_f64();
        let report = StepReport { record, steps, smoothed, step_tokens, seconds, save: Cell::new(false) };
        (self.report)(Progress::Step(&report));
        run.asked = report.save.get();
        Ok(())
    }

    pub(crate) fn each_hook(
        &mut self,
        step: u64,
        mut f: impl FnMut(&mut dyn StepHook) -> Result<(), BoxError>,
    ) -> Result<()> {
        for hook in &mut self.hooks {
            f(&mut **hook).map_err(|source| Error::Hook { hook: hook.name().into(), step, source })?;
        }
        Ok(())
    }

    fn validate(&mut self, run: &mut Run) -> Result<()> {
        let at = &mut run.at;
        let Some(validation) = self.validation.as_ref().filter(|v| at.step.is_multiple_of(v.every)) else {
            return Ok(());
        };
        let (device, options) = (self.store.device(), EvaluateOptions::default());
        let evaluation = evaluate(self.model, device, &validation.windows, options, &mut |_, _, _| {})?;
        let Evaluation { loss, perplexity, context, scored, .. } = evaluation;
        run.metrics.record(&ValidationRecord {
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
    fn start(&mut self, plan: &Plan) -> Result<Run> {
        let survey = self.checkpoints.map(|dir| dir.survey(&self.config.fingerprint)).transpose()?;
        let (checkpoint, rejected) = survey.map(|s| (s.checkpoint, s.rejected)).unwrap_or_default();
        let fresh = checkpoint.is_none();
        let (at, text) = match checkpoint {
            None => <(Position, String)>::default(),
            Some(checkpoint) => {
                let state = TrainState::load(&checkpoint, plan)?;
                state.restore(checkpoint.path(), self.store, &mut self.optimizer, &mut self.hooks)?
            }
        };
        let metrics = Metrics::start(self.metrics.as_deref(), text)?;
        (self.report)(Progress::Started { step: at.step, rejected: &rejected });
        let run = Run { at, metrics, gradients: Gradients::new(&[]), uses: Uses::default(), asked: false };
        if fresh && self.config.guards.rewinds() {
            self.save(plan, &run)?;
        }
        Ok(run)
    }

    fn save(&mut self, plan: &Plan, run: &Run) -> Result<()> {
        let Some(dir) = self.checkpoints else { return Ok(()) };
        if self.config.guards.rewinds() {
            dir.pin(self.anchor(run.at.step));
        }
        let state =
            TrainState::capture(self.store, &self.optimizer, &self.hooks, &run.at, run.metrics.text())?;
        let path = state.save(dir, &self.config.fingerprint, plan)?;
        (self.report)(Progress::Saved { step: run.at.step, path: &path });
        Ok(())
    }
}
