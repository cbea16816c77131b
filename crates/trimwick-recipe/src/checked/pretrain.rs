//! `[model.config]` and `[model.tokenizer]`: a model that starts from random weights.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::raw::{Choice, Count, Key, Number, Section, SectionSpec, Slot, Sub, Switch, Text};
use crate::resolve::{ToToml, Writer};

/// The kinds of models that can be trained from random weights, as `model_type` names them.
const KINDS: &[(&str, &str)] =
    &[("llama", "llama"), ("mistral", "mistral"), ("qwen2", "qwen2"), ("qwen3", "qwen3")];

const fn size(max: u64) -> Count {
    Count { min: 1, max }
}

static MODEL_TYPE: Key<Choice<&str>> =
    Key::default("model_type", Choice(KINDS), "\"llama\"", "The kind of model, as Hugging Face names it.");
static VOCAB_SIZE: Key<Count> = Key::optional(
    "vocab_size",
    size(1 << 24),
    "4096",
    "the tokenizer's",
    "Rows of the embedding: at least the tokenizer's tokens. Only beside tokenizer.source.",
);
static HIDDEN_SIZE: Key<Count> =
    Key::required("hidden_size", size(1 << 17), "256", "Width of the residual stream.");
static INTERMEDIATE_SIZE: Key<Count> =
    Key::required("intermediate_size", size(1 << 19), "768", "Width inside the MLP.");
static LAYERS: Key<Count> =
    Key::required("num_hidden_layers", size(1024), "6", "Decoder blocks.").known_as(&["layers"]);
static HEADS: Key<Count> =
    Key::required("num_attention_heads", size(1024), "8", "Query heads.").known_as(&["heads"]);
static KV_HEADS: Key<Count> = Key::optional(
    "num_key_value_heads",
    size(1024),
    "4",
    "num_attention_heads",
    "Key and value heads; divides the query heads.",
);
static HEAD_DIM: Key<Count> = Key::optional(
    "head_dim",
    size(4096),
    "32",
    "hidden_size / num_attention_heads",
    "Width of a head; even, for the rotary embedding.",
);
static POSITIONS: Key<Count> = Key::optional(
    "max_position_embeddings",
    Count { min: 2, max: 1 << 24 },
    "512",
    "data.context",
    "The longest context the model is made for.",
);
static RMS_NORM_EPS: Key<Number> = Key::default(
    "rms_norm_eps",
    Number::above(0.0).below(1.0),
    "1e-5",
    "Added to the mean square in each norm.",
);
static ROPE_THETA: Key<Number> =
    Key::default("rope_theta", Number::above(0.0), "10000.0", "Base of the rotary frequencies.");
static TIE: Key<Switch> =
    Key::default("tie_word_embeddings", Switch, "true", "Whether the output head is the embedding.");
static ATTENTION_BIAS: Key<Switch> = Key::optional(
    "attention_bias",
    Switch,
    "false",
    "the kind's",
    "Biases in the attention's linear layers.",
);
static MLP_BIAS: Key<Switch> = Key::optional("mlp_bias", Switch, "false", "the kind's", "Biases in the MLP.");
static SLIDING_WINDOW: Key<Count> = Key::optional(
    "sliding_window",
    size(1 << 24),
    "256",
    "no window",
    "Each token sees only so many tokens back.",
);
static INITIALIZER_RANGE: Key<Number> = Key::default(
    "initializer_range",
    Number::above(0.0).up_to(1.0),
    "0.02",
    "Standard deviation of the random weights.",
);

/// The declaration of `[model.config]`.
pub(crate) static CONFIG_SPEC: SectionSpec = SectionSpec {
    keys: &[
        &MODEL_TYPE,
        &VOCAB_SIZE,
        &HIDDEN_SIZE,
        &INTERMEDIATE_SIZE,
        &LAYERS,
        &HEADS,
        &KV_HEADS,
        &HEAD_DIM,
        &POSITIONS,
        &RMS_NORM_EPS,
        &ROPE_THETA,
        &TIE,
        &ATTENTION_BIAS,
        &MLP_BIAS,
        &SLIDING_WINDOW,
        &INITIALIZER_RANGE,
    ],
    foreign: &[
        ("architectures", "model_type alone says the kind; remove it"),
        ("hidden_act", "the MLP of every kind uses SiLU; remove it"),
        ("torch_dtype", "the written type is export.dtype; remove it"),
    ],
};

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
    /// Its shape as the keys of a Hugging Face `config.json`, in the order of the reference. `vocab_size` is absent where
    /// it follows from the tokenizer, `head_dim` and the biases where they follow from the kind and the other keys.
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

impl PretrainSpec {
    /// The longest context of the model: `max_position_embeddings`.
    pub fn max_positions(&self) -> Option<u64> {
        self.config.get(POSITIONS.name).and_then(Value::as_u64)
    }

    /// Fills in what follows from another section.
    pub(crate) fn complete(&mut self, context: usize) {
        self.config.entry(POSITIONS.name).or_insert_with(|| context.into());
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        out.section("model.config");
        for key in CONFIG_SPEC.keys {
            match self.config.get(key.name()) {
                Some(Value::String(text)) => out.put_named(key.name(), text.as_str()),
                Some(Value::Bool(on)) => out.put_named(key.name(), *on),
                Some(Value::Number(number)) => out.put_named(key.name(), JsonNumber(number)),
                _ => {}
            }
        }
        out.section("model.tokenizer");
        match &self.tokenizer {
            TokenizerSpec::Train { vocab_size } => out.put(&TOKENS, *vocab_size),
            TokenizerSpec::File(path) => out.put(&TOKENIZER_SOURCE, path.as_path()),
        }
    }
}

