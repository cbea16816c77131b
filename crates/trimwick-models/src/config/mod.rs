//! What a Llama-family model is made of: one checked, plain struct.
//!
//! The struct is read from a Hugging Face `config.json` ([`LlamaConfig::from_hf_json`]) or from GGUF metadata
//! ([`LlamaConfig::from_gguf`]) and written back for saving ([`LlamaConfig::to_hf_json`]). A file from a stranger is
//! believed only after [`LlamaConfig::validate`]: a model is never built, and no weight is read, from a configuration
//! that it has not accepted. Its limits are several times those of the largest published Llama, and keep every product
//! of two sizes far from overflow.

mod gguf;
mod hf;
mod to_gguf;
mod write;

pub(crate) use hf::token_ids;

use trimwick_nn::RopeScaling;

use crate::error::{Error, Result};

/// Which published family a model belongs to. They share one computation; the family decides the names of keys and
/// which biases and norms exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arch {
    /// Llama 1 to 3.x, SmolLM and SmolLM2, TinyLlama: no biases unless asked for.
    Llama,
    /// Mistral: Llama with an optional sliding window.
    Mistral,
    /// Qwen 1.5, 2 and 2.5: biases on q, k and v.
    Qwen2,
    /// Qwen 3: an RMS norm on each head of q and k.
    Qwen3,
}

impl Arch {
    /// Every family.
    pub const ALL: [Arch; 4] = [Arch::Llama, Arch::Mistral, Arch::Qwen2, Arch::Qwen3];

    /// `model_type` of `config.json`.
    pub fn model_type(self) -> &'static str {
        match self {
            Arch::Llama => "llama",
            Arch::Mistral => "mistral",
            Arch::Qwen2 => "qwen2",
            Arch::Qwen3 => "qwen3",
        }
    }

    /// The class in `architectures` of `config.json`.
    pub fn class_name(self) -> &'static str {
        match self {
            Arch::Llama => "LlamaForCausalLM",
            Arch::Mistral => "MistralForCausalLM",
            Arch::Qwen2 => "Qwen2ForCausalLM",
            Arch::Qwen3 => "Qwen3ForCausalLM",
        }
    }
}

/// The shape of a Llama-family model.
#[derive(Debug, Clone, PartialEq)]
pub struct LlamaConfig {
    /// The family.
    pub arch: Arch,
    /// Rows of the embedding, V.
    pub vocab_size: usize,
    /// Width of the residual stream, D.
    pub hidden_size: usize,
    /// Width of the MLP, F.
    pub intermediate_size: usize,
    /// Number of decoder blocks.
    pub num_layers: usize,
    /// Query heads, H.
    pub num_heads: usize,
    /// Key and value heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Width of a head, even; `num_heads · head_dim` need not be `hidden_size` (Qwen3, Mistral-Nemo).
    pub head_dim: usize,
    /// ε of every RMS norm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies, θ.
    pub rope_theta: f64,
    /// Stretching of the rotary frequencies.
    pub rope_scaling: Option<RopeScaling>,
    /// Positions the model was trained for.
    pub max_position_embeddings: usize,
    /// Whether the output projection is the embedding.
    pub tie_word_embeddings: bool,
    /// Biases on the q, k and v projections.
    pub attention_bias: bool,
    /// A bias on the attention's output projection.
    pub attention_out_bias: bool,
    /// Biases on the three MLP projections.
    pub mlp_bias: bool,
    /// RMS norms on each head of q and k.
    pub qk_norm: bool,
    /// How many of the last keys a query sees, where attention is windowed; `None` is full causal attention.
    pub sliding_window: Option<usize>,
    /// The first block whose attention is windowed; the blocks below see everything. 0 unless a Qwen says otherwise.
    pub sliding_from_layer: usize,
    /// Standard deviation of freshly drawn weights.
    pub initializer_range: f64,
    /// Token that begins a text, where the model has one.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text; empty where the file names none.
    pub eos_token_ids: Vec<u32>,
}

