//! Runs that are stopped or killed, and continued.
#![cfg(unix)]

use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::{done, prune_recipe, summary, told, trimwick};

/// What a run leaves behind that must not depend on how often it was interrupted.
fn outcome(run: &Path) -> (serde_json::Value, Vec<(String, Vec<u8>)>) {
    let files =
        ["model/model.safetensors", "model/masks.safetensors", "metrics.jsonl", "metrics_dense_tuned.jsonl"];
    let bytes = files.map(|name| (name.to_string(), fs::read(run.join(name)).unwrap()));
    (summary(run), bytes.into())
}

fn same(a: &Path, b: &Path) {
    let ((summary_a, files_a), (summary_b, files_b)) = (outcome(a), outcome(b));
    assert_eq!(summary_a, summary_b);
    for ((name, a), (_, b)) in files_a.iter().zip(&files_b) {
        assert!(a == b, "{name} differs");
    }
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

/// Waits until a file has so many lines.
fn wait_for_lines(path: &Path, lines: usize) {
    let begun = Instant::now();
    while fs::read_to_string(path).map_or(0, |text| text.lines().count()) < lines {
        assert!(begun.elapsed() < Duration::from_secs(60), "{} has no {lines} lines", path.display());
        sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_run_that_was_stopped_continues_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("r.toml"), prune_recipe(40)).unwrap();
    done(dir.path(), &["run", "r.toml", "--out", "whole"]);

    for (name, metrics, expected) in
        [("TERM", "metrics.jsonl", 143), ("INT", "metrics_dense_tuned.jsonl", 130)]
    {
        let child = trimwick(dir.path(), &["run", "r.toml", "--out", name]).spawn().unwrap();
        let run = dir.path().join(name);
        wait_for_lines(&run.join(metrics), 8);
        signal(&child, name);
        let (code, stdout, stderr) = told(&child.wait_with_output().unwrap());
        assert_eq!((code, stdout.as_str()), (expected, ""), "{stderr}");
        assert!(stderr.contains("stopping after what is in hand"), "{stderr}");
        let last = stderr.lines().last().unwrap();
        assert!(
            last.starts_with(&format!("stopped by SIG{name} (")) && last.contains("saved after step"),
            "{last}"
        );
        assert!(!run.join("summary.json").exists());

        // The step that it stopped at was saved, whatever save_every is, and is where it continues.
        let stopped: u64 =
            last.split("saved after step ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        assert!((8..40).contains(&stopped), "{last}");
        let (code, _, stderr) =
            told(&trimwick(dir.path(), &["run", "r.toml", "--out", name]).output().unwrap());
        assert_eq!(code, 0, "{stderr}");
        assert!(stderr.contains("continues an earlier run of this recipe\n"), "{stderr}");
        assert!(stderr.contains(&format!("continues after step {stopped} of 40\n")), "{stderr}");
        same(&dir.path().join("whole"), &run);
    }
}

#[test]
fn a_run_that_was_killed_anywhere_continues_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("r.toml"), prune_recipe(20)).unwrap();
    let begun = Instant::now();
    done(dir.path(), &["run", "r.toml", "--out", "whole"]);
    let whole = begun.elapsed();

    let mut state = 1u64;
    let mut killed = 0;
    let mut round = 0;
    // A busy machine can let a run end before its moment comes: then there are more of them.
    while round < 3 || (killed < 3 && round < 12) {
        round += 1;
        let out = format!("killed-{round}");
        let run = dir.path().join(&out);
        loop {
            let mut child = trimwick(dir.path(), &["run", "r.toml", "--out", &out]).spawn().unwrap();
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            // Anywhere in a run of this length; what remains gets shorter, so that it comes to an end.
            sleep(whole.mul_f64((state >> 40) as f64 / f64::from(1 << 24)));
            let ended = child.try_wait().unwrap().is_some();
            if !ended {
                child.kill().unwrap();
                killed += 1;
            }
            let output = child.wait_with_output().unwrap();
            if ended {
                assert_eq!(told(&output).0, 0, "{}", told(&output).2);
                break;
            }
        }
        same(&dir.path().join("whole"), &run);
    }
    assert!(killed >= 3, "only {killed} were killed");
}

