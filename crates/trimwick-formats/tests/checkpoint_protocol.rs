//! Checkpoints on the real file system: what comes back, what is kept, and how a damaged one is named.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use trimwick_formats::Error;
use trimwick_formats::checkpoint::{Checkpoint, CheckpointDir, Payload};
use trimwick_formats::safetensors::{Dtype, NewTensor, Writer};

const RECIPE: &str = "recipe-1";

/// Saves a step whose files say which step they are of.
fn save(dir: &CheckpointDir, step: u64) -> PathBuf {
    save_as(dir, step, RECIPE)
}

fn save_as(dir: &CheckpointDir, step: u64, recipe: &str) -> PathBuf {
    let cursor = format!("cursor of step {step}");
    let values: Vec<f32> = (0..1000).map(|i| i as f32 + step as f32).collect();
    let tensors = ["m", "v", "w"].map(|name| NewTensor::floats(name, Dtype::F32, &[1000], &values));
    let state = Writer::new(tensors, &BTreeMap::new()).unwrap();
    let files = [
        Payload::bytes("cursor.json", cursor.as_bytes()),
        Payload::stream("state.safetensors", state.file_len(), |out| state.write_to(out)),
        Payload::bytes("empty", b""),
    ];
    dir.save(step, recipe, &files).unwrap()
}

fn steps(root: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names.retain(|name| name != "lock");
    names
}

#[test]
fn what_was_saved_comes_back_and_two_are_kept() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("runs/a/checkpoints");
    let dir = CheckpointDir::open(&root).unwrap();
    assert!(dir.latest(RECIPE).unwrap().is_none());
    for step in [5, 10, 1_000_000, 2_000_000_000_000] {
        let path = save(&dir, step);
        let latest = dir.latest(RECIPE).unwrap().unwrap();
        assert_eq!((latest.step(), latest.path(), latest.fingerprint()), (step, &*path, RECIPE));
        assert_eq!(latest.read("cursor.json").unwrap(), format!("cursor of step {step}").into_bytes());
        assert_eq!(latest.read("empty").unwrap(), b"");
        assert_eq!(
            latest.files().map(|(name, _)| name).collect::<Vec<_>>(),
            ["cursor.json", "state.safetensors", "empty"]
        );
        let state =
            trimwick_formats::safetensors::SafetensorsFile::open(latest.file("state.safetensors").unwrap());
        assert_eq!(state.unwrap().read_f32("v").unwrap()[0], step as f32);
        assert!(matches!(latest.read("other"), Err(Error::Missing { .. })));
    }
    assert_eq!(steps(&root), ["step-000001000000", "step-2000000000000"]);
    assert_eq!(Checkpoint::open(root.join("step-000001000000")).unwrap().step(), 1_000_000);
}

#[test]
fn a_pinned_step_stays_and_is_found() {
    let temp = tempfile::tempdir().unwrap();
    let dir = CheckpointDir::open(temp.path()).unwrap();
    dir.pin(5);
    for step in [5, 6, 7, 8] {
        save(&dir, step);
    }
    assert_eq!(steps(temp.path()), ["step-000000000005", "step-000000000007", "step-000000000008"]);
    assert_eq!(dir.at(5, RECIPE).unwrap().unwrap().step(), 5);
    assert!(dir.at(6, RECIPE).unwrap().is_none());
    assert!(dir.at(5, "another").unwrap().is_none());
    fs::write(temp.path().join("step-000000000005/cursor.json"), "?").unwrap();
    assert!(dir.at(5, RECIPE).unwrap().is_none(), "it does not verify");
    dir.pin(8);
    save(&dir, 9);
    assert_eq!(steps(temp.path()), ["step-000000000008", "step-000000000009"]);
}

#[test]
fn the_same_checkpoint_is_the_same_bytes() {
    let temp = tempfile::tempdir().unwrap();
    let [one, two] = ["1", "2"].map(|name| save(&CheckpointDir::open(temp.path().join(name)).unwrap(), 7));
    for name in ["manifest.json", "state.safetensors", "cursor.json"] {
        assert_eq!(fs::read(one.join(name)).unwrap(), fs::read(two.join(name)).unwrap());
    }
}

