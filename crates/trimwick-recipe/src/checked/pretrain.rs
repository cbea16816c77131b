//! `[model.tokenizer]`, and a model that starts from random weights.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Map, Value};

use super::config;
use crate::raw::{Count, Key, Section, SectionSpec, Slot, Sub, Text};
use crate::resolve::Writer;

/// A byte has a token of its own, and one more ends a text.
const SMALLEST_VOCAB: u64 = 257;

static TOKENS: Key<Count> = Key::optional(
    "vocab_size",
    Count { min: SMALLEST_VOCAB, max: 1 << 20 },
    "4096",
    "source is given",
    "Train a byte-level BPE with so many tokens on data.train.",
);
static TOKENIZER_SOURCE: Key<Text> = Key::optional(
    "source",
    Text::path("a tokenizer.json or a folder that holds one"),
    "\"tokenizer.json\"",
    "vocab_size is given",
    "Use this tokenizer.",
);

/// The declaration of `[model.tokenizer]`.
pub(crate) static TOKENIZER_SPEC: SectionSpec =
    SectionSpec { keys: &[&TOKENS, &TOKENIZER_SOURCE], foreign: &[] };

/// A model that starts from random weights.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PretrainSpec {
    /// Its shape as the keys of a Hugging Face `config.json`. `vocab_size` is absent where it follows from the tokenizer,
    /// `head_dim` where it follows from the width and the heads; a `sliding_window` of `null` is none.
    pub config: Map<String, Value>,
    /// Its tokenizer.
    pub tokenizer: TokenizerSpec,
}

/// Where the tokenizer of a new model comes from.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenizerSpec {
    /// A byte-level BPE trained on `data.train`.
    Train {
        /// Tokens, the special ones included; at least 257.
        vocab_size: usize,
    },
    /// A `tokenizer.json`, or a folder that holds one, relative to the current directory.
    File(PathBuf),
}

impl TokenizerSpec {
    /// The `tokenizer.json` to read, if one is given: the file, or that of the folder.
    pub fn file(&self) -> Option<PathBuf> {
        match self {
            TokenizerSpec::Train { .. } => None,
            TokenizerSpec::File(path) if path.is_dir() => Some(path.join("tokenizer.json")),
            TokenizerSpec::File(path) => Some(path.clone()),
        }
    }
}

impl PretrainSpec {
    /// The longest context of the model: `max_position_embeddings`.
    pub fn max_positions(&self) -> Option<u64> {
        self.config.get(config::POSITIONS.name).and_then(Value::as_u64)
    }

    /// Fills in what follows from another section.
    pub(crate) fn complete(&mut self, context: usize) {
        self.config.entry(config::POSITIONS.name).or_insert_with(|| context.into());
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        config::write(&self.config, out);
        out.section("model.tokenizer");
        match &self.tokenizer {
            TokenizerSpec::Train { vocab_size } => out.put(&TOKENS, *vocab_size),
            TokenizerSpec::File(path) => out.put(&TOKENIZER_SOURCE, path.as_path()),
        }
    }
}

pub(crate) fn read(
    section: Section<'_>,
    model: &Section<'_>,
    tokenizer_key: &Key<Sub>,
    tokenizer: Slot<Section<'_>>,
) -> Option<PretrainSpec> {
    if let Slot::Absent = tokenizer {
        model.missing(tokenizer_key, "a tokenizer for the new model, vocab_size or source".to_string());
    }
    let tokenizer = tokenizer.given().and_then(read_tokenizer);
    let config = config::read(section, tokenizer.as_ref());
    Some(PretrainSpec { config: config?, tokenizer: tokenizer? })
}

fn read_tokenizer(section: Section<'_>) -> Option<TokenizerSpec> {
    let vocab_size = section.maybe(&TOKENS);
    let source = section.maybe(&TOKENIZER_SOURCE);
    let spec = match (vocab_size, source) {
        (vocab_size, source) if vocab_size.present() && source.present() => {
            let advice = "keep vocab_size to train a tokenizer, or source to use one";
            section.conflict(&TOKENIZER_SOURCE, "either vocab_size or source", "both", advice);
            None
        }
        (Slot::Absent, Slot::Absent) => {
            section.missing(&TOKENS, "vocab_size or source".to_string());
            None
        }
        (Slot::Given(tokens), _) => Some(TokenizerSpec::Train { vocab_size: tokens as usize }),
        (_, Slot::Given(path)) => Some(TokenizerSpec::File(PathBuf::from(path))),
        _ => None,
    };
    section.finish();
    spec
}
