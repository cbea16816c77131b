//! llama.cpp opens our files: the same ids, and next to the same probabilities. `tests/clients/install.sh` brings it.

use std::path::{Path, PathBuf};
use std::process::Command;

use candle_core::{Device, Tensor};
use trimwick_export::{Dense, Target};
use trimwick_nn::CausalLm;

use crate::support::{Model, builtin, export, options, quantize};

const TEXT: &str =
    "The state of the Union is strong: 1 234 567 jobs,  and\n\n\tdon't we know it? Où? 数字 🙂";
const SPOKEN: &str = "My fellow citizens, we have the power to make this country stronger, and the Congress of the \
    United States must now act upon the budget, the defense of the Nation, and the welfare of all our people.";

/// Where the clients are: `TRIMWICK_CLIENTS`, or where the script puts them.
fn clients() -> PathBuf {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/clients");
    std::env::var_os("TRIMWICK_CLIENTS").map_or(default, PathBuf::from)
}

/// What llama.cpp says: the ids of [`TEXT`], and the logits after each of `ids`.
fn asked(clients: &Path, model: &Path, ids: &[u32], scratch: &Path) -> (Vec<u32>, Vec<f32>) {
    let [text, wanted, out] = ["text.txt", "ids.json", "logits.f32"].map(|name| scratch.join(name));
    std::fs::write(&text, TEXT).unwrap();
    std::fs::write(&wanted, serde_json::to_string(ids).unwrap()).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/clients/llama_cpp.mjs");
    let command = Command::new("node").arg(script).arg(clients).args([model, &text, &wanted, &out]).output();
    let ran = command.unwrap();
    assert!(ran.status.success(), "{}: {}", model.display(), String::from_utf8_lossy(&ran.stderr));
    let tokens = serde_json::from_slice(&ran.stdout).unwrap();
    let bytes = std::fs::read(&out).unwrap();
    (tokens, bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect())
}

fn log_softmax(row: &[f32]) -> Vec<f64> {
    let max = row.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
    let sum: f64 = row.iter().map(|&v| f64::from(v - max).exp()).sum();
    row.iter().map(|&v| f64::from(v - max) - sum.ln()).collect()
}

/// The mean divergence of theirs from ours, and how many rows have another largest logit though ours leads by `.1`.
fn compare(ours: &[f32], theirs: &[f32], vocab: usize) -> (f64, usize) {
    assert_eq!(ours.len(), theirs.len());
    let (mut divergence, mut other) = (0.0, 0);
    for (p, q) in ours.chunks_exact(vocab).zip(theirs.chunks_exact(vocab)) {
        let best = |row: &[f32]| (0..vocab).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
        let lead = p[best(p)] - p[best(q)];
        other += usize::from(lead > 0.1);
        let (p, q) = (log_softmax(p), log_softmax(q));
        divergence += p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
    }
    (divergence / (ours.len() / vocab) as f64, other)
}

fn ours(model: &Model, ids: &[u32]) -> Vec<f32> {
    let ids = Tensor::from_slice(ids, (1, ids.len()), &Device::Cpu).unwrap();
    model.llama.forward(&ids).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn llama_cpp_computes_what_was_trained() {
    let clients = clients();
    if !clients.join("node_modules/node-llama-cpp").is_dir() {
        println!("SKIP: no llama.cpp in {} (run tests/clients/install.sh)", clients.display());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // llama.cpp keeps keys and values in half precision, and rounds inputs of quantized weights in blocks of 32.
    for (scheme, dense, limit) in [
        (None, Dense::F32, 1e-5),
        (None, Dense::F16, 1e-4),
        (None, Dense::BF16, 1e-3),
        (Some("q8_0"), Dense::F32, 5e-4),
        (Some("q4_0"), Dense::F32, 5e-4),
        (Some("int4-g64"), Dense::F32, 5e-4),
        (Some("mxfp4-weight"), Dense::F32, 5e-4),
        (Some("nvfp4-weight"), Dense::F32, 5e-4),
    ] {
        let case = format!("{} with {dense:?} beside", scheme.unwrap_or("plain"));
        let model = builtin();
        if let Some(scheme) = scheme {
            quantize(&model, scheme);
        }
        let path = dir.path().join("model.gguf");
        let options = trimwick_export::DeployOptions { replace: true, ..options(Target::Gguf, dense) };
        export(&model, &options, &path).unwrap();
        let tokenizer = model.tokenizer.as_ref().unwrap();
        let ids = tokenizer.encode(SPOKEN, false).unwrap();
        let (tokens, theirs) = asked(&clients, &path, &ids, dir.path());
        assert_eq!(tokens, tokenizer.encode(TEXT, false).unwrap(), "{case}: ids");
        let (divergence, other) = compare(&ours(&model, &ids), &theirs, model.config.vocab_size);
        println!("{case}: KL {divergence:.2e} over {} tokens", ids.len());
        assert!(divergence < limit, "{case}: KL {divergence:.2e}");
        assert_eq!(other, 0, "{case}: tokens with another best");
    }
}
