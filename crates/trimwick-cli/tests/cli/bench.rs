//! `trimwick bench`.

use crate::support::{done, json, ran};

const SMALL: [&str; 6] = ["--prompt", "6", "--tokens", "3", "--rounds", "2"];

#[test]
fn models_are_measured_beside_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let args = [&["bench", "builtin:tiny-llama", "--f32"][..], &SMALL, &["--kv", "int8"]].concat();
    let value = json(dir.path(), &[&args[..], &["--json"]].concat());
    let [packed, plain] = value["models"].as_array().unwrap().as_slice() else {
        panic!("two models: {value}")
    };
    // 4 000 000 parameters in bf16 and in f32; the head is the embedding, so that all of them are read for each token.
    assert_eq!(
        (packed["model"].as_str(), packed["bytes"].as_u64().map(|b| b / 1_000_000)),
        (Some("builtin:tiny-llama"), Some(8))
    );
    assert_eq!(plain["bytes"].as_u64().map(|b| b / 1_000_000), Some(16));
    for model in [packed, plain] {
        assert_eq!(model["bytes_per_token"], model["bytes"], "{model}");
        for rate in ["prompt_tokens_per_second", "generation_tokens_per_second", "memory_share"] {
            assert!(model[rate].as_f64().is_some_and(|rate| rate > 0.), "{rate}: {model}");
        }
        // Keys and values of 4 blocks, 2 heads of 64, 9 tokens: a byte each and their scales.
        let codes = 2 * 4 * 2 * 64 * 9;
        assert!(
            model["kv_bytes"].as_u64().is_some_and(|bytes| (codes..codes * 5 / 4).contains(&bytes)),
            "{model}"
        );
    }
    let text = done(dir.path(), &args);
    for expected in [
        "builtin:tiny-llama, in f32 ",
        " tokens/s ",
        "prompt of 6 tokens, 3 generated, best of 2 rounds; memory ",
    ] {
        assert!(text.contains(expected), "no {expected:?} in\n{text}");
    }
}

#[test]
fn what_cannot_be_measured_is_said_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    for (args, expected) in [
        (
            &["builtin:tiny-llama", "--prompt", "1020", "--tokens", "5"][..],
            "at most the model's 1024 positions",
        ),
        (&["builtin:tiny-llama", "none.gguf"], "none.gguf"),
    ] {
        let (code, stdout, stderr) = ran(dir.path(), &[&["bench"], args].concat());
        assert_eq!((code, stdout.as_str(), stderr.lines().count()), (2, "", 1), "{args:?}: {stderr}");
        assert!(stderr.starts_with("error: ") && stderr.contains(expected), "{args:?}: {stderr}");
    }
}
