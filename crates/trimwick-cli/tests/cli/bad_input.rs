//! Whatever is wrong with the input: exit code 2, one line for each fault, nothing written.

use std::fs;

use crate::support::{gguf, prune_recipe, ran, safetensors, tree, workshop};

/// What is expected on each line of standard error, in order.
type Lines = &'static [&'static str];

#[test]
fn every_bad_input_is_told_in_one_line_and_leaves_no_trace() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = workshop().join("tiny");
    let tiny = tiny.to_str().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
    write("good.toml", prune_recipe(3).as_bytes());
    write(
        "three.toml",
        (prune_recipe(3).replace("lr = 3e-3", "lr = nan\nwarmpu = 1") + "[trian]\n").as_bytes(),
    );
    write("broken.toml", b"[model\n");
    write("binary.toml", b"\xff\xfe");
    write("text.txt", b"The wick burns. ");
    write("latin.txt", b"caf\xe9");
    write("bad.jsonl", b"{\"text\": \"a\"}\n{\"txet\": \"b\"}\n");
    write("good.q", br#"{"query": "q", "choices": ["a", "b"], "gold": 0}"#);
    write("range.q", b"\n{\"query\": \"q\", \"choices\": [\"a\", \"b\"], \"gold\": 7}\n");
    write("empty.q", b"");
    write("empty.safetensors", b"");
    write("pickle.safetensors", b"\x80\x02ctorch\nFloatTensor\n");
    write("cut.gguf", &gguf(&[("a", "b")], &[("t", &[1.0; 8])])[..40]);
    write("gap.safetensors", &safetensors("", &[("t", &[2], &[1.0; 3])]));
    write("name\u{1b}[31m.gguf", b"GGUF\x09\x00\x00\x00");
    fs::create_dir(dir.path().join("folder")).unwrap();
    fs::create_dir(dir.path().join("pickles")).unwrap();
    write("pickles/pytorch_model.bin", b"\x80\x02");
    write("pickles/config.json", b"{}");

    let table: &[(&[&str], Lines)] = &[
        (&["prune"], &["unrecognized subcommand 'prune'"]),
        (&["run"], &["required arguments were not provided: <RECIPE>; usage: trimwick run"]),
        (&["run", "good.toml", "--ouy", "x"], &["unexpected argument '--ouy' found"]),
        (&["run", "goood.toml"], &["goood.toml: expected a readable recipe, found"]),
        (&["run", "folder"], &["folder: expected a readable recipe"]),
        (&["run", "broken.toml"], &["broken.toml:1: not TOML"]),
        (&["run", "binary.toml"], &["bytes that are not UTF-8 at offset 0"]),
        (
            &["run", "three.toml"],
            &[
                "train.lr: expected a number above 0",
                "train.warmpu: unknown key; did you mean `train.warmup`?",
                "trian",
            ],
        ),
        (&["check", "three.toml"], &["train.lr: ", "train.warmpu: ", "trian"]),
        (&["run", "good.toml", "train.steps"], &["override train.steps: expected key=value"]),
        (
            &["run", "good.toml", "model.source=./nowhere"],
            &["model.source: expected the folder of a model, found nothing at"],
        ),
        (&["run", "good.toml", "model.source=./pickles"], &["pickles"]),
        (
            &["run", "good.toml", "data.context=1024"],
            &["data.context: expected at most the model's 64 positions, found 1024"],
        ),
        (&["run", "good.toml", "prune.layers=nothing.*"], &["prune.layers"]),
        (
            &["run", "good.toml", "prune.pattern=3:5", "data.context=128"],
            &[
                "found 32; put the layer into",
                "found 64; put the layer into",
                "data.context: expected at most the model's 64 positions",
            ],
        ),
        (&["run", "good.toml", "data.eval={files=[\"none*.txt\"]}"], &["data.eval"]),
        (
            &["check", "good.toml", "prune.layers=nothing.*", "data.eval=none.txt", "data.context=128"],
            &["matches none; nearest: ", "data.eval: expected a file that matches", "data.context: "],
        ),
        (&["eval", tiny], &["--text: expected at least one file to measure on, found none"]),
        (&["eval", tiny, "--format", "text"], &["--format: has no effect"]),
        (&["eval", tiny, "--text"], &["a value is required for '--text <FILE>...'"]),
        (&["eval", tiny, "--text", "none.txt"], &["none.txt: cannot open"]),
        (&["eval", tiny, "--text", "folder"], &["folder: cannot open: not a regular file"]),
        (&["eval", tiny, "--text", "latin.txt"], &["latin.txt: line 1: expected UTF-8 text"]),
        (&["eval", tiny, "--text", "bad.jsonl"], &["bad.jsonl: line 2: expected "]),
        (&["eval", tiny, "--text", "bad.jsonl", "text.txt"], &["--format: expected text or jsonl"]),
        (&["eval", tiny, "--text", "text.txt", "--field", "x"], &["--field: has no effect: plain text"]),
        (&["eval", tiny, "--text", "text.txt", "--separator", "\\x"], &["--separator: expected n, t or"]),
        (&["eval", tiny, "--text", "text.txt"], &["tokens: expected at least 64, one window, found "]),
        (
            &["eval", tiny, "--text", "text.txt", "--context", "1"],
            &["'--context <TOKENS>': expected a whole number of at least 2"],
        ),
        (
            &["eval", tiny, "--text", "text.txt", "--context", "66"],
            &["--context: expected at most the model's 64 positions, found 66"],
        ),
        (
            &["eval", tiny, "--text", "text.txt", "--context", "4", "--stride", "5"],
            &["--stride: expected at most 4, the tokens of a window, found 5"],
        ),
        (&["eval", tiny, "--tasks"], &["a value is required for '--tasks <LAYOUT=FILE>...'"]),
        (
            &["eval", tiny, "--tasks", "good.q"],
            &[
                "--tasks: expected LAYOUT=FILE with a layout of choice, hellaswag, arc, piqa, mmlu, samples, found good.q",
            ],
        ),
        (&["eval", tiny, "--tasks", "ark=good.q"], &["with a layout of choice, hellaswag, arc"]),
        (&["eval", tiny, "--tasks", "choice="], &["--tasks: expected LAYOUT=FILE"]),
        (
            &["eval", tiny, "--tasks", "choice=good.q", "arc=./good.q"],
            &["--tasks: expected each file once, found ./good.q twice"],
        ),
        (
            &["eval", tiny, "--tasks", "choice=builtin:sotu"],
            &["--tasks: expected a file, or builtin:sotu-choice, found builtin:sotu"],
        ),
        (&["eval", tiny, "--tasks", "choice=none.q"], &["none.q: cannot open"]),
        (&["eval", tiny, "--tasks", "choice=empty.q"], &["empty.q: line 1: expected at least one question"]),
        (&["eval", tiny, "--tasks", "choice=range.q"], &["range.q: line 2: expected gold: an index from 0"]),
        (&["eval", tiny, "--tasks", "choice=latin.txt"], &["latin.txt: line 1: expected UTF-8 text"]),
        (&["eval", tiny, "--tasks", "piqa=good.q"], &["good.q: line 1: expected {\"goal\": text"]),
        (&["eval", tiny, "--tasks", "choice=good.q", "--tokens", "9"], &["--tokens: has no effect"]),
        (&["eval", tiny, "--tasks", "choice=good.q", "--context", "9"], &["--context: has no effect"]),
        (&["eval", tiny, "--tasks", "choice=good.q", "--limit", "0"], &["a whole number of at least 1"]),
        (&["eval", tiny, "--text", "text.txt", "--limit", "3"], &["--limit: has no effect"]),
        (&["eval", tiny, "--tasks", "choice=good.q", "--against", "./nowhere"], &["no such folder"]),
        (&["eval", "./nowhere", "--text", "text.txt"], &["no such folder"]),
        (&["eval", "builtin:huge-llama", "--text", "text.txt"], &["no such built-in model"]),
        (&["eval", "cut.gguf", "--text", "text.txt"], &["cut.gguf: byte "]),
        (&["eval", "text.txt", "--text", "text.txt"], &["a file that is not a model"]),
        (&["generate", tiny], &["required arguments were not provided: --prompt <TEXT>"]),
        (
            &["generate", tiny, "--prompt", "a", "--temperature=-1"],
            &["temperature: expected a finite number of at least 0"],
        ),
        (&["generate", tiny, "--prompt", "a", "--top-p", "0"], &["top_p: expected a number above 0"]),
        (
            &["generate", tiny, "--prompt", "a", "--max-tokens", "0"],
            &["expected a whole number of at least 1"],
        ),
        (&["generate", tiny, "--prompt", &"wick ".repeat(99)], &["--prompt: expected at most 64 tokens"]),
        (&["inspect", "none"], &["no model weights"]),
        (&["inspect", "none.gguf"], &["none.gguf: cannot open"]),
        (&["inspect", "folder"], &["no model weights"]),
        (&["inspect", "empty.safetensors"], &["empty.safetensors: byte 0: header length: expected 8 bytes"]),
        (&["inspect", "pickle.safetensors"], &["refused: this is "]),
        (&["inspect", "pickles"], &["refused: this is "]),
        (&["inspect", "cut.gguf"], &["cut.gguf: byte "]),
        (&["inspect", "gap.safetensors"], &["gap.safetensors: "]),
        (&["inspect", "name\u{1b}[31m.gguf"], &["name\\u{1b}[31m.gguf: byte 4: "]),
        (&["recipes", "cp", "quikstart"], &["expected one of quickstart, "]),
        (&["recipes", "cp", "quickstart", "good.toml"], &["good.toml: a file is there already"]),
        (&["recipes", "cp", "quickstart", "no/such/place"], &["no/such/place: cannot "]),
    ];
    let before = tree(dir.path());
    for (args, expected) in table {
        let (code, stdout, stderr) = ran(dir.path(), args);
        assert_eq!((code, stdout.as_str()), (2, ""), "{args:?}: {stderr}");
        let lines: Vec<&str> = stderr.lines().collect();
        assert_eq!(lines.len(), expected.len(), "{args:?}: {stderr}");
        for (line, expected) in lines.iter().zip(*expected) {
            assert!(line.starts_with("error: ") && line.contains(expected), "{args:?}: {line}");
            assert!(!line.contains(char::is_control), "{args:?}: {line:?}");
        }
        assert!(tree(dir.path()) == before, "{args:?} left something behind");
    }
}