#[test]
fn a_step_that_is_saved_again_is_the_newer_one() {
    let temp = tempfile::tempdir().unwrap();
    let dir = CheckpointDir::open(temp.path()).unwrap();
    for _ in 0..3 {
        save(&dir, 10);
    }
    assert_eq!(steps(temp.path()), ["step-000000000010-1", "step-000000000010-2"]);
    assert!(dir.latest(RECIPE).unwrap().unwrap().path().ends_with("step-000000000010-2"));
}

#[test]
fn a_second_writer_is_kept_out_and_a_stale_lock_file_is_not_a_lock() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("lock"), "process 1 of long ago").unwrap();
    let dir = CheckpointDir::open(temp.path()).unwrap();
    let message = CheckpointDir::open(temp.path()).unwrap_err().to_string();
    let holder = format!("in use by \"process {}\"; wait until it has ended", std::process::id());
    assert!(message.contains(&holder), "{message}");
    drop(dir);
    assert!(CheckpointDir::open(temp.path()).is_ok());
}

#[test]
fn names_that_lead_elsewhere_are_not_written() {
    let temp = tempfile::tempdir().unwrap();
    let dir = CheckpointDir::open(temp.path()).unwrap();
    for (names, want) in [
        (vec!["../x"], "checkpoint file \"../x\": expected a file name without '/'"),
        (vec!["/etc/x"], "expected a file name without '/'"),
        (vec!["a\\b"], "expected a file name without '/'"),
        (vec![""], "expected a file name, found \"\""),
        (vec![".."], "expected a file name, found \"..\""),
        (vec!["a\0"], "expected a file name without control characters"),
        (vec!["manifest.json"], "expected one file of that name, found a second"),
        (vec!["a", "a"], "expected one file of that name, found a second"),
    ] {
        let files: Vec<_> = names.iter().map(|name| Payload::bytes(name, b"x")).collect();
        let error = dir.save(1, RECIPE, &files).unwrap_err();
        assert!(matches!(error, Error::Unwritable { .. }));
        assert!(error.to_string().contains(want), "{error}");
    }
    assert!(steps(temp.path()).is_empty());
}

#[test]
fn temporary_folders_alone_are_no_checkpoint_and_are_swept_up() {
    let temp = tempfile::tempdir().unwrap();
    let left = temp.path().join("step-000000000010.tmp-123-0");
    fs::create_dir(&left).unwrap();
    fs::write(left.join("state.safetensors"), "half").unwrap();
    fs::create_dir(temp.path().join("notes.tmp-mine")).unwrap();
    let dir = CheckpointDir::open(temp.path()).unwrap();
    assert!(dir.latest(RECIPE).unwrap().is_none());
    assert_eq!(steps(temp.path()), ["notes.tmp-mine"]);
}

