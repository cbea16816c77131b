//! Reading Hugging Face `config.json`: the files of transformers 4 (`rope_theta`, `rope_scaling`) and of
//! transformers 5 (`rope_parameters`). Every key that would change the computation is either honoured or refused.

use serde_json::{Map, Value};
use trimwick_nn::RopeScaling;

use super::{Arch, LlamaConfig};
use crate::error::{Error, Result, show};
use crate::source::METHODS;

/// Rotary types whose formula is known here.
const ROPE_TYPES: &str = "default, linear, llama3, and longrope with one set of factors";

impl LlamaConfig {
    /// Reads the text of a `config.json`; `origin` is named in errors.
    ///
    /// Keys that transformers treats as optional take its defaults, except the ids of special tokens: a file that does
    /// not name them has none.
    ///
    /// # Errors
    /// [`Error::Json`], [`Error::Unsupported`] for an architecture, activation, rope type or quantized checkpoint that is
    /// not computed here, [`Error::Config`] for a key that is missing, of the wrong type or out of range.
    pub fn from_hf_json(text: &str, origin: &str) -> Result<Self> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let value: Value = serde_json::from_str(text).map_err(|e| {
            // Python writes NaN and Infinity, which JSON does not have.
            let hint = if text.contains("NaN") || text.contains("Infinity") {
                " (NaN and Infinity are not JSON numbers)"
            } else {
                ""
            };
            Error::Json { origin: origin.into(), reason: format!("{e}{hint}") }
        })?;
        Self::from_hf_value(&value, origin)
    }

    /// Reads a parsed `config.json`, or a table of a recipe that has its keys; see [`LlamaConfig::from_hf_json`].
    ///
    /// # Errors
    /// As [`LlamaConfig::from_hf_json`].
    pub fn from_hf_value(value: &Value, origin: &str) -> Result<Self> {
        let Value::Object(map) = value else {
            return Err(Error::config(origin, "(document)", "a table of keys", show(value)));
        };
        let keys = Keys { map, origin, prefix: "" };
        let arch = arch(&keys)?;
        refuse_what_is_not_computed(&keys)?;

        let num_heads = keys.required("num_attention_heads")?;
        let hidden_size = keys.required("hidden_size")?;
        let num_layers = keys.required("num_hidden_layers")?;
        let head_dim = head_dim(&keys, arch, hidden_size, num_heads)?;
        let (rope_theta, rope_scaling) = rope(&keys)?;
        let attention_bias = keys.boolean("attention_bias")?.unwrap_or(false);
        let (sliding_window, sliding_from_layer) = sliding(&keys, arch, num_layers)?;
        let config = Self {
            arch,
            vocab_size: keys.required("vocab_size")?,
            hidden_size,
            intermediate_size: keys.required("intermediate_size")?,
            num_layers,
            num_heads,
            num_kv_heads: keys.size("num_key_value_heads")?.unwrap_or(num_heads),
            head_dim,
            rms_norm_eps: keys.number("rms_norm_eps")?.unwrap_or(1e-6),
            rope_theta,
            rope_scaling,
            max_position_embeddings: keys.size("max_position_embeddings")?.unwrap_or(match arch {
                Arch::Llama => 2048,
                Arch::Mistral => 4096 * 32,
                Arch::Qwen2 | Arch::Qwen3 => 32768,
            }),
            tie_word_embeddings: keys.boolean("tie_word_embeddings")?.unwrap_or(false),
            // Each family's class decides where its one switch leads.
            attention_bias: match arch {
                Arch::Llama | Arch::Qwen3 => attention_bias,
                Arch::Mistral => false,
                Arch::Qwen2 => true,
            },
            attention_out_bias: matches!(arch, Arch::Llama | Arch::Qwen3) && attention_bias,
            mlp_bias: arch == Arch::Llama && keys.boolean("mlp_bias")?.unwrap_or(false),
            qk_norm: arch == Arch::Qwen3,
            sliding_window,
            sliding_from_layer,
            initializer_range: keys.number("initializer_range")?.unwrap_or(0.02),
            bos_token_id: keys.ids("bos_token_id")?.first().copied(),
            eos_token_ids: keys.ids("eos_token_id")?,
        };
        config.validate(origin)?;
        Ok(config)
    }
}

/// The token ids under a key of a JSON document that is one id, a list of ids, or absent: `eos_token_id` of
/// `generation_config.json`.
pub(crate) fn token_ids(value: &Value, key: &str, origin: &str) -> Result<Vec<u32>> {
    match value {
        Value::Object(map) => Keys { map, origin, prefix: "" }.ids(key),
        other => Err(Error::config(origin, "(document)", "a table of keys", show(other))),
    }
}

