//! `trimwick inspect` on files written here.

use std::fs;

use serde_json::json;

use crate::support::{done, gguf, json, ran, safetensors};

const HALF: [f32; 8] = [0.0, 1.0, 0.0, 2.0, 3.0, 0.0, 4.0, 0.0];
const FULL: [f32; 8] = [1.0, 1.0, 5.0, 2.0, 3.0, 0.0, 4.0, -0.0];

#[test]
fn tensors_are_listed_and_weights_read_on_demand_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.safetensors");
    fs::write(&path, safetensors("", &[("a.weight", &[2, 4], &HALF), ("b.weight", &[8], &FULL)])).unwrap();

    let value = json(dir.path(), &["inspect", "w.safetensors", "--json"]);
    assert_eq!(value["format"], "safetensors");
    let a = json!({ "name": "a.weight", "dtype": "F32", "shape": [2, 4], "parameters": 8, "bytes": 32 });
    assert_eq!(value["tensors"][0], a);
    let totals = json!({ "tensors": 2, "parameters": 16, "bytes": 64, "bytes_by_dtype": { "F32": 64 } });
    assert_eq!(value["totals"], totals);

    let value = json(dir.path(), &["inspect", "w.safetensors", "--json", "--zeros"]);
    assert_eq!((&value["tensors"][0]["zeros"], &value["tensors"][1]["zeros"]), (&json!(4), &json!(1)));
    assert_eq!(value["tensors"][0]["holds_2_4"], true);
    assert_eq!(value["tensors"][0]["groups_2_4"], 2);
    assert_eq!(value["tensors"][1]["holds_2_4"], json!(null));
    assert_eq!(value["totals"]["zeros"], 5);

    let text = done(dir.path(), &["inspect", "w.safetensors", "--zeros"]);
    assert!(text.contains("a.weight   F32     [2, 4]      32   50.0 %   holds\n"), "{text}");
    assert!(
        text.ends_with("2 tensors, 16 parameters, 64 B (F32 64 B)\n5 of 16 values are zero (31.2 %)\n"),
        "{text}"
    );
}

#[test]
fn layers_are_listed_in_the_order_of_their_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let names = ["blk.2.b", "blk.10.a", "blk.2.a", "a"];
    let tensors = names.map(|name| (name, &[8][..], &HALF[..]));
    fs::write(dir.path().join("w.safetensors"), safetensors("", &tensors)).unwrap();
    let value = json(dir.path(), &["inspect", "w.safetensors", "--json"]);
    let listed: Vec<_> = value["tensors"].as_array().unwrap().iter().map(|t| t["name"].clone()).collect();
    assert_eq!(listed, ["a", "blk.2.a", "blk.2.b", "blk.10.a"]);
}

#[test]
fn a_matrix_that_is_not_sparse_is_said_to_be_so() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("model.safetensors"), safetensors("", &[("w", &[1, 8], &FULL)])).unwrap();
    let value = json(dir.path(), &["inspect", ".", "--zeros", "--json"]);
    let w = &value["tensors"][0];
    assert_eq!((&w["holds_2_4"], &w["groups_2_4_violating"]), (&json!(false), &json!(2)));
    let text = done(dir.path(), &["inspect", ".", "--zeros"]);
    assert!(text.contains("no: 2 of 2 groups violate it"), "{text}");
}

#[test]
fn a_folder_shows_shards_and_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../trimwick-models/tests/golden/llama3");
    let value = json(dir.path(), &["inspect", golden, "--json"]);
    assert_eq!(value["config"]["model_type"], "llama");
    assert_eq!(value["tokenizer"], json!(null));
    let text = done(dir.path(), &["inspect", golden]);
    assert!(text.contains("config     llama: ") && text.contains("model.embed_tokens.weight"), "{text}");

    fs::write(dir.path().join("one.safetensors"), safetensors("", &[("a", &[8], &HALF)])).unwrap();
    fs::write(dir.path().join("two.safetensors"), safetensors("", &[("b", &[8], &FULL)])).unwrap();
    let index = r#"{"weight_map":{"a":"one.safetensors","b":"two.safetensors"}}"#;
    fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
    let value = json(dir.path(), &["inspect", ".", "--json"]);
    assert_eq!(value["shards"], json!(["one.safetensors", "two.safetensors"]));
    assert_eq!(value["totals"]["tensors"], 2);
}

#[test]
fn a_gguf_file_shows_metadata_and_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    let metadata = [("general.architecture", "mamba"), ("tokenizer.ggml.model", "gpt2")];
    // By the name, and by the first bytes.
    for name in ["m.gguf", "blob"] {
        fs::write(dir.path().join(name), gguf(&metadata, &[("output_norm.weight", &HALF)])).unwrap();
        let value = json(dir.path(), &["inspect", name, "--json", "--zeros"]);
        assert_eq!(value["format"], "GGUF version 3");
        assert_eq!(value["metadata"]["general.architecture"], "mamba");
        assert_eq!(value["config"], json!(null));
        assert_eq!(value["tokenizer"]["model"], "gpt2");
        assert_eq!(value["tensors"][0]["shape"], json!([8]));
        assert_eq!(value["tensors"][0]["zeros"], 4);
        let text = done(dir.path(), &["inspect", name]);
        assert!(text.contains("tokenizer  gpt2, not used: "), "{text}");
        assert!(text.contains("general.architecture  string \"mamba\""), "{text}");
    }
}

#[test]
fn nothing_in_a_file_reaches_the_terminal_as_an_order() {
    let dir = tempfile::tempdir().unwrap();
    let meta = r#""__metadata__":{"k\u001b[2J":"v\u009b31m\u202e"}"#;
    fs::write(dir.path().join("w.safetensors"), safetensors(meta, &[("a", &[8], &HALF)])).unwrap();
    let hostile = [("general.name\u{7f}", "\u{1b}]0;owned\u{7}\u{9b}2J")];
    fs::write(dir.path().join("w.gguf"), gguf(&hostile, &[("a\u{9b}1m", &HALF)])).unwrap();
    for args in [&["w.safetensors"][..], &["w.safetensors", "--json"], &["w.gguf"], &["w.gguf", "--json"]] {
        // Whether the file is taken or refused.
        let (_, stdout, stderr) = ran(dir.path(), &[&["inspect"], args].concat());
        let bad = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
        assert!(!stdout.contains(bad) && !stderr.contains(bad), "{args:?}: {stdout:?} {stderr:?}");
        assert!(!(stdout.is_empty() && stderr.is_empty()));
    }
}
