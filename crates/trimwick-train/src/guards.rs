//! What a run does about a loss or a gradient that is broken: give up, leave the step out, or go back.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::data::{Cursor, Windows};
use crate::state::{Position, TrainState};
use crate::trainer::{Progress, Run, TrainConfig, Trainer};
use crate::walk::MemoryPlan;
use crate::{Error, Result};

/// Losses that a median is taken of at the least: before, no loss is called a spike.
const MEDIAN_OF: usize = 8;

/// What to do when a loss or a gradient is NaN or infinite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NonFinite {
    /// The run ends with an error.
    #[default]
    Abort,
    /// The step's gradient is dropped: weights and moments stay, the data and the step's number go on.
    Skip,
    /// Weights, moments, hooks and buffers go back to the last checkpoint of the schedule (one every
    /// [`TrainConfig::save_every`] steps, and one at the start); the data go on behind the step's windows.
    Rewind,
}

/// What stands between a broken step and the weights.
///
/// A step that is left out and a rewind are lines of the metrics file, and both count in
/// [`Position::skips`](crate::Position). All of it is a function of the state, so that a run that is killed between a
/// rewind and the next checkpoint comes to the same rewind again.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guards {
    /// About values that are not finite.
    pub non_finite: NonFinite,
    /// Rewinds when the loss is more than this many times the median of the last losses (8 to 50 of them), before
    /// the step changes a weight; above 1. `None` for never.
    pub spike: Option<f64>,
    /// Steps left out and rewinds in the whole run; one more ends it with an error.
    pub skips: u32,
}

impl Default for Guards {
    fn default() -> Self {
        Self { non_finite: NonFinite::Abort, spike: None, skips: 3 }
    }
}

impl Guards {
    /// Whether a run may go back, so that it needs checkpoints, and their schedule decides its bytes.
    pub fn rewinds(&self) -> bool {
        self.non_finite == NonFinite::Rewind || self.spike.is_some()
    }

    /// # Errors
    /// Settings that no run can have.
    pub(crate) fn check(&self, config: &TrainConfig, checkpoints: bool) -> Result<()> {
        if let Some(factor) = self.spike
            && !(factor.is_finite() && factor > 1.)
        {
            return Err(Error::setting("spike", "a number above 1", factor));
        }
        if self.rewinds() && !checkpoints {
            let key = if self.spike.is_some() { "spike" } else { "non_finite" };
            return Err(Error::setting(key, "a folder of checkpoints to go back to", "none"));
        }
        if self.non_finite == NonFinite::Skip && config.memory == MemoryPlan::Lean {
            let expected = "\"abort\" or \"rewind\" with memory = \"lean\": when a gradient is found to be broken, \
                            other weights are updated already";
            return Err(Error::setting("non_finite", expected, "\"skip\""));
        }
        Ok(())
    }

    /// # Errors
    /// [`Error::Spike`] when the loss of a step is one.
    pub(crate) fn judge(&self, step: u64, loss: f64, last: &VecDeque<f64>) -> Result<()> {
        let Some(factor) = self.spike.filter(|_| last.len() >= MEDIAN_OF) else { return Ok(()) };
        let median = median(last);
        match loss > factor * median {
            true => Err(Error::Spike { step, loss, factor, median }),
            false => Ok(()),
        }
    }
}

fn median(values: &VecDeque<f64>) -> f64 {
    let mut sorted: Vec<f64> = values.iter().copied().collect();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[half] } else { (sorted[half - 1] + sorted[half]) / 2. }
}

/// The metrics line of a step that was left out, or of a rewind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuardRecord {
    /// The broken step.
    pub step: u64,
    /// What was broken.
    pub cause: String,
    /// The step that the weights went back to; none when the step was left out.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rewound_to: Option<u64>,
    /// Steps left out and rewinds so far, this one included.
    pub skips: u32,
}

enum Action {
    Skip,
    Rewind,
}

