//! What the screen of a run shows.

use std::collections::VecDeque;
use std::time::Instant;

use trimwick_recipe::run::MeasuredArm;
use trimwick_train::{Evaluation, StepReport};

/// Points of a curve: a terminal cannot show more, and half of them go when there are as many.
const POINTS: usize = 2048;
/// The weight of a step in the running mean.
const CALM: f64 = 0.1;
/// Steps whose pace is shown.
const PACES: usize = 120;

/// A run, as far as it is shown.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) name: String,
    pub(super) begun: Instant,
    pub(super) stage: String,
    pub(super) stage_begun: Instant,
    /// Parts done and parts in all.
    pub(super) parts: (u64, u64),
    pub(super) facts: String,
    pub(super) left: Option<f64>,
    pub(super) curves: Vec<Curve>,
    pub(super) arms: Vec<Row>,
    /// Tokens in a second, of the last steps.
    pub(super) paces: VecDeque<u64>,
    /// Every line that was said.
    pub(super) said: Vec<String>,
    pub(super) paused: bool,
    /// Whether the state after the next step is to be saved.
    pub(super) wants_save: bool,
}

/// An arm that trains, or has trained.
#[derive(Debug, Clone, Default)]
pub(super) struct Curve {
    pub(super) arm: String,
    /// Tokens seen and the running mean of the cross-entropy.
    pub(super) losses: Vec<(f64, f64)>,
    /// Tokens seen and loss on the held-out text.
    pub(super) held_out: Vec<(f64, f64)>,
}

/// A line of the table of arms.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) loss: f64,
    pub(super) perplexity: f64,
    pub(super) context: usize,
}

impl State {
    pub(super) fn new(name: &str) -> Self {
        let now = Instant::now();
        Self {
            name: name.into(),
            begun: now,
            stage: String::new(),
            stage_begun: now,
            parts: (0, 0),
            facts: String::new(),
            left: None,
            curves: Vec::new(),
            arms: Vec::new(),
            paces: VecDeque::new(),
            said: Vec::new(),
            paused: false,
            wants_save: false,
        }
    }

    pub(super) fn begin(&mut self, stage: &str) {
        (self.stage, self.stage_begun) = (stage.into(), Instant::now());
        (self.parts, self.left) = ((0, 0), None);
        self.facts.clear();
    }

    /// Share of the stage that is done.
    pub(super) fn share(&self) -> f64 {
        let (done, total) = self.parts;
        if total == 0 { 0. } else { (done as f64 / total as f64).clamp(0., 1.) }
    }

    pub(super) fn step(&mut self, arm: &str, report: &StepReport) {
        let curve = self.curve(arm);
        // The loss that is minimized may be mixed with a divergence; this one compares with the held-out text.
        let now = report.record.cross_entropy;
        let mean = curve.losses.last().map_or(now, |(_, before)| before + CALM * (now - before));
        let losses = &mut curve.losses;
        losses.push((report.record.tokens as f64, mean));
        if losses.len() >= POINTS {
            let mut odd = false;
            losses.retain(|_| {
                odd = !odd;
                odd
            });
        }
        if self.paces.len() == PACES {
            self.paces.pop_front();
        }
        self.paces.push_back((report.step_tokens as f64 / report.seconds.max(1e-9)) as u64);
    }

    pub(super) fn validated(&mut self, arm: &str, evaluation: &Evaluation) {
        let curve = self.curve(arm);
        let tokens = curve.losses.last().map_or(0., |(tokens, _)| *tokens);
        curve.held_out.push((tokens, evaluation.loss));
    }

    pub(super) fn measured(&mut self, arm: &MeasuredArm) {
        let MeasuredArm { name, loss, perplexity, context, .. } = arm;
        self.arms.push(Row { name: name.clone(), loss: *loss, perplexity: *perplexity, context: *context });
    }

    fn curve(&mut self, arm: &str) -> &mut Curve {
        let at = self.curves.iter().position(|curve| curve.arm == arm).unwrap_or_else(|| {
            self.curves.push(Curve { arm: arm.into(), ..Curve::default() });
            self.curves.len() - 1
        });
        &mut self.curves[at]
    }
}
