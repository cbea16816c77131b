//! The model that a run starts from, as often as the arms need it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Device};
use trimwick_models::source::{self, ModelFiles, OpenOptions};
use trimwick_models::{Llama, LlamaConfig, StreamedLlama, Tokenizer};
use trimwick_nn::{ParamStore, Role, TensorSource};

use super::chat::Chat;
use super::data::With;
use super::error::{Result, RunError};
use super::event::{Event, Report};
use super::folder::RunFolder;
use super::fresh::{TOKENIZER, config_with, tokenizer_of};
use super::masks::Carried;
use super::{inputs, kept};
use crate::{LayerKind, LayerShape, ModelSource, ModelSpec, Recipe, TokenizerSpec};

/// A model with its parameters.
pub(crate) struct Built {
    pub(crate) store: ParamStore,
    pub(crate) model: Llama,
}

/// Where every arm's model comes from.
pub(crate) struct Origin {
    pub(crate) config: LlamaConfig,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) chat: Chat,
    pub(crate) name: String,
    /// Digest of what the model is made from.
    pub(crate) identity: String,
    /// The masks of a model that is pruned already.
    pub(crate) carried: Carried,
    /// The folder that the model was read from.
    pub(crate) folder: Option<PathBuf>,
    weights: Option<Arc<dyn TensorSource>>,
    seed: u64,
    context: usize,
    trains_tokenizer: bool,
}

impl Origin {
    /// Opens the recipe's model and checks the recipe against its layers. A tokenizer that the recipe trains is read from
    /// the run's folder `out`, or trained where that has none yet.
    pub(crate) fn open(recipe: &Recipe, out: &Path, report: Report<'_>) -> Result<Self> {
        let mut trains_tokenizer = false;
        let mut folder = None;
        let (config, tokenizer, chat, name, weights, identity) = match &recipe.model {
            ModelSpec::Source(source) => {
                let files = open_source(source)?;
                let chat = Chat::of_files(recipe, &files)?;
                let ModelFiles { config, weights, tokenizer, origin, path, .. } = files;
                let tokenizer = tokenizer.ok_or_else(|| RunError::NoTokenizer { origin: origin.clone() })?;
                let identity = inputs::of_source(source, &origin)?;
                folder = path.filter(|path| path.is_dir());
                (config, tokenizer, chat, origin, Some(weights), identity)
            }
            ModelSpec::Pretrain(spec) => {
                trains_tokenizer = matches!(spec.tokenizer, TokenizerSpec::Train { .. });
                let tokenizer = tokenizer_of(recipe, spec, out, report)?;
                let config = config_with(recipe, spec, &tokenizer)?;
                let identity = inputs::of_tokenizer(&tokenizer)?;
                let chat = Chat::of_fresh(&config, &tokenizer);
                (config, tokenizer, chat, "random weights".to_string(), None, identity)
            }
        };
        recipe.check_layers(&layer_shapes(&config))?;
        recipe.check_context(config.max_position_embeddings)?;
        let carried = Carried::read(folder.as_deref(), &config)?;
        let (seed, context) = (recipe.seed, recipe.data.context);
        Ok(Self {
            config,
            tokenizer,
            chat,
            name,
            identity,
            carried,
            folder,
            weights,
            seed,
            context,
            trains_tokenizer,
        })
    }

    /// What the recipe's texts are made into tokens with.
    pub(crate) fn with(&self) -> With<'_> {
        With { tokenizer: &self.tokenizer, vocab: self.config.vocab_size, chat: &self.chat }
    }

    /// Puts a tokenizer that was trained into the folder of the run.
    pub(crate) fn keep_tokenizer(&self, folder: &RunFolder) -> Result<()> {
        let path = folder.at(TOKENIZER);
        if self.trains_tokenizer && !kept::sealed(&path)? {
            self.tokenizer.save_json(&path)?;
            kept::seal(&path)?;
        }
        Ok(())
    }

    /// Says that the model brings masks along which the recipe leaves as they are.
    pub(crate) fn note_masks(&self, recipe: &Recipe, report: Report<'_>) -> Result<()> {
        let chosen: BTreeSet<String> = match &recipe.prune {
            Some(_) => {
                let rules = recipe.check_layers(&layer_shapes(&self.config))?;
                rules.pruned().map(str::to_string).collect()
            }
            None => BTreeSet::new(),
        };
        let kept = self.carried.layers().filter(|path| !chosen.contains(*path)).count();
        if kept > 0 {
            report(Event::Note(format!("the model is pruned: {kept} layers keep their masks")));
        }
        Ok(())
    }

    /// The model with its original weights and masks, in f32 on the CPU.
    pub(crate) fn build(&self) -> Result<Built> {
        let store = match &self.weights {
            Some(weights) => ParamStore::from_source(weights.clone(), DType::F32, &Device::Cpu, self.seed),
            None => ParamStore::with_seed(DType::F32, &Device::Cpu, self.seed),
        };
        let model = Llama::new(&self.config, Some(self.context), store.var_builder())?;
        self.carried.put(&store.layers())?;
        Ok(Built { store, model })
    }

    /// The model as it was, to be read block by block.
    ///
    /// # Errors
    /// None of its own for a trained model; one that starts from random weights has no dense twin to read.
    pub(crate) fn streamed(&self) -> Result<StreamedLlama> {
        let Some(weights) = &self.weights else {
            let expected = "a trained model to read blocks from".to_string();
            return Err(RunError::NoWeights { origin: self.name.clone(), expected });
        };
        Ok(StreamedLlama::new(&self.config, Some(self.context), weights.clone(), &Device::Cpu)?)
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

/// Seconds since `begun`, for notes.
pub(crate) fn since(begun: Instant) -> String {
    format!("{:.1} s", begun.elapsed().as_secs_f64())
}
