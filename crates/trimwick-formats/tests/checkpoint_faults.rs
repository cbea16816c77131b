//! Something goes wrong at every single operation: an older checkpoint verifies each time.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;

use trimwick_formats::checkpoint::{
    Checkpoint, CheckpointDir, Fault, FaultKind, Fs, Payload, SimFs, Survival,
};
use trimwick_formats::safetensors::{Dtype, NewTensor, Writer};
use trimwick_formats::{Error, Result, atomic_write_on};

const RECIPE: &str = "recipe";
const KINDS: [FaultKind; 7] = [
    FaultKind::Eio,
    FaultKind::NoSpace,
    FaultKind::ShortWrite,
    FaultKind::TornWrite,
    FaultKind::SilentLoss,
    FaultKind::SyncFails,
    FaultKind::RenameFails,
];

fn open(fs: &SimFs) -> Result<CheckpointDir> {
    CheckpointDir::open_on(Arc::new(fs.clone()), Path::new("/runs/x/checkpoints"))
}

/// Saves a step, in every byte of which is the step.
fn save(dir: &CheckpointDir, step: u64) -> Result<()> {
    let values = vec![step as f32; 600];
    let state = Writer::new([NewTensor::floats("w", Dtype::F32, &[20, 30], &values)], &BTreeMap::new())?;
    let cursor = vec![step as u8; 100];
    let files = [
        Payload::stream("state.safetensors", state.file_len(), |out| state.write_to(out)),
        Payload::bytes("cursor", &cursor),
    ];
    dir.save(step, RECIPE, &files).map(drop)
}

/// The step of the newest checkpoint, which must hold that step in every byte; 0 when there is none.
fn latest(dir: &CheckpointDir, case: &str) -> u64 {
    let Some(checkpoint) = dir.latest(RECIPE).unwrap_or_else(|e| panic!("{case}: {e}")) else { return 0 };
    let step = checkpoint.step();
    assert_eq!(checkpoint.read("cursor").unwrap(), vec![step as u8; 100], "{case}");
    let state = checkpoint.read("state.safetensors").unwrap();
    assert!(state.ends_with(&(step as f32).to_le_bytes().repeat(600)), "{case}");
    step
}

/// A machine that has saved the steps 1 and 2 and still runs.
fn two_saved() -> (SimFs, CheckpointDir) {
    let fs = SimFs::new();
    let dir = open(&fs).unwrap();
    save(&dir, 1).unwrap();
    save(&dir, 2).unwrap();
    fs.inject(None);
    (fs, dir)
}

/// A new process finds at least `promised`, saves on, and leaves two checkpoints and no rubbish.
fn assert_goes_on(fs: &SimFs, promised: u64, case: &str) {
    let dir = open(fs).unwrap_or_else(|e| panic!("{case}: {e}"));
    let found = latest(&dir, case);
    assert!(found >= promised, "{case}: step {found} found after {promised} was saved");
    save(&dir, 8).and_then(|()| save(&dir, 9)).unwrap_or_else(|e| panic!("{case}: {e}"));
    assert_eq!(latest(&dir, case), 9);
    drop(dir);
    fs.reboot(Survival::SyncedOnly);
    assert_eq!(latest(&open(fs).unwrap(), case), 9, "{case}: what was saved after the fault is durable");
    let names: Vec<_> =
        fs.list(Path::new("/runs/x/checkpoints")).unwrap().into_iter().map(|l| l.name).collect();
    let whole =
        |name: &str| Checkpoint::open_on(Arc::new(fs.clone()), &Path::new("/runs/x/checkpoints").join(name));
    for name in names.iter().filter_map(|name| name.to_str()).filter(|&name| name != "lock") {
        assert!(!name.contains(".tmp-"), "{case}: {name} left");
        assert!(
            matches!(name, "step-000000000008" | "step-000000000009") || whole(name).is_err(),
            "{case}: {name} kept"
        );
    }
}

#[test]
fn a_fault_at_every_operation_of_a_save() {
    let (fs, dir) = two_saved();
    save(&dir, 3).unwrap();
    let operations = fs.operations();
    assert!((40..400).contains(&operations), "{operations} operations");
    let (mut failed, mut saved) = (0, 0);
    for kind in KINDS {
        for (at, lasting) in (0..operations).flat_map(|at| [(at, false), (at, true)]) {
            for survival in [Survival::Everything, Survival::SyncedOnly, Survival::Chance(at)] {
                let case = format!("{kind:?} at {at}, lasting {lasting}, {survival:?} survives");
                let (fs, dir) = two_saved();
                fs.inject(Some(Fault { kind, at, lasting }));
                let result = save(&dir, 3);
                fs.inject(None);
                if let Err(error) = &result {
                    let message = error.to_string();
                    assert!(
                        message.contains("/runs/x/checkpoints") && !message.contains('\n'),
                        "{case}: {message}"
                    );
                }
                *(if result.is_ok() { &mut saved } else { &mut failed }) += 1;
                let promised = if result.is_ok() { 3 } else { 2 };
                assert!(latest(&dir, &case) >= promised, "{case}: lost in the running process");
                drop(dir);
                fs.reboot(survival);
                assert_goes_on(&fs, promised, &case);
            }
        }
    }
    assert!(failed > 500 && saved > 500, "{failed} failed, {saved} saved");
}

