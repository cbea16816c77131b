//! A Hugging Face folder: `config.json`, safetensors, and usually `tokenizer.json` and `generation_config.json`.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use trimwick_formats::folder::ModelFolder;
use trimwick_formats::safetensors::{Dtype, SafetensorsFile, TensorInfo};

use super::ModelFiles;
use super::coded::Coded;
use super::packed::{Method, PackedFolder};
use super::parse::{listing, no_such_folder};
use super::weights::{Stored, Weights};
use crate::config::{LlamaConfig, token_ids};
use crate::error::{Error, Result, quote};
use crate::text_file::{MAX_TOKENIZER, read_text};
use crate::tokenizer::Tokenizer;

/// Longest configuration that is read, in bytes.
const MAX_CONFIG: u64 = 16 << 20;

/// Opens a folder; `origin` is where it came from.
pub(super) fn open(path: &Path, origin: String) -> Result<ModelFiles> {
    if !path.is_dir() {
        return Err(no_such_folder(path));
    }
    let Some(config) = read_text(&path.join("config.json"), MAX_CONFIG)? else {
        // A folder of pickles or GGUF files is told so rather than that a file is missing.
        ModelFolder::open(path)?;
        return Err(Error::NotFound {
            path: quote(&path.to_string_lossy()),
            what: "no config.json".into(),
            hint: format!("found {}", listing(path)),
        });
    };
    let generation = read_text(&path.join("generation_config.json"), MAX_CONFIG)?;
    let tokenizer = read_text(&path.join("tokenizer.json"), MAX_TOKENIZER)?;
    let name_of = |name: &str| path.join(name).display().to_string();
    let method = method_of(path, &parse(&config, &name_of("config.json"))?, &name_of)?;
    let parts = Parts { config, generation, tokenizer };
    let open = || ModelFolder::open(path);
    let mut notes = Vec::new();
    let files = match method {
        None => parts.open(|| Ok(open()?), origin, name_of)?,
        Some(method) => {
            let weights = || PackedFolder::open(open()?, method, &path.display().to_string(), &mut notes);
            parts.open(weights, origin, name_of)?
        }
    };
    notes.extend(files.notes);
    Ok(ModelFiles { path: Some(path.into()), notes, ..files })
}

/// Who packed the weights, by `config.json` or, of an older ModelOpt, the file beside it.
fn method_of(path: &Path, config: &Value, name_of: &dyn Fn(&str) -> String) -> Result<Option<Method>> {
    const MODELOPT: &str = "hf_quant_config.json";
    match Method::of(config, &name_of("config.json"))? {
        None if read_text(&path.join(MODELOPT), MAX_CONFIG)?.is_some() => Ok(Some(Method::Tensors)),
        method => Ok(method),
    }
}

/// The text files of a model.
pub(super) struct Parts {
    pub config: String,
    pub generation: Option<String>,
    pub tokenizer: Option<String>,
}

impl Parts {
    /// Reads configuration and tokenizer, and only then opens the weights.
    pub fn open<S: Stored + 'static>(
        self,
        weights: impl FnOnce() -> Result<S>,
        origin: String,
        name_of: impl Fn(&str) -> String,
    ) -> Result<ModelFiles> {
        let mut notes = Vec::new();
        let at = name_of("config.json");
        let mut config = LlamaConfig::from_hf_json(&self.config, &at)?;
        // The configuration parsed, so this does; kept as the file has it.
        let config_json = parse(&self.config, &at)?;
        if let Some(text) = self.generation {
            let at = name_of("generation_config.json");
            let ids = token_ids(&parse(&text, &at)?, "eos_token_id", &at)?;
            if !ids.is_empty() {
                config.eos_token_ids = ids;
                config.validate(&at)?;
            }
        }
        let tokenizer = match self.tokenizer {
            Some(text) => {
                let at = name_of("tokenizer.json");
                let tokenizer = Tokenizer::from_json(&text, &at)?.with_eos_ids(config.eos_token_ids.clone());
                check_vocab(&tokenizer, &config, &at, &mut notes)?;
                Some(tokenizer)
            }
            None => None,
        };
        let weights = Arc::new(Weights::new(weights()?, &config, origin.clone(), &mut notes)?);
        Ok(ModelFiles {
            config,
            weights: weights.clone(),
            coded: weights,
            tokenizer,
            origin,
            path: None,
            config_json,
            notes,
        })
    }
}

