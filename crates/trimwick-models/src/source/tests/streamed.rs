//! A model in pieces is the model as a whole, wherever it comes from.

use candle_core::{DType, Device, Tensor};
use trimwick_nn::{CausalLm, Module, ParamStore, StreamedLm};

use super::equal::to_gguf;
use super::*;
use crate::{Llama, StreamedLlama};

const CONTEXT: usize = 16;

fn streamed(files: &ModelFiles) -> StreamedLlama {
    StreamedLlama::new(&files.config, Some(CONTEXT), files.weights.clone(), &Device::Cpu).unwrap()
}

fn names(store: &ParamStore) -> Vec<String> {
    store.params().iter().map(|p| p.name().to_string()).collect()
}

fn bits(t: &Tensor) -> Vec<u32> {
    t.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

/// Compares logits bit for bit, and names and paths with the whole model's.
fn same_as_whole(what: &str, files: &ModelFiles) {
    let store = ParamStore::from_source(files.weights.clone(), DType::F32, &Device::Cpu, 0);
    let whole = Llama::new(&files.config, Some(CONTEXT), store.var_builder()).unwrap();
    let vocab = files.config.vocab_size as u32;
    let ids: Vec<u32> = (0..2 * CONTEXT as u32).map(|i| (i * 37 + 11) % vocab).collect();
    let ids = Tensor::from_vec(ids, (2, CONTEXT), &Device::Cpu).unwrap();

    let model = streamed(files);
    let mut seen = Vec::new();
    let mut x = {
        let end = model.load_embedding().unwrap();
        seen.extend(names(&end.store));
        Module::forward(&end.embedding, &ids).unwrap().detach()
    };
    for index in 0..model.blocks() {
        let loaded = model.load_block(index).unwrap();
        assert_eq!(loaded.block.path(), whole.block_path(index));
        let path = format!("{}.", whole.block_path(index));
        let inside: Vec<_> = names(&store).into_iter().filter(|name| name.starts_with(&path)).collect();
        assert_eq!(names(&loaded.store), inside, "{what}: exactly the block's parameters");
        let layers: Vec<_> = loaded.layers().iter().map(|l| l.path().to_string()).collect();
        let expected: Vec<_> = store.layers().iter().map(|l| l.path().to_string()).collect();
        assert_eq!(layers, expected.into_iter().filter(|p| p.starts_with(&path)).collect::<Vec<_>>());
        assert_eq!(loaded.kv_slots().len(), 1);
        let halves = loaded.params().iter().filter(|p| loaded.block.in_attention(p.name())).count();
        assert!(halves > 4 && halves < loaded.params().len(), "{what}: both halves have parameters");
        seen.extend(inside);
        x = loaded.block.forward(&x).unwrap().detach();
    }
    let head = model.load_head().unwrap();
    seen.extend(names(&head.store));
    let logits = head.head.logits(&x).unwrap().whole().unwrap();
    assert_eq!(bits(&logits), bits(&whole.forward(&ids).unwrap()), "{what}");
    seen.sort();
    seen.dedup();
    assert_eq!(seen, names(&store), "{what}: the pieces are the whole");
}

#[test]
fn pieces_compute_what_the_whole_computes() {
    let dir = tempfile::tempdir().unwrap();
    for name in MODELS {
        let (folder, gguf) = to_gguf(name);
        same_as_whole(name, &folder);
        let path = dir.path().join(format!("{name}.gguf"));
        std::fs::write(&path, gguf.bytes()).unwrap();
        same_as_whole(&format!("{name}.gguf"), &open(&ModelSource::Gguf(path), &options()).unwrap());
    }
    let builtin = open(&ModelSource::Builtin("tiny-llama".into()), &options()).unwrap();
    same_as_whole("builtin", &builtin);
}

/// The draft with its tensors in shards of three, by an index.
fn shards(draft: &Draft) -> TempDir {
    let dir = draft.write();
    std::fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    let tensors: Vec<_> = draft.tensors.iter().collect();
    let mut index = serde_json::Map::new();
    for (i, part) in tensors.chunks(3).enumerate() {
        let shard = format!("model-{i}.safetensors");
        let new = part.iter().map(|(name, (_, shape, v))| NewTensor::floats(*name, Dtype::BF16, shape, v));
        write(dir.path().join(&shard), new, &BTreeMap::new()).unwrap();
        index.extend(part.iter().map(|(name, _)| (name.to_string(), Value::from(shard.clone()))));
    }
    let index = serde_json::json!({ "metadata": {}, "weight_map": index });
    std::fs::write(dir.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    dir
}

#[test]
fn a_block_is_gathered_from_its_shards() {
    let dir = shards(&Draft::of("llama3"));
    same_as_whole("shards", &open_folder(dir.path()).unwrap());
}

#[test]
fn what_cannot_be_read_is_one_line() {
    let line = |what: &str, model: &StreamedLlama, index: usize, named: &str| {
        let message = model.load_block(index).unwrap_err().to_string();
        // Candle puts a backtrace behind it where the environment asks for one.
        assert!(message.lines().next().unwrap().contains(named), "{what}: {message}");
    };
    let nan = Draft::of("llama2").value("model.layers.1.mlp.up_proj.weight", 3, f32::NAN).write();
    let model = streamed(&open_folder(nan.path()).unwrap());
    model.load_block(0).unwrap();
    line("NaN", &model, 1, "model.layers.1.mlp.up_proj.weight: expected values that are finite as F32");
    line("index", &model, 2, "block 2: the model has 2");

    let cut = shards(&Draft::of("llama2"));
    let model = streamed(&open_folder(cut.path()).unwrap());
    for entry in std::fs::read_dir(cut.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(100).unwrap();
        }
    }
    line("cut after opening", &model, 0, ".safetensors");
    let too_long = StreamedLlama::new(model.config(), Some(1 << 20), sound().weights, &Device::Cpu);
    assert!(too_long.unwrap_err().to_string().contains("the model has positions for"));
}

fn sound() -> ModelFiles {
    open_folder(&golden("llama2")).unwrap()
}
