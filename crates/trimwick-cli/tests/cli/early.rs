//! What is told before a folder is made, and limits of the system.

use std::fs;
use std::process::Command;

use crate::support::{done, json, prune_recipe, ran, told, trimwick, workshop};

#[test]
fn what_the_texts_cannot_give_is_told_before_there_is_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("r.toml"), prune_recipe(2)).unwrap();
    let pretrain = fs::read_to_string(workshop().join("pretrain.toml")).unwrap();
    fs::write(dir.path().join("p.toml"), pretrain).unwrap();
    for file in ["train.txt", "eval.txt"] {
        fs::copy(workshop().join(file), dir.path().join(file)).unwrap();
    }
    let source = format!("model.tokenizer.source={}/tiny", workshop().display());
    let named = ["model.tokenizer.vocab_size=", source.as_str()];
    let table: &[(&str, &[&str], &str)] = &[
        ("r.toml", &["calibration.windows=50000"], "calibration.windows: expected at most the "),
        ("p.toml", &["model.tokenizer.vocab_size=50000"], "model.tokenizer.vocab_size: expected texts with"),
        (
            "p.toml",
            &[named[0], named[1], "model.config.vocab_size=299"],
            "model.config.vocab_size: expected at least the 300",
        ),
        ("r.toml", &["data.eval_tokens=31"], "data.eval_tokens: expected at least one window"),
        ("r.toml", &["seed=1", "seed=2"], "override seed=2: seed: expected one value for each key"),
    ];
    for (recipe, overrides, expected) in table {
        let args = [&["run", recipe][..], overrides].concat();
        let (code, stdout, stderr) = ran(dir.path(), &args);
        assert_eq!((code, stdout.as_str()), (2, ""), "{args:?}: {stderr}");
        assert!(stderr.lines().last().unwrap().contains(expected), "{args:?}: {stderr}");
        assert!(!dir.path().join("runs").exists(), "{args:?}");
    }
    // A folder with a tokenizer will do, and a larger vocabulary is one.
    let args = ["p.toml", named[0], named[1], "model.config.vocab_size=304", "train.steps=1"];
    assert!(json(dir.path(), &[&["check"][..], &args, &["--json"]].concat())["parameters"].is_u64());
    done(dir.path(), &[&["run"][..], &args].concat());
    let config = fs::read_to_string(dir.path().join("runs/p/model/config.json")).unwrap();
    assert!(config.contains("\"vocab_size\": 304"), "{config}");
}

#[test]
fn a_check_finds_what_keeps_a_run_from_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("r.toml"), prune_recipe(2)).unwrap();
    fs::write(dir.path().join("runs"), "").unwrap();
    let (code, _, stderr) = ran(dir.path(), &["check", "r.toml"]);
    assert!(code == 2 && stderr.contains("runs/r: expected a folder or nothing"), "{stderr}");
}

#[test]
fn numbers_beyond_the_system_are_taken_for_what_it_has() {
    let tiny = workshop().join("tiny");
    let most = usize::MAX.to_string();
    let args = ["generate", tiny.to_str().unwrap(), "--prompt", "The", "--max-tokens", &most];
    let output = trimwick(workshop(), &args).env("RAYON_NUM_THREADS", "1000000").output().unwrap();
    let (code, _, stderr) = told(&output);
    assert_eq!(code, 0, "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
}

#[test]
fn arguments_that_mislead_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = workshop().join("tiny");
    let tiny = tiny.to_str().unwrap();
    fs::write(dir.path().join("a.txt"), "The wick burns. ".repeat(100)).unwrap();
    fs::write(dir.path().join("bom.jsonl"), format!("\u{feff}{{\"text\": \"{}\"}}\n", "wick ".repeat(100)))
        .unwrap();
    let (code, _, stderr) = ran(dir.path(), &["generate", tiny, "--prompt", "a", "--temperature", "-1"]);
    assert!(code == 2 && stderr.contains("a negative number is given as --OPTION=-1"), "{stderr}");
    let (code, _, stderr) = ran(dir.path(), &["eval", tiny, "--text", "a.txt", "./a.txt"]);
    assert!(code == 2 && stderr.contains("--text: expected each file once, found ./a.txt twice"), "{stderr}");
    done(dir.path(), &["eval", tiny, "--text", "bom.jsonl"]);
    let fifo = dir.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let (code, _, stderr) = ran(dir.path(), &["eval", tiny, "--text", "fifo"]);
    assert!(code == 2 && stderr.contains("fifo: cannot open: not a regular file"), "{stderr}");
}

#[test]
fn a_file_that_grows_too_large_is_an_error_and_no_death() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("r.toml"), prune_recipe(1)).unwrap();
    let line = format!("ulimit -f 16; exec {} run r.toml", env!("CARGO_BIN_EXE_trimwick"));
    let output = Command::new("sh").args(["-c", &line]).current_dir(dir.path()).output().unwrap();
    let (code, _, stderr) = told(&output);
    assert_eq!(code, 1, "{stderr}");
    let last = stderr.lines().last().unwrap();
    assert!(last.starts_with("error: ") && last.contains("File too large"), "{stderr}");
}