#[test]
fn a_crash_at_every_operation_of_a_run() {
    let run = |fs: &SimFs| {
        let mut promised = 0;
        let Ok(dir) = open(fs) else { return promised };
        for step in 1..=5 {
            match save(&dir, step) {
                Ok(()) => promised = step,
                Err(_) => break,
            }
        }
        promised
    };
    let fs = SimFs::new();
    assert_eq!(run(&fs), 5);
    let operations = fs.operations();
    let mut stops = [0; 6];
    for at in 0..operations {
        let survivals = (0..6).map(|seed| Survival::Chance(seed * operations + at));
        for survival in survivals.chain([Survival::SyncedOnly, Survival::Everything]) {
            let case = format!("crash at {at} of {operations}, {survival:?} survives");
            let fs = SimFs::new();
            fs.inject(Some(Fault { kind: FaultKind::Crash, at, lasting: false }));
            let promised = run(&fs);
            stops[promised as usize] += 1;
            fs.reboot(survival);
            assert_goes_on(&fs, promised, &case);
        }
    }
    assert!(stops[..5].iter().all(|&n| n > 0), "every step was interrupted: {stops:?}");
}

/// A crash after the fault: what the fault left half done must not turn into a promise.
#[test]
fn a_failed_sync_is_not_tried_again() {
    let (fs, dir) = two_saved();
    save(&dir, 3).unwrap();
    for at in 0..fs.operations() {
        let (fs, dir) = two_saved();
        fs.inject(Some(Fault { kind: FaultKind::SyncFails, at, lasting: false }));
        let first = save(&dir, 3);
        fs.inject(None);
        let second = save(&dir, 3);
        assert!(second.is_ok(), "{at}");
        fs.reboot(Survival::SyncedOnly);
        assert_goes_on(&fs, 3, &format!("sync fails at {at}: {first:?}"));
    }
}

#[test]
fn a_fault_while_looking_for_the_latest_is_an_error_or_an_older_one() {
    let (fs, dir) = two_saved();
    drop(dir);
    fs.inject(None);
    assert_eq!(latest(&open(&fs).unwrap(), "no fault"), 2);
    for at in 0..fs.operations() {
        for lasting in [false, true] {
            fs.inject(Some(Fault { kind: FaultKind::Eio, at, lasting }));
            let survey = open(&fs).and_then(|dir| dir.survey(RECIPE));
            fs.inject(None);
            match survey {
                Ok(survey) => {
                    let step = survey.checkpoint.as_ref().map_or(0, Checkpoint::step);
                    assert_eq!(
                        survey.rejected.len() as u64,
                        2 - step,
                        "at {at}: each one passed over is reported"
                    );
                    assert!(survey.rejected.iter().all(|r| matches!(r.why, Error::Io { .. })));
                }
                Err(error) => assert!(matches!(error, Error::Io { .. } | Error::Locked { .. }), "{error}"),
            }
            assert_eq!(latest(&open(&fs).unwrap(), "afterwards"), 2);
        }
    }
}

#[test]
fn a_full_disk_is_found_out_before_anything_is_written() {
    let (fs, dir) = two_saved();
    fs.set_space(100_000);
    let error = save(&dir, 3).unwrap_err();
    assert!(matches!(error, Error::NoSpace { available: 100_000, .. }));
    let message = error.to_string();
    assert!(message.contains("not enough disk space: expected 10"), "{message}");
    assert_eq!(fs.list(dir.root()).unwrap().len(), 3, "the lock and two checkpoints");
    fs.set_space(10 << 20);
    save(&dir, 3).unwrap();
}

#[test]
fn a_payload_that_fails_leaves_nothing() {
    let (fs, dir) = two_saved();
    let files = [Payload::stream("x", 1, |_| Err(std::io::Error::other("out of tensors")))];
    let message = dir.save(3, RECIPE, &files).unwrap_err().to_string();
    assert!(message.ends_with("/x: cannot write: out of tensors"), "{message}");
    assert_eq!(fs.list(dir.root()).unwrap().len(), 3);
    assert_eq!(latest(&dir, "payload"), 2);
}