fn arch(keys: &Keys) -> Result<Arch> {
    let supported = Arch::ALL.map(Arch::model_type).join(", ");
    if let Some(name) = keys.string("model_type")? {
        let found = Arch::ALL.into_iter().find(|a| a.model_type() == name);
        return found.ok_or_else(|| Error::unsupported(keys.origin, "architecture", name, supported));
    }
    let class = keys.map.get("architectures").and_then(|v| v.get(0)).and_then(Value::as_str);
    match class {
        Some(name) => Arch::ALL
            .into_iter()
            .find(|a| a.class_name() == name)
            .ok_or_else(|| Error::unsupported(keys.origin, "architecture", name, supported)),
        None => Err(Error::config(keys.origin, "model_type", format!("one of {supported}"), "nothing")),
    }
}

fn refuse_what_is_not_computed(keys: &Keys) -> Result<()> {
    let activation = keys.string("hidden_act")?.unwrap_or("silu");
    if !matches!(activation, "silu" | "swish") {
        return Err(Error::unsupported(keys.origin, "activation", activation, "silu"));
    }
    if let Some(q) = keys.map.get("quantization_config").filter(|v| !v.is_null()) {
        let method = q.get("quant_method").and_then(Value::as_str).unwrap_or("unnamed");
        if !METHODS.contains(&method) {
            let supported = format!("{}; or the unquantized weights", METHODS.join(", "));
            return Err(Error::unsupported(keys.origin, "quantized checkpoint of method", method, supported));
        }
    }
    for key in ["num_local_experts", "num_experts"] {
        if keys.size(key)?.is_some_and(|n| n > 1) {
            return Err(Error::unsupported(keys.origin, "mixture of experts, key", key, "dense models"));
        }
    }
    let partial = keys.number("partial_rotary_factor")?;
    refuse_partial_rotary(keys, partial)
}

fn refuse_partial_rotary(keys: &Keys, factor: Option<f64>) -> Result<()> {
    match factor {
        Some(f) if f != 1.0 => Err(keys.wrong("partial_rotary_factor", "1 (all of a head is rotated)", f)),
        _ => Ok(()),
    }
}

fn head_dim(keys: &Keys, arch: Arch, hidden_size: usize, num_heads: usize) -> Result<usize> {
    // Qwen3's class has a width of its own where the file has none.
    let explicit = keys.size("head_dim")?.or((arch == Arch::Qwen3).then_some(128));
    // Checked here since the quotient below must not hide it; the ranges are `validate`'s.
    let divides = num_heads > 0 && hidden_size.is_multiple_of(num_heads);
    match explicit {
        // transformers refuses such a Llama too.
        Some(dim) if divides || arch != Arch::Llama => Ok(dim),
        None if divides => Ok(hidden_size / num_heads),
        _ if num_heads == 0 => Err(keys.wrong("num_attention_heads", "at least 1", 0)),
        _ => {
            let expected = format!("a divisor of hidden_size = {hidden_size}");
            Err(keys.wrong("num_attention_heads", &expected, num_heads))
        }
    }
}

/// θ and the scaling. transformers 5 puts both into `rope_parameters`; an old `rope_scaling` beside it wins, as there.
fn rope(keys: &Keys) -> Result<(f64, Option<RopeScaling>)> {
    let table = |key| keys.map.get(key).filter(|v| !v.is_null());
    let (name, value) = match (table("rope_scaling"), table("rope_parameters")) {
        (Some(old), _) => ("rope_scaling.", old),
        (None, Some(new)) => ("rope_parameters.", new),
        (None, None) => return Ok((keys.number("rope_theta")?.unwrap_or(10_000.0), None)),
    };
    let Value::Object(map) = value else {
        return Err(keys.wrong(name.trim_end_matches('.'), "a table or null", show(value)));
    };
    let inner = Keys { map, origin: keys.origin, prefix: name };
    if let Some((layer_type, _)) = map.iter().find(|(_, v)| v.is_object()) {
        return Err(Error::unsupported(
            keys.origin,
            "rope per layer type",
            layer_type,
            "one rope for all layers",
        ));
    }
    let theta = match inner.number("rope_theta")? {
        Some(theta) => theta,
        None => keys.number("rope_theta")?.unwrap_or(10_000.0),
    };
    let partial = inner.number("partial_rotary_factor")?;
    refuse_partial_rotary(&inner, partial)?;
    let kind = match inner.string("rope_type")? {
        Some(kind) => Some(kind),
        None => inner.string("type")?,
    };
    let scaling = match kind.unwrap_or("default") {
        "default" => None,
        "linear" => Some(RopeScaling::Linear { factor: inner.required_number("factor")? }),
        "llama3" => {
            let original = match inner.size("original_max_position_embeddings")? {
                Some(n) => n,
                None => keys.required("original_max_position_embeddings")?,
            };
            Some(RopeScaling::Llama3 {
                factor: inner.required_number("factor")?,
                low_freq_factor: inner.required_number("low_freq_factor")?,
                high_freq_factor: inner.required_number("high_freq_factor")?,
                original_context: original,
            })
        }
        "longrope" => Some(RopeScaling::Divisors(fixed_longrope(&inner)?)),
        other => return Err(Error::unsupported(keys.origin, "rope type", other, ROPE_TYPES)),
    };
    Ok((theta, scaling))
}

