//! The template and the special tokens that come with a model.

use std::path::Path;

use serde_json::Value;
use trimwick_formats::gguf::GgufFile;

use super::{ChatTemplate, MAX_TEMPLATE, SpecialTokens};
use crate::config::LlamaConfig;
use crate::error::{Error, Result};
use crate::source::ModelFiles;
use crate::text_file::read_text;
use crate::tokenizer::Tokenizer;

/// Longest `tokenizer_config.json` that is read, in bytes.
const MAX_CONFIG: u64 = 64 << 20;

impl SpecialTokens {
    /// The tokens of the ids that a configuration names.
    pub fn of_config(config: &LlamaConfig, tokenizer: &Tokenizer) -> Self {
        let token = |id: Option<u32>| id.and_then(|id| tokenizer.id_to_token(id));
        let eos = config.eos_token_ids.first().copied();
        Self { bos: token(config.bos_token_id), eos: token(eos), ..Self::default() }
    }
}

impl ModelFiles {
    /// The special tokens by their names: of `tokenizer_config.json` where it names them, else those of the configuration.
    ///
    /// # Errors
    /// [`Error::Json`], [`Error::Format`] for a file that cannot be read.
    pub fn special_tokens(&self) -> Result<SpecialTokens> {
        let known = self.tokenizer.as_ref().map(|t| SpecialTokens::of_config(&self.config, t));
        let mut tokens = known.unwrap_or_default();
        if let Some(config) = self.folder().map(tokenizer_config).transpose()?.flatten() {
            let named = |name: &str| {
                let token = config.get(name)?;
                token.as_str().or_else(|| token.get("content")?.as_str()).map(str::to_string)
            };
            tokens.bos = named("bos_token").or(tokens.bos);
            tokens.eos = named("eos_token").or(tokens.eos);
            (tokens.unk, tokens.pad) = (named("unk_token"), named("pad_token"));
        }
        Ok(tokens)
    }

    /// The model's own chat template: `chat_template.jinja`, else `chat_template` of `tokenizer_config.json` or
    /// `chat_template.json` (of several, the one called `default`); `tokenizer.chat_template` of a GGUF file. None where the
    /// model has none.
    ///
    /// # Errors
    /// [`Error::Chat`] for a text that is no template; [`Error::Json`], [`Error::Format`] for a file that cannot be read.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>> {
        let found = match (self.folder(), &self.path) {
            (Some(folder), _) => of_folder(folder)?,
            (None, Some(path)) => of_gguf(path)?,
            (None, None) => None,
        };
        let Some((source, origin)) = found else { return Ok(None) };
        ChatTemplate::new(&source, self.special_tokens()?, &origin).map(Some)
    }

    fn folder(&self) -> Option<&Path> {
        self.path.as_deref().filter(|path| path.is_dir())
    }
}

impl ChatTemplate {
    /// The template in a file of its own.
    ///
    /// # Errors
    /// [`Error::NotFound`]; as [`ChatTemplate::new`].
    pub fn from_file(path: &Path, tokens: SpecialTokens) -> Result<Self> {
        let origin = path.display().to_string();
        let source = read_text(path, MAX_TEMPLATE)?.ok_or_else(|| Error::NotFound {
            path: origin.clone(),
            what: "no such file".into(),
            hint: "give the path of a Jinja file".into(),
        })?;
        Self::new(&source, tokens, &origin)
    }
}

fn tokenizer_config(folder: &Path) -> Result<Option<Value>> {
    json(&folder.join("tokenizer_config.json"))
}

fn json(path: &Path) -> Result<Option<Value>> {
    let Some(text) = read_text(path, MAX_CONFIG)? else { return Ok(None) };
    let parsed = serde_json::from_str(&text);
    parsed.map(Some).map_err(|e| Error::Json { origin: path.display().to_string(), reason: e.to_string() })
}

/// A template and where it stands.
type Found = Option<(String, String)>;

fn of_folder(folder: &Path) -> Result<Found> {
    let path = folder.join("chat_template.jinja");
    if let Some(source) = read_text(&path, MAX_TEMPLATE)? {
        return Ok(Some((source, path.display().to_string())));
    }
    for name in ["tokenizer_config.json", "chat_template.json"] {
        let path = folder.join(name);
        let Some(config) = json(&path)? else { continue };
        if let Some(source) = config.get("chat_template").and_then(source_of) {
            return Ok(Some((source, path.display().to_string())));
        }
    }
    Ok(None)
}

/// A template, or the default one of a list of named ones.
fn source_of(value: &Value) -> Option<String> {
    let default = |entry: &&Value| entry.get("name").and_then(Value::as_str) == Some("default");
    match value {
        Value::String(source) => Some(source.clone()),
        Value::Array(list) => list.iter().find(default)?.get("template")?.as_str().map(str::to_string),
        _ => None,
    }
}

fn of_gguf(path: &Path) -> Result<Found> {
    let file = GgufFile::open(path)?;
    let source = file.get_str("tokenizer.chat_template")?;
    Ok(source.map(|source| (source.to_string(), path.display().to_string())))
}
