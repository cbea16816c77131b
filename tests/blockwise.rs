//! Training block after block as a stage of a run, in memory and streamed: what it recovers, and that no cut, no file in
//! the place of memory and no way of loading changes a byte.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use trimwick::formats::folder::ModelFolder;
use trimwick::models::builtin;
use trimwick_recipe::Recipe;
use trimwick_recipe::run::{Event, RunOutcome, Summary, run};

#[path = "../benches/random_llama/make.rs"]
mod random_llama;
use random_llama::{Shape, make};

const RECIPE: &str = r#"
[model]
source = "builtin:tiny-llama"
[data]
train = "builtin:sotu-train"
eval = "builtin:sotu-eval"
context = 32
eval_tokens = 128
[prune]
pattern = "2:4"
method = "magnitude"
[blockwise]
windows = 8
epochs = 2
batch = 2
lr = 1e-3
[compare]
arms = []
"#;

/// Runs a recipe to the end, stopping and starting anew after each block where `cut`; gives the number of cuts too.
fn finish(out: &Path, overrides: &[String], cut: bool) -> (Summary, usize) {
    let recipe = Recipe::parse(RECIPE, "job.toml", overrides).unwrap_or_else(|faults| panic!("{faults}"));
    for cuts in 0..20 {
        let stop = AtomicBool::new(false);
        let mut report = |event: Event<'_>| {
            // A block's line; those of its layers, which pruning tells, come before it is kept.
            if let Event::Note(text) = event
                && text.starts_with("model.layers.")
                && text.contains(": error ")
            {
                stop.store(cut, Ordering::Relaxed);
            }
        };
        if let RunOutcome::Finished(summary) = run(&recipe, out, &stop, &mut report).unwrap() {
            return (*summary, cuts);
        }
    }
    panic!("did not finish");
}

fn once(out: &Path, overrides: &[String]) -> Summary {
    finish(out, overrides, false).0
}

/// A run that was cut after every block ends as one that was not.
fn both(overrides: &[String], blocks: usize) -> Summary {
    let (whole, cut) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let a = once(whole.path(), overrides);
    let (b, cuts) = finish(cut.path(), overrides, true);
    assert_eq!(cuts, blocks, "{overrides:?}");
    assert_eq!((&a.arms, &a.digests), (&b.arms, &b.digests), "{overrides:?}");
    assert_eq!(errors(&a), errors(&b), "{overrides:?}");
    assert_eq!((a.groups_violating, a.quantization.as_ref().map_or(0, |q| q.off_grid)), (0, 0));
    a
}

fn errors(summary: &Summary) -> Vec<(f64, f64)> {
    summary.blocks.iter().map(|b| (b.error_before, b.error_after)).collect()
}

fn names(summary: &Summary) -> Vec<&str> {
    summary.arms.iter().map(|arm| arm.name.as_str()).collect()
}

fn overrides(of: &[&str]) -> Vec<String> {
    of.iter().map(|o| o.to_string()).collect()
}

#[test]
fn a_pruned_model_recovers_block_after_block() {
    let dir = tempfile::tempdir().unwrap();
    let summary = once(dir.path(), &[]);
    assert_eq!(names(&summary), ["dense", "pruned", "blockwise", "exported"]);
    let loss = |name: &str| summary.arm(name).unwrap().loss;
    assert!(loss("blockwise") < loss("pruned"), "{} {}", loss("blockwise"), loss("pruned"));
    assert!((loss("exported") - loss("blockwise")).abs() < 0.01, "bf16 changes next to nothing");
    assert!(summary.gap_recovered.unwrap() > 0.1, "{:?}", summary.gap_recovered);
    assert_eq!(summary.arm("blockwise").unwrap().train_tokens, 8 * 2 * 32);
    assert!(summary.groups > 700_000);
    assert!(errors(&summary).iter().all(|(before, after)| *after < 0.9 * before), "{:?}", summary.blocks);

    // Files in the place of memory, and one block in memory at a time: the same model.
    let dir = tempfile::tempdir().unwrap();
    let streamed = once(dir.path(), &overrides(&["model.stream=true", "blockwise.spill_mib=0"]));
    assert_eq!(names(&streamed), ["dense", "blockwise", "exported"]);
    assert_eq!(errors(&streamed), errors(&summary));
    for name in names(&streamed) {
        assert_eq!(streamed.arm(name), summary.arm(name), "{name}");
    }
    assert_eq!((streamed.groups, streamed.zeros), (summary.groups, summary.zeros));
    assert_eq!(streamed.digests["masks.safetensors"], summary.digests["masks.safetensors"]);
    assert_eq!(streamed.digests["config.json"], summary.digests["config.json"]);
}