impl Trainer<'_> {
    /// Goes on after a step that failed, where the guards say so; else it is the error that it was. `begun` is where
    /// the data were before the step.
    pub(crate) fn guard(&mut self, run: &mut Run, begun: (Cursor, u64), error: Error) -> Result<()> {
        let guards = self.config.guards;
        let noted = self.store.clock().take_non_finite();
        let broken = noted || matches!(error, Error::NonFinite { .. } | Error::HalfStep { .. });
        let action = match (&error, guards.non_finite) {
            (Error::Spike { .. }, _) | (_, NonFinite::Rewind) => Action::Rewind,
            (_, NonFinite::Skip) => Action::Skip,
            (_, NonFinite::Abort) => return Err(error),
        };
        if !broken && !matches!(error, Error::Spike { .. }) {
            return Err(error);
        }
        if run.at.skips >= guards.skips {
            return Err(Error::GaveUp { skips: run.at.skips, source: Box::new(error) });
        }
        // Behind all windows of the step, whichever of them was broken.
        let (mut cursor, micro_step) = begun;
        let TrainConfig { batch, accumulate, order_seed, .. } = self.config;
        cursor.indices(self.windows, order_seed, batch * accumulate)?;
        let (step, skips) = (run.at.step + 1, run.at.skips + 1);
        let micro_step = micro_step + accumulate as u64;
        let cause = error.to_string();
        drop(error);
        let rewound_to = match action {
            Action::Skip => {
                self.each_hook(step, |hook| hook.after_step(step))?;
                let tokens = run.at.tokens + step_tokens(&self.config, self.windows);
                let losses = std::mem::take(&mut run.at.losses);
                run.at = Position { step, tokens, losses, ..run.at.clone() };
                None
            }
            Action::Rewind => {
                run.at = self.rewind(run.at.step)?;
                Some(run.at.step)
            }
        };
        (run.at.cursor, run.at.micro_step, run.at.skips) = (cursor, micro_step, skips);
        run.metrics.record(&GuardRecord { step, cause: cause.clone(), rewound_to, skips })?;
        (self.report)(Progress::Guarded { step, cause: &cause, rewound_to, skips });
        Ok(())
    }

    /// Puts the state of the last checkpoint of the schedule back.
    fn rewind(&mut self, step: u64) -> Result<Position> {
        let target = self.anchor(step);
        let none =
            || Error::setting("non_finite", format!("a checkpoint of step {target}"), "none that verifies");
        let dir = self.checkpoints.ok_or_else(none)?;
        let checkpoint = dir.at(target, &self.config.fingerprint)?.ok_or_else(none)?;
        let state = TrainState::load(&checkpoint, &self.plan()?)?;
        let (at, _) = state.restore(checkpoint.path(), self.store, &mut self.optimizer, &mut self.hooks)?;
        Ok(at)
    }

    /// The last step of the schedule of checkpoints up to `step`: what a rewind goes back to. Checkpoints that a stop
    /// made do not count, since a run that was not stopped has none.
    pub(crate) fn anchor(&self, step: u64) -> u64 {
        step.checked_div(self.config.save_every).map_or(0, |saves| saves * self.config.save_every)
    }
}

/// Tokens of one step.
pub(crate) fn step_tokens(config: &TrainConfig, windows: &Windows) -> u64 {
    (config.accumulate * config.batch * windows.context()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spike_is_measured_against_the_median() {
        let guards = Guards { spike: Some(2.), ..Guards::default() };
        let seven: VecDeque<f64> = [1., 9., 1., 1., 1., 1., 1.].into();
        assert!(guards.judge(8, 100., &seven).is_ok(), "seven losses have no median yet");
        let mut losses = seven;
        losses.push_back(3.);
        assert_eq!(median(&losses), 1.);
        assert!(guards.judge(9, 2., &losses).is_ok());
        assert!(matches!(guards.judge(9, 2.1, &losses), Err(Error::Spike { step: 9, .. })));
        losses.extend([3., 3., 3.]);
        assert_eq!(median(&losses), 1.);
        losses.push_back(3.);
        assert_eq!(median(&losses), 2.);
        assert!(Guards::default().judge(9, 1e9, &losses).is_ok(), "none by default");
    }
}
