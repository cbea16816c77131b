//! A model on packed weights against the same model of layers.

use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use trimwick_models::source::{ModelSource, OpenOptions, open};
use trimwick_models::{Arithmetic, KvFormat, Llama, PackedLlama, PackedOptions};
use trimwick_nn::{CausalLm, ParamStore};

const KINDS: [&str; 7] = ["llama2", "llama3", "smollm2", "tinyllama", "mistral", "qwen2", "qwen3"];

/// Compares logits of a text: of all of it at once, and token by token after a part of it.
fn compare(source: &ModelSource, ids: &[u32], tolerance: f32) {
    let files = open(source, &OpenOptions::default()).unwrap();
    let store = ParamStore::from_source(files.weights.clone(), DType::F32, &Device::Cpu, 1);
    let llama = Llama::new(&files.config, Some(ids.len()), store.var_builder()).unwrap();
    let tensor = Tensor::from_slice(ids, (1, ids.len()), &Device::Cpu).unwrap();
    let want: Vec<f32> = llama.forward(&tensor).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    let options =
        PackedOptions { arithmetic: Arithmetic::Float, context: Some(ids.len()), ..Default::default() };
    let packed = PackedLlama::load(&files, options).unwrap();
    let largest = want.iter().fold(0f32, |a, x| a.max(x.abs()));
    let close = |what: &str, got: &[f32], want: &[f32], tolerance: f32| {
        assert_eq!(got.len(), want.len());
        let worst = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(worst <= tolerance * largest, "{source}: {what}: {worst} of {largest}");
    };
    close("whole", &packed.forward_all(ids).unwrap(), &want, tolerance);
    let (vocab, first) = (files.config.vocab_size, ids.len() / 2);
    for (format, tolerance) in
        [(KvFormat::F32, tolerance), (KvFormat::F16, tolerance + 2e-3), (KvFormat::Int8, 0.1)]
    {
        let mut cache = packed.new_cache(format);
        packed.forward(&ids[..first], &mut cache).unwrap();
        for i in first..ids.len() {
            let got = packed.forward(&ids[i..=i], &mut cache).unwrap();
            close(&format!("{format:?}, token {i}"), got, &want[i * vocab..(i + 1) * vocab], tolerance);
        }
        assert!(packed.forward(&ids[..1], &mut cache).is_err(), "positions beyond the context");
    }
    // The losses of a text's second half are the same behind a cache, which may hold it again.
    let whole = packed.losses(ids).unwrap();
    let mut cache = packed.new_cache(KvFormat::F32);
    packed.forward(&ids[..first], &mut cache).unwrap();
    for _ in 0..2 {
        let after = packed.losses_after(&ids[first..], &mut cache).unwrap();
        let worst = after.iter().zip(&whole[first..]).map(|(a, b)| (a - b).abs()).fold(0., f64::max);
        assert!(after.len() + first == whole.len() && worst < 1e-3, "{source}: {worst}");
        cache.truncate(first);
    }
    assert!(packed.forward_all(&[vocab as u32]).is_err() && packed.forward_all(&[]).is_err());
}

#[test]
fn every_kind_of_the_family_has_the_logits_of_its_layers() {
    for kind in KINDS {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(kind);
        let ids: Vec<u32> = (0..24).map(|i| (i * i * 5 + i) % 40).collect();
        compare(&ModelSource::Folder(folder), &ids, 1e-5);
    }
}

/// `TRIMWICK_SMOLLM2=FILE.gguf cargo test --release -p trimwick-models --test packed -- --ignored`
#[test]
#[ignore = "needs a GGUF file"]
fn a_real_file_has_the_logits_of_its_layers() {
    let path = std::env::var_os("TRIMWICK_SMOLLM2").expect("the path of a .gguf file");
    let ids: Vec<u32> = (0..24).map(|i| (i * i * 501 + i) % 40_000).collect();
    compare(&ModelSource::Gguf(path.into()), &ids, 1e-4);
}
