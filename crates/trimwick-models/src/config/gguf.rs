//! Reading the configuration from GGUF metadata, as llama.cpp's converter writes it.

use trimwick_formats::gguf::{GgufFile, Value};
use trimwick_nn::RopeScaling;

use super::{Arch, LlamaConfig};
use crate::error::{Error, Result};
use crate::names::rope_freqs;

impl LlamaConfig {
    /// Reads the metadata of a GGUF file of architecture `llama` (Llama, SmolLM2, TinyLlama, Mistral), `qwen2` or
    /// `qwen3`. What the metadata leaves open (biases, q/k norms, a tied output) is told by which tensors are there.
    /// `rope_freqs.weight` becomes [`RopeScaling::Llama3`] where a published Llama's parameters give exactly its
    /// values, and [`RopeScaling::Divisors`] otherwise.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for another architecture, a mixture of experts or an unknown rope scaling;
    /// [`Error::Config`] for a missing, mistyped or impossible value; [`Error::Format`] where the file cannot be read.
    pub fn from_gguf(file: &GgufFile, origin: &str) -> Result<Self> {
        let name = file.get_str("general.architecture")?.unwrap_or_default();
        let arch = match name {
            "llama" => Arch::Llama,
            "qwen2" => Arch::Qwen2,
            "qwen3" => Arch::Qwen3,
            other => return Err(Error::unsupported(origin, "architecture", other, "llama, qwen2, qwen3")),
        };
        let keys = Keys { file, origin, arch: name };
        if keys.u32("expert_count")?.unwrap_or(0) > 0 {
            return Err(Error::unsupported(origin, "mixture of experts in", name, "dense models"));
        }

        let hidden_size = keys.required("embedding_length")?;
        let num_heads = keys.required("attention.head_count")?;
        let head_dim = head_dim(&keys, hidden_size, num_heads)?;
        let has = |tensor: &str| file.tensors().contains_key(tensor);
        let mut config = Self {
            arch,
            vocab_size: vocab_size(&keys)?,
            hidden_size,
            intermediate_size: keys.required("feed_forward_length")?,
            num_layers: keys.required("block_count")?,
            num_heads,
            num_kv_heads: keys.u32("attention.head_count_kv")?.unwrap_or(num_heads),
            head_dim,
            rms_norm_eps: keys.eps()?,
            rope_theta: keys.f32("rope.freq_base")?.map_or(10_000.0, tidy),
            rope_scaling: linear_scaling(&keys)?,
            max_position_embeddings: keys.required("context_length")?,
            tie_word_embeddings: !has("output.weight"),
            attention_bias: has("blk.0.attn_q.bias"),
            attention_out_bias: has("blk.0.attn_output.bias"),
            mlp_bias: has("blk.0.ffn_gate.bias"),
            qk_norm: has("blk.0.attn_q_norm.weight"),
            sliding_window: keys.u32("attention.sliding_window")?.filter(|&w| w > 0),
            sliding_from_layer: 0,
            initializer_range: 0.02,
            bos_token_id: file.get_u32("tokenizer.ggml.bos_token_id")?,
            eos_token_ids: Vec::new(),
        };
        for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
            if let Some(id) = file.get_u32(&format!("tokenizer.ggml.{key}"))?
                && !config.eos_token_ids.contains(&id)
            {
                config.eos_token_ids.push(id);
            }
        }
        // The file's "llama" is a computation and not a family: take the family that can say what is there.
        if arch == Arch::Llama {
            if config.attention_bias && !config.attention_out_bias {
                config.arch = Arch::Qwen2;
            } else if config.sliding_window.is_some() {
                config.arch = Arch::Mistral;
            }
        }
        config.validate(origin)?;
        if has(rope_freqs::TENSOR) {
            let divisors = file.read_f32(rope_freqs::TENSOR)?;
            if config.rope_scaling.is_some() {
                let expected = "no rope scaling beside rope_freqs.weight";
                return Err(Error::config(origin, keys.full("rope.scaling.type"), expected, "both"));
            }
            config.rope_scaling = Some(rope_freqs::scaling(&divisors, config.rope_theta));
            config.validate(origin)?;
        }
        Ok(config)
    }
}

/// Shortest decimal that rounds to the same f32: 9.999999747378752e-6 in the file was 1e-5 in `config.json`.
fn tidy(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(f64::from(x))
}

