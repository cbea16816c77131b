//! The main job on the built-in model, small: killed between stages by the stop flag and run again, it ends with
//! the bytes of a run that was left alone.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use trimwick_recipe::Recipe;
use trimwick_recipe::run::{Event, RunOutcome, Summary, run};
use trimwick_train::Progress;

const RECIPE: &str = r#"
[model]
source = "builtin:tiny-llama"
[data]
train = "builtin:sotu-train"
eval = "builtin:sotu-eval"
context = 64
eval_tokens = 512
[calibration]
windows = 8
[prune]
pattern = "2:4"
method = "sparsegpt"
[train]
steps = 4
batch = 2
lr = 1e-3
save_every = 2
[distill]
weight = 0.5
[compare]
arms = ["dense_tuned", "pruned_magnitude"]
"#;

/// Runs to the end, stopping and starting anew after each of the first `cuts` training steps.
fn finish(out: &Path, overrides: &[&str], cuts: u64) -> Summary {
    let overrides: Vec<_> = overrides.iter().map(|o| o.to_string()).collect();
    let recipe = Recipe::parse(RECIPE, "job.toml", &overrides).unwrap();
    for _ in 0..=2 * cuts {
        let (stop, mut seen) = (AtomicBool::new(false), 0);
        let mut report = |event: Event<'_>| {
            if let Event::Training(Progress::Step(_)) = event {
                seen += 1;
                stop.store(seen == 1 && cuts > 0, Ordering::Relaxed);
            }
        };
        if let RunOutcome::Finished(summary) = run(&recipe, out, &stop, &mut report).unwrap() {
            return *summary;
        }
    }
    panic!("did not finish");
}

#[test]
fn an_interrupted_run_ends_with_the_bytes_of_an_uninterrupted_one() {
    let plain = interrupted(&[]);
    // The dense twin is trained first, teaches, and is still measured as an arm; the text is scored on the way.
    let tuned = interrupted(&["distill.teacher=dense_tuned", "distill.features=1", "train.validate_every=2"]);
    assert_eq!(tuned.arm("dense_tuned"), plain.arm("dense_tuned"), "the same twin");
    assert_ne!(tuned.arm("recovered"), plain.arm("recovered"), "another teacher");
}

fn interrupted(overrides: &[&str]) -> Summary {
    let (whole, cut) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (a, b) = (finish(whole.path(), overrides, 0), finish(cut.path(), overrides, 8));
    assert_eq!(a.arms, b.arms);
    assert_eq!(a.digests, b.digests);
    let file = |dir: &Path, name: &str| std::fs::read(dir.join(name)).unwrap();
    for name in
        ["model/model.safetensors", "model/masks.safetensors", "metrics.jsonl", "metrics_dense_tuned.jsonl"]
    {
        assert!(file(whole.path(), name) == file(cut.path(), name), "{name} differs");
    }
    let names: Vec<_> = a.arms.iter().map(|arm| arm.name.as_str()).collect();
    assert_eq!(names, ["dense", "dense_tuned", "pruned_magnitude", "pruned", "recovered", "exported"]);
    let loss = |name: &str| a.arm(name).unwrap().loss;
    assert!(loss("pruned") < loss("pruned_magnitude"), "SparseGPT beats magnitude");
    assert!((loss("exported") - loss("recovered")).abs() < 0.01, "bf16 changes next to nothing");
    assert_eq!(a.groups_violating, 0);
    assert!(a.groups > 700_000);
    a
}
