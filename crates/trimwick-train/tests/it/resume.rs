//! A run that was stopped gives the same bytes as one that was not.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use trimwick_train::{Error, Outcome};

use crate::common::{Ran, Scenario, bits, checkpoints, files};

/// The last checkpoint's files, the metrics, the values in memory, the hook's count.
type End = (BTreeMap<String, Vec<u8>>, Vec<u8>, BTreeMap<String, Vec<u64>>, u64);

fn end(dir: &Path, ran: &Ran) -> End {
    let last = checkpoints(dir).pop().unwrap();
    assert!(last.ends_with("step-000000000012"), "{last:?}");
    assert!(matches!(ran.outcome, Ok(Outcome::Finished)), "{:?}", ran.outcome);
    let metrics = fs::read(dir.join("metrics.jsonl")).unwrap();
    assert_eq!(metrics.iter().filter(|&&b| b == b'\n').count(), 12 + 3, "12 steps, 3 validations");
    (files(&last), metrics, bits(&ran.store), ran.refreshed)
}

fn uninterrupted() -> End {
    let dir = tempfile::tempdir().unwrap();
    let ran = Scenario::default().run(dir.path());
    assert_eq!((ran.started, ran.refreshed), (Some(0), 4));
    end(dir.path(), &ran)
}

#[test]
fn stopped_after_any_step_and_resumed_ends_with_the_same_bytes() {
    let want = uninterrupted();
    for step in 0..12 {
        let dir = tempfile::tempdir().unwrap();
        let ran = Scenario { stop_after: Some(step), ..Default::default() }.run(dir.path());
        assert_eq!(ran.outcome.unwrap(), Outcome::Stopped { step });
        assert_eq!(ran.losses.len(), step as usize);
        let ran = Scenario::default().run(dir.path());
        assert_eq!((ran.started, ran.losses.len()), (Some(step), 12 - step as usize));
        assert!(end(dir.path(), &ran) == want, "stopped after step {step}");
    }
}

#[test]
fn cut_off_before_any_step_loses_at_most_a_save_interval() {
    let want = uninterrupted();
    for step in 1..=12 {
        let dir = tempfile::tempdir().unwrap();
        let cut = Scenario { cut_before: Some(step), save_every: 5, ..Default::default() }.run(dir.path());
        assert!(matches!(cut.outcome, Err(Error::Hook { step: s, .. }) if s == step), "{:?}", cut.outcome);
        // A power cut also leaves half a line.
        let metrics = dir.path().join("metrics.jsonl");
        let mut text = fs::read(&metrics).unwrap();
        text.extend(b"{\"step\":");
        fs::write(&metrics, text).unwrap();
        let ran = Scenario { save_every: 5, ..Default::default() }.run(dir.path());
        assert_eq!(ran.started, Some((step - 1) / 5 * 5), "cut before step {step}");
        assert!(end(dir.path(), &ran) == want, "cut before step {step}");
    }
}

#[test]
fn stopped_after_every_step_of_one_run() {
    let dir = tempfile::tempdir().unwrap();
    for step in 1..12 {
        let ran = Scenario { stop_after: Some(step), ..Default::default() }.run(dir.path());
        assert_eq!((ran.outcome.unwrap(), ran.started), (Outcome::Stopped { step }, Some(step - 1)));
        assert!(checkpoints(dir.path()).len() <= 2, "older checkpoints are removed");
        fs::remove_file(dir.path().join("metrics.jsonl")).unwrap(); // it is in the checkpoint
    }
    let ran = Scenario::default().run(dir.path());
    assert!(end(dir.path(), &ran) == uninterrupted());
}

#[test]
fn a_damaged_checkpoint_is_named_and_the_one_before_is_used() {
    let want = uninterrupted();
    for file in
        ["parameters.safetensors", "moments.safetensors", "kept.safetensors", "metrics.jsonl", "state.json"]
    {
        let dir = tempfile::tempdir().unwrap();
        Scenario { cut_before: Some(11), save_every: 5, ..Default::default() }.run(dir.path());
        let path = checkpoints(dir.path()).pop().unwrap().join(file);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        fs::write(&path, bytes).unwrap();
        let ran = Scenario { save_every: 5, ..Default::default() }.run(dir.path());
        assert_eq!((ran.started, ran.rejected.len()), (Some(5), 1), "{file}");
        assert!(ran.rejected[0].contains(file), "{file}: {:?}", ran.rejected);
        assert!(end(dir.path(), &ran) == want, "{file}");
    }
}

#[test]
fn a_finished_run_is_restored_and_not_trained_again() {
    let dir = tempfile::tempdir().unwrap();
    let first = Scenario::default().run(dir.path());
    let again = Scenario::default().run(dir.path());
    assert_eq!((again.started, again.losses.len()), (Some(12), 0));
    assert!(matches!(again.outcome, Ok(Outcome::Finished)));
    assert_eq!(bits(&first.store), bits(&again.store));
}

#[test]
fn a_checkpoint_of_other_settings_is_refused_with_the_setting() {
    let dir = tempfile::tempdir().unwrap();
    Scenario { stop_after: Some(2), ..Default::default() }.run(dir.path());
    let before = files(&checkpoints(dir.path())[0]);
    type Change = fn(&mut trimwick_train::TrainConfig);
    let cases: [(&str, Change); 6] = [
        ("plan.batch: expected 3, found 2", |c| c.batch = 3),
        ("plan.accumulate: expected 1, found 2", |c| c.accumulate = 1),
        ("plan.clip: expected 0.5, found 1.0", |c| c.clip = Some(0.5)),
        ("plan.clip: expected null, found 1.0", |c| c.clip = None),
        ("plan.order_seed: expected 4, found 3", |c| c.order_seed = 4),
        ("plan.schedule.steps: expected 20, found 12", |c| c.steps = 20),
    ];
    for (want, change) in cases {
        let ran = Scenario { change, ..Default::default() }.run(dir.path());
        match ran.outcome {
            Err(e @ Error::OtherRun { .. }) => assert!(e.to_string().contains(want), "{want}: {e}"),
            other => panic!("{want}: {other:?}"),
        }
        assert_eq!(ran.started, None);
    }
    assert!(files(&checkpoints(dir.path())[0]) == before, "the checkpoint changed");
    // How often to save is no part of what a run is.
    let ran = Scenario { save_every: 3, ..Default::default() }.run(dir.path());
    assert_eq!(ran.started, Some(2));
    // Another run's name: its checkpoints are passed over, and kept.
    let ran = Scenario { change: |c| c.fingerprint = "other".into(), ..Default::default() }.run(dir.path());
    assert_eq!(ran.started, Some(0));
    assert!(ran.rejected.iter().all(|r| r.contains("another recipe's")) && ran.rejected.len() == 2);
}
