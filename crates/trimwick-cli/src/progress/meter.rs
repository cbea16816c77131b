//! One task: a bar, or lines.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{has_bars, line};
use crate::text::{duration, speed};

/// Between two lines at the start of a task, when one wants to see that it works …
const OFTEN: Duration = Duration::from_secs(10);
/// … and after this time, between two lines of a task …
const CALM_AFTER: Duration = Duration::from_secs(120);
/// … that is long.
const SELDOM: Duration = Duration::from_secs(60);

/// The progress of one task. Dropping it takes the bar away.
pub(crate) struct Meter {
    label: String,
    bar: Option<ProgressBar>,
    begun: Instant,
    last: Option<Instant>,
    /// Whether the last part gets a line, which a result right after it makes idle.
    ends_with_line: bool,
}

impl Meter {
    /// A task that begins now; its parts are counted when the first is done.
    pub(crate) fn new(label: &str) -> Self {
        let bar = has_bars().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            // The template is fixed and known to be sound; the default style is no reason to stop.
            let style = ProgressStyle::with_template("{spinner} {prefix} {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.set_prefix(label.to_string());
            bar.enable_steady_tick(Duration::from_millis(150));
            bar
        });
        Self { label: label.into(), bar, begun: Instant::now(), last: None, ends_with_line: false }
    }

    /// The same with a line for the last part, for a task whose result is not told otherwise.
    pub(crate) fn with_last_line(mut self) -> Self {
        self.ends_with_line = true;
        self
    }

    /// `done` of `total` parts are done; `facts` and the time that is left stand behind the numbers.
    pub(crate) fn at(&mut self, done: u64, total: u64, facts: &str, left: Option<f64>) {
        let left = left.filter(|_| done < total).map(|seconds| format!("{} left", duration(seconds)));
        // A narrow terminal cuts the end off.
        let facts: Vec<&str> = left.as_deref().into_iter().chain([facts]).filter(|f| !f.is_empty()).collect();
        let facts = facts.join(", ");
        match &self.bar {
            Some(bar) => {
                if bar.length().is_none() {
                    let template = "{prefix} {bar:16.cyan/blue} {pos}/{len} {wide_msg}";
                    if let Ok(style) = ProgressStyle::with_template(template) {
                        bar.set_style(style.progress_chars("━╸─"));
                    }
                }
                bar.set_length(total);
                bar.set_position(done);
                bar.set_message(facts);
            }
            None if self.is_due(done, total) => {
                self.last = Some(Instant::now());
                let comma = if facts.is_empty() { "" } else { ", " };
                line(&format!("{}: {done}/{total}{comma}{facts}", self.label));
            }
            None => {}
        }
    }

    /// `done` of `total` windows of `context` tokens are measured, with this loss so far.
    pub(crate) fn windows(&mut self, done: usize, total: usize, context: usize, loss: f64) {
        let seconds = self.seconds();
        let facts = format!("loss {loss:.4}, {}", speed((done * context) as f64, seconds));
        let left = seconds / done as f64 * (total - done) as f64;
        self.at(done as u64, total as u64, &facts, Some(left));
    }

    /// A line above the bar.
    pub(crate) fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| line(text)),
            None => line(text),
        }
    }

    /// Seconds since the task began.
    pub(crate) fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    /// Whether a line is due: for the first part that takes a while, and then when there was none for a while.
    fn is_due(&self, done: u64, total: u64) -> bool {
        if done == total {
            return self.ends_with_line;
        }
        let every = if self.begun.elapsed() < CALM_AFTER { OFTEN } else { SELDOM };
        let patience = Duration::from_secs(1);
        self.last.map_or(self.begun.elapsed() >= patience, |last| last.elapsed() >= every)
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