/// Damages the newer of two checkpoints; the older one must be found, and the newer one named.
#[test]
fn a_bad_checkpoint_is_named_and_the_one_before_is_used() {
    type Damage = fn(&Path);
    let cases: [(&str, Damage, &str); 14] = [
        (
            "no manifest",
            |at| fs::remove_file(at.join("manifest.json")).unwrap(),
            "no file named \"manifest.json\"",
        ),
        (
            "empty manifest",
            |at| fs::write(at.join("manifest.json"), "").unwrap(),
            "manifest.json: byte 0: manifest: expected",
        ),
        (
            "newer version",
            |at| edit(at, "\"version\":1", "\"version\":2"),
            "JSON version: version: expected 1, the version this program writes (a newer program may read it), found 2",
        ),
        (
            "newer version with more in it",
            |at| edit(at, "\"version\":1,", "\"version\":9,\"more\":{},"),
            "JSON version: version: expected 1",
        ),
        (
            "other format",
            |at| edit(at, "trimwick-checkpoint", "another-checkpoint"),
            "JSON format: format: expected \"trimwick-checkpoint\", found \"another-checkpoint\"",
        ),
        (
            "edited step",
            |at| edit(at, "\"step\":20", "\"step\":21"),
            "digest: expected the digest of the manifest itself",
        ),
        (
            "path escape",
            |at| edit(at, "\"cursor.json\"", "\"../../cursor.json\""),
            "digest: expected the digest of the manifest itself",
        ),
        (
            "files of two steps",
            |at| copy_from_step_10(at, "cursor.json"),
            "cursor.json: byte 0: sha256: expected ",
        ),
        (
            "manifest of another step",
            |at| copy_from_step_10(at, "manifest.json"),
            "manifest.json: JSON step: step: expected 20, as in the folder's name, found 10",
        ),
        (
            "truncated",
            |at| {
                fs::File::options()
                    .write(true)
                    .open(at.join("state.safetensors"))
                    .unwrap()
                    .set_len(5000)
                    .unwrap()
            },
            "state.safetensors: byte 5000: file length: expected 12",
        ),
        (
            "longer",
            |at| fs::write(at.join("empty"), "x").unwrap(),
            "empty: byte 0: file length: expected 0 bytes, as in manifest.json, found 1",
        ),
        (
            "missing file",
            |at| fs::remove_file(at.join("state.safetensors")).unwrap(),
            "no file named \"state.safetensors\"",
        ),
        (
            "folder as file",
            |at| {
                fs::remove_file(at.join("empty")).unwrap();
                fs::create_dir(at.join("empty")).unwrap();
            },
            "empty: byte 0: file: expected a regular file, found a folder, link, pipe or device",
        ),
        (
            "link as file",
            |at| {
                fs::rename(at.join("cursor.json"), at.with_file_name("cursor.json")).unwrap();
                #[cfg(unix)]
                std::os::unix::fs::symlink("../cursor.json", at.join("cursor.json")).unwrap();
            },
            if cfg!(unix) {
                "cursor.json: byte 0: file: expected a regular file"
            } else {
                "no file named \"cursor.json\""
            },
        ),
    ];
    for (case, damage, want) in cases {
        let temp = tempfile::tempdir().unwrap();
        let dir = CheckpointDir::open(temp.path()).unwrap();
        save(&dir, 10);
        damage(&save(&dir, 20));
        let survey = dir.survey(RECIPE).unwrap();
        assert_eq!(survey.checkpoint.unwrap().step(), 10, "{case}");
        let [rejected] = &survey.rejected[..] else { panic!("{case}") };
        assert!(rejected.path.ends_with("step-000000000020"), "{case}");
        let message = rejected.why.to_string();
        assert!(message.contains(want), "{case}\n got: {message}\nwant: {want}");
        assert!(
            message.contains("step-000000000020") && !message.chars().any(char::is_control),
            "{case}: {message}"
        );

        // The run goes on: the damaged folder is in nobody's way, and does not count among the two.
        save(&dir, 20);
        assert!(dir.latest(RECIPE).unwrap().unwrap().path().ends_with("step-000000000020-1"), "{case}");
        assert!(Checkpoint::open(temp.path().join("step-000000000010")).is_ok(), "{case}");
    }
}

fn copy_from_step_10(at: &Path, name: &str) {
    fs::copy(at.with_file_name("step-000000000010").join(name), at.join(name)).unwrap();
}

fn edit(at: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(at.join("manifest.json")).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(at.join("manifest.json"), text.replacen(from, to, 1)).unwrap();
}

#[test]
fn one_flipped_bit_anywhere_is_found() {
    let temp = tempfile::tempdir().unwrap();
    let path = save(&CheckpointDir::open(temp.path()).unwrap(), 10);
    for name in ["manifest.json", "cursor.json", "state.safetensors"] {
        let good = fs::read(path.join(name)).unwrap();
        // Every bit of the small file, and some of the others.
        let step = (good.len() * 8 / 1500).max(1);
        for bit in (0..good.len() * 8).step_by(step) {
            overwrite(&path.join(name), bit / 8, good[bit / 8] ^ 1 << (bit % 8));
            let message =
                Checkpoint::open(&path).err().unwrap_or_else(|| panic!("bit {bit} of {name}")).to_string();
            assert!(message.contains(name) && !message.chars().any(char::is_control), "{message}");
            overwrite(&path.join(name), bit / 8, good[bit / 8]);
        }
    }
    assert!(Checkpoint::open(&path).is_ok());
}

