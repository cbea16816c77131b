//! Files of a run that changed between two processes, and models that bring masks along.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{done, prune_recipe, ran, safetensors, summary, tree, words, workshop};

/// A recipe that prunes and trains for two steps, and its finished run in `runs/r`.
fn finished(dir: &Path) -> [&'static str; 4] {
    let args = ["run", "r.toml", "compare.arms=[]", "distill="];
    fs::write(dir.join("r.toml"), prune_recipe(2)).unwrap();
    done(dir, &args);
    args
}

/// The last line of a run that must fail as bad input.
fn refused(dir: &Path, args: &[&str]) -> String {
    let (code, stdout, stderr) = ran(dir, args);
    let last = stderr.lines().last().unwrap_or_default().to_string();
    assert_eq!((code, stdout.as_str()), (2, ""), "{args:?}: {stderr}");
    assert!(last.starts_with("error: "), "{args:?}: {stderr}");
    last
}

fn copy_of_tiny(dir: &Path) -> PathBuf {
    let tiny = dir.join("tiny");
    fs::create_dir(&tiny).unwrap();
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        fs::copy(workshop().join("tiny").join(file), tiny.join(file)).unwrap();
    }
    tiny
}

#[test]
fn a_snapshot_that_is_not_what_was_written_is_refused_and_made_again_once_removed() {
    let dir = tempfile::tempdir().unwrap();
    let args = finished(dir.path());
    let run = dir.path().join("runs/r");
    let digests = summary(&run)["digests"].clone();
    let path = run.join("stages/pruned.safetensors");
    let whole = fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    // All masks gone, one bit flipped, cut.
    let bare = safetensors("", &[("model.norm.weight", &[32], &[1.0; 32])]);
    for bytes in [&bare, &flipped, &whole[..whole.len() / 2].to_vec()] {
        fs::write(&path, bytes).unwrap();
        let last = refused(dir.path(), &args);
        assert!(last.contains("pruned.safetensors: not the file that was written; remove it"), "{last}");
    }
    fs::remove_file(&path).unwrap();
    done(dir.path(), &args);
    assert!(fs::read(&path).unwrap() == whole);
    assert_eq!(summary(&run)["digests"], digests);
    fs::remove_file(run.join("recipe.toml")).unwrap();
    done(dir.path(), &args);
    assert!(run.join("recipe.toml").is_file());
}

#[test]
fn a_record_that_is_not_this_run_s_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let args = finished(dir.path());
    let path = dir.path().join("runs/r/stages/dense.json");
    let text = fs::read_to_string(&path).unwrap();
    let fingerprint = fs::read_to_string(dir.path().join("runs/r/stages/fingerprint")).unwrap();
    for (from, to, expected) in [
        (fingerprint.as_str(), "0123456789abcdef", "fingerprint: expected "),
        ("\"dense\"", "\"pruned\"", "name: expected dense, found pruned"),
        ("\"context\": 32", "\"context\": 64", "context: expected 32, found 64"),
        ("\"eval_tokens\": 1024", "\"eval_tokens\": 1", "eval_tokens: expected 1024, found 1"),
        ("\"loss\": ", "\"loss\": -", "loss: expected a finite number"),
        ("\"perplexity\": ", "\"perplexity\": 1", "perplexity: expected "),
    ] {
        assert!(text.contains(from), "{from}");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
        let last = refused(dir.path(), &args);
        assert!(last.contains(expected) && last.ends_with("remove it to run the stage again"), "{last}");
    }
    fs::write(&path, &text).unwrap();
    done(dir.path(), &args);
}

#[test]
fn a_run_does_not_go_on_over_another_text_or_model() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = copy_of_tiny(dir.path());
    fs::write(dir.path().join("r.toml"), prune_recipe(2)).unwrap();
    for (name, seed) in [("train.txt", 1), ("eval.txt", 2)] {
        fs::write(dir.path().join(name), words(seed, 900)).unwrap();
    }
    let args = [
        "run",
        "r.toml",
        "compare.arms=[]",
        "distill=",
        "model.source=./tiny",
        "data.train={files=[\"train.txt\"]}",
        "data.eval={files=[\"eval.txt\"]}",
    ];
    done(dir.path(), &args);
    for (file, key) in [
        (dir.path().join("train.txt"), "data.train changed"),
        (dir.path().join("eval.txt"), "data.eval changed"),
        (tiny.join("model.safetensors"), "model.source changed"),
    ] {
        let held = fs::read(&file).unwrap();
        let mut other = held.clone();
        let at = if key.starts_with("model") { other.len() - 1 } else { 4 };
        other[at] ^= 1;
        fs::write(&file, other).unwrap();
        let last = refused(dir.path(), &args);
        assert!(last.contains(key) && last.contains("--out"), "{last}");
        fs::write(&file, held).unwrap();
    }
    done(dir.path(), &args);
}

