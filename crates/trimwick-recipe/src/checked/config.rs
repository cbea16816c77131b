//! `[model.config]`: the shape of a model that starts from random weights, in the keys of a Hugging Face `config.json`.
//!
//! Ranges and what follows from single keys are checked here, with their lines; the models have the last word.

use serde_json::{Map, Value};

use super::pretrain::TokenizerSpec;
use crate::raw::{Choice, Count, Key, Number, Section, SectionSpec, Slot, Switch};
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
    Key::required("intermediate_size", size(1 << 20), "768", "Width inside the MLP.");
static LAYERS: Key<Count> =
    Key::required("num_hidden_layers", size(1024), "6", "Decoder blocks.").known_as(&["layers"]);
static HEADS: Key<Count> =
    Key::required("num_attention_heads", size(4096), "8", "Query heads.").known_as(&["heads"]);
static KV_HEADS: Key<Count> = Key::optional(
    "num_key_value_heads",
    size(4096),
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
pub(crate) static POSITIONS: Key<Count> = Key::optional(
    "max_position_embeddings",
    Count { min: 2, max: 1 << 30 },
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
    "false",
    "Biases in the attention. Only with model_type \"llama\" and \"qwen3\"; \"qwen2\" has its own.",
);
static MLP_BIAS: Key<Switch> =
    Key::optional("mlp_bias", Switch, "false", "false", "Biases in the MLP. Only with model_type \"llama\".");
static SLIDING_WINDOW: Key<Count> = Key::optional(
    "sliding_window",
    size(1 << 24),
    "256",
    "no window",
    "Each token sees only so many tokens back. Only with model_type \"mistral\".",
);
static INITIALIZER_RANGE: Key<Number> = Key::default(
    "initializer_range",
    Number::above(0.0).up_to(1.0),
    "0.02",
    "Standard deviation of the random weights.",
);

/// The declaration of `[model.config]`.
pub(crate) static SPEC: SectionSpec = SectionSpec {
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

pub(crate) fn read(section: Section<'_>, tokenizer: Option<&TokenizerSpec>) -> Option<Map<String, Value>> {
    let mut config = Map::new();
    let mut sound = true;
    let mut put = |name: &str, value: Option<Option<Value>>| match value {
        Some(Some(value)) => drop(config.insert(name.to_string(), value)),
        Some(None) => {}
        None => sound = false,
    };
    let kind = section.get(&MODEL_TYPE);
    put(MODEL_TYPE.name, kind.map(|kind| Some(Value::from(kind))));
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
    check_head_dim(&section, kind, hidden, heads, &head_dim);
    put(HEAD_DIM.name, head_dim.sound().map(|dim| dim.map(Value::from)));
    put(POSITIONS.name, section.maybe(&POSITIONS).sound().map(|count| count.map(Value::from)));
    put(RMS_NORM_EPS.name, section.get(&RMS_NORM_EPS).map(|number| Some(number.into())));
    put(ROPE_THETA.name, section.get(&ROPE_THETA).map(|number| Some(number.into())));
    put(TIE.name, section.get(&TIE).map(|on| Some(on.into())));
    // Of a kind that is not known, every key is read for its own faults.
    let takes = |kinds: &[&str]| kind.is_none_or(|kind| kinds.contains(&kind));
    let why = || format!("a model of type {:?} has none", kind.unwrap_or_default());
    if takes(&["llama", "qwen3"]) {
        put(ATTENTION_BIAS.name, section.maybe(&ATTENTION_BIAS).sound().map(|on| on.map(Value::from)));
    } else {
        section.unused(&ATTENTION_BIAS, "the model's type decides over these biases", "remove it");
    }
    if takes(&["llama"]) {
        put(MLP_BIAS.name, section.maybe(&MLP_BIAS).sound().map(|on| on.map(Value::from)));
    } else {
        section.unused(&MLP_BIAS, why(), "remove it, or write model_type = \"llama\"");
    }
    if takes(&["mistral"]) {
        // Where a Mistral's config does not mention the window, readers take one of 4096: say that there is none.
        let window = section.maybe(&SLIDING_WINDOW).sound();
        put(SLIDING_WINDOW.name, window.map(|count| Some(count.map_or(Value::Null, Value::from))));
    } else {
        section.unused(&SLIDING_WINDOW, why(), "remove it, or write model_type = \"mistral\"");
    }
    put(INITIALIZER_RANGE.name, section.get(&INITIALIZER_RANGE).map(|number| Some(number.into())));
    section.finish();
    sound.then_some(config)
}

fn check_head_dim(
    section: &Section<'_>,
    kind: Option<&str>,
    hidden: Option<u64>,
    heads: Option<u64>,
    head_dim: &Slot<u64>,
) {
    if let Slot::Given(dim) = head_dim
        && dim % 2 != 0
    {
        section.conflict(&HEAD_DIM, "an even number", dim.to_string(), "the rotary embedding turns pairs");
    }
    let (Some(hidden), Some(heads)) = (hidden, heads) else { return };
    let free = *head_dim != Slot::Absent && kind != Some("llama");
    if hidden % heads != 0 && !free {
        let expected = format!("a multiple of num_attention_heads = {heads}");
        section.conflict(&HIDDEN_SIZE, expected, hidden.to_string(), "change either of them");
    } else if *head_dim == Slot::Absent && hidden / heads % 2 != 0 {
        let found = format!("{hidden} / {heads} = {}", hidden / heads);
        section.conflict(
            &HIDDEN_SIZE,
            "an even width of each head",
            found,
            "the rotary embedding turns pairs",
        );
    }
}

pub(crate) fn write(config: &Map<String, Value>, out: &mut Writer) {
    out.section("model.config");
    for key in SPEC.keys {
        match config.get(key.name()) {
            Some(Value::String(text)) => out.put_named(key.name(), text.as_str()),
            Some(Value::Bool(on)) => out.put_named(key.name(), *on),
            Some(Value::Number(number)) => out.put_named(key.name(), JsonNumber(number)),
            _ => {}
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