#[test]
fn a_corrupt_one_among_the_last_two_does_not_cost_the_good_one_before() {
    let (fs, dir) = two_saved();
    drop(dir); // so that what verified is forgotten
    let cursor = Path::new("/runs/x/checkpoints/step-000000000002/cursor");
    fs.remove_file(cursor).unwrap();
    fs.create(cursor).unwrap().write_all(&[7; 100]).unwrap();
    let dir = open(&fs).unwrap();
    save(&dir, 3).unwrap();
    let at = |step: u64| dir.root().join(format!("step-{step:012}"));
    let whole = |step| Checkpoint::open_on(Arc::new(fs.clone()), &at(step)).is_ok();
    assert!(whole(1) && !whole(2) && whole(3));
    save(&dir, 4).unwrap();
    assert!(whole(3) && whole(4) && fs.stat(&at(1)).is_err() && fs.stat(&at(2)).is_err());
}

#[test]
fn a_file_is_the_old_one_or_the_new_one() {
    let path = Path::new("/out/summary.json");
    let prepared = || {
        let fs = SimFs::new();
        fs.create_dir(Path::new("/out")).unwrap();
        fs.sync_dir(Path::new("/")).unwrap();
        atomic_write_on(&fs, path, |out| out.write_all(b"the old bytes")).unwrap();
        fs.inject(None);
        fs
    };
    let replace = |fs: &SimFs| atomic_write_on(fs, path, |out| out.write_all(b"the new"));
    let content = |fs: &SimFs| {
        let mut text = String::new();
        fs.open(path).unwrap().read_to_string(&mut text).unwrap();
        text
    };
    let fs = prepared();
    replace(&fs).unwrap();
    let operations = fs.operations();
    for kind in KINDS.into_iter().chain([FaultKind::Crash]).filter(|&kind| kind != FaultKind::SilentLoss) {
        for at in 0..operations {
            for survival in (0..8).map(Survival::Chance).chain([Survival::SyncedOnly, Survival::Everything]) {
                let case = format!("{kind:?} at {at}, {survival:?} survives");
                let fs = prepared();
                fs.inject(Some(Fault { kind, at, lasting: false }));
                let result = replace(&fs);
                fs.reboot(survival);
                let found = content(&fs);
                let old = found == "the old bytes" && result.is_err();
                assert!(old || found == "the new", "{case}: {found:?} after {result:?}");
                replace(&fs).unwrap();
                let names: Vec<_> = fs.list(Path::new("/out")).unwrap().into_iter().map(|l| l.name).collect();
                assert_eq!(names, ["summary.json"], "{case}: leftovers are removed");
            }
        }
    }
}

/// The tests above are worth what the simulation forgets.
#[test]
fn the_simulated_disk_forgets_what_was_not_synced() {
    let path = Path::new("/f");
    let len = |fs: &SimFs| fs.stat(path).ok().map(|stat| stat.len);
    let written = || {
        let fs = SimFs::new();
        let mut file = fs.create(path).unwrap();
        file.write_all(b"12345678").unwrap();
        (fs, file)
    };
    let (fs, mut file) = written();
    file.sync().unwrap();
    fs.reboot(Survival::SyncedOnly);
    assert_eq!(len(&fs), None, "the name was not synced");

    let (fs, _) = written();
    fs.sync_dir(Path::new("/")).unwrap();
    fs.reboot(Survival::SyncedOnly);
    assert_eq!(len(&fs), Some(0), "the bytes were not synced");

    let (fs, mut file) = written();
    fs.sync_dir(Path::new("/")).unwrap();
    fs.inject(Some(Fault { kind: FaultKind::SyncFails, at: 0, lasting: false }));
    assert!(file.sync().is_err());
    assert!(file.sync().is_ok(), "the second sync finds nothing dirty");
    fs.reboot(Survival::SyncedOnly);
    assert_eq!(len(&fs), Some(0), "and has saved nothing");

    let (fs, mut file) = written();
    file.sync().unwrap();
    fs.sync_dir(Path::new("/")).unwrap();
    fs.rename(path, Path::new("/g")).unwrap();
    fs.reboot(Survival::SyncedOnly);
    assert_eq!(len(&fs), Some(8), "a rename is durable only with its folder");

    let (fs, mut file) = written();
    fs.reboot(Survival::Everything);
    assert_eq!(len(&fs), Some(8), "a killed process leaves the page cache");
    assert!(file.write(b"9").is_err(), "and its open files are gone");
}
