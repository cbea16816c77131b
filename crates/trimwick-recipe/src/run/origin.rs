//! The model that a run starts from, as often as the arms need it.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Device};
use trimwick_models::source::{self, ModelFiles, OpenOptions};
use trimwick_models::{Llama, LlamaConfig, Tokenizer};
use trimwick_nn::{ParamStore, Role, TensorSource};

use super::data;
use super::error::{Result, RunError};
use super::event::{Event, Report, Stage};
use super::folder::RunFolder;
use crate::{LayerKind, LayerShape, ModelSource, ModelSpec, PretrainSpec, Recipe, TokenizerSpec};

/// End of text in tokenizers that a run trains.
const END_OF_TEXT: &str = "<|endoftext|>";

/// A model with its parameters.
pub(crate) struct Built {
    pub(crate) store: ParamStore,
    pub(crate) model: Llama,
}

/// Where every arm's model comes from.
pub(crate) struct Origin {
    pub(crate) config: LlamaConfig,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) name: String,
    weights: Option<Arc<dyn TensorSource>>,
    seed: u64,
    context: usize,
}

impl Origin {
    /// Opens the recipe's model, checks the recipe against its layers, and trains a tokenizer where it says so.
    pub(crate) fn open(recipe: &Recipe, folder: Option<&RunFolder>, report: Report<'_>) -> Result<Self> {
        let (config, tokenizer, name, weights) = match &recipe.model {
            ModelSpec::Source(source) => {
                let files = open_source(source)?;
                let ModelFiles { config, weights, tokenizer, origin, .. } = files;
                let tokenizer = tokenizer.ok_or_else(|| RunError::NoTokenizer { origin: origin.clone() })?;
                (config, tokenizer, origin, Some(weights))
            }
            ModelSpec::Pretrain(spec) => {
                let tokenizer = pretraining_tokenizer(recipe, spec, folder, report)?;
                (pretraining_config(spec, &tokenizer)?, tokenizer, "random weights".to_string(), None)
            }
        };
        recipe.check_layers(&layer_shapes(&config))?;
        recipe.check_context(config.max_position_embeddings)?;
        Ok(Self { config, tokenizer, name, weights, seed: recipe.seed, context: recipe.data.context })
    }

    /// The model with its original weights, in f32 on the CPU.
    pub(crate) fn build(&self) -> Result<Built> {
        let store = match &self.weights {
            Some(weights) => ParamStore::from_source(weights.clone(), DType::F32, &Device::Cpu, self.seed),
            None => ParamStore::with_seed(DType::F32, &Device::Cpu, self.seed),
        };
        let model = Llama::new(&self.config, Some(self.context), store.var_builder())?;

        Ok(Built { store, model })
    }

    /// The model as a teacher: frozen, so that its forward pass records no graph.
    pub(crate) fn teacher(&self) -> Result<Built> {
        let built = self.build()?;
        built.store.params().iter().for_each(|p| p.set_role(Role::Frozen));
        Ok(built)
    }
}

/// Opens the model of a recipe.
pub(crate) fn open_source(source: &ModelSource) -> Result<ModelFiles> {
    let (source, revision) = match source {
        ModelSource::Builtin(name) => (source::ModelSource::Builtin(name.clone()), None),
        ModelSource::Folder(path) => (source::ModelSource::Folder(path.clone()), None),
        ModelSource::Gguf(path) => (source::ModelSource::Gguf(path.clone()), None),
        ModelSource::Hub { id, revision } => (source::ModelSource::Hub(id.clone()), revision.clone()),
    };
    Ok(source::open(&source, &OpenOptions { revision, ..OpenOptions::default() })?)
}

/// The layers that rules can select, from the configuration alone.
pub fn layer_shapes(config: &LlamaConfig) -> Vec<LayerShape> {
    let tensors = config.tensors();
    let has_bias = |path: &str| tensors.iter().any(|(name, _)| name.strip_suffix(".bias") == Some(path));
    let shape = |(name, shape): &(String, Vec<usize>)| {
        let path = name.strip_suffix(".weight")?;
        let kind = match (path.ends_with("embed_tokens"), shape.len()) {
            (true, _) => LayerKind::Embedding,
            (false, 2) => LayerKind::Linear,
            _ => LayerKind::Norm,
        };
        Some(LayerShape { path: path.into(), kind, shape: shape.clone(), bias: has_bias(path) })
    };
    tensors.iter().filter_map(shape).collect()
}

fn pretraining_tokenizer(
    recipe: &Recipe,
    spec: &PretrainSpec,
    folder: Option<&RunFolder>,
    report: Report<'_>,
) -> Result<Tokenizer> {
    let path = match &spec.tokenizer {
        TokenizerSpec::File(path) => return Ok(Tokenizer::from_file(path)?),
        TokenizerSpec::Train { vocab_size } => {
            let Some(folder) = folder else {
                return Err(RunError::NoTokenizer { origin: "random weights".into() });
            };
            let path = folder.at("stages/tokenizer.json");
            if !path.exists() {
                report(Event::Begin(Stage::Tokenizer));
                train_tokenizer(recipe, *vocab_size, &path)?;
            }
            path
        }
    };
    Ok(Tokenizer::from_file(&path)?)
}

fn train_tokenizer(recipe: &Recipe, vocab_size: usize, path: &Path) -> Result<()> {
    let texts = data::raw_texts(recipe)?;
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    Ok(Tokenizer::train_bpe(&texts, vocab_size, &[END_OF_TEXT])?.save_json(path)?)
}

/// The configuration of a fresh model: the recipe's table, with the vocabulary of its tokenizer.
fn pretraining_config(spec: &PretrainSpec, tokenizer: &Tokenizer) -> Result<LlamaConfig> {
    let mut table = spec.config.clone();
    table.insert("vocab_size".into(), tokenizer.vocab_size().into());
    if let Some(end) = tokenizer.token_to_id(END_OF_TEXT) {
        table.entry("bos_token_id").or_insert(end.into());
        table.entry("eos_token_id").or_insert(end.into());
    }
    Ok(LlamaConfig::from_hf_value(&table.into(), "model.config")?)
}

/// Seconds since `begun`, for notes.
pub(crate) fn since(begun: Instant) -> String {
    format!("{:.1} s", begun.elapsed().as_secs_f64())
}