/// `longrope` is where `config.json` has room for explicit divisors. Only the case that does not depend on the length
/// of the text is read: one set of factors and no scaling of the attention.
fn fixed_longrope(rope: &Keys) -> Result<Vec<f64>> {
    let short = rope.floats("short_factor")?;
    let long = rope.floats("long_factor")?;
    let attention = rope.required_number("attention_factor")?;
    if short != long || attention != 1.0 {
        let found = "longrope with length-dependent factors";
        return Err(Error::unsupported(rope.origin, "rope type", found, ROPE_TYPES));
    }
    Ok(short)
}

/// The window and the first block that has it.
fn sliding(keys: &Keys, arch: Arch, num_layers: usize) -> Result<(Option<usize>, usize)> {
    let (window, from) = match arch {
        Arch::Llama => (None, 0),
        // A Mistral file that does not mention the window has transformers' default; `null` switches it off.
        Arch::Mistral if !keys.map.contains_key("sliding_window") => (Some(4096), 0),
        Arch::Mistral => (keys.size("sliding_window")?, 0),
        Arch::Qwen2 | Arch::Qwen3 if keys.boolean("use_sliding_window")?.unwrap_or(false) => {
            let window = match keys.map.contains_key("sliding_window") {
                true => keys.size("sliding_window")?,
                false => Some(4096),
            };
            (window, keys.size("max_window_layers")?.unwrap_or(28))
        }
        Arch::Qwen2 | Arch::Qwen3 => (None, 0),
    };
    let (window, from) = match window {
        Some(w) if from < num_layers => (Some(w), from),
        _ => (None, 0),
    };
    check_layer_types(keys, window, from, num_layers)?;
    Ok((window, from))
}

/// transformers 5 also writes the attention of every block: it must say the same.
fn check_layer_types(keys: &Keys, window: Option<usize>, from: usize, num_layers: usize) -> Result<()> {
    let Some(value) = keys.map.get("layer_types").filter(|v| !v.is_null()) else { return Ok(()) };
    let Value::Array(types) = value else {
        return Err(keys.wrong("layer_types", "a list with the attention of each layer", show(value)));
    };
    if types.len() != num_layers {
        return Err(keys.wrong("layer_types", &format!("{num_layers} entries"), types.len()));
    }
    for (layer, found) in types.iter().enumerate() {
        let sliding = window.is_some() && layer >= from;
        let expected = if sliding { "sliding_attention" } else { "full_attention" };
        if found.as_str() != Some(expected) {
            let expected = format!("\"{expected}\", as the sliding window keys say");
            return Err(keys.wrong(&format!("layer_types[{layer}]"), &expected, show(found)));
        }
    }
    Ok(())
}

/// Typed access to the keys of one table; `null` counts as absent, as transformers treats it.
struct Keys<'a> {
    map: &'a Map<String, Value>,
    origin: &'a str,
    prefix: &'a str,
}

impl<'a> Keys<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    fn wrong(&self, key: &str, expected: &str, found: impl ToString) -> Error {
        Error::config(self.origin, format!("{}{key}", self.prefix), expected, found.to_string())
    }

    /// A count. Integral floats are taken too, since some tools write `8192.0`.
    fn size(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let integral = |f: &f64| f.fract() == 0.0 && (0.0..9e15).contains(f);
        let n = value.as_u64().or_else(|| value.as_f64().filter(integral).map(|f| f as u64));
        match n.and_then(|n| usize::try_from(n).ok()) {
            Some(n) => Ok(Some(n)),
            None => Err(self.wrong(key, "a whole number of at least 0", show(value))),
        }
    }

    fn required(&self, key: &str) -> Result<usize> {
        self.size(key)?.ok_or_else(|| self.wrong(key, "a whole number", "nothing"))
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_f64().map(Some).ok_or_else(|| self.wrong(key, "a number", show(value)))
    }

    fn required_number(&self, key: &str) -> Result<f64> {
        self.number(key)?.ok_or_else(|| self.wrong(key, "a number", "nothing"))
    }

    fn boolean(&self, key: &str) -> Result<Option<bool>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.wrong(key, "true or false", show(value)))
    }

    fn string(&self, key: &str) -> Result<Option<&'a str>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong(key, "a string", show(value)))
    }

    fn floats(&self, key: &str) -> Result<Vec<f64>> {
        let list = self.get(key).and_then(Value::as_array);
        let list = list.ok_or_else(|| self.wrong(key, "a list of numbers", "something else"))?;
        let floats = list.iter().map(Value::as_f64).collect::<Option<_>>();
        floats.ok_or_else(|| self.wrong(key, "a list of numbers", "something else in it"))
    }

    fn ids(&self, key: &str) -> Result<Vec<u32>> {
        let one = |value: &Value| {
            let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
            id.ok_or_else(|| self.wrong(key, "a token id or a list of them", show(value)))
        };
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(one).collect(),
            Some(value) => Ok(vec![one(value)?]),
        }
    }
}
