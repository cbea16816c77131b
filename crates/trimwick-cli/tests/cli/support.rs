//! The binary, texts, and a small model that it trained itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

/// The binary, in `folder`, with nothing of the surroundings that changes what it does.
pub fn trimwick(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trimwick"));
    command.args(args).current_dir(folder).env_remove("RAYON_NUM_THREADS").env_remove("RUST_BACKTRACE");
    command.env("HF_HUB_OFFLINE", "1").env("HF_HOME", folder.join("no-hub-here"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs it to the end: exit code, standard output, standard error.
pub fn ran(folder: &Path, args: &[&str]) -> (i32, String, String) {
    let output = trimwick(folder, args).output().unwrap();
    told(&output)
}

/// Runs it to the end; it must succeed.
pub fn done(folder: &Path, args: &[&str]) -> String {
    let (code, stdout, stderr) = ran(folder, args);
    assert_eq!(code, 0, "{args:?}:\n{stdout}{stderr}");
    stdout
}

/// The JSON that a successful command prints.
pub fn json(folder: &Path, args: &[&str]) -> Value {
    let text = done(folder, args);
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{args:?}: {e}\n{text}"))
}

pub fn told(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// Text with some structure: sentences of a few hundred words by a generator that always does the same.
pub fn words(seed: u64, sentences: usize) -> String {
    const NOUNS: [&str; 8] = ["wick", "lamp", "candle", "flame", "winter", "keeper", "harbor", "letter"];
    const VERBS: [&str; 6] = ["burns", "trims", "carries", "remembers", "follows", "lights"];
    const ENDS: [&str; 5] = ["by night", "in 1865", "without a sound", "for the people", "again and again"];
    let mut state = seed;
    let mut draw = |n: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % n
    };
    let mut out = String::new();
    for i in 0..sentences {
        let (a, b) = (NOUNS[draw(8)], NOUNS[draw(8)]);
        out.push_str(&format!("The {a} {} the {b} {}.", VERBS[draw(6)], ENDS[draw(5)]));
        out.push_str(if i % 7 == 6 { "\n\n" } else { " " });
    }
    out
}

/// A folder with `train.txt`, `eval.txt` and `tiny/`, a Llama of two layers with its tokenizer that the binary has
/// trained for a moment from random weights. Made once for all tests.
pub fn workshop() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("trimwick-cli");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("train.txt"), words(1, 1200)).unwrap();
        fs::write(folder.join("eval.txt"), words(2, 200)).unwrap();
        fs::write(folder.join("pretrain.toml"), PRETRAIN).unwrap();
        done(&folder, &["run", "pretrain.toml"]);
        fs::rename(folder.join("runs/pretrain/model"), folder.join("tiny")).unwrap();
        folder
    })
}

const PRETRAIN: &str = r#"
[model.config]
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
max_position_embeddings = 64
initializer_range = 0.2

[model.tokenizer]
vocab_size = 300

[data]
train = { files = ["train.txt"] }
eval = { files = ["eval.txt"] }
context = 32
eval_tokens = 1024

[train]
steps = 20
batch = 4
lr = 1e-2

[export]
dtype = "f32"
"#;

/// A recipe that prunes `tiny` and trains it for `steps` steps, saving every third.
pub fn prune_recipe(steps: u64) -> String {
    let root = workshop().display();
    format!(
        r#"
[model]
source = "{root}/tiny"

[data]
train = {{ files = ["{root}/train.txt"] }}
eval = {{ files = ["{root}/eval.txt"] }}
context = 32
eval_tokens = 1024

[calibration]
windows = 4

[prune]
pattern = "2:4"

[train]
steps = {steps}
batch = 2
lr = 3e-3
save_every = 3

[distill]
weight = 0.5

[compare]
arms = ["dense_tuned", "pruned_magnitude"]
"#
    )
}

/// `summary.json` without the two numbers that differ from run to run.
pub fn summary(run: &Path) -> Value {
    let text = fs::read_to_string(run.join("summary.json")).unwrap();
    let mut value: Value = serde_json::from_str(&text).unwrap();
    let map = value.as_object_mut().unwrap();
    assert!(map.remove("seconds").unwrap().as_f64().unwrap() > 0.0);
    assert!(map.contains_key("peak_rss_bytes"));
    map.remove("peak_rss_bytes");
    value
}

/// Every file below a folder with its bytes.
pub fn tree(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.insert(path.clone(), Vec::new());
            found.extend(tree(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

/// A safetensors file of F32 tensors, written by hand; `header` may hold more entries, such as `__metadata__`.
pub fn safetensors(extra: &str, tensors: &[(&str, &[usize], &[f32])]) -> Vec<u8> {
    let mut header = String::from("{");
    header.push_str(extra);
    let mut data = Vec::new();
    for (i, (name, shape, values)) in tensors.iter().enumerate() {
        let begin = data.len();
        data.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        let comma = if i > 0 || !extra.is_empty() { "," } else { "" };
        let end = data.len();
        header.push_str(&format!(
            "{comma}\"{name}\":{{\"dtype\":\"F32\",\"shape\":{shape:?},\"data_offsets\":[{begin},{end}]}}"
        ));
    }
    header.push('}');
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

/// A GGUF file, version 3: string metadata, and F32 tensors of one dimension.
pub fn gguf(metadata: &[(&str, &str)], tensors: &[(&str, &[f32])]) -> Vec<u8> {
    let string = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        bytes.extend(string(key));
        bytes.extend(8u32.to_le_bytes());
        bytes.extend(string(value));
    }
    let mut data = Vec::new();
    for (name, values) in tensors {
        bytes.extend(string(name));
        bytes.extend(1u32.to_le_bytes());
        bytes.extend((values.len() as u64).to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        bytes.extend((data.len() as u64).to_le_bytes());
        data.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        data.resize(data.len().next_multiple_of(32), 0);
    }
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    bytes.extend(data);
    bytes
}