/// Largest accepted vocabulary, 2²⁴.
pub const MAX_VOCAB: usize = 1 << 24;
const MAX_HIDDEN: usize = 1 << 17;
const MAX_INTERMEDIATE: usize = 1 << 20;
const MAX_LAYERS: usize = 1024;
const MAX_HEADS: usize = 4096;
const MAX_HEAD_DIM: usize = 4096;
const MAX_POSITIONS: usize = 1 << 30;

impl LlamaConfig {
    /// The window of block `layer`, counted from 0: how many of the last keys a query sees there.
    pub fn window_of_layer(&self, layer: usize) -> Option<usize> {
        self.sliding_window.filter(|_| layer >= self.sliding_from_layer)
    }

    /// Number of parameters, the tied output projection counted once.
    pub fn num_parameters(&self) -> u64 {
        self.tensors().iter().map(|(_, shape)| shape.iter().map(|&n| n as u64).product::<u64>()).sum()
    }

    /// Checks every field; `origin` is named in the error.
    ///
    /// # Errors
    /// [`Error::Config`] for the first size out of range, head count that does not divide, rotary base or ε that is not
    /// a positive finite number, token id outside the vocabulary, or combination that no family of
    /// [`Arch`] has.
    pub fn validate(&self, origin: &str) -> Result<()> {
        let sizes = [
            ("vocab_size", self.vocab_size, MAX_VOCAB),
            ("hidden_size", self.hidden_size, MAX_HIDDEN),
            ("intermediate_size", self.intermediate_size, MAX_INTERMEDIATE),
            ("num_hidden_layers", self.num_layers, MAX_LAYERS),
            ("num_attention_heads", self.num_heads, MAX_HEADS),
            ("num_key_value_heads", self.num_kv_heads, MAX_HEADS),
            ("head_dim", self.head_dim, MAX_HEAD_DIM),
            ("max_position_embeddings", self.max_position_embeddings, MAX_POSITIONS),
        ];
        for (key, value, max) in sizes {
            if value == 0 || value > max {
                return Err(Error::config(origin, key, format!("1 to {max}"), value.to_string()));
            }
        }
        self.validate_heads(origin)?;
        let positive = [("rms_norm_eps", self.rms_norm_eps), ("rope_theta", self.rope_theta)];
        for (key, value) in positive {
            if !(value.is_finite() && value > 0.0) {
                return Err(Error::config(origin, key, "a finite number above 0", value.to_string()));
            }
        }
        if self.rms_norm_eps >= 1.0 {
            return Err(Error::config(
                origin,
                "rms_norm_eps",
                "a number below 1",
                self.rms_norm_eps.to_string(),
            ));
        }
        if !(self.initializer_range.is_finite() && (0.0..=1.0).contains(&self.initializer_range)) {
            let found = self.initializer_range.to_string();
            return Err(Error::config(origin, "initializer_range", "a number from 0 to 1", found));
        }
        self.validate_rope(origin)?;
        if self.sliding_window.is_some_and(|w| w == 0 || w > MAX_POSITIONS) {
            let found = self.sliding_window.unwrap_or_default().to_string();
            return Err(Error::config(
                origin,
                "sliding_window",
                format!("1 to {MAX_POSITIONS} or null"),
                found,
            ));
        }
        if self.sliding_window.is_none() && self.sliding_from_layer != 0 {
            let found = self.sliding_from_layer.to_string();
            return Err(Error::config(origin, "max_window_layers", "0 without a sliding window", found));
        }
        let ids = self.bos_token_id.iter().map(|id| ("bos_token_id", id));
        for (key, &id) in ids.chain(self.eos_token_ids.iter().map(|id| ("eos_token_id", id))) {
            if id as usize >= self.vocab_size {
                let expected = format!("an id below vocab_size = {}", self.vocab_size);
                return Err(Error::config(origin, key, expected, id.to_string()));
            }
        }
        self.validate_family(origin)
    }

