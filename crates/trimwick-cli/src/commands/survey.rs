//! A recipe against the model that it names, by the model's configuration alone.

use anyhow::Result;
use trimwick_formats::Error as FormatError;
use trimwick_models::{Error as ModelError, LlamaConfig, ModelSource, Tokenizer};
use trimwick_recipe::run::{check_templates, config_of, layer_shapes};
use trimwick_recipe::{
    LayerRules, ModelSource as RecipeSource, ModelSpec, PretrainSpec, Recipe, TokenizerSpec,
};

use crate::model::{self, Hub};
use crate::progress::line;

/// What is known of a recipe's model before its weights are read.
pub(super) struct Survey {
    /// Where the model comes from.
    pub(super) origin: String,
    /// Its shape.
    pub(super) config: LlamaConfig,
    /// What the recipe does with each layer.
    pub(super) rules: LayerRules,
}

/// Checks the recipe's files and its layers; `None` for a hub model that is not on this machine and is not to be
/// fetched.
///
/// # Errors
/// All faults of the recipe at once; [`trimwick_models::Error`] for the model's files.
pub(super) fn survey(recipe: &Recipe, hub: Hub) -> Result<Option<Survey>> {
    let faults = recipe.check_files().err();
    if let Some(faults) = faults.clone().filter(|faults| faults.iter().any(|f| f.key.starts_with("model"))) {
        return Err(faults.into());
    }
    let (origin, config) = match (known(recipe, hub), &faults) {
        (Ok(Some(known)), _) => known,
        (Ok(None), None) => return Ok(None),
        (Err(error), None) => return Err(error),
        // The recipe's own faults can all be told at once; what is wrong with the model is for the next time.
        (_, Some(faults)) => return Err(faults.clone().into()),
    };
    let mut rules = recipe.check_layers(&layer_shapes(&config));
    let context = recipe.check_context(config.max_position_embeddings).err();
    for faults in faults.into_iter().chain(context) {
        rules = Err(rules.err().map_or_else(|| faults.clone(), |known| known.and(faults.clone())));
    }
    Ok(Some(Survey { origin, config, rules: rules? }))
}

/// Where the model comes from, and its configuration.
fn known(recipe: &Recipe, hub: Hub) -> Result<Option<(String, LlamaConfig)>> {
    match &recipe.model {
        ModelSpec::Source(source) => open(recipe, source, hub),
        ModelSpec::Pretrain(spec) => {
            check_templates(recipe, None)?;
            Ok(Some(("random weights".to_string(), fresh_config(recipe, spec)?)))
        }
    }
}

fn open(recipe: &Recipe, source: &RecipeSource, hub: Hub) -> Result<Option<(String, LlamaConfig)>> {
    let is_hub = matches!(source, RecipeSource::Hub { .. });
    let source = match source {
        RecipeSource::Builtin(name) => ModelSource::Builtin(name.clone()),
        RecipeSource::Folder(path) => ModelSource::Folder(path.clone()),
        RecipeSource::Gguf(path) => ModelSource::Gguf(path.clone()),
        RecipeSource::Hub { id, revision: None } => ModelSource::Hub(id.clone()),
        RecipeSource::Hub { id, revision: Some(revision) } => ModelSource::Hub(format!("{id}@{revision}")),
    };
    let files = match model::open(&source, hub) {
        Err(_) if is_hub && hub == Hub::Cached => return Ok(None),
        Err(error) if hub == Hub::Cached && lacks_weights(&error) => return planned(&source, error),
        files => files?,
    };
    // A run cannot do without, and would find out only later.
    files.require_tokenizer()?;
    check_templates(recipe, Some(&files))?;
    Ok(Some((files.origin, files.config)))
}

fn lacks_weights(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(ModelError::Format(FormatError::NoModel { .. })))
}

/// What is known of a folder that has a configuration and no weights yet, which is enough to plan.
fn planned(source: &ModelSource, error: anyhow::Error) -> Result<Option<(String, LlamaConfig)>> {
    let ModelSource::Folder(path) = source else { return Err(error) };
    let config = path.join("config.json");
    let Ok(text) = std::fs::read_to_string(&config) else { return Err(error) };
    let config = LlamaConfig::from_hf_json(&text, &config.display().to_string())?;
    line(&format!("note: {error}; a run needs them"));
    Ok(Some((path.display().to_string(), config)))
}

/// The configuration of a model that starts from random weights.
fn fresh_config(recipe: &Recipe, spec: &PretrainSpec) -> Result<LlamaConfig> {
    let tokens = match (&spec.tokenizer, spec.tokenizer.file()) {
        (TokenizerSpec::Train { vocab_size }, _) => *vocab_size,
        (TokenizerSpec::File(path), file) => {
            Tokenizer::from_file(&file.unwrap_or(path.clone()))?.vocab_size()
        }
    };
    Ok(config_of(recipe, spec, tokens)?)
}
