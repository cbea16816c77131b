//! A GGUF file: configuration, weights and tokenizer in one.

use std::path::Path;
use std::sync::Arc;

use trimwick_formats::blocks::{GgmlType, dequantize_nvfp4};
use trimwick_formats::gguf::GgufFile;

use super::ModelFiles;
use super::coded::Coded;
use super::folder::check_vocab;
use super::parse::listing_near;
use super::weights::{Stored, Weights};
use crate::config::LlamaConfig;
use crate::error::{Error, Result, quote};
use crate::names::{gguf_to_hf, hf_to_gguf, permuted_heads, unpermute_rows};
use crate::tokenizer::Tokenizer;

/// What follows the name of an NVFP4 tensor, less `.weight`, in that of its scale.
const SCALE: &str = ".scale";

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
    let weights = Arc::new(Weights::new(stored, &config, at.clone(), &mut notes)?);
    let config_json = config.to_hf_json("float32");
    Ok(ModelFiles {
        config,
        weights: weights.clone(),
        coded: weights,
        tokenizer,
        origin: at,
        path: Some(path.into()),
        config_json,
        notes,
    })
}

pub(super) struct GgufWeights {
    pub(super) file: GgufFile,
    config: LlamaConfig,
    /// Whether the rows of q and k are in ggml's order.
    permuted: bool,
}

impl GgufWeights {
    /// Whether a tensor is the scale of an NVFP4 tensor.
    fn is_companion(&self, name: &str) -> bool {
        let of = name.strip_suffix(SCALE).and_then(|base| self.file.tensors().get(&format!("{base}.weight")));
        of.is_some_and(|info| info.dtype == GgmlType::NVFP4)
    }

    /// The scale of an NVFP4 tensor, where it has one.
    pub(super) fn companion(&self, stored: &str) -> Result<Option<f32>> {
        let companion = stored.strip_suffix(".weight").map(|base| format!("{base}{SCALE}"));
        let companion = companion.filter(|name| self.file.tensors().contains_key(name));
        let Some(companion) = companion else { return Ok(None) };
        match self.file.read_f32(&companion)?[..] {
            [scale] => Ok(Some(scale)),
            ref found => {
                let origin = self.file.path().display().to_string();
                Err(Error::weights(&origin, &companion, "one number", found.len().to_string()))
            }
        }
    }

    /// The heads whose rows are in ggml's order.
    pub(super) fn heads(&self, name: &str) -> Option<usize> {
        permuted_heads(&self.config, name).filter(|_| self.permuted)
    }

    /// The values of a tensor; those of NVFP4 under its scale, in the order in which they are trained.
    fn values(&self, stored: &str) -> Result<Vec<f32>> {
        let info = self.file.tensor(stored)?;
        let companion = if info.dtype == GgmlType::NVFP4 { self.companion(stored)? } else { None };
        let Some(scale) = companion else { return Ok(self.file.read_f32(stored)?) };
        let mut values = vec![0.; info.elements()];
        dequantize_nvfp4(&self.file.read_raw(stored)?, scale, &mut values)?;
        Ok(values)
    }
}

impl Stored for GgufWeights {
    fn names(&self) -> Vec<String> {
        let own = self.file.tensors().keys().filter(|name| !self.is_companion(name));
        own.map(|name| gguf_to_hf(name).unwrap_or_else(|| name.clone())).collect()
    }

    fn info(&self, name: &str) -> Option<(Vec<usize>, Option<String>)> {
        let info = self.file.tensors().get(&hf_to_gguf(name)?)?;
        Some((info.shape.clone(), None))
    }

    fn coded(&self, name: &str) -> Result<Option<Coded>> {
        self.blocks(name)
    }

    fn is_packed(&self) -> bool {
        let plain = [GgmlType::F32, GgmlType::F16, GgmlType::BF16];
        self.file.tensors().values().any(|info| !plain.contains(&info.dtype))
    }

    fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let stored = hf_to_gguf(name).unwrap_or_default();
        let values = self.values(&stored)?;
        match self.heads(name) {
            Some(heads) => {
                // The shape was checked: rows of whole heads.
                let columns = self.file.tensor(&stored)?.shape.get(1).copied().unwrap_or(1);
                Ok(unpermute_rows(&values, heads, columns))
            }
            None => Ok(values),
        }
    }
}
