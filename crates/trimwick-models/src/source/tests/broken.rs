//! Folders that do not hold what they should.

use candle_core::{DType, Device};
use serde_json::json;

use super::*;

#[test]
fn weights_that_do_not_fit_the_configuration_are_refused_by_name() {
    let d = || Draft::of("llama2");
    let s = || Draft::of("smollm2");
    let rows = |n: usize| vec![0.25; n * 32];
    let q = "model.layers.0.self_attn.q_proj.weight";
    let up = "model.layers.1.mlp.up_proj.weight";
    let (up_out, up_in) = (d().tensors[up].1[0], d().tensors[up].1[1]);
    let table = [
        ("tensor missing", d().without(up), up, "found nothing"),
        ("layer missing", d().key("num_hidden_layers", json!(3)), "model.layers.2.", "found nothing"),
        ("extra layer", d().key("num_hidden_layers", json!(1)), "model.layers.1.", "layers 0 to 0"),
        (
            "vocabulary of another size",
            d().key("vocab_size", json!(97)),
            "model.embed_tokens.weight",
            "[97, 32]",
        ),
        (
            "transposed",
            d().tensor(up, Dtype::F32, &[up_in, up_out], vec![0.0; up_in * up_out]),
            up,
            "looks transposed",
        ),
        ("another shape", d().tensor(q, Dtype::F32, &[30, 32], rows(30)), q, "[30, 32]"),
        ("another rank", d().tensor(q, Dtype::F32, &[32, 32, 1], rows(32)), q, "[32, 32, 1]"),
        ("integers", d().tensor(q, Dtype::I8, &[32, 32], rows(32)), q, "I8"),
        (
            "an unexpected bias",
            d().tensor("model.layers.0.self_attn.q_proj.bias", Dtype::F32, &[32], rows(1)),
            "q_proj.bias",
            "no such bias",
        ),
        ("an expected bias missing", d().key("attention_bias", json!(true)), "q_proj.bias", "found nothing"),
        (
            "an unknown tensor",
            d().tensor("model.layers.0.self_attn.q_norm.weight", Dtype::F32, &[8], vec![1.0; 8]),
            "q_norm",
            "no such tensor",
        ),
        ("output missing", d().without("lm_head.weight"), "lm_head.weight", "tie_word_embeddings is false"),
        (
            "tied, with another output",
            s().tensor(
                "lm_head.weight",
                Dtype::F32,
                &[96, s().tensors["model.norm.weight"].1[0]],
                vec![0.0; 96 * s().tensors["model.norm.weight"].1[0]],
            ),
            "lm_head.weight",
            "tie_word_embeddings is true",
        ),
        (
            "tied, with an output of another shape",
            s().tensor("lm_head.weight", Dtype::F32, &[2, 2], vec![0.0; 4]),
            "lm_head.weight",
            "tie_word_embeddings is true",
        ),
    ];
    for (case, draft, tensor, said) in table {
        let message = draft.open().expect_err(case).to_string();
        let named = message.contains(tensor) && message.contains(said) && !message.contains('\n');
        assert!(named, "{case}: {message}");
    }
}

