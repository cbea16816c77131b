//! Other people's readers, where they are installed. `TRIMWICK_PYTHON` names the interpreter.

use std::path::Path;
use std::process::Command;

use trimwick_export::{Dense, Target};
use trimwick_formats::floats::f32_to_le_bytes;
use trimwick_formats::sha256_bytes;

use crate::support::{export, open, options, trained};

fn python(check: &str, package: &str) -> Option<String> {
    let python = std::env::var("TRIMWICK_PYTHON").unwrap_or_else(|_| "python3".into());
    let has = Command::new(&python).args(["-c", check]).output();
    if has.is_ok_and(|out| out.status.success()) {
        return Some(python);
    }
    println!("SKIP: {python} has no {package} (pip install {package}, or set TRIMWICK_PYTHON)");
    None
}

/// A line for each packed weight: its name, and the digest of its values.
fn digests(path: &Path) -> Vec<String> {
    let model = open(path);
    let mut lines = Vec::new();
    for (name, _) in model.config.tensors() {
        if !name.contains("_proj") {
            continue;
        }
        let values = model.store.get(&name).unwrap().value().unwrap();
        let values: Vec<f32> = values.flatten_all().unwrap().to_vec1().unwrap();
        lines.push(format!("{name} {}", sha256_bytes(&f32_to_le_bytes(&values))));
    }
    lines.sort();
    lines
}

#[test]
fn compressed_tensors_decompresses_to_the_same_bits() {
    let check = "import compressed_tensors.compressors, safetensors, torch";
    let Some(python) = python(check, "compressed-tensors==0.20.0") else { return };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/clients/read_compressed_tensors.py");
    let dir = tempfile::tempdir().unwrap();
    let mut paths = Vec::new();
    for scheme in
        ["int8-weight", "int4-g32", "weight uint4 g32 f16", "fp8-weight", "nvfp4-weight", "mxfp4-weight"]
    {
        let out = dir.path().join(format!("{}", paths.len()));
        export(&trained(Some(scheme), false), &options(Target::CompressedTensors, Dense::F32), &out).unwrap();
        paths.push(out);
    }
    let out = Command::new(&python).arg(script).args(&paths).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8_lossy(&out.stdout);
    let theirs: Vec<&str> = text.lines().collect();
    let ours: Vec<String> = paths.iter().flat_map(|path| digests(path)).collect();
    assert_eq!(theirs, ours);
}

#[test]
fn the_gguf_package_reads_names_keys_and_values() {
    let Some(python) = python("import gguf.quants; gguf.quants.NVFP4", "gguf==0.19.0") else { return };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/clients/read_gguf.py");
    let dir = tempfile::tempdir().unwrap();
    for scheme in ["q8_0", "q4_0", "mxfp4-weight"] {
        let path = dir.path().join("model.gguf");
        let model = trained(Some(scheme), false);
        let options = trimwick_export::DeployOptions { replace: true, ..options(Target::Gguf, Dense::F32) };
        export(&model, &options, &path).unwrap();
        let out = Command::new(&python).arg(script).arg(&path).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let text = String::from_utf8_lossy(&out.stdout);
        let file = trimwick_formats::gguf::GgufFile::open(&path).unwrap();
        let mut ours = format!("llama {} tokens\n", model.config.vocab_size);
        for name in file.tensors().keys() {
            let digest = sha256_bytes(&f32_to_le_bytes(&file.read_f32(name).unwrap()));
            ours += &format!("{name} {digest}\n");
        }
        assert_eq!(text, ours, "{scheme}");
    }
}

/// The words of a packed weight are what the operator takes, byte for byte.
#[test]
fn onnx_runtime_multiplies_by_the_packed_words() {
    let check = "import numpy, onnx, onnxruntime, safetensors.numpy";
    let Some(python) = python(check, "onnxruntime, onnx and safetensors") else { return };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/clients/matmul_nbits.py");
    let dir = tempfile::tempdir().unwrap();
    for (scheme, bits) in [("int4-g32", "4"), ("int4-g64", "4"), ("weight int8 g32 f32", "8")] {
        let out = dir.path().join(scheme);
        export(&trained(Some(scheme), false), &options(Target::CompressedTensors, Dense::F32), &out).unwrap();
        let layer = "model.layers.1.mlp.down_proj";
        let weight = open(&out).store.get(&format!("{layer}.weight")).unwrap().value().unwrap();
        let (rows, columns) = weight.dims2().unwrap();
        let weight: Vec<f32> = weight.flatten_all().unwrap().to_vec1().unwrap();
        let inputs: Vec<f32> =
            (0..3 * columns).map(|i| ((i * 37 + i * i * 11) % 101) as f32 / 50.0 - 1.0).collect();
        let [x, y] = ["x.f32", "y.f32"].map(|name| dir.path().join(name));
        std::fs::write(&x, f32_to_le_bytes(&inputs)).unwrap();
        let ran = Command::new(&python).arg(script).arg(&out).args([layer, bits]).args([&x, &y]).output();
        let ran = ran.unwrap();
        assert!(ran.status.success(), "{scheme}: {}", String::from_utf8_lossy(&ran.stderr));
        let theirs = std::fs::read(&y).unwrap();
        assert_eq!(theirs.len(), 3 * rows * 4, "{scheme}");
        for (i, theirs) in theirs.chunks_exact(4).enumerate() {
            let theirs = f64::from(f32::from_le_bytes(theirs.try_into().unwrap()));
            let (x, w) = (&inputs[i / rows * columns..][..columns], &weight[i % rows * columns..][..columns]);
            let ours: f64 = x.iter().zip(w).map(|(x, w)| f64::from(x * w)).sum();
            let size: f64 = x.iter().zip(w).map(|(x, w)| f64::from((x * w).abs())).sum();
            assert!((ours - theirs).abs() <= 1e-5 * size, "{scheme}: output {i}: {theirs}, expected {ours}");
        }
    }
}
