//! Where the progress of a run is shown: a bar and lines, or a screen.

use trimwick_recipe::run::MeasuredArm;
use trimwick_train::{Evaluation, StepReport};

use super::line;
use super::meter::Meter;

/// What shows the progress of a run.
pub(crate) trait Show {
    /// A stage begins, maybe one that trains.
    fn begin(&mut self, stage: &str, trains: bool);
    /// Whatever is in hand is over.
    fn end(&mut self);
    /// `done` of `total` parts of the stage are done; `facts` and the seconds that are left stand behind the numbers.
    fn at(&mut self, done: u64, total: u64, facts: &str, left: Option<f64>);
    /// A line for people.
    fn say(&mut self, text: &str);
    /// Seconds since the stage began.
    fn seconds(&self) -> f64;
    /// A step of an arm.
    fn step(&mut self, _arm: &str, _step: &StepReport) {}
    /// An arm was measured on the way.
    fn validated(&mut self, _arm: &str, _evaluation: &Evaluation) {}
    /// An arm was measured.
    fn measured(&mut self, _arm: &MeasuredArm) {}
    /// Gives control back when the run may go on.
    fn wait(&mut self) {}
}

/// A bar on a terminal, lines elsewhere.
#[derive(Default)]
pub(crate) struct Lines {
    meter: Option<Meter>,
}

impl Show for Lines {
    fn begin(&mut self, stage: &str, trains: bool) {
        // The old bar goes before the new one is drawn.
        self.meter = None;
        let meter = Meter::new(stage);
        self.meter = Some(if trains { meter.with_last_line() } else { meter });
    }

    fn end(&mut self) {
        self.meter = None;
    }

    fn at(&mut self, done: u64, total: u64, facts: &str, left: Option<f64>) {
        if let Some(meter) = &mut self.meter {
            meter.at(done, total, facts, left);
        }
    }

    fn say(&mut self, text: &str) {
        match &self.meter {
            Some(meter) => meter.say(text),
            None => line(text),
        }
    }

    fn seconds(&self) -> f64 {
        self.meter.as_ref().map_or(0., Meter::seconds)
    }
}
