//! What tests of whole runs share.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use trimwick_recipe::Recipe;
use trimwick_recipe::run::{Event, RunOutcome, Summary, run};
use trimwick_train::Progress;

/// Runs a recipe to the end, stopping and starting anew after each of the first `cuts` training steps, the twin's
/// included.
pub fn finish(recipe: &str, out: &Path, overrides: &[&str], cuts: u64) -> Summary {
    let overrides: Vec<_> = overrides.iter().map(|o| o.to_string()).collect();
    let recipe = Recipe::parse(recipe, "job.toml", &overrides).unwrap_or_else(|faults| panic!("{faults}"));
    for done in 0..=cuts {
        let (stop, mut seen) = (AtomicBool::new(false), 0);
        let mut report = |event: Event<'_>| {
            if let Event::Training(Progress::Step(_)) = event {
                seen += 1;
                stop.store(seen == 1 && done < cuts, Ordering::Relaxed);
            }
        };
        if let RunOutcome::Finished(summary) = run(&recipe, out, &stop, &mut report).unwrap() {
            return *summary;
        }
    }
    panic!("did not finish");
}
