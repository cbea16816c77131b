//! `export.targets` and `trimwick verify`.

use std::fs;

use crate::support::{done, json, prune_recipe, ran, summary};

#[test]
fn a_run_leaves_exports_that_verify_until_a_byte_changes() {
    let dir = tempfile::tempdir().unwrap();
    let recipe =
        prune_recipe(2).replace("\n[compare]", "\n[export]\ntargets = [\"gguf\", \"sparse24\"]\n\n[compare]");
    fs::write(dir.path().join("r.toml"), recipe).unwrap();
    done(dir.path(), &["run", "r.toml", "--out", "run"]);
    for export in ["run/exports/model.gguf", "run/exports/sparse24", "run/model"] {
        let value = json(dir.path(), &["verify", export, "--against", "run", "--json"]);
        assert_eq!(value["compared"], value["parameters"], "{export}: {value}");
        assert_eq!(value["sparse_2_4"], 14, "{export}: {value}");
        let measured = &value["measured"];
        assert_eq!(measured["compared"], true, "{export}: {value}");
        let loss = |key: &str| measured[key].as_f64().unwrap();
        assert!((loss("loss") - loss("run_loss")).abs() < 1e-4, "{export}: {value}");
        let text = done(dir.path(), &["verify", export]);
        assert!(text.contains("compared with nothing") && !text.contains("perplexity"), "{text}");
        // The files are models like any other.
        json(dir.path(), &["eval", export, "--text", "r.toml", "--json"]);
    }
    let card = fs::read_to_string(dir.path().join("run/exports/sparse24/README.md")).unwrap();
    assert!(card.contains("| recovered |") && card.contains("pattern = \"2:4\""), "{card}");

    let path = dir.path().join("run/exports/model.gguf");
    let mut bytes = fs::read(&path).unwrap();
    // The sign of a value of the last norm: what the run's folder of bf16 cannot tell is not looked at.
    let last = bytes.len() - 37;
    bytes[last] ^= 0x80;
    fs::write(&path, bytes).unwrap();
    let (code, _, stderr) = ran(dir.path(), &["verify", "run/exports/model.gguf", "--against", "run"]);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.starts_with("error: ") && stderr.contains(", element "), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    let (code, _, stderr) = ran(dir.path(), &["verify", "nothing.gguf"]);
    assert_eq!((code, stderr.lines().count()), (2, 1), "{stderr}");
}

#[test]
fn a_finished_run_takes_another_format_without_training_again() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(
        dir.path().join("r.toml"),
        prune_recipe(3).replace("\n[compare]\narms = [\"dense_tuned\", \"pruned_magnitude\"]", ""),
    )
    .unwrap();
    let run = |targets: &str| {
        ran(dir.path(), &["run", "r.toml", "--out", "run", &format!("export.targets={targets}")])
    };
    let at = |name: &str| dir.path().join("run").join(name);
    let (code, _, stderr) = run("[]");
    assert_eq!(code, 0, "{stderr}");
    let trained = ["metrics.jsonl", "model/model.safetensors", "stages/fingerprint"]
        .map(|name| fs::read(at(name)).unwrap());
    let (code, stdout, stderr) = run("[\"gguf\"]");
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("gguf: ") && !stderr.contains("recovered: training: 1/"), "{stdout}{stderr}");
    let again = ["metrics.jsonl", "model/model.safetensors", "stages/fingerprint"]
        .map(|name| fs::read(at(name)).unwrap());
    assert!(trained == again);
    assert_eq!(summary(&at("")), {
        let mut value = summary(&at(""));
        value["exports"][0]["target"] = "gguf".into();
        value
    });
    assert!(fs::read_to_string(at("recipe.toml")).unwrap().contains("targets = [\"gguf\"]"));
    // In another type it is measured anew.
    let export = || summary(&at(""))["exports"][0].clone();
    let in_bf16 = export();
    let args = ["run", "r.toml", "--out", "run", "export.targets=[\"gguf\"]", "export.dense=f16"];
    done(dir.path(), &args);
    let in_f16 = export();
    assert_eq!((&in_bf16["dense"], &in_f16["dense"]), (&"bf16".into(), &"f16".into()));
    assert_eq!(in_bf16["bytes"], in_f16["bytes"]);
    assert_ne!(in_bf16["loss"], in_f16["loss"]);
    // What changes the numbers is another run still.
    let (code, _, stderr) = ran(dir.path(), &["run", "r.toml", "--out", "run", "train.lr=1e-2"]);
    assert!(code == 2 && stderr.contains("train.lr differ"), "{stderr}");
}

#[test]
fn targets_are_checked_with_the_recipe() {
    let dir = tempfile::tempdir().unwrap();
    for (section, what) in [
        ("targets = [\"modelopt\"]", "a section [quantize] for modelopt"),
        ("targets = [\"gguf\", \"gguf\"]", "in the list already"),
        ("targets = \"onnx\"", "gguf"),
        ("dense = \"f16\"", "there are no targets"),
        (
            "targets = [\"gguf\"]\n[quantize]\nscheme = \"fp8-weight\"",
            "export.targets.0: expected schemes that gguf holds exactly, found model.layers.0.self_attn.q_proj (",
        ),
        (
            "targets = [\"compressed-tensors\", \"gguf\"]\n[quantize]\nscheme = \"int8-weight\"",
            "export.targets.1: expected schemes that gguf holds exactly",
        ),
        (
            "targets = [\"modelopt\"]\n[quantize.budget]\nbits = 5.0\ncandidates = [\"int4-g32\", \"weight int4 g16 bf16\"]",
            "another algorithm than",
        ),
    ] {
        let recipe = prune_recipe(2).replace("\n[compare]", &format!("\n[export]\n{section}\n\n[compare]"));
        fs::write(dir.path().join("r.toml"), recipe).unwrap();
        let (code, _, stderr) = ran(dir.path(), &["check", "r.toml"]);
        assert_eq!(code, 2, "{section}: {stderr}");
        assert!(stderr.contains(what), "{section}: {stderr}");
    }
}