struct JsonNumber<'a>(&'a serde_json::Number);

impl ToToml for JsonNumber<'_> {
    fn to_toml(&self) -> String {
        match (self.0.as_u64(), self.0.as_f64()) {
            (Some(whole), _) => whole.to_toml(),
            (None, real) => real.unwrap_or_default().to_toml(),
        }
    }
}

pub(crate) fn read(
    config: Section<'_>,
    model: &Section<'_>,
    tokenizer_key: &Key<Sub>,
    tokenizer: Slot<Section<'_>>,
) -> Option<PretrainSpec> {
    if let Slot::Absent = tokenizer {
        model.missing(tokenizer_key, "a tokenizer for the new model, vocab_size or source".to_string());
    }
    let tokenizer = tokenizer.given().and_then(read_tokenizer);
    let config = read_config(config, tokenizer.as_ref());
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

fn read_config(section: Section<'_>, tokenizer: Option<&TokenizerSpec>) -> Option<Map<String, Value>> {
    let mut config = Map::new();
    let mut sound = true;
    let mut put = |name: &str, value: Option<Option<Value>>| match value {
        Some(Some(value)) => drop(config.insert(name.to_string(), value)),
        Some(None) => {}
        None => sound = false,
    };
    put(MODEL_TYPE.name, section.get(&MODEL_TYPE).map(|kind| Some(Value::from(kind))));
    if let Some(TokenizerSpec::Train { .. }) = tokenizer {
        section.unused(
            &VOCAB_SIZE,
            "the rows are those of the tokenizer that is trained",
            "keep model.tokenizer.vocab_size alone",
        );
    } else {
        put(VOCAB_SIZE.name, section.maybe(&VOCAB_SIZE).sound().map(|count| count.map(Value::from)));
    }
    let hidden = section.get(&HIDDEN_SIZE);
    put(HIDDEN_SIZE.name, hidden.map(|count| Some(count.into())));
    put(INTERMEDIATE_SIZE.name, section.get(&INTERMEDIATE_SIZE).map(|count| Some(count.into())));
    put(LAYERS.name, section.get(&LAYERS).map(|count| Some(count.into())));
    let heads = section.get(&HEADS);
    put(HEADS.name, heads.map(|count| Some(count.into())));
    let kv_heads = section.maybe(&KV_HEADS);
    if let (Some(heads), Slot::Given(kv)) = (heads, &kv_heads)
        && heads % kv != 0
    {
        let expected = format!("a divisor of num_attention_heads = {heads}");
        section.conflict(&KV_HEADS, expected, kv.to_string(), "every key head serves as many query heads");
    }
    let kv_heads = kv_heads.sound().map(|kv| kv.or(heads));
    put(KV_HEADS.name, kv_heads.map(|kv| kv.map(Value::from)));
    let head_dim = section.maybe(&HEAD_DIM);
    check_head_dim(&section, hidden, heads, &head_dim);
    put(HEAD_DIM.name, head_dim.sound().map(|dim| dim.map(Value::from)));
    put(POSITIONS.name, section.maybe(&POSITIONS).sound().map(|count| count.map(Value::from)));
    put(RMS_NORM_EPS.name, section.get(&RMS_NORM_EPS).map(|number| Some(number.into())));
    put(ROPE_THETA.name, section.get(&ROPE_THETA).map(|number| Some(number.into())));
    put(TIE.name, section.get(&TIE).map(|on| Some(on.into())));
    put(ATTENTION_BIAS.name, section.maybe(&ATTENTION_BIAS).sound().map(|on| on.map(Value::from)));
    put(MLP_BIAS.name, section.maybe(&MLP_BIAS).sound().map(|on| on.map(Value::from)));
    put(SLIDING_WINDOW.name, section.maybe(&SLIDING_WINDOW).sound().map(|count| count.map(Value::from)));
    put(INITIALIZER_RANGE.name, section.get(&INITIALIZER_RANGE).map(|number| Some(number.into())));
    section.finish();
    sound.then_some(config)
}

fn check_head_dim(section: &Section<'_>, hidden: Option<u64>, heads: Option<u64>, head_dim: &Slot<u64>) {
    match (head_dim, hidden, heads) {
        (Slot::Given(dim), ..) if dim % 2 != 0 => {
            section.conflict(
                &HEAD_DIM,
                "an even number",
                dim.to_string(),
                "the rotary embedding turns pairs",
            );
        }
        (Slot::Absent, Some(hidden), Some(heads)) if hidden % heads != 0 => {
            let expected = format!("a multiple of num_attention_heads = {heads}");
            section.conflict(&HIDDEN_SIZE, expected, hidden.to_string(), "change either, or give head_dim");
        }
        (Slot::Absent, Some(hidden), Some(heads)) if hidden / heads % 2 != 0 => {
            let found = format!("{hidden} / {heads} = {}", hidden / heads);
            section.conflict(
                &HIDDEN_SIZE,
                "an even width of each head",
                found,
                "the rotary embedding turns pairs",
            );
        }
        _ => {}
    }
}
