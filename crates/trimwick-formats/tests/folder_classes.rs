//! Every way a model folder is known to lie or to be something else, and the line that each ends in.

mod safetensors_support;

use std::fs;
use std::path::Path;

use safetensors_support::{assert_refused, busy, entries};
use trimwick_formats::folder::ModelFolder;

/// A file of the one-byte tensors `names`.
fn shard(names: &[&str]) -> Vec<u8> {
    let list: Vec<String> = names
        .iter()
        .enumerate()
        .map(|(i, name)| format!(r#""{name}":{{"dtype":"U8","shape":[1],"data_offsets":[{i},{}]}}"#, i + 1))
        .collect();
    entries(&list.iter().map(String::as_str).collect::<Vec<_>>(), names.len())
}

const INDEX: &str = "model.safetensors.index.json";

fn index(weight_map: &str) -> String {
    format!(r#"{{"metadata":{{"total_size":3}},"weight_map":{weight_map}}}"#)
}

#[test]
fn an_index_that_lies_ends_in_one_line() {
    let map = |tensor: &str, shard: &str| index(&format!(r#"{{"{tensor}":{shard}}}"#));
    let cases: Vec<(&str, String, &str)> = vec![
        (
            "../x",
            map("a", "\"../x.safetensors\""),
            "JSON index[\"weight_map\"][\"a\"]: shard: expected a file name without '/', '\\' or ':', relative to the folder, found \"../x.safetensors\"",
        ),
        ("..", map("a", "\"..\""), "shard: expected a file name, found \"..\""),
        ("absolute", map("a", "\"/etc/passwd\""), "relative to the folder, found \"/etc/passwd\""),
        (
            "subfolder",
            map("a", "\"sub/1.safetensors\""),
            "relative to the folder, found \"sub/1.safetensors\"",
        ),
        ("backslash", map("a", "\"..\\\\x\""), "relative to the folder, found \"..\\\\x\""),
        ("drive", map("a", "\"C:x\""), "relative to the folder, found \"C:x\""),
        (
            "NUL",
            map("a", "\"1.safetensors\\u0000\""),
            "expected a file name without control characters, found \"1.safetensors\\0\"",
        ),
        (
            "escape sequence",
            map("a", "\"\\u001b[2J\""),
            "expected a file name without control characters, found \"\\u{1b}[2J\"",
        ),
        ("empty", map("a", "\"\""), "shard: expected a file name, found \"\""),
        (
            "300 bytes",
            map("a", &format!("\"{}\"", "s".repeat(300))),
            "expected a file name of at most 255 bytes",
        ),
        ("number", map("a", "3"), "index[\"weight_map\"][\"a\"]: expected a shard's file name, found \"3\""),
        (
            "null",
            map("a", "null"),
            "index[\"weight_map\"][\"a\"]: expected a shard's file name, found \"null\"",
        ),
        ("list", map("a", "[\"1.safetensors\"]"), "expected a shard's file name, found an array"),
        ("missing shard", map("a", "\"3.safetensors\""), "no shard named \"3.safetensors\""),
        (
            "not in its shard",
            map("b", "\"1.safetensors\""),
            "JSON weight_map[\"b\"]: shard: expected the file that holds the tensor, found \"1.safetensors\", which does not",
        ),
        (
            "in two shards",
            index(r#"{"a":"1.safetensors","c":"twice.safetensors"}"#),
            "tensor \"a\": shard: expected one file that holds the tensor, found two, \"1.safetensors\" and \"twice.safetensors\"",
        ),
        (
            "listed twice",
            index(r#"{"a":"1.safetensors","a":"twice.safetensors"}"#),
            "JSON index[\"weight_map\"]: weight_map[\"a\"]: expected one entry, found a second",
        ),
        (
            "two maps",
            r#"{"weight_map":{"a":"1.safetensors"},"weight_map":{}}"#.into(),
            "weight_map: expected one entry, found a second",
        ),
        ("no map", r#"{"metadata":{}}"#.into(), "weight_map: expected an object, found none"),
        ("empty map", index("{}"), "weight_map: expected at least one tensor, found none"),
        ("map is a list", index("[]"), "index[\"weight_map\"]: expected an object, found an array"),
        ("null", "null".into(), "byte 0: index: expected an object, found \"null\""),
        ("empty file", String::new(), "byte 0: index: expected an object, found the end of the index"),
        ("byte order mark", format!("\u{feff}{}", index("{}")), "JSON without a byte order mark"),
        (
            "trailing garbage",
            index(r#"{"a":"1.safetensors"}"#) + "x",
            "expected only spaces after the object, found \"x\"",
        ),
        (
            "depth 5000 in the metadata",
            format!(r#"{{"metadata":{}"#, "[".repeat(5000)),
            "expected at most 64 levels of nesting, found an array deeper than that",
        ),
        (
            "tensor name with NUL",
            map("a\\u0000", "\"1.safetensors\""),
            "tensor: expected a name without control characters",
        ),
        (
            "shard is a text",
            map("a", "\"text.safetensors\""),
            "text.safetensors: byte 0: header length: expected at most",
        ),
        ("shard is a folder", map("a", "\"folder\""), "folder: byte 0: file: expected a regular file"),
        ("shard is a pickle", map("a", "\"pickle.bin\""), "refused: this is a PyTorch pickle"),
    ];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    fs::write(path.join("1.safetensors"), shard(&["a"])).unwrap();
    fs::write(path.join("twice.safetensors"), shard(&["c", "a"])).unwrap();
    fs::write(path.join("text.safetensors"), "version https://git-lfs.github.com/spec/v1\n").unwrap();
    fs::write(path.join("pickle.bin"), b"\x80\x02}q\x00.").unwrap();
    fs::create_dir(path.join("folder")).unwrap();
    for (case, text, want) in cases {
        fs::write(path.join(INDEX), text).unwrap();
        assert_refused(case, path, want, || ModelFolder::open(path));
        assert_refused(case, path, want, || ModelFolder::open(path.join(INDEX)));
    }
}

#[cfg(unix)]
#[test]
fn links_pipes_and_devices() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    symlink("loop.safetensors", path.join("loop.safetensors")).unwrap();
    symlink("/dev/zero", path.join("device.safetensors")).unwrap();
    symlink("nowhere", path.join("dangling.safetensors")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(path.join("pipe.safetensors")).status().unwrap();
    assert!(made.success());
    for (name, want) in [
        ("loop", "loop.safetensors: cannot open: "),
        ("device", "device.safetensors: byte 0: file: expected a regular file"),
        ("pipe", "pipe.safetensors: byte 0: file: expected a regular file"),
        ("dangling", "no shard named \"dangling.safetensors\""),
    ] {
        fs::write(path.join(INDEX), index(&format!(r#"{{"a":"{name}.safetensors"}}"#))).unwrap();
        assert_refused(name, path, want, || ModelFolder::open(path));
    }
    fs::remove_file(path.join(INDEX)).unwrap();
    for name in ["loop", "device", "pipe"] {
        let file = path.join(format!("{name}.safetensors"));
        assert_refused(name, path, "", || ModelFolder::open(&file));
        fs::rename(&file, path.join(INDEX)).unwrap();
        assert_refused(name, path, "", || ModelFolder::open(path));
        fs::rename(path.join(INDEX), &file).unwrap();
    }
    symlink(path.join("."), path.join("folder_loop")).unwrap();
    fs::write(path.join("model.safetensors"), shard(&["a"])).unwrap();
    assert_eq!(ModelFolder::open(path.join("folder_loop/folder_loop")).unwrap().len(), 1);
}

/// The cache of the hub holds links to blobs in another folder.
#[cfg(unix)]
#[test]
fn links_to_regular_files_are_followed() {
    let dir = tempfile::tempdir().unwrap();
    let (blobs, snapshot) = (dir.path().join("blobs"), dir.path().join("snapshot"));
    fs::create_dir_all(&blobs).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    fs::write(blobs.join("0"), shard(&["a"])).unwrap();
    fs::write(blobs.join("1"), shard(&["b", "c"])).unwrap();
    fs::write(
        blobs.join("2"),
        index(r#"{"a":"m-1.safetensors","b":"m-2.safetensors","c":"m-2.safetensors"}"#),
    )
    .unwrap();
    for (blob, name) in [("0", "m-1.safetensors"), ("1", "m-2.safetensors"), ("2", INDEX)] {
        std::os::unix::fs::symlink(Path::new("../blobs").join(blob), snapshot.join(name)).unwrap();
    }
    let folder = ModelFolder::open(&snapshot).unwrap();
    assert_eq!(folder.names().collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(folder.files().len(), 2);
    assert_eq!(folder.read_f32("c").unwrap(), [0.0]);
    assert_eq!(folder.read_raw("a").unwrap(), [0]);
    assert_eq!(folder.info("b").unwrap().shape, [1]);
    assert!(folder.info("d").is_none());
    assert_eq!(folder.total_bytes(), 3);
    assert_refused("missing", &snapshot, "no tensor named \"d\"", || folder.read_f32("d"));
}

/// The files of a folder, and what opening it must say; an empty text stands for success.
#[test]
fn what_a_folder_holds_decides() {
    type Files<'a> = &'a [(&'a str, &'a [u8])];
    let a = &shard(&["a"])[..];
    let (pickle, text) = (&b"\x80\x02}q\x00."[..], &b"x"[..]);
    let sharded = index(r#"{"a":"s.safetensors"}"#);
    let sharded = sharded.as_bytes();
    let cases: [(&str, Files<'_>, &str); 11] = [
        ("single", &[("model.safetensors", a), ("config.json", text)], ""),
        ("single beside pickles", &[("model.safetensors", a), ("pytorch_model.bin", pickle)], ""),
        ("single before index", &[("model.safetensors", a), (INDEX, text)], ""),
        ("index", &[("s.safetensors", a), ("t.safetensors", text), (INDEX, sharded)], ""),
        ("the only file", &[("adapter.safetensors", a), ("x.bin", pickle)], ""),
        (
            "several and no index",
            &[("1.safetensors", a), ("2.safetensors", a)],
            "no model weights: expected model.safetensors, model.safetensors.index.json, or one file named *.safetensors, \
             found several and no index: \"1.safetensors\", \"2.safetensors\"",
        ),
        (
            "pickles only",
            &[("pytorch_model-1.bin", pickle), ("pytorch_model-2.bin", pickle), ("config.json", text)],
            "refused: this is a folder of PyTorch pickles (\"pytorch_model-1.bin\", \"pytorch_model-2.bin\"), which can run \
             code while they are loaded; load the model where you trust it and save it again with save_pretrained(..., \
             safe_serialization=True), or take the hub's safetensors revision",
        ),
        ("checkpoint of torch", &[("consolidated.00.pth", pickle)], "(\"consolidated.00.pth\")"),
        (
            "GGUF",
            &[("m.Q4_0.gguf", text)],
            "refused: this is a folder of GGUF files and not of safetensors; give the path of the file itself, such as \
             \"m.Q4_0.gguf\"",
        ),
        (
            "something else",
            &[("README.md", text), ("config.json", text)],
            "no model weights: expected model.safetensors or model.safetensors.index.json, found \"README.md\", \"config.json\"",
        ),
        (
            "nothing",
            &[],
            "no model weights: expected model.safetensors or model.safetensors.index.json, found an empty folder",
        ),
    ];
    for (case, files, want) in cases {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(dir.path().join(name), content).unwrap();
        }
        if want.is_empty() {
            let folder = ModelFolder::open(dir.path()).unwrap_or_else(|e| panic!("{case}: {e}"));
            assert_eq!(folder.names().collect::<Vec<_>>(), ["a"], "{case}");
        } else {
            assert_refused(case, dir.path(), want, || ModelFolder::open(dir.path()));
        }
    }
}

#[test]
fn a_wrong_path_lists_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..12 {
        fs::create_dir(dir.path().join(format!("model-{i:02}"))).unwrap();
    }
    let want = "no model weights: expected a folder of safetensors or a .safetensors file, found nothing of that name; ";
    for path in [dir.path().join("modell"), dir.path().join("modell/deeper/model.safetensors")] {
        assert_refused("wrong path", &path, want, || ModelFolder::open(&path));
        let message = ModelFolder::open(&path).unwrap_err().to_string();
        assert!(message.ends_with("\"model-06\", \"model-07\" and 4 more"), "{message}");
    }
}

#[test]
fn one_file_opens_by_its_own_path() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("other name");
    fs::write(&path, shard(&["a", "b"])).unwrap();
    assert_eq!(ModelFolder::open(&path).unwrap().len(), 2);
    fs::write(&path, "GGUF............").unwrap();
    assert_refused("GGUF", &path, "refused: this is a GGUF file", || ModelFolder::open(&path));
}

#[test]
fn an_index_of_300_000_tensors_is_refused_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let entries: Vec<String> = (0..300_000).map(|i| format!("\"model.layers.{i}.weight\":\"s\"")).collect();
    fs::write(dir.path().join(INDEX), index(&format!("{{{}}}", entries.join(",")))).unwrap();
    let want = "weight_map: expected at most 262144 tensors, found more";
    assert_refused("300 000", dir.path(), want, || ModelFolder::open(dir.path()));
    let entries: Vec<String> = (0..5000).map(|i| format!("\"{i}\":\"s{i}\"")).collect();
    fs::write(dir.path().join(INDEX), index(&format!("{{{}}}", entries.join(",")))).unwrap();
    let want = "weight_map: expected at most 4096 shards, found more";
    assert_refused("5000 shards", dir.path(), want, || ModelFolder::open(dir.path()));
    fs::File::create(dir.path().join(INDEX)).unwrap().set_len(40 << 20).unwrap();
    let want = "file length: expected at most 33554432 bytes, found 41943040";
    assert_refused("40 MB", dir.path(), want, || ModelFolder::open(dir.path()));
}

#[test]
fn an_index_is_refused_wherever_it_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("s.safetensors"), shard(&["a", "b"])).unwrap();
    let text = index(r#"{"a":"s.safetensors","b":"s.safetensors"}"#);
    for len in 0..text.len() {
        fs::write(dir.path().join(INDEX), &text[..len]).unwrap();
        assert_refused(&text[..len], dir.path(), "expected", || ModelFolder::open(dir.path()));
    }
    fs::write(dir.path().join(INDEX), &text).unwrap();
    assert_eq!(busy(|| ModelFolder::open(dir.path())).0.unwrap().len(), 2);
}
