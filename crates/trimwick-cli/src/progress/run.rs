//! The events of a run, told to people.

use std::sync::atomic::{AtomicBool, Ordering};

use trimwick_recipe::run::{Event, MeasuredArm, Stage};
use trimwick_train::{Progress, StepReport};

use super::pace::Pace;
use super::show::Show;
use crate::text::{count, perplexity, speed};

/// Follows a run.
pub(crate) struct RunProgress<'a> {
    stop: &'a AtomicBool,
    told_to_stop: bool,
    /// Optimizer steps that an arm is trained for.
    steps: u64,
    stage: String,
    /// The arm that trains.
    arm: String,
    show: Box<dyn Show + 'a>,
    pace: Pace,
    /// Whether the arm that comes next was measured by an earlier process.
    known: bool,
    continues: bool,
    /// The last step that is safe on the disk, of the stage that trains.
    saved: Option<u64>,
}

impl<'a> RunProgress<'a> {
    /// A run whose arms are trained for `steps`, and which `stop` ends.
    pub(crate) fn new(steps: u64, stop: &'a AtomicBool, show: Box<dyn Show + 'a>) -> Self {
        Self {
            stop,
            told_to_stop: false,
            steps,
            stage: String::new(),
            arm: String::new(),
            show,
            pace: Pace::default(),
            known: false,
            continues: false,
            saved: None,
        }
    }

    /// Takes an event.
    pub(crate) fn take(&mut self, event: Event<'_>) {
        match event {
            Event::Begin(stage) => self.begin(stage),
            Event::Skipped(stage) => {
                self.known = matches!(stage, Stage::Evaluate(_));
                self.continued();
            }
            Event::Part { done, total, loss } => self.part(done as u64, total as u64, loss),
            Event::Training(progress) => self.training(progress),
            Event::Measured(arm) => self.measured(arm),
            Event::Note(text) => self.show.say(&format!("note: {text}")),
        }
        if self.stop.load(Ordering::Relaxed) && !self.told_to_stop {
            self.told_to_stop = true;
            self.show.say("stopping after what is in hand; a second signal ends the process at once");
        }
        self.show.wait();
    }

    /// What was going on last, for the message about a run that was stopped.
    pub(crate) fn last(&self) -> String {
        match self.saved {
            Some(step) => format!("{}, saved after step {step} of {}", self.stage, self.steps),
            None => self.stage.clone(),
        }
    }

    fn begin(&mut self, stage: Stage<'_>) {
        self.stage = name(stage);
        (self.pace, self.saved) = (Pace::default(), None);
        if let Stage::Train(arm) = stage {
            self.arm = arm.into();
        }
        self.show.begin(&self.stage, matches!(stage, Stage::Train(_)));
    }

    fn part(&mut self, done: u64, total: u64, loss: Option<f64>) {
        let seconds = self.show.seconds();
        let left = (done > 0).then(|| seconds / done as f64 * (total - done.min(total)) as f64);
        let facts = loss.map(|loss| format!("loss {loss:.4}")).unwrap_or_default();
        self.show.at(done, total, &facts, left);
    }

    fn training(&mut self, progress: Progress<'_>) {
        match progress {
            Progress::Started { step, rejected } => {
                for bad in rejected {
                    let path = bad.path.display();
                    self.show.say(&format!("warning: checkpoint {path} is not used: {}", bad.why));
                }
                self.saved = Some(step).filter(|&step| step > 0);
                // A stage that is over only gets its weights back.
                if step > 0 && step < self.steps {
                    self.continued();
                    self.show.say(&format!("{}: continues after step {step} of {}", self.stage, self.steps));
                }
            }
            Progress::Step(step) => self.step(step),
            Progress::Guarded { step, cause, rewound_to, skips } => {
                let done = match rewound_to {
                    Some(to) => format!("back to step {to}"),
                    None => "left out".to_string(),
                };
                self.show.say(&format!("warning: step {step}: {cause}; {done} ({skips} so far)"));
            }
            Progress::Validated { step, evaluation } => {
                let ppl = perplexity(evaluation.perplexity);
                self.show.say(&format!("step {step}: perplexity {ppl} @ {}", evaluation.context));
                self.show.validated(&self.arm, evaluation);
            }
            Progress::Saved { step, .. } => self.saved = Some(step),
        }
    }

    fn step(&mut self, report: &StepReport) {
        self.pace.push(report.step_tokens, report.seconds);
        let (tokens, seconds) = self.pace.recent();
        let facts = format!("loss {:.4}, {}", report.smoothed, speed(tokens, seconds));
        let done = report.record.step;
        let left = self.pace.left(report.steps - done.min(report.steps));
        self.show.at(done, report.steps, &facts, left);
        self.show.step(&self.arm, report);
    }

    fn measured(&mut self, arm: &MeasuredArm) {
        let known = if std::mem::take(&mut self.known) { ", from before" } else { "" };
        let (ppl, context) = (perplexity(arm.perplexity), arm.context);
        self.show.end();
        let trained = match arm.train_tokens {
            0 => String::new(),
            tokens => format!(", trained on {} tokens", count(tokens)),
        };
        self.show.say(&format!(
            "{}: loss {:.4}, perplexity {ppl} @ {context}{trained}{known}",
            arm.name, arm.loss
        ));
        self.show.measured(arm);
    }

    fn continued(&mut self) {
        if !std::mem::replace(&mut self.continues, true) {
            self.show.say("continues an earlier run of this recipe");
        }
    }
}

fn name(stage: Stage<'_>) -> String {
    match stage {
        Stage::Tokenizer => "training the tokenizer".into(),
        Stage::Data => "reading the texts".into(),
        Stage::Prune(arm) => format!("{arm}: pruning"),
        Stage::Choose => "choosing schemes".into(),
        Stage::Pass(pass) => format!("{pass}: block after block"),
        Stage::Quantize(arm) => format!("{arm}: quantizing"),
        Stage::Blocks(arm) => format!("{arm}: block after block"),
        Stage::Train(arm) => format!("{arm}: training"),
        Stage::Evaluate(arm) => format!("{arm}: measuring"),
        Stage::Export => "writing the model".into(),
    }
}