#[test]
fn values_that_are_no_numbers_are_refused_when_they_are_read() {
    let name = "model.layers.1.mlp.down_proj.weight";
    let table = [
        (f32::NAN, DType::F32, "NaN at element 77"),
        (f32::INFINITY, DType::F32, "inf at element 77"),
        (f32::NEG_INFINITY, DType::BF16, "-inf at element 77"),
        (7e4, DType::F16, "70000 at element 77"),
        (-65520.0, DType::F16, "-65520 at element 77"),
        (f32::MAX, DType::BF16, "at element 77"),
    ];
    for (value, dtype, said) in table {
        let files = Draft::of("llama2").value(name, 77, value).open();
        let message = files.unwrap().weights.load(name, dtype, &Device::Cpu).unwrap_err().to_string();
        assert!(message.contains(name) && message.contains(said), "{value} as {dtype:?}: {message}");
    }
    // The largest of each type, the smallest, and zeros are numbers.
    for (value, dtype) in [
        (f32::MAX, DType::F32),
        (65519.0, DType::F16),
        (3.38e38, DType::BF16),
        (1e-45, DType::F16),
        (-0.0, DType::F32),
    ] {
        let files = Draft::of("llama2").value(name, 77, value).open().unwrap();
        let tensor = files.weights.load(name, dtype, &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap();
        let read: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
        assert!(read[77].is_finite(), "{value} as {dtype:?}");
    }
    let files = Draft::of("llama2").open().unwrap();
    let message = files.weights.load("model.norm.bias", DType::F32, &Device::Cpu).unwrap_err().to_string();
    assert!(message.contains("model.norm.bias"), "{message}");
}

#[test]
fn a_folder_without_a_model_says_what_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let message = |path: &Path| open_folder(path).unwrap_err().to_string();

    std::fs::create_dir(at("SmolLM2")).unwrap();
    let missing = message(&at("SmolLM"));
    assert!(missing.contains("no such folder") && missing.contains("\"SmolLM2\""), "{missing}");
    let deep = message(&at("a/b/c"));
    assert!(deep.contains("no such folder") && deep.contains("\"SmolLM2\""), "{deep}");
    let empty = message(&at("SmolLM2"));
    assert!(empty.contains("no model weights") && empty.contains("empty"), "{empty}");

    std::fs::write(at("SmolLM2/pytorch_model.bin"), b"PK\x03\x04").unwrap();
    let pickle = message(&at("SmolLM2"));
    assert!(pickle.contains("pickle") && pickle.contains("safe_serialization"), "{pickle}");
    std::fs::remove_file(at("SmolLM2/pytorch_model.bin")).unwrap();

    std::fs::copy(golden("llama2").join("model.safetensors"), at("SmolLM2/model.safetensors")).unwrap();
    let unconfigured = message(&at("SmolLM2"));
    assert!(
        unconfigured.contains("no config.json") && unconfigured.contains("\"model.safetensors\""),
        "{unconfigured}"
    );

    let gguf = open(&ModelSource::Gguf(at("x.gguf")), &options()).unwrap_err().to_string();
    assert!(gguf.contains("no such file") && gguf.contains("\"SmolLM2\""), "{gguf}");
    let text = ModelSource::Builtin("none".into());
    assert!(open(&text, &options()).unwrap_err().to_string().contains("builtin:none"));
}

#[test]
fn the_text_files_of_a_folder_are_checked() {
    let d = || Draft::of("llama2");
    let vocabulary = |n: u32| {
        let vocab: serde_json::Map<String, Value> = (0..n).map(|i| (format!("t{i}"), json!(i))).collect();
        json!({"model": {"type": "BPE", "vocab": vocab, "merges": []}}).to_string()
    };
    let table = [
        ("generation_config.json", "{", "generation_config.json"),
        ("generation_config.json", "[]", "generation_config.json"),
        ("generation_config.json", r#"{"eos_token_id": 96}"#, "eos_token_id"),
        ("generation_config.json", r#"{"eos_token_id": "x"}"#, "eos_token_id"),
        ("tokenizer.json", "{}", "tokenizer.json"),
        ("tokenizer.json", &vocabulary(97), "vocab_size = 96"),
        ("config.json", "{", "config.json"),
    ];
    for (file, text, named) in table {
        let message = d().file(file, text).open().expect_err(text).to_string();
        assert!(message.contains(named) && message.contains(file) && !message.contains('\n'), "{message}");
    }
    let files = d().file("tokenizer.json", &vocabulary(96)).open().unwrap();
    assert_eq!(files.tokenizer.as_ref().unwrap().eos_ids(), files.config.eos_token_ids);

    let dir = d().write();
    std::fs::write(dir.path().join("config.json"), b"\xff").unwrap();
    assert!(open_folder(dir.path()).unwrap_err().to_string().contains("not UTF-8 at byte 0"));
}

/// A pipe in the place of a file would be waited for without end.
#[cfg(unix)]
#[test]
fn a_pipe_is_refused_and_a_dangling_link_is_an_error() {
    for file in ["config.json", "tokenizer.json"] {
        let dir = Draft::of("llama2").write();
        let path = dir.path().join(file);
        let _ = std::fs::remove_file(&path);
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        if !made.is_ok_and(|status| status.success()) {
            return; // no mkfifo on this system
        }
        let message = open_folder(dir.path()).unwrap_err().to_string();
        assert!(message.contains(file) && message.contains("regular file"), "{message}");
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("nowhere", &path).unwrap();
        let message = open_folder(dir.path()).unwrap_err().to_string();
        assert!(message.contains(file), "{message}");
    }
}

#[cfg(not(feature = "hub"))]
#[test]
fn a_hub_id_without_the_feature_says_which() {
    let message = open(&ModelSource::Hub("org/name".into()), &options()).unwrap_err().to_string();
    assert!(message.contains("--features hub") && message.contains("org/name"), "{message}");
}
