//! `verify` finds what was changed.

use std::fs;
use std::path::Path;

use trimwick_export::{Dense, Error, Target, verify};

use crate::support::{export, name, options, trained};

#[test]
fn exports_of_one_model_verify_against_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let model = trained(Some("int4-g32"), true);
    let path = |target| dir.path().join(target).join("model");
    let paths: Vec<_> = Target::ALL
        .into_iter()
        .map(|target| {
            let out = dir.path().join(target.name()).join(name(target));
            fs::create_dir(out.parent().unwrap()).unwrap();
            export(&model, &options(target, Dense::F32), &out).unwrap();
            out
        })
        .collect();
    for out in &paths {
        // The one of plain floats, and one of codes.
        for other in [&paths[0], &paths[3]] {
            let found = verify(out, Some(other)).unwrap();
            assert_eq!((found.compared, found.sparse), (found.parameters, 14));
        }
        // A run has its model in a folder of that name.
        verify(out, Some(&dir.path().join("hf"))).unwrap();
    }
    // Norms are in full in GGUF and of 16 bits in the folder: equal as far as that goes.
    let half = dir.path().join("half.gguf");
    export(&model, &options(Target::Gguf, Dense::BF16), &half).unwrap();
    let folder = dir.path().join("half");
    export(&model, &options(Target::CompressedTensors, Dense::BF16), &folder).unwrap();
    verify(&half, Some(&folder)).unwrap();
    verify(&folder, Some(&half)).unwrap();
    let dense = trained(None, true);
    let plain = dir.path().join("dense");
    export(&dense, &options(Target::Hf, Dense::F32), &plain).unwrap();
    let error = verify(&path("hf"), Some(&plain)).unwrap_err();
    assert!(matches!(error, Error::Mismatch { .. }), "{error}");
    assert!(error.to_string().contains("model.layers.0.self_attn.q_proj.weight, element"), "{error}");
}

#[test]
fn a_changed_byte_or_key_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let model = trained(Some("q8_0"), false);
    let reference = dir.path().join("reference");
    export(&model, &options(Target::Hf, Dense::F32), &reference).unwrap();
    let gguf = dir.path().join("model.gguf");
    export(&model, &options(Target::Gguf, Dense::F32), &gguf).unwrap();
    let bytes = fs::read(&gguf).unwrap();
    let info = trimwick_formats::gguf::GgufFile::open(&gguf).unwrap();
    let info = info.tensor("blk.1.ffn_up.weight").unwrap().clone();
    let flip = |at: usize, path: &Path| {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        fs::write(path, bytes).unwrap();
        verify(path, Some(&reference))
    };
    let changed = dir.path().join("changed.gguf");
    for at in [0, 1, 2, 33, info.bytes as usize - 1] {
        let error = flip(info.offset as usize + at, &changed).unwrap_err();
        assert!(error.to_string().contains("model.layers.1.mlp.up_proj.weight, element"), "{at}: {error}");
    }
    let folder = dir.path().join("folder");
    export(&model, &options(Target::CompressedTensors, Dense::F32), &folder).unwrap();
    let config = fs::read_to_string(folder.join("config.json")).unwrap();
    for (from, to, what) in [
        ("\"rms_norm_eps\": 0.00001", "\"rms_norm_eps\": 0.00002", "rms_norm_eps"),
        ("\"rms_norm_eps\": 1e-5", "\"rms_norm_eps\": 2e-5", "rms_norm_eps"),
        ("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1", "layers 0 to 0"),
        ("\"quant_method\": \"compressed-tensors\"", "\"quant_method\": \"other\"", "other"),
    ] {
        if config.contains(from) {
            fs::write(folder.join("config.json"), config.replace(from, to)).unwrap();
            let message = verify(&folder, Some(&reference)).unwrap_err().to_string();
            assert!(message.contains(what), "{message}");
        }
    }
}