#[test]
fn weights_that_are_no_numbers_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = dir.path().join("tiny");
    fs::create_dir(&tiny).unwrap();
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        fs::copy(workshop().join("tiny").join(file), tiny.join(file)).unwrap();
    }
    let weights = tiny.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&weights, bytes).unwrap();
    let (code, stdout, stderr) = ran(dir.path(), &["generate", "./tiny", "--prompt", "a"]);
    assert_eq!((code, stdout.as_str(), stderr.lines().count()), (2, "", 1), "{stderr}");
    assert!(stderr.contains("tensor ") && stderr.contains("NaN at element"), "{stderr}");
}

#[test]
fn a_backtrace_does_not_break_the_line() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = crate::support::trimwick(dir.path(), &["eval", "./none", "--text", "x"]);
    let output = command.env("RUST_BACKTRACE", "1").output().unwrap();
    let (code, _, stderr) = crate::support::told(&output);
    assert_eq!((code, stderr.lines().count()), (2, 1), "{stderr}");
}

#[test]
fn another_recipe_does_not_enter_the_folder_of_a_run() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("r.toml"), prune_recipe(2)).unwrap();
    let fast = ["compare.arms=[]", "distill="];
    crate::support::done(dir.path(), &[&["run", "r.toml"], &fast[..]].concat());
    // The lock file names the last process that came by.
    let unlocked =
        || tree(dir.path()).into_iter().filter(|(path, _)| !path.ends_with("lock")).collect::<Vec<_>>();
    let before = unlocked();
    let (code, stdout, stderr) = ran(dir.path(), &[&["run", "r.toml", "seed=7"], &fast[..]].concat());
    assert_eq!(
        (code, stdout.as_str(), stderr.lines().last()),
        (2, "", stderr.lines().find(|l| l.starts_with("error: ")))
    );
    assert!(stderr.contains("runs/r: holds a run of another recipe") && stderr.contains("--out"), "{stderr}");
    assert!(unlocked() == before);
}

