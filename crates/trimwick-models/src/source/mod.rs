//! Where models come from: a Hugging Face folder, a GGUF file, the hub, or the binary itself.
//!
//! [`ModelSource::parse`] reads what a user wrote, [`open`] opens it. Whatever the source, what comes out is
//! the same: a checked configuration, weights under their Hugging Face names and in that layout, and the tokenizer.
//! Opening reads configuration, tokenizer and the weights' headers, and compares every name and shape with the
//! configuration. The weights themselves are read when a model asks for them.

mod builtin;
pub(crate) mod coded;
mod folder;
mod gguf;
mod gguf_blocks;
#[cfg(feature = "hub")]
mod hub;
mod options;
mod packed;
mod parse;
#[cfg(test)]
mod tests;
mod weights;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use trimwick_nn::TensorSource;

use crate::config::LlamaConfig;
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;
pub use options::{HubOptions, OpenOptions, Progress, Secret};
pub(crate) use packed::METHODS;
pub(crate) use weights::CodedSource;

/// A model, by where it is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelSource {
    /// One of [`crate::builtin::MODELS`].
    Builtin(String),
    /// A folder with `config.json` and safetensors, plain or packed (compressed-tensors, ModelOpt, GPTQ, AWQ, our 2:4
    /// container), and usually `tokenizer.json`.
    Folder(PathBuf),
    /// A GGUF file.
    Gguf(PathBuf),
    /// A model of the Hugging Face hub: `owner/name`, or `owner/name@revision` with a branch, tag or commit.
    Hub(String),
}

/// An opened model: everything but the layers.
#[derive(Clone)]
pub struct ModelFiles {
    /// The shape of the model, with the tokens that end a text from `generation_config.json` where there is one.
    pub config: LlamaConfig,
    /// The weights, by the names and with the shapes of [`LlamaConfig::tensors`].
    pub weights: Arc<dyn TensorSource>,
    /// The same weights as they are stored.
    pub(crate) coded: Arc<dyn CodedSource>,
    /// The tokenizer; absent where a folder has no `tokenizer.json`.
    pub tokenizer: Option<Tokenizer>,
    /// Where the model came from: a path, `owner/name@commit`, `builtin:NAME`.
    pub origin: String,
    /// The folder or file on this machine; none for a built-in model.
    pub path: Option<PathBuf>,
    /// `config.json` as it was read, or as it would be written for a model from a GGUF file.
    pub config_json: serde_json::Value,
    /// What a user should know and nothing stops at: one line each.
    pub notes: Vec<String>,
}

impl fmt::Debug for ModelFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelFiles")
            .field("config", &self.config)
            .field("tokenizer", &self.tokenizer.is_some())
            .field("origin", &self.origin)
            .field("notes", &self.notes)
            .finish_non_exhaustive()
    }
}

/// Opens a model. Every shape is known to be right afterwards; every value is looked at when it is loaded, and a weight
/// that is NaN or infinite is refused then, with the tensor's name.
///
/// # Errors
/// [`Error::NotFound`] with what is there instead; [`Error::Config`], [`Error::Unsupported`], [`Error::Json`],
/// [`Error::Tokenizer`] and [`Error::Format`] for what the files hold; [`Error::Weights`] where names, shapes or types do
/// not fit the configuration; [`Error::Hub`]; [`Error::Feature`] for a hub id without the feature `hub`.
pub fn open(source: &ModelSource, options: &OpenOptions) -> Result<ModelFiles> {
    match source {
        ModelSource::Folder(path) => folder::open(path, path.display().to_string()),
        ModelSource::Gguf(path) => gguf::open(path),
        ModelSource::Builtin(name) => builtin::open(name),
        #[cfg(feature = "hub")]
        ModelSource::Hub(text) => {
            let (id, revision) = parse::split_revision(text);
            let revision = revision.or(options.revision.as_deref()).unwrap_or("main");
            let (path, commit) = hub::fetch(id, revision, &options.hub)?;
            folder::open(&path, format!("{id}@{commit}"))
        }
        #[cfg(not(feature = "hub"))]
        ModelSource::Hub(id) => {
            let _ = options;
            Err(Error::Feature {
                what: format!("hub model {id}"),
                feature: "hub",
                instead: ", or give the path of a local folder or .gguf file",
            })
        }
    }
}

impl ModelFiles {
    /// Whether any weight is stored as codes of a few bits, and not as floats.
    pub fn is_packed(&self) -> bool {
        self.coded.is_packed()
    }

    /// The tokenizer, where the caller cannot do without.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the model has none.
    pub fn require_tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer.as_ref().ok_or_else(|| Error::NotFound {
            path: self.origin.clone(),
            what: "no tokenizer.json".into(),
            hint:
                "save the model's fast tokenizer there (AutoTokenizer.from_pretrained(…).save_pretrained(…))"
                    .into(),
        })
    }
}
