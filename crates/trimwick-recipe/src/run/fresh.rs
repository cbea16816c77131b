//! A model that starts from random weights: its tokenizer and its configuration.

use std::path::Path;

use trimwick_models::{Error as ModelError, LlamaConfig, Tokenizer};

use super::error::{Result, RunError};
use super::event::{Event, Report, Stage};
use super::{data, kept};
use crate::{FaultKind, Faults, PretrainSpec, Recipe, TokenizerSpec};

/// End of text in tokenizers that a run trains.
const END_OF_TEXT: &str = "<|endoftext|>";
/// Where a tokenizer is kept that the run trains.
pub(crate) const TOKENIZER: &str = "stages/tokenizer.json";

/// The tokenizer of a fresh model: the one that is named, the one in the run's folder `out`, or a new one.
pub(crate) fn tokenizer_of(
    recipe: &Recipe,
    spec: &PretrainSpec,
    out: &Path,
    report: Report<'_>,
) -> Result<Tokenizer> {
    if let Some(file) = spec.tokenizer.file() {
        return Ok(Tokenizer::from_file(&file)?);
    }
    let path = out.join(TOKENIZER);
    if kept::sealed(&path)? {
        return Ok(Tokenizer::from_file(&path)?);
    }
    report(Event::Begin(Stage::Tokenizer));
    match spec.tokenizer {
        TokenizerSpec::Train { vocab_size } => train_tokenizer(recipe, vocab_size),
        TokenizerSpec::File(_) => Err(RunError::NoTokenizer { origin: "random weights".into() }),
    }
}

fn train_tokenizer(recipe: &Recipe, vocab_size: usize) -> Result<Tokenizer> {
    let texts = data::raw_texts(recipe)?;
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    Tokenizer::train_bpe(&texts, vocab_size, &[END_OF_TEXT]).map_err(|error| match error {
        ModelError::Tokenizer { at, expected, found, .. } if at == "vocab_size" => {
            let advice = "give more text or fewer tokens".to_string();
            let kind = FaultKind::Conflict { expected, found, advice };
            Faults::from(recipe.fault("model.tokenizer.vocab_size", kind)).into()
        }
        error => error.into(),
    })
}

/// The configuration of a fresh model: the recipe's table, with the vocabulary of its tokenizer unless that says a larger
/// one.
pub(crate) fn config_with(
    recipe: &Recipe,
    spec: &PretrainSpec,
    tokenizer: &Tokenizer,
) -> Result<LlamaConfig> {
    let config = config_of(recipe, spec, tokenizer.vocab_size())?;
    let Some(end) = tokenizer.token_to_id(END_OF_TEXT) else { return Ok(config) };
    let mut table = spec.config.clone();
    table.insert("vocab_size".into(), config.vocab_size.into());
    table.entry("bos_token_id").or_insert(end.into());
    table.entry("eos_token_id").or_insert(end.into());
    Ok(LlamaConfig::from_hf_value(&table.into(), "model.config")?)
}

/// The configuration of a fresh model, of whose tokenizer only the number of tokens is known.
///
/// # Errors
/// A vocabulary that is too small for the tokenizer; a configuration that no model has.
pub fn config_of(recipe: &Recipe, spec: &PretrainSpec, tokens: usize) -> Result<LlamaConfig> {
    let mut table = spec.config.clone();
    let rows = table.entry("vocab_size").or_insert(tokens.into());
    if rows.as_u64().is_none_or(|rows| rows < tokens as u64) {
        let (expected, found) = (format!("at least the {tokens} tokens of the tokenizer"), rows.to_string());
        let advice = "raise it, or remove it to have as many rows as tokens".to_string();
        let kind = FaultKind::Conflict { expected, found, advice };
        return Err(Faults::from(recipe.fault("model.config.vocab_size", kind)).into());
    }
    Ok(LlamaConfig::from_hf_value(&table.into(), "model.config")?)
}