#[test]
fn a_second_signal_does_not_wait() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("r.toml"), prune_recipe(3)).unwrap();
    // A step that is long enough for the second signal to come while the first waits for its end.
    let args = ["run", "r.toml", "compare.arms=[]", "distill=", "train.accumulate=4096"];
    let mut child = trimwick(dir.path(), &args).spawn().unwrap();
    wait_for_lines(&dir.path().join("runs/r/stages/pruned.json"), 1);
    sleep(Duration::from_millis(300));
    signal(&child, "TERM");
    sleep(Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none(), "there was nothing to wait for");
    signal(&child, "INT");
    let begun = Instant::now();
    let (code, stdout, _) = told(&child.wait_with_output().unwrap());
    assert_eq!((code, stdout.as_str()), (130, ""));
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[test]
fn a_signal_ends_measuring_and_pruning_at_once() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("r.toml"), prune_recipe(3)).unwrap();
    fs::write(dir.path().join("long.txt"), crate::support::words(3, 30_000)).unwrap();
    let fast = ["run", "r.toml", "compare.arms=[]", "distill="];
    let long =
        ["data.train={files=[\"long.txt\"]}", "data.eval={files=[\"long.txt\"]}", "data.eval_tokens=0"];
    for (name, stage, record) in
        [("measuring", &long[..], "fingerprint"), ("pruning", &["calibration.windows=100"], "dense.json")]
    {
        let args = [&fast[..], stage, &["--out", name]].concat();
        let child = trimwick(dir.path(), &args).spawn().unwrap();
        wait_for_lines(&dir.path().join(name).join("stages").join(record), 1);
        signal(&child, "TERM");
        let begun = Instant::now();
        let (code, stdout, stderr) = told(&child.wait_with_output().unwrap());
        assert_eq!((code, stdout.as_str()), (143, ""), "{stderr}");
        assert!(begun.elapsed() < Duration::from_secs(2), "{name}: {:?}", begun.elapsed());
        assert!(stderr.lines().last().unwrap().starts_with("stopped by SIGTERM"), "{stderr}");
    }
    let args = [&fast[..], &["calibration.windows=100", "--out", "pruning"]].concat();
    assert!(done(dir.path(), &args).contains("recovered"));
}

#[test]
fn two_processes_do_not_share_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("r.toml"), prune_recipe(5000)).unwrap();
    let mut child = trimwick(dir.path(), &["run", "r.toml"]).spawn().unwrap();
    wait_for_lines(&dir.path().join("runs/r/metrics.jsonl"), 1);
    let (code, stdout, stderr) = told(&trimwick(dir.path(), &["run", "r.toml"]).output().unwrap());
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
    let last = stderr.lines().last().unwrap();
    assert!(
        last.starts_with("error: ") && last.contains(&format!("in use by \"process {}\"", child.id())),
        "{last}"
    );
}

/// Candle counts the machine's cores anew at every matmul unless the variable is set.
#[cfg(target_os = "linux")]
#[test]
fn the_number_of_threads_is_set_once_and_the_user_s_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("r.toml"), prune_recipe(5000)).unwrap();
    let threads = std::thread::available_parallelism().unwrap().to_string();
    for (given, expected) in [(None, threads.as_str()), (Some("0"), &threads), (Some("3"), "3")] {
        let out = format!("out-{given:?}");
        let mut command = trimwick(dir.path(), &["run", "r.toml", "--out", &out]);
        command.envs(given.map(|n| ("RAYON_NUM_THREADS", n)));
        let mut child = command.spawn().unwrap();
        wait_for_lines(&dir.path().join(&out).join("metrics.jsonl"), 1);
        let environment = fs::read(format!("/proc/{}/environ", child.id())).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let wanted = format!("RAYON_NUM_THREADS={expected}");
        let found =
            environment.split(|&b| b == 0).filter(|v| v.starts_with(b"RAYON_NUM")).collect::<Vec<_>>();
        assert_eq!(found, [wanted.as_bytes()], "{given:?}");
        assert!(environment.split(|&b| b == 0).any(|v| v == b"MIMALLOC_PURGE_DELAY=-1"), "{given:?}");
    }
}