    fn validate_heads(&self, origin: &str) -> Result<()> {
        if !self.num_heads.is_multiple_of(self.num_kv_heads) {
            let expected = format!("a divisor of num_attention_heads = {}", self.num_heads);
            return Err(Error::config(
                origin,
                "num_key_value_heads",
                expected,
                self.num_kv_heads.to_string(),
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            let expected = "an even number, since rotary embedding turns pairs";
            return Err(Error::config(origin, "head_dim", expected, self.head_dim.to_string()));
        }
        if self.num_heads * self.head_dim > 4 * MAX_HIDDEN {
            let found = format!("{} · {}", self.num_heads, self.head_dim);
            let expected = format!("at most {} in all heads", 4 * MAX_HIDDEN);
            return Err(Error::config(origin, "num_attention_heads · head_dim", expected, found));
        }
        Ok(())
    }

    fn validate_rope(&self, origin: &str) -> Result<()> {
        let wrong = |key: &str, expected: &str, found: String| {
            Err(Error::config(origin, format!("rope_scaling{key}"), expected, found))
        };
        match &self.rope_scaling {
            None => Ok(()),
            Some(RopeScaling::Linear { factor } | RopeScaling::Llama3 { factor, .. })
                if !(factor.is_finite() && *factor >= 1.0) =>
            {
                wrong(".factor", "a finite number of at least 1", factor.to_string())
            }
            Some(RopeScaling::Linear { .. }) => Ok(()),
            Some(RopeScaling::Llama3 {
                low_freq_factor: low,
                high_freq_factor: high,
                original_context,
                ..
            }) => {
                if !(low.is_finite() && high.is_finite() && *low > 0.0 && high > low) {
                    let expected = "0 < low_freq_factor < high_freq_factor, both finite";
                    return wrong("", expected, format!("{low} and {high}"));
                }
                if *original_context == 0 || *original_context > MAX_POSITIONS {
                    let expected = format!("1 to {MAX_POSITIONS}");
                    return wrong(
                        ".original_max_position_embeddings",
                        &expected,
                        original_context.to_string(),
                    );
                }
                Ok(())
            }
            Some(RopeScaling::Divisors(divisors)) => {
                if divisors.len() != self.head_dim / 2 {
                    let expected = format!("head_dim / 2 = {} divisors", self.head_dim / 2);
                    return wrong("", &expected, divisors.len().to_string());
                }
                match divisors.iter().find(|d| !(d.is_finite() && **d > 0.0)) {
                    Some(d) => wrong("", "divisors that are finite numbers above 0", d.to_string()),
                    None => Ok(()),
                }
            }
        }
    }

    /// What `config.json` can say of each family is all that a model of it may be, so that every model can be saved.
    fn validate_family(&self, origin: &str) -> Result<()> {
        let arch = self.arch.model_type();
        let rules = match self.arch {
            Arch::Llama => [
                ("attention_bias", self.attention_bias, self.attention_out_bias),
                ("qk_norm", self.qk_norm, false),
                ("mlp_bias", self.mlp_bias, self.mlp_bias),
                ("sliding_window", self.sliding_window.is_some(), false),
            ],
            Arch::Mistral => [
                ("attention_bias", self.attention_bias || self.attention_out_bias, false),
                ("qk_norm", self.qk_norm, false),
                ("mlp_bias", self.mlp_bias, false),
                ("max_window_layers", self.sliding_from_layer > 0, false),
            ],
            Arch::Qwen2 => [
                ("attention_bias", self.attention_bias, true),
                ("qk_norm", self.qk_norm, false),
                ("mlp_bias", self.mlp_bias, false),
                ("attention output bias", self.attention_out_bias, false),
            ],
            Arch::Qwen3 => [
                ("attention_bias", self.attention_bias, self.attention_out_bias),
                ("qk_norm", self.qk_norm, true),
                ("mlp_bias", self.mlp_bias, false),
                ("mlp_bias", self.mlp_bias, false),
            ],
        };
        for (key, found, expected) in rules {
            if found != expected {
                let expected = format!("{expected} for a model of type {arch}");
                return Err(Error::config(origin, key, expected, found.to_string()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
