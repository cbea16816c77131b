//! The main job on the built-in model, small: killed between stages by the stop flag and run again, it ends with
//! the bytes of a run that was left alone.

use std::path::Path;

use trimwick_recipe::run::Summary;

mod support;
use support::finish;

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
    let (a, b) = (finish(RECIPE, whole.path(), overrides, 0), finish(RECIPE, cut.path(), overrides, 8));
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