/// A model of random weights with three narrow blocks and a short text, and the overrides that name them.
fn narrow() -> (tempfile::TempDir, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let text = builtin::text("sotu-train").unwrap();
    let path = dir.path().join("train.txt");
    let end = text.char_indices().nth(12_000).unwrap().0;
    std::fs::write(&path, &text[..end]).unwrap();
    let of = [format!("model.source={}", dir.path().display()), format!("data.train={}", path.display())];
    let shape =
        Shape { hidden: 64, intermediate: 128, layers: 3, heads: 4, kv_heads: 2, vocab: 4096, seed: 1 };
    assert_eq!(make(dir.path(), &shape).unwrap(), 2 * (2 * 4096 * 64 + 64 + 3 * (2 * 64 + 36864)));
    (dir, of.to_vec())
}

#[test]
fn streamed_or_in_memory_the_written_model_is_the_same() {
    let (_model, source) = narrow();
    let table: [(&str, &[&str], &str); 3] = [
        (
            "wanda, split, mixed with a grid",
            &[
                "prune.method=wanda",
                "calibration.windows=4",
                "quantize.scheme=int4-g32",
                "quantize.scales=learned",
                "export.dtype=f32",
                "blockwise.parts=split",
            ],
            "blockwise",
        ),
        (
            "sparsegpt",
            &["prune.method=sparsegpt", "calibration.windows=6", "blockwise.inputs=dense"],
            "blockwise",
        ),
        (
            "ema scales, longer calibration",
            &[
                "calibration.windows=12",
                "prune.method=wanda",
                "quantize.scheme=int8",
                "quantize.scales=ema",
                "export.dtype=f32",
            ],
            "blockwise",
        ),
    ];
    for (what, extra, arm) in table {
        let mut of = source.clone();
        of.extend(overrides(extra));
        let in_memory = both(&of, 3);
        assert!(
            errors(&in_memory).iter().all(|(before, after)| after < before),
            "{what}: {:?}",
            in_memory.blocks
        );
        of.push("model.stream=true".into());
        let streamed = both(&of, 3);
        assert_eq!(names(&streamed), ["dense", arm, "exported"], "{what}");
        assert_eq!(streamed.arm("dense"), in_memory.arm("dense"), "{what}");
        if what != "sparsegpt" {
            assert_eq!(errors(&streamed), errors(&in_memory), "{what}");
            assert_eq!(streamed.arm(arm), in_memory.arm(arm), "{what}");
        }
        assert_eq!(streamed.quantization, in_memory.quantization, "{what}");
    }
}

#[test]
fn pruning_alone_is_streamed_to_the_same_file() {
    let (_model, source) = narrow();
    let recipe = RECIPE.replace("[blockwise]\nwindows = 8\nepochs = 2\nbatch = 2\nlr = 1e-3\n", "");
    for method in ["magnitude", "wanda", "sparsegpt"] {
        let mut of = source.clone();
        of.push(format!("prune.method={method}"));
        if method == "magnitude" {
            of[1] = "data.train=".into();
        }
        let finish = |of: &[String]| {
            let recipe = Recipe::parse(&recipe, "job.toml", of).unwrap_or_else(|faults| panic!("{faults}"));
            let dir = tempfile::tempdir().unwrap();
            let outcome = run(&recipe, dir.path(), &AtomicBool::new(false), &mut |_| {}).unwrap();
            let RunOutcome::Finished(summary) = outcome else { panic!("stopped") };
            let folder = ModelFolder::open(dir.path().join("model")).unwrap();
            let tensors: Vec<_> =
                folder.names().map(|name| (name.to_string(), folder.read_raw(name).unwrap())).collect();
            (summary.arm("pruned").cloned(), summary.arm("exported").cloned(), tensors)
        };
        let in_memory = finish(&of);
        of.push("model.stream=true".into());
        assert!(finish(&of) == in_memory, "{method}");
    }
}

#[test]
fn a_file_of_a_block_that_is_not_the_one_that_was_written_is_one_line() {
    let (_model, mut of) = narrow();
    of.push("model.stream=true".into());
    let recipe = Recipe::parse(RECIPE, "job.toml", &of).unwrap();
    let dir = tempfile::tempdir().unwrap();
    once(dir.path(), &of);
    let path = dir.path().join("stages/blocks/0001.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let message = run(&recipe, dir.path(), &AtomicBool::new(false), &mut |_| {}).unwrap_err().to_string();
    assert!(message.contains("0001.safetensors: not the file that was written; remove it"), "{message}");
    assert!(!message.contains('\n'), "{message}");
    // Removed, it and what follows are made again.
    std::fs::remove_file(&path).unwrap();
    once(dir.path(), &of);
}
