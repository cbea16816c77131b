//! One task: a bar, or lines.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{has_bars, line};
use crate::text::duration;

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
        Self { label: label.into(), bar, begun: Instant::now(), last: None }
    }

    /// `done` of `total` parts are done; `facts` and the time that is left stand behind the numbers.
    pub(crate) fn at(&mut self, done: u64, total: u64, facts: &str, left: Option<f64>) {
        let left = left.filter(|_| done < total).map(|seconds| format!("{} left", duration(seconds)));
        let facts: Vec<&str> = [facts].into_iter().chain(left.as_deref()).filter(|f| !f.is_empty()).collect();
        let facts = facts.join(", ");
        match &self.bar {
            Some(bar) => {
                if bar.length().is_none() {
                    let template = "{spinner} {prefix} {bar:28.cyan/blue} {pos}/{len}  {wide_msg}";
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

    /// Whether a line is due: for the first part and the last, and for others when there was none for a while. A task that
    /// is over at once has no need of any but the last.
    fn is_due(&self, done: u64, total: u64) -> bool {
        let every = if self.begun.elapsed() < CALM_AFTER { OFTEN } else { SELDOM };
        let waited = |since: Instant| since.elapsed() >= every;
        let short = self.begun.elapsed() < Duration::from_secs(1);
        done == total || (self.last.is_none() && !short) || self.last.is_some_and(waited)
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
