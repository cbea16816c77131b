//! Export, import, and the same logits to the last bit.

use trimwick_export::{Dense, Target, verify};

use crate::support::{
    LAYERS_OF_TRAINED, assert_packed, builtin, export, foreseen, logits, name, open, options, packed,
    packed_builtin, packed_in_blocks, trained,
};

const CT: Target = Target::CompressedTensors;
const MO: Target = Target::ModelOpt;
const GGUF: Target = Target::Gguf;
const S24: Target = Target::Sparse24;

/// Scheme, and the targets that hold it.
const HELD: &[(&str, &[Target])] = &[
    ("int8-weight", &[CT, S24]),
    ("int4-g32", &[CT, MO, GGUF, S24]),
    ("int4-g64", &[CT, GGUF]),
    ("int3-g32", &[CT, GGUF, S24]),
    ("ternary", &[CT, GGUF, S24]),
    ("weight int5 g32 f16", &[CT, GGUF, S24]),
    ("weight uint4 g32 f16", &[CT]),
    ("q8_0", &[CT, GGUF, S24]),
    ("q4_0", &[CT, MO, GGUF]),
    ("fp8-weight", &[CT, S24]),
    ("mxfp8-weight", &[CT, S24]),
    ("mxfp4-weight", &[CT, GGUF, S24]),
    ("nvfp4-weight", &[CT, GGUF, S24]),
    ("mxint8-weight", &[CT, GGUF, S24]),
    ("fp8-e5m2", &[S24]),
    ("mxfp6-e2m3-weight", &[S24]),
    ("mxfp6-e3m2-weight", &[S24]),
];

#[test]
fn every_target_computes_what_was_trained() {
    let dir = tempfile::tempdir().unwrap();
    for (i, (scheme, targets)) in HELD.iter().enumerate() {
        // Every other model is pruned, and those with zero points are not: 0 is not exact everywhere there.
        let pruned = i % 2 == 0 && !scheme.contains("uint");
        let model = trained(Some(scheme), pruned);
        // What is compared are weights: inputs are in full on both sides.
        model.store.layers().iter().for_each(|layer| layer.set_activation(None));
        let expected = logits(&model);
        for &target in *targets {
            foreseen(&model, scheme, target, Dense::F32)
                .unwrap_or_else(|e| panic!("{scheme} as {target}: {e}"));
            let out = dir.path().join(name(target));
            let deployed = export(&model, &options(target, Dense::F32), &out)
                .unwrap_or_else(|e| panic!("{scheme} as {target}: {e}"));
            let found = &deployed.verified;
            assert_eq!(found.compared, found.parameters, "{scheme} {target}");
            assert_eq!(
                (found.packed, found.sparse),
                (7 * LAYERS_OF_TRAINED, if pruned { 7 * LAYERS_OF_TRAINED } else { 0 }),
                "{scheme} {target}"
            );
            let read = open(&out);
            assert_eq!(logits(&read), expected, "{scheme} as {target}");
            let case = format!("{scheme} as {target}, packed");
            let held = packed(&out);
            assert_packed(&case, &held, &expected, 2e-5);
            // What no packed form holds: E5M2, FP6, and zeros in FP8.
            let floats =
                if scheme.contains("e5m2") || scheme.contains("fp6") { 7 * LAYERS_OF_TRAINED } else { 0 };
            assert_eq!(held.floats(), floats, "{case}");
            let sparse = pruned && floats == 0 && !scheme.contains("fp8");
            assert_eq!(held.sparse_layers(), if sparse { 7 * LAYERS_OF_TRAINED } else { 0 }, "{case}");
            assert_packed(&format!("{case}, in blocks"), &packed_in_blocks(&out), &expected, 0.03);
            assert_eq!(verify(&out, None).unwrap().parameters, found.parameters);
            if out.is_dir() {
                std::fs::remove_dir_all(&out).unwrap();
            } else {
                std::fs::remove_file(&out).unwrap();
            }
        }
    }
}