/// Every id that text can become must have an embedding. Added tokens beyond it are left to whoever spells them out: some
/// published tokenizers have a padding token there.
pub(super) fn check_vocab(
    tokenizer: &Tokenizer,
    config: &LlamaConfig,
    at: &str,
    notes: &mut Vec<String>,
) -> Result<()> {
    let rows = config.vocab_size;
    let model = tokenizer.model_vocab_size();
    if model > rows {
        let expected = format!("ids below vocab_size = {rows}");
        return Err(Error::tokenizer(at, "model.vocab", expected, format!("id {}", model - 1)));
    }
    if tokenizer.vocab_size() > rows {
        notes.push(format!(
            "the tokenizer has added tokens with ids of {rows} and above, which have no embedding"
        ));
    }
    Ok(())
}

fn parse(text: &str, at: &str) -> Result<serde_json::Value> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    serde_json::from_str(text).map_err(|e| Error::Json { origin: at.into(), reason: e.to_string() })
}

fn describe(info: &TensorInfo) -> (Vec<usize>, Option<String>) {
    let float = matches!(info.dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16);
    (info.shape.clone(), (!float).then(|| format!("{:?}", info.dtype)))
}

/// Floats of 16 bits as they are, and others as f32.
fn plain(
    dtype: Option<Dtype>,
    bytes: impl Fn() -> Result<Vec<u8>>,
    values: impl Fn() -> Result<Vec<f32>>,
) -> Result<Option<Coded>> {
    Ok(Some(match dtype {
        Some(Dtype::F16) => Coded::F16(words(&bytes()?)),
        Some(Dtype::BF16) => Coded::Bf16(words(&bytes()?)),
        _ => Coded::F32(values()?),
    }))
}

/// Little-endian words of 16 bits.
pub(super) fn words(bytes: &[u8]) -> Vec<u16> {
    bytes.as_chunks().0.iter().map(|word| u16::from_le_bytes(*word)).collect()
}

impl Stored for ModelFolder {
    fn names(&self) -> Vec<String> {
        ModelFolder::names(self).map(str::to_string).collect()
    }

    fn info(&self, name: &str) -> Option<(Vec<usize>, Option<String>)> {
        ModelFolder::info(self, name).map(describe)
    }

    fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        Ok(ModelFolder::read_f32(self, name)?)
    }

    fn coded(&self, name: &str) -> Result<Option<Coded>> {
        let dtype = ModelFolder::info(self, name).map(|info| info.dtype);
        plain(dtype, || Ok(self.read_raw(name)?), || Ok(self.read_f32(name)?))
    }

    fn is_packed(&self) -> bool {
        false
    }
}

/// One safetensors file, such as the one in the binary.
impl Stored for SafetensorsFile {
    fn names(&self) -> Vec<String> {
        self.tensors().keys().cloned().collect()
    }

    fn info(&self, name: &str) -> Option<(Vec<usize>, Option<String>)> {
        self.tensors().get(name).map(describe)
    }

    fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        Ok(SafetensorsFile::read_f32(self, name)?)
    }

    fn coded(&self, name: &str) -> Result<Option<Coded>> {
        let dtype = self.tensors().get(name).map(|info| info.dtype);
        plain(dtype, || Ok(self.read_raw(name)?), || Ok(self.read_f32(name)?))
    }

    fn is_packed(&self) -> bool {
        false
    }
}