#[test]
fn a_pipe_in_the_folder_of_a_run_is_refused_and_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("r.toml"), prune_recipe(2)).unwrap();
    let args = ["run", "r.toml", "compare.arms=[]", "distill="];
    crate::support::done(dir.path(), &args);
    for record in ["fingerprint", "dense.json", "pruned.safetensors"] {
        let record = dir.path().join("runs/r/stages").join(record);
        let held = fs::read(&record).unwrap();
        fs::remove_file(&record).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&record).status().unwrap().success());
        let (code, stdout, stderr) = ran(dir.path(), &args);
        let last = stderr.lines().last().unwrap_or_default();
        assert_eq!((code, stdout.as_str()), (2, ""), "{}: {stderr}", record.display());
        assert!(last.starts_with("error: ") && last.contains("expected a regular file"), "{stderr}");
        fs::remove_file(&record).unwrap();
        fs::write(&record, held).unwrap();
    }
    crate::support::done(dir.path(), &args);
}

/// The library that reads tables panics on these two bytes; what is printed is the error alone.
#[test]
fn a_table_that_makes_its_reader_panic_is_told_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("recipe.toml"), prune_recipe(3)).unwrap();
    let whole = concat!(env!("CARGO_MANIFEST_DIR"), "/../trimwick-train/tests/tables/texts_none.parquet");
    for (at, with) in [(120, 27), (1127, 255)] {
        let mut bytes = fs::read(whole).unwrap();
        bytes[at] = with;
        fs::write(dir.path().join("torn.parquet"), bytes).unwrap();
        let table = r#"data.train={files=["torn.parquet"]}"#;
        let (code, _, stderr) = ran(dir.path(), &["preview", "recipe.toml", table, "data.context=2"]);
        assert_eq!((code, stderr.lines().count()), (2, 1), "{stderr}");
        assert!(stderr.starts_with("error: ") && stderr.contains("torn.parquet: row 1: "), "{stderr}");
    }
}
