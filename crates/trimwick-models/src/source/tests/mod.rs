//! Sources against each other, and against everything that can be wrong with them.

mod broken;
mod equal;
mod streamed;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;
use trimwick_formats::folder::ModelFolder;
use trimwick_formats::safetensors::{Dtype, NewTensor, write};

use super::*;

/// Small random models made with transformers; see `make_llama_golden.py`.
const MODELS: [&str; 7] = ["llama2", "llama3", "mistral", "qwen2", "qwen3", "smollm2", "tinyllama"];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// A model folder in memory, to be changed and written.
#[derive(Clone)]
struct Draft {
    config: Value,
    tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<f32>)>,
    files: Vec<(&'static str, String)>,
}

impl Draft {
    fn of(name: &str) -> Self {
        let folder = ModelFolder::open(golden(name)).unwrap();
        let tensors = folder
            .names()
            .map(|name| {
                let shape = folder.info(name).unwrap().shape.clone();
                (name.to_string(), (Dtype::F32, shape, folder.read_f32(name).unwrap()))
            })
            .collect();
        let config = std::fs::read_to_string(golden(name).join("config.json")).unwrap();
        Self { config: serde_json::from_str(&config).unwrap(), tensors, files: Vec::new() }
    }

    fn key(mut self, key: &str, value: Value) -> Self {
        self.config[key] = value;
        self
    }

    fn file(mut self, name: &'static str, text: &str) -> Self {
        self.files.push((name, text.into()));
        self
    }

    fn without(mut self, name: &str) -> Self {
        assert!(self.tensors.remove(name).is_some(), "{name}");
        self
    }

    fn tensor(mut self, name: &str, dtype: Dtype, shape: &[usize], values: Vec<f32>) -> Self {
        self.tensors.insert(name.into(), (dtype, shape.into(), values));
        self
    }

    /// Sets one value.
    fn value(mut self, name: &str, at: usize, value: f32) -> Self {
        self.tensors.get_mut(name).unwrap().2[at] = value;
        self
    }

    fn write(&self) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), self.config.to_string()).unwrap();
        for (name, text) in &self.files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let ints: Vec<Vec<u8>> =
            self.tensors.values().map(|(_, _, v)| v.iter().map(|&x| x as i8 as u8).collect()).collect();
        let tensors =
            self.tensors.iter().zip(&ints).map(|((name, (dtype, shape, values)), ints)| match dtype {
                Dtype::F32 | Dtype::F16 | Dtype::BF16 => NewTensor::floats(name, *dtype, shape, values),
                _ => NewTensor::bytes(name, *dtype, shape, ints),
            });
        write(dir.path().join("model.safetensors"), tensors, &BTreeMap::new()).unwrap();
        dir
    }

    fn open(&self) -> Result<ModelFiles> {
        open_folder(self.write().path())
    }
}

fn options() -> OpenOptions {
    OpenOptions { revision: None, hub: HubOptions::default() }
}

fn open_folder(path: &Path) -> Result<ModelFiles> {
    open(&ModelSource::Folder(path.into()), &options())
}