fn head_dim(keys: &Keys, hidden_size: usize, num_heads: usize) -> Result<usize> {
    let key = keys.u32("attention.key_length")?;
    let value = keys.u32("attention.value_length")?;
    let rotary = keys.u32("rope.dimension_count")?;
    if num_heads == 0 {
        return Err(keys.wrong("attention.head_count", "at least 1", "0"));
    }
    let dim = match key.or(rotary) {
        Some(dim) => dim,
        None if hidden_size.is_multiple_of(num_heads) => hidden_size / num_heads,
        None => {
            let expected = format!("a divisor of embedding_length = {hidden_size}");
            return Err(keys.wrong("attention.head_count", &expected, &num_heads.to_string()));
        }
    };
    for (name, found) in [("attention.value_length", value), ("rope.dimension_count", rotary)] {
        if let Some(found) = found.filter(|&found| found != dim) {
            return Err(keys.wrong(name, &format!("the head width {dim}"), &found.to_string()));
        }
    }
    Ok(dim)
}

/// Rows of the embedding; the metadata, where it speaks, must agree.
fn vocab_size(keys: &Keys) -> Result<usize> {
    let stated = keys.u32("vocab_size")?;
    let embedding = keys.file.tensors().get("token_embd.weight");
    match (stated, embedding.and_then(|t| t.shape.first().copied())) {
        (Some(stated), Some(rows)) if stated != rows => Err(keys.wrong(
            "vocab_size",
            &format!("the {rows} rows of token_embd.weight"),
            &stated.to_string(),
        )),
        (Some(n), _) | (None, Some(n)) => Ok(n),
        (None, None) => Err(Error::weights(keys.origin, "token_embd.weight", "an embedding", "nothing")),
    }
}

fn linear_scaling(keys: &Keys) -> Result<Option<RopeScaling>> {
    let factor = match keys.f32("rope.scaling.factor")? {
        Some(factor) => Some(factor),
        None => keys.f32("rope.scale_linear")?,
    };
    let kind = keys.file.get_str(&keys.full("rope.scaling.type"))?;
    match (kind.unwrap_or(if factor.is_some() { "linear" } else { "none" }), factor) {
        ("none", _) => Ok(None),
        ("linear", Some(1.0)) => Ok(None),
        ("linear", Some(factor)) => Ok(Some(RopeScaling::Linear { factor: tidy(factor) })),
        ("linear", None) => Err(keys.wrong("rope.scaling.factor", "a number", "nothing")),
        (other, _) => Err(Error::unsupported(
            keys.origin,
            "rope type",
            other,
            "none, linear, Llama-3's rope_freqs.weight",
        )),
    }
}

/// Typed access to the keys under the architecture's name.
struct Keys<'a> {
    file: &'a GgufFile,
    origin: &'a str,
    arch: &'a str,
}

impl Keys<'_> {
    fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.arch)
    }

    fn wrong(&self, key: &str, expected: &str, found: &str) -> Error {
        Error::config(self.origin, self.full(key), expected, found)
    }

    /// A count. Some models give one per layer; only equal ones are computed here.
    fn u32(&self, key: &str) -> Result<Option<usize>> {
        let full = self.full(key);
        if matches!(self.file.metadata().get(&full), Some(Value::Array(_))) {
            return Err(self.wrong(key, "one number for all layers", "a list"));
        }
        Ok(self.file.get_u32(&full)?.map(|n| n as usize))
    }

    fn required(&self, key: &str) -> Result<usize> {
        self.u32(key)?.ok_or_else(|| self.wrong(key, "a whole number", "nothing"))
    }

    fn f32(&self, key: &str) -> Result<Option<f32>> {
        Ok(self.file.get_f32(&self.full(key))?)
    }

    fn eps(&self) -> Result<f64> {
        let key = "attention.layer_norm_rms_epsilon";
        self.f32(key)?.map(tidy).ok_or_else(|| self.wrong(key, "a number", "nothing"))
    }
}

#[cfg(test)]
mod tests {
    use super::tidy;

    #[test]
    fn an_f32_becomes_the_decimal_it_was_written_from() {
        for (text, x) in [("1e-5", 1e-5_f32), ("100000", 1e5), ("0.1", 0.1), ("500000", 5e5)] {
            assert_eq!(tidy(x), text.parse::<f64>().unwrap(), "{text}");
        }
        assert!(tidy(f32::NAN).is_nan());
        assert_eq!(tidy(f32::INFINITY), f64::INFINITY);
    }
}
