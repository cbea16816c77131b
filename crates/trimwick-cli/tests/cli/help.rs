//! Help and version.

use std::path::Path;

use crate::support::{ran, trimwick};

#[test]
fn every_verb_explains_itself_and_the_exit_codes() {
    let here = Path::new(".");
    for verb in [
        &[][..],
        &["run"],
        &["check"],
        &["preview"],
        &["eval"],
        &["generate"],
        &["bench"],
        &["inspect"],
        &["quantize"],
        &["verify"],
        &["report"],
        &["recipes"],
        &["completions"],
        &["man"],
    ] {
        let args = [verb, &["--help"]].concat();
        let (code, stdout, stderr) = ran(here, &args);
        assert_eq!((code, stderr.as_str()), (0, ""), "{args:?}");
        for expected in
            ["Usage: trimwick", "Exit codes:", "  2    bad input", "  130  stopped by SIGINT", "  143"]
        {
            assert!(stdout.contains(expected), "{args:?}: no {expected:?} in\n{stdout}");
        }
    }
}

#[test]
fn arguments_are_all_in_the_help() {
    for (verb, expected) in [
        ("run", &["<RECIPE>", "[KEY=VALUE]", "--out <DIR>", "--json", "runs/NAME"][..]),
        ("check", &["<RECIPE>", "[KEY=VALUE]", "--json"]),
        ("preview", &["<RECIPE>", "[KEY=VALUE]", "--windows <N>", "--json"]),
        (
            "eval",
            &[
                "<MODEL>",
                "--text <FILE>",
                "--context",
                "--tokens",
                "--format",
                "--field",
                "--separator",
                "--tasks <LAYOUT=FILE>",
                "--limit <N>",
                "--against <MODEL2>",
                "--json",
            ],
        ),
        ("generate", &["--prompt", "--max-tokens", "--temperature", "--top-p", "--seed", "--kv"]),
        ("bench", &["<MODEL>", "--f32", "--prompt", "--tokens", "--rounds", "--kv", "--json"]),
        ("inspect", &["<PATH>", "--zeros", "--json"]),
        (
            "quantize",
            &["<IN>", "<OUT>", "--scheme <SCHEME>", "--fake", "--tensors", "--skip", "--force", "--json"],
        ),
        ("report", &["<RUN>...", "--out <FILE>"]),
        ("verify", &["<PATH>", "--against <RUN_OR_FOLDER>", "--json"]),
        ("recipes", &["ls", "cp", "keys"]),
        ("completions", &["<SHELL>", "bash", "zsh", "fish"]),
        ("man", &["--out <DIR>"]),
    ] {
        let (_, stdout, _) = ran(Path::new("."), &[verb, "--help"]);
        for expected in expected {
            assert!(stdout.contains(expected), "{verb}: no {expected:?} in\n{stdout}");
        }
    }
}

#[test]
fn shells_and_man_know_every_verb() {
    let dir = tempfile::tempdir().unwrap();
    let (_, help, _) = ran(dir.path(), &["--help"]);
    let verbs = help.lines().skip_while(|line| !line.starts_with("Commands:")).skip(1);
    let verbs: Vec<&str> = verbs
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|verb| !verb.is_empty() && *verb != "help")
        .collect();
    assert!(verbs.len() > 10, "{help}");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, stdout, stderr) = ran(dir.path(), &["completions", shell]);
        assert_eq!((code, stderr.as_str()), (0, ""), "{shell}");
        let missing: Vec<_> = verbs.iter().filter(|verb| !stdout.contains(**verb)).collect();
        assert!(missing.is_empty(), "{shell}: {missing:?}");
    }
    let (code, stdout, _) = ran(dir.path(), &["man"]);
    assert!(code == 0 && stdout.contains(".TH trimwick 1"), "{stdout}");
    let (code, _, stderr) = ran(dir.path(), &["man", "--out", "."]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    for verb in verbs {
        let page = std::fs::read_to_string(dir.path().join(format!("trimwick-{verb}.1"))).unwrap();
        assert!(page.contains("Exit codes:"), "{verb}: {page}");
    }
    assert!(dir.path().join("trimwick-recipes-ls.1").is_file());
    let (code, ..) = ran(dir.path(), &["man", "--out", "new/folder"]);
    assert!(code == 0 && dir.path().join("new/folder/trimwick-run.1").is_file());
    std::fs::write(dir.path().join("file"), "").unwrap();
    let (code, _, stderr) = ran(dir.path(), &["man", "--out", "file"]);
    assert!(
        code == 2 && stderr.starts_with("error: --out: expected a folder, or a name for a new one"),
        "{stderr}"
    );
}

#[test]
fn the_version_is_the_crate_s() {
    let (code, stdout, _) = ran(Path::new("."), &["--version"]);
    assert_eq!((code, stdout), (0, format!("trimwick {}\n", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn without_a_verb_there_is_help_and_an_error_code() {
    let (code, stdout, stderr) = ran(Path::new("."), &[]);
    assert_eq!((code, stdout.as_str()), (2, ""));
    assert!(stderr.contains("Usage: trimwick"), "{stderr}");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let mut child = trimwick(Path::new("."), &["recipes", "keys"]).spawn().unwrap();
    drop(child.stdout.take());
    let (code, _, stderr) = crate::support::told(&child.wait_with_output().unwrap());
    assert_eq!((code, stderr.as_str()), (0, ""));
}