#[test]
fn inputs_keys_and_values_leave_their_scales() {
    let dir = tempfile::tempdir().unwrap();
    for (scheme, target, parts) in [
        ("fp8", CT, &["input_scale", "weight_scale"][..]),
        ("fp8", MO, &["input_scale", "weight_scale"]),
        ("nvfp4", CT, &["input_global_scale", "weight_global_scale", "weight_packed"]),
        ("nvfp4", MO, &["input_scale", "weight_scale_2", "weight_scale"]),
        ("int8-static", MO, &["input_scale", "weight_scale"]),
        ("int8-static", CT, &["input_scale", "weight_scale"]),
        ("int8", CT, &["weight_scale"]),
        ("weight int4 g32 bf16, input e4m3 tensor f32 static", MO, &["pre_quant_scale", "weight_scale_2"]),
    ] {
        let model = trained(None, false);
        let kv: trimwick_quant::QuantSpec = "e4m3 tensor f32".parse().unwrap();
        trimwick_quant::kv::attach(&model.store.kv_slots(), &kv).unwrap();
        let layers = model.store.layers().select(crate::support::LAYERS).unwrap();
        trimwick_quant::attach(&layers, &scheme.parse().unwrap()).unwrap();
        trimwick_quant::share_fused(&layers).unwrap();
        let run = || {
            use trimwick_nn::CausalLm;
            let ids = candle_core::Tensor::new(&[[5u32, 9, 77, 1000, 3]], &candle_core::Device::Cpu)?;
            model.llama.forward(&ids).map(drop)
        };
        trimwick_quant::calibrate_all(&layers, &model.store.kv_slots(), run).unwrap();
        let out = dir.path().join("model");
        let deployed = export(&model, &options(target, Dense::F32), &out).unwrap();
        assert!(deployed.notes.is_empty(), "{:?}", deployed.notes);
        let folder = trimwick_formats::folder::ModelFolder::open(&out).unwrap();
        for part in parts {
            let name = format!("model.layers.1.mlp.down_proj.{part}");
            assert!(folder.info(&name).is_some(), "{scheme} {target}: no {name}");
        }
        let kv = if target == MO { "k_proj.k_scale" } else { "k_scale" };
        assert!(folder.info(&format!("model.layers.0.self_attn.{kv}")).is_some(), "{scheme} {target}");
        let config = std::fs::read_to_string(out.join("config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        let q = &config["quantization_config"];
        assert_eq!(q["quant_method"], target.name());
        let kv = &q["kv_cache_scheme"];
        assert_eq!(
            (&kv["num_bits"], &kv["type"], &kv["strategy"]),
            (&8.into(), &"float".into(), &"tensor".into())
        );
        assert_eq!(q["ignore"], serde_json::json!(["lm_head"]));
        assert_eq!(q["config_groups"]["group_0"]["targets"], serde_json::json!(["Linear"]));
        std::fs::remove_dir_all(&out).unwrap();
    }
}

#[test]
fn plain_floats_keep_their_zeros_and_shards_their_tensors() {
    let dir = tempfile::tempdir().unwrap();
    let model = builtin();
    assert_packed("built-in", &packed_builtin(), &logits(&model), 2e-5);
    let layers = model.store.layers().select(crate::support::LAYERS).unwrap();
    trimwick_sparse::prune(&layers, trimwick_sparse::Pattern::TWO_FOUR, &trimwick_sparse::Magnitude).unwrap();
    let expected = logits(&model);
    for (target, dense) in [
        (Target::Hf, Dense::F32),
        (Target::Hf, Dense::BF16),
        (S24, Dense::BF16),
        (S24, Dense::F16),
        (GGUF, Dense::F16),
        (GGUF, Dense::F32),
    ] {
        let out = dir.path().join(name(target));
        let options = trimwick_export::DeployOptions {
            replace: true,
            shard_bytes: if dense == Dense::BF16 { 1_000_000 } else { u64::MAX },
            ..options(target, dense)
        };
        let deployed = export(&model, &options, &out).unwrap();
        assert_eq!(deployed.verified.sparse, 28, "{target}");
        // The built-in model is of bf16.
        if dense != Dense::F16 {
            assert_eq!(logits(&open(&out)), expected, "{target}");
        }
        let several = out.join("model.safetensors.index.json").exists();
        assert_eq!(several, out.is_dir() && dense == Dense::BF16, "{target}");
        let card = if out.is_dir() { out.join("README.md") } else { out.with_extension("md") };
        let card = std::fs::read_to_string(card).unwrap();
        assert!(card.contains("Perplexity 7.0") && card.contains("## Serving"), "{card}");
        // 2:4 of 16 bits takes 9/16 of the dense weights.
        if target == S24 && dense == Dense::BF16 {
            let plain = 2. * deployed.verified.parameters as f64;
            let pruned: f64 = 4. * (2. * 256. * 256. + 2. * 128. * 256. + 3. * 704. * 256.);
            let expected = plain - 2. * pruned * 7. / 16.;
            assert!((deployed.verified.bytes as f64 - expected).abs() < 1000., "{}", deployed.verified.bytes);
        }
    }
}
