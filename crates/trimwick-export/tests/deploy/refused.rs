//! What a target cannot hold is refused with the layer and the nearest that can, and leaves nothing behind.

use std::sync::Arc;

use candle_core::Tensor;
use trimwick_export::{Dense, DeployOptions, Error, Planned, Target, check_fit};
use trimwick_nn::Branch;
use trimwick_quant::{Scheme, attach};

use crate::support::{LAYERS, export, foreseen, name, options, trained};

#[test]
fn grids_without_a_place_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (scheme, target, dense, what) in [
        ("fp8-weight", Target::Gguf, Dense::F32, "GGUF has no block for this grid; q8_0"),
        ("mxfp6-e2m3-weight", Target::Gguf, Dense::F32, "no block for this grid"),
        ("weight int8 channel f32", Target::Gguf, Dense::F32, "half precision holds exactly"),
        ("weight int4 g16 bf16", Target::Gguf, Dense::F32, "groups of 16"),
        ("mxfp6-e3m2-weight", Target::CompressedTensors, Dense::F32, "no layout for this grid"),
        ("fp8-e5m2", Target::CompressedTensors, Dense::F32, "no layout for this grid"),
        ("q4_0", Target::CompressedTensors, Dense::BF16, "is not one of bfloat16"),
        ("int8", Target::ModelOpt, Dense::BF16, "no algorithm for these weights and inputs"),
        ("nvfp4-weight", Target::ModelOpt, Dense::BF16, "no algorithm"),
        ("w4a8-g32", Target::ModelOpt, Dense::BF16, "W4A8_AWQ takes static e4m3 inputs"),
        ("weight uint4 g32 bf16", Target::Sparse24, Dense::BF16, "zero points"),
        ("int4-g32", Target::Hf, Dense::BF16, "not all numbers of bfloat16; set dense"),
    ] {
        let model = trained(Some(scheme), false);
        let out = dir.path().join(name(target));
        let error = export(&model, &options(target, dense), &out).unwrap_err();
        let message = error.to_string();
        // The same is known beforehand, but of plain floats, whose values decide.
        if target != Target::Hf {
            let early = foreseen(&model, scheme, target, dense).unwrap_err();
            assert!(matches!(early, Error::Refused { .. }), "{scheme} {target}: {early}");
            assert!(early.to_string().contains("model.layers.0.self_attn.q_proj"), "{early}");
        }
        assert!(message.contains(what), "{scheme} {target}: {message}");
        assert!(matches!(error, Error::Refused { .. }), "{message}");
        assert!(message.contains("model.layers.0.self_attn.q_proj"), "{message}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "{scheme} {target}");
    }
}

#[test]
fn what_layers_must_agree_on_is_known_beforehand() {
    let model = trained(None, false);
    let mut shapes = model.config.tensors();
    shapes.retain(|(name, _)| name.contains("_proj"));
    let names: Vec<_> =
        shapes.iter().map(|(name, shape)| (name.trim_end_matches(".weight"), shape)).collect();
    let fit = |target, other: &str, scheme: Option<&str>| {
        let layers: Vec<Planned<'_>> = names
            .iter()
            .map(|(path, shape)| {
                let text = if path.contains(other) { scheme } else { Some("int4-g32") };
                let scheme = text.map(|text| text.parse().unwrap());
                Planned { path, shape, linear: true, scheme }
            })
            .collect();
        check_fit(target, Dense::BF16, &layers).map_err(|e| e.to_string()).err().unwrap_or_default()
    };
    let (ct, modelopt) = (Target::CompressedTensors, Target::ModelOpt);
    assert!(fit(ct, ".v_proj", Some("int8-weight")).contains("runtimes fuse it with"));
    assert!(fit(ct, ".v_proj", None).contains("runtimes fuse it with"));
    assert_eq!(fit(ct, "down_proj", Some("int8-weight")), "");
    assert!(fit(modelopt, "down_proj", Some("int4-g64")).contains("another algorithm"));
    assert!(fit(modelopt, "_proj", None).contains("no layer is quantized"));
    assert_eq!(fit(modelopt, "down_proj", None), "");
}