/// In place: truncating and writing anew makes some file systems wait for the disk.
fn overwrite(path: &Path, at: usize, byte: u8) {
    let mut file = fs::File::options().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(at as u64)).unwrap();
    file.write_all(&[byte]).unwrap();
}

#[test]
fn the_damaged_tensor_is_named() {
    let temp = tempfile::tempdir().unwrap();
    let dir = CheckpointDir::open(temp.path()).unwrap();
    let values = vec![1.0f32; 700_000];
    let tensors =
        ["a", "b", "c", "d"].map(|name| NewTensor::floats(name, Dtype::F32, &[values.len()], &values));
    let state = Writer::new(tensors, &BTreeMap::new()).unwrap();
    let file = Payload::stream("state.safetensors", state.file_len(), |out| state.write_to(out));
    let path = dir.save(1, RECIPE, &[file]).unwrap().join("state.safetensors");
    let good = fs::read(&path).unwrap();
    // 2.8 MB to a tensor: the mebibyte that is hit belongs to one tensor or two.
    for (at, want) in [
        (1_000_000, "tensor \"a\": sha256"),
        (4_500_000, "tensor \"b\": sha256"),
        (5_700_000, "damaged within bytes 5242880 to 6291456 (or \"c\")"),
        (good.len() - 1, "tensor \"d\": sha256"),
    ] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&path, bad).unwrap();
        let message = dir.survey(RECIPE).unwrap().rejected[0].why.to_string();
        assert!(message.contains(want), "byte {at}\n got: {message}\nwant: {want}");
    }
}

#[test]
fn another_recipes_checkpoints_are_neither_used_nor_removed() {
    let temp = tempfile::tempdir().unwrap();
    let dir = CheckpointDir::open(temp.path()).unwrap();
    save_as(&dir, 50, "recipe-0");
    assert!(dir.latest(RECIPE).unwrap().is_none());
    let why = dir.survey(RECIPE).unwrap().rejected[0].why.to_string();
    assert!(
        why.contains(
            "fingerprint: expected \"recipe-1\", this recipe's, found \"recipe-0\", another recipe's"
        ),
        "{why}"
    );
    for step in [10, 20, 50, 60] {
        save(&dir, step);
    }
    assert_eq!(dir.latest(RECIPE).unwrap().unwrap().step(), 60);
    assert_eq!(steps(temp.path()), ["step-000000000050", "step-000000000050-1", "step-000000000060"]);
    assert!(Checkpoint::open(temp.path().join("step-000000000050")).is_ok());
}

#[test]
fn a_file_that_changes_after_opening_is_not_handed_out() {
    let temp = tempfile::tempdir().unwrap();
    let dir = CheckpointDir::open(temp.path()).unwrap();
    let path = save(&dir, 10).join("cursor.json");
    let latest = dir.latest(RECIPE).unwrap().unwrap();
    fs::write(&path, "cursor of step 11").unwrap();
    assert!(latest.read("cursor.json").unwrap_err().to_string().contains("sha256: expected"));
    fs::write(&path, "longer than it was before").unwrap();
    assert!(latest.read("cursor.json").unwrap_err().to_string().contains("file length: expected"));
}

#[test]
fn a_file_is_replaced_as_a_whole_and_leftovers_are_removed() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("summary.json");
    fs::write(temp.path().join("summary.json.tmp-1-0"), "of a killed process").unwrap();
    fs::write(temp.path().join("summary.json.bak"), "mine").unwrap();
    for content in ["first", "2"] {
        trimwick_formats::atomic_write(&path, content.as_bytes()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
    }
    let mut names: Vec<_> =
        fs::read_dir(temp.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["summary.json", "summary.json.bak"]);
    let missing = trimwick_formats::atomic_write(temp.path().join("no/x"), b"").unwrap_err().to_string();
    assert!(missing.contains("no/x: cannot create a file beside it: "), "{missing}");
}