#[test]
fn a_pruned_model_keeps_its_masks_through_another_run() {
    let dir = tempfile::tempdir().unwrap();
    finished(dir.path());
    let model = dir.path().join("runs/r/model");
    fs::rename(&model, dir.path().join("sparse")).unwrap();
    let masks = dir.path().join("sparse/masks.safetensors");
    let held = fs::read(&masks).unwrap();
    let recipe = prune_recipe(3);
    let cut = |text: &str, from: &str, to: &str| {
        let (a, b) = (text.find(from).unwrap(), text.find(to).unwrap());
        format!("{}{}", &text[..a], &text[b..])
    };
    let tune = cut(&cut(&recipe, "[calibration]", "[train]"), "[distill]", "[compare]")
        .replace("arms = [\"dense_tuned\", \"pruned_magnitude\"]", "");
    fs::write(dir.path().join("tune.toml"), tune).unwrap();
    let args = ["run", "tune.toml", "model.source=./sparse"];

    for broken in [
        held[..held.len() - 1].to_vec(),
        // Not one mask left: the weights were written with those of 14 layers.
        safetensors("", &[]),
        safetensors("", &[("model.layers.0.self_attn.q_proj.weight_mask", &[2], &[1.0; 2])]),
        safetensors("", &[("model.layers.9.self_attn.q_proj.weight_mask", &[2], &[1.0; 2])]),
    ] {
        fs::write(&masks, broken).unwrap();
        assert!(refused(dir.path(), &args).contains("masks.safetensors: "));
        assert!(!dir.path().join("runs/tune").exists());
    }
    fs::remove_file(&masks).unwrap();
    let last = refused(dir.path(), &args);
    assert!(last.contains("expected the masks of 14 layers") && last.contains("found 0"), "{last}");
    fs::write(&masks, &held).unwrap();
    let (code, _, stderr) = ran(dir.path(), &args);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("note: the model is pruned: 14 layers keep their masks\n"), "{stderr}");
    let (before, after) = (summary(&dir.path().join("runs/r")), summary(&dir.path().join("runs/tune")));
    assert_eq!(before["digests"]["masks.safetensors"], after["digests"]["masks.safetensors"]);
    assert_ne!(before["digests"]["model.safetensors"], after["digests"]["model.safetensors"]);
    let zeros = |s: &serde_json::Value| s["zeros"].as_u64().unwrap();
    assert!(zeros(&after) * 100 > zeros(&before) * 98, "{} of {}", zeros(&after), zeros(&before));

    // Pruned again, the new masks take their place.
    let again = ["run", "r.toml", "compare.arms=[]", "distill=", "model.source=./sparse", "--out", "again"];
    let (code, _, stderr) = ran(dir.path(), &again);
    assert_eq!(code, 0, "{stderr}");
    assert!(!stderr.contains("keep their masks"), "{stderr}");
    assert_eq!(summary(&dir.path().join("again"))["groups_violating"], 0);
}

#[test]
fn a_run_overwrites_nothing_that_is_not_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let args = finished(dir.path());
    // The model of the run as the source of a run into the same folder, by its name and by a link.
    let source = |name: &str| format!("model.source=./{name}");
    std::os::unix::fs::symlink("runs/r/model", dir.path().join("link")).unwrap();
    let before = tree(dir.path());
    for name in ["runs/r/model", "link"] {
        let source = source(name);
        let last = refused(dir.path(), &[&args[..], &["seed=3", &source]].concat());
        assert!(last.contains("runs/r/model: ") && last.contains("would be overwritten"), "{last}");
    }
    // Somebody's own folder, somebody's own file, a loop of links.
    fs::create_dir(dir.path().join("mine")).unwrap();
    fs::write(dir.path().join("mine/thesis.txt"), "words").unwrap();
    std::os::unix::fs::symlink("loop", dir.path().join("loop")).unwrap();
    for (out, expected) in [
        ("mine", "found one that holds thesis.txt"),
        ("mine/thesis.txt", "mine/thesis.txt: expected a folder or nothing, found a file"),
        ("mine/thesis.txt/deeper", "mine/thesis.txt/deeper: expected a folder"),
        ("loop", "loop: expected a folder or nothing"),
    ] {
        let last = refused(dir.path(), &[&args[..], &["--out", out]].concat());
        assert!(last.contains(expected), "{out}: {last}");
        assert!(fs::read_dir(dir.path().join("mine")).unwrap().count() == 1);
    }
    let other = refused(dir.path(), &[&args[..], &["train.steps=3", "seed=3"]].concat());
    assert!(
        other.contains("another recipe (") && other.contains("seed, train.") && other.contains(" differ; "),
        "{other}"
    );
    for (path, bytes) in before {
        assert!(path.is_dir() || fs::read(&path).unwrap() == bytes, "{}", path.display());
    }
    // What a run writes must not be something else already.
    let run = dir.path().join("runs/r");
    fs::remove_dir_all(run.join("model")).unwrap();
    fs::write(run.join("model"), "").unwrap();
    assert!(refused(dir.path(), &args).contains("runs/r/model: expected a folder or nothing"));
    fs::remove_file(run.join("model")).unwrap();
    fs::remove_file(run.join("summary.json")).unwrap();
    fs::create_dir(run.join("summary.json")).unwrap();
    assert!(refused(dir.path(), &args).contains("summary.json: expected a file or nothing"));
    fs::remove_dir(run.join("summary.json")).unwrap();
    done(dir.path(), &args);
}

#[test]
fn a_value_that_the_written_type_cannot_hold_is_named_and_nothing_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = copy_of_tiny(dir.path());
    fs::write(dir.path().join("r.toml"), prune_recipe(1)).unwrap();
    let weights = tiny.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&1e5f32.to_le_bytes());
    fs::write(&weights, bytes).unwrap();
    let args = ["run", "r.toml", "compare.arms=[]", "distill=", "model.source=./tiny", "export.dtype=f16"];
    let (code, stdout, stderr) = ran(dir.path(), &args);
    let last = stderr.lines().last().unwrap();
    assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
    assert!(
        last.contains(": element ") && last.contains("is infinite as float16; write export.dtype"),
        "{last}"
    );
    assert!(!stderr.contains("training"), "it is known before hours of training: {stderr}");
    let run = dir.path().join("runs/r");
    assert!(!run.join("model").exists() && !run.join("model.tmp").exists());
}