#[test]
fn fused_layers_and_algorithms_must_agree() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("model");
    let refused = |others: &str, scheme: &str, target| {
        let model = trained(Some("int4-g32"), false);
        attach(&model.store.layers().select(others).unwrap(), &scheme.parse::<Scheme>().unwrap()).unwrap();
        let options = DeployOptions { replace: true, ..options(target, Dense::F32) };
        export(&model, &options, &out).map(drop)
    };
    let ct = Target::CompressedTensors;
    let message = refused("*.v_proj", "int8-weight", ct).unwrap_err().to_string();
    assert!(message.contains("runtimes fuse it with model.layers.0.self_attn."), "{message}");
    refused("*.down_proj", "int8-weight", ct).unwrap();
    let config = std::fs::read_to_string(out.join("config.json")).unwrap();
    assert!(config.contains("\"mixed-precision\"") && config.contains("\"group_1\""), "{config}");
    let message = refused("*.down_proj", "int4-g64", Target::ModelOpt).unwrap_err().to_string();
    assert!(message.contains("another algorithm"), "{message}");
    // Each its own scale of the tensor.
    let model = trained(None, false);
    attach(&model.store.layers().select(LAYERS).unwrap(), &Scheme::preset("nvfp4-weight").unwrap()).unwrap();
    let message = export(&model, &options(ct, Dense::F32), &dir.path().join("b")).unwrap_err().to_string();
    assert!(message.contains("share_fused"), "{message}");
    let model = trained(Some("int4-g32"), false);
    attach(&model.store.layers().select("model.embed_tokens").unwrap(), &"q8_0".parse().unwrap()).unwrap();
    let message = export(&model, &options(ct, Dense::F32), &dir.path().join("b")).unwrap_err().to_string();
    assert!(message.contains("embeddings"), "{message}");
    export(&model, &options(Target::Gguf, Dense::F32), &dir.path().join("b.gguf")).unwrap();
}

#[test]
fn outputs_are_not_overwritten_unless_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let model = trained(None, false);
    for target in [Target::Hf, Target::Gguf] {
        let out = dir.path().join(name(target));
        export(&model, &options(target, Dense::BF16), &out).unwrap();
        let message = export(&model, &options(target, Dense::BF16), &out).unwrap_err().to_string();
        assert!(message.contains("is there already"), "{message}");
    }
    let message = export(&model, &options(Target::ModelOpt, Dense::BF16), &dir.path().join("c")).unwrap_err();
    assert!(message.to_string().contains("no layer is quantized"), "{message}");
    let mut model = model;
    model.tokenizer = None;
    let message =
        export(&model, &options(Target::Gguf, Dense::BF16), &dir.path().join("d.gguf")).unwrap_err();
    assert!(message.to_string().contains("tokenizer"), "{message}");
    assert!("onnx".parse::<Target>().unwrap_err().to_string().contains("compressed-tensors, modelopt, gguf"));
}

/// What a layer adds to its weight has no place in any file here.
struct Beside;

impl Branch for Beside {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        x.zeros_like()
    }

    fn name(&self) -> &'static str {
        "beside"
    }
}

#[test]
fn a_layer_with_a_branch_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for target in [Target::Gguf, Target::CompressedTensors, Target::Hf, Target::Sparse24] {
        let model = trained(Some("int4-g32"), false);
        model
            .store
            .layers()
            .get("model.layers.0.self_attn.q_proj")
            .unwrap()
            .set_branch(Some(Arc::new(Beside)));
        let out = dir.path().join(name(target));
        let message = export(&model, &options(target, Dense::F32), &out).unwrap_err().to_string();
        let expected = "tensor \"model.layers.0.self_attn.q_proj.weight\" of the model: expected a layer that is its weight alone";
        assert!(message.contains(expected), "{target}: {message}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "{target}");
    }
}
