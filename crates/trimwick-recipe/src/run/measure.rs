//! Scoring the arms of a run on the held-out text, each once.

use std::sync::atomic::Ordering;

use candle_core::Device;
use trimwick_nn::StreamedLm;
use trimwick_train::blockwise::evaluate_streamed;
use trimwick_train::{EvaluateOptions, Evaluation, evaluate_until};

use super::error::{Result, RunError};
use super::event::{Event, Stage};
use super::origin::Built;
use super::stages::Run;
use super::summary::Arm as MeasuredArm;

impl Run<'_, '_> {
    /// Measures the model that `build` gives, unless an earlier process did.
    pub(crate) fn measure(
        &mut self,
        name: &'static str,
        tokens: u64,
        build: impl FnOnce(&mut Self) -> Result<Built>,
    ) -> Result<()> {
        self.go_on()?;
        if self.measured(name, tokens)? {
            return Ok(());
        }
        let built = build(self)?;
        self.measure_built(name, tokens, &built)
    }

    /// Measures a model that was trained on `tokens`, unless it was measured before.
    pub(crate) fn measure_built(&mut self, name: &'static str, tokens: u64, built: &Built) -> Result<()> {
        if self.measured(name, tokens)? {
            return Ok(());
        }
        (self.report)(Event::Begin(Stage::Evaluate(name)));
        let (report, stop) = (&mut self.report, self.stop);
        let mut progress = |done, total, loss| report(Event::Part { done, total, loss: Some(loss) });
        let stopped = || stop.load(Ordering::Relaxed);
        let options = EvaluateOptions::default();
        let evaluation =
            evaluate_until(&built.model, &Device::Cpu, &self.held_out, options, &mut progress, &stopped)?;
        self.record(name, tokens, &evaluation.ok_or(RunError::Stopped)?)
    }

    /// Measures a model of which one piece is in memory at a time, unless it was measured before.
    pub(crate) fn measure_streamed(
        &mut self,
        name: &'static str,
        tokens: u64,
        model: &dyn StreamedLm,
    ) -> Result<()> {
        self.go_on()?;
        if self.measured(name, tokens)? {
            return Ok(());
        }
        (self.report)(Event::Begin(Stage::Evaluate(name)));
        let spill = self.spill()?;
        let (report, stop) = (&mut self.report, self.stop);
        let mut progress = |done, total| report(Event::Part { done, total, loss: None });
        let stopped = || stop.load(Ordering::Relaxed);
        let evaluation =
            evaluate_streamed(model, &Device::Cpu, &self.held_out, &spill, &mut progress, &stopped)?;
        self.record(name, tokens, &evaluation.ok_or(RunError::Stopped)?)
    }

    fn record(&mut self, name: &'static str, tokens: u64, evaluation: &Evaluation) -> Result<()> {
        let arm = MeasuredArm::new(name, evaluation, tokens);
        self.folder.finish(name, &arm)?;
        (self.report)(Event::Measured(&arm));
        self.arms.push(arm);
        Ok(())
    }

    /// Whether an arm has a record.
    pub(crate) fn has_measured(&self, name: &str) -> bool {
        self.arms.iter().any(|arm| arm.name == name) || self.folder.record(name).exists()
    }

    /// Takes the numbers of an arm that was measured by this process or an earlier one, and tells whether there are any.
    ///
    /// # Errors
    /// [`RunError::Stale`] for numbers that are not about this run's model and text.
    pub(crate) fn measured(&mut self, name: &'static str, tokens: u64) -> Result<bool> {
        if self.arms.iter().any(|arm| arm.name == name) {
            return Ok(true);
        }
        let Some(arm) = self.folder.done::<MeasuredArm>(name)? else { return Ok(false) };
        self.check(name, tokens, &arm)?;
        (self.report)(Event::Skipped(Stage::Evaluate(name)));
        (self.report)(Event::Measured(&arm));
        self.arms.push(arm);
        Ok(true)
    }

    fn check(&self, name: &str, tokens: u64, arm: &MeasuredArm) -> Result<()> {
        let text = (self.held_out.context(), self.held_out.len() * self.held_out.context());
        let perplexity = arm.loss.exp();
        let parts = [
            ("name", arm.name == name, name.to_string(), arm.name.escape_debug().to_string()),
            ("context", arm.context == text.0, text.0.to_string(), arm.context.to_string()),
            ("eval_tokens", arm.eval_tokens == text.1, text.1.to_string(), arm.eval_tokens.to_string()),
            ("train_tokens", arm.train_tokens == tokens, tokens.to_string(), arm.train_tokens.to_string()),
            ("loss", arm.loss.is_finite() && arm.loss >= 0., "a finite number".into(), arm.loss.to_string()),
            (
                "perplexity",
                (arm.perplexity - perplexity).abs() <= 1e-6 * perplexity,
                format!("{perplexity}, e to the loss"),
                arm.perplexity.to_string(),
            ),
        ];
        match parts.into_iter().find(|(_, sound, ..)| !sound) {
            None => Ok(()),
            Some((what, _, expected, found)) => {
                Err(RunError::Stale { path: self.folder.record(name), what, expected, found })
            }
        }
    }
}
