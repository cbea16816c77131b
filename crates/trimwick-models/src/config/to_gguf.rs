//! The configuration as GGUF metadata; the way back of [`LlamaConfig::from_gguf`].

use trimwick_formats::gguf::Value;
use trimwick_nn::{RopeScaling, inverse_frequencies};

use super::{Arch, LlamaConfig};
use crate::error::{Error, Result};

impl LlamaConfig {
    /// `general.architecture` of a GGUF file of this model: Mistral is a `llama` there.
    pub fn gguf_architecture(&self) -> &'static str {
        match self.arch {
            Arch::Llama | Arch::Mistral => "llama",
            Arch::Qwen2 => "qwen2",
            Arch::Qwen3 => "qwen3",
        }
    }

    /// The keys of the architecture, `general.architecture` first; `origin` is named in errors.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a sliding window that only some of the layers have, which GGUF cannot say.
    pub fn to_gguf(&self, origin: &str) -> Result<Vec<(String, Value)>> {
        if self.sliding_from_layer > 0 {
            let found = format!("from layer {}", self.sliding_from_layer);
            let supported = "one of all layers, or none; or export for Hugging Face";
            return Err(Error::unsupported(origin, "sliding window in GGUF", &found, supported));
        }
        let arch = self.gguf_architecture();
        let mut out = vec![("general.architecture".to_string(), Value::String(arch.into()))];
        let mut put = |key: &str, value| out.push((format!("{arch}.{key}"), value));
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("context_length", self.max_position_embeddings),
            ("embedding_length", self.hidden_size),
            ("block_count", self.num_layers),
            ("feed_forward_length", self.intermediate_size),
            ("attention.head_count", self.num_heads),
            ("attention.head_count_kv", self.num_kv_heads),
            ("attention.key_length", self.head_dim),
            ("attention.value_length", self.head_dim),
            ("rope.dimension_count", self.head_dim),
        ];
        for (key, size) in sizes {
            // Every size was checked to be far below 2³².
            put(key, Value::U32(u32::try_from(size).unwrap_or(u32::MAX)));
        }
        put("attention.layer_norm_rms_epsilon", Value::F32(self.rms_norm_eps as f32));
        put("rope.freq_base", Value::F32(self.rope_theta as f32));
        if let Some(window) = self.sliding_window {
            put("attention.sliding_window", Value::U32(u32::try_from(window).unwrap_or(u32::MAX)));
        }
        if let Some(RopeScaling::Linear { factor }) = self.rope_scaling {
            put("rope.scaling.type", Value::String("linear".into()));
            put("rope.scaling.factor", Value::F32(factor as f32));
        }
        Ok(out)
    }

    /// The values of `rope_freqs.weight`, `[head_dim / 2]`: what each rotary frequency is divided by. `None` where no
    /// tensor is needed.
    pub fn rope_divisors(&self) -> Option<Vec<f32>> {
        match &self.rope_scaling {
            None | Some(RopeScaling::Linear { .. }) => None,
            Some(RopeScaling::Divisors(divisors)) => Some(divisors.iter().map(|&d| d as f32).collect()),
            scaling @ Some(RopeScaling::Llama3 { .. }) => {
                let plain = inverse_frequencies(self.head_dim, self.rope_theta, None);
                let stretched = inverse_frequencies(self.head_dim, self.rope_theta, scaling.as_ref());
                Some(plain.iter().zip(&stretched).map(|(p, s)| (p / s) as f32).collect())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::path::Path;

    use trimwick_formats::ByteSource;
    use trimwick_formats::blocks::GgmlType;
    use trimwick_formats::floats::f32_to_le_bytes;
    use trimwick_formats::gguf::{GgufFile, NewTensor, Writer};

    use super::*;
    use crate::names::hf_to_gguf;

    #[test]
    fn every_family_comes_back() {
        for name in ["llama2", "llama3", "mistral", "qwen2", "qwen3", "smollm2", "tinyllama"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
            let text = std::fs::read_to_string(path.join("config.json")).unwrap();
            let config = LlamaConfig::from_hf_json(&text, name).unwrap();
            let mut keys = config.to_gguf(name).unwrap();
            let id = |key: &str, id| (format!("tokenizer.ggml.{key}_token_id"), Value::U32(id));
            keys.extend(config.bos_token_id.map(|bos| id("bos", bos)));
            keys.extend(config.eos_token_ids.first().map(|&eos| id("eos", eos)));
            let shapes = config.tensors();
            let zeros = |shape: &[usize]| vec![0u8; 4 * shape.iter().product::<usize>()];
            let data: Vec<_> = shapes.iter().map(|(_, shape)| zeros(shape)).collect();
            let divisors = config.rope_divisors().map(|d| f32_to_le_bytes(&d));
            let mut tensors: Vec<_> = shapes
                .iter()
                .zip(&data)
                .map(|((name, shape), data)| {
                    NewTensor::bytes(hf_to_gguf(name).unwrap(), GgmlType::F32, shape, data)
                })
                .collect();
            if let Some(divisors) = &divisors {
                let shape = [config.head_dim / 2];
                tensors.push(NewTensor::bytes("rope_freqs.weight", GgmlType::F32, &shape, divisors));
            }
            let mut bytes = Vec::new();
            Writer::new(&keys, tensors).unwrap().write_to(&mut bytes).unwrap();
            let file = GgufFile::from_source(ByteSource::memory(Cow::Owned(bytes), "written")).unwrap();
            let read = LlamaConfig::from_gguf(&file, "written").unwrap();
            // GGUF has no word for how weights start, and Mistral without a window is a Llama there.
            let expected = LlamaConfig {
                initializer_range: read.initializer_range,
                arch: if config.sliding_window.is_none() && config.arch == Arch::Mistral {
                    Arch::Llama
                } else {
                    config.arch
                },
                eos_token_ids: config.eos_token_ids.iter().take(1).copied().collect(),
                ..config
            };
            let stretched =
                |c: &LlamaConfig| inverse_frequencies(c.head_dim, c.rope_theta, c.rope_scaling.as_ref());
            let far =
                stretched(&read).iter().zip(stretched(&expected)).any(|(a, b)| (a / b - 1.).abs() > 1e-6);
            assert!(!far, "{name}");
            assert_eq!(read, LlamaConfig { rope_scaling: read.rope_scaling.clone(), ..expected }, "{name}");
        }
    }
}
