//! A GGUF file: configuration, weights and tokenizer in one.

use std::path::Path;
use std::sync::Arc;

use trimwick_formats::gguf::GgufFile;

use super::ModelFiles;
use super::folder::check_vocab;
use super::parse::listing_near;
use super::weights::{Stored, Weights};
use crate::config::LlamaConfig;
use crate::error::{Error, Result, quote};
use crate::names::{gguf_to_hf, hf_to_gguf, permuted_heads, unpermute_rows};
use crate::tokenizer::Tokenizer;

pub(super) fn open(path: &Path) -> Result<ModelFiles> {
    if !path.exists() {
        return Err(Error::NotFound {
            path: quote(&path.to_string_lossy()),
            what: "no such file".into(),
            hint: listing_near(path),
        });
    }
    let at = path.display().to_string();
    let file = GgufFile::open(path)?;
    let config = LlamaConfig::from_gguf(&file, &at)?;
    let mut notes = Vec::new();
    let model = file.get_str("tokenizer.ggml.model")?;
    let tokenizer = match model {
        Some("no_vocab" | "none") | None => None,
        Some(_) => {
            let tokenizer = Tokenizer::from_gguf(&file, &at)?.with_eos_ids(config.eos_token_ids.clone());
            check_vocab(&tokenizer, &config, &at, &mut notes)?;
            Some(tokenizer)
        }
    };
    if model == Some("gpt2") && file.get_str("tokenizer.ggml.pre")?.is_none() {
        notes.push("tokenizer.ggml.pre is missing: words are split by llama.cpp's default, which may not be the model's".into());
    }
    let permuted = file.get_str("general.architecture")? == Some("llama");
    let stored = GgufWeights { file, config: config.clone(), permuted };
    let weights = Weights::new(stored, &config, at.clone(), &mut notes)?;
    let config_json = config.to_hf_json("float32");
    Ok(ModelFiles {
        config,
        weights: Arc::new(weights),
        tokenizer,
        origin: at,
        path: Some(path.into()),
        config_json,
        notes,
    })
}

struct GgufWeights {
    file: GgufFile,
    config: LlamaConfig,
    /// Whether the rows of q and k are in ggml's order.
    permuted: bool,
}

impl Stored for GgufWeights {
    fn names(&self) -> Vec<String> {
        self.file.tensors().keys().map(|name| gguf_to_hf(name).unwrap_or_else(|| name.clone())).collect()
    }

    fn info(&self, name: &str) -> Option<(Vec<usize>, Option<String>)> {
        let info = self.file.tensors().get(&hf_to_gguf(name)?)?;
        Some((info.shape.clone(), None))
    }

    fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let stored = hf_to_gguf(name).unwrap_or_default();
        let values = self.file.read_f32(&stored)?;
        match permuted_heads(&self.config, name).filter(|_| self.permuted) {
            Some(heads) => {
                // The shape was checked: rows of whole heads.
                let columns = self.file.tensor(&stored)?.shape.get(1).copied().unwrap_or(1);
                Ok(unpermute_rows(&values, heads, columns))
            }
            None => Ok(values),
        }
    }
}
