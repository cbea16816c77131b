//! Writing `config.json`, in the layout that transformers 4 and 5, vLLM and candle all read.

use serde_json::{Map, Value, json};
use trimwick_nn::RopeScaling;

use super::{Arch, LlamaConfig};

impl LlamaConfig {
    /// The `config.json` of a model of this shape whose weights are stored as `torch_dtype` (`"float32"`, `"bfloat16"`,
    /// `"float16"`). Reading it back gives an equal configuration.
    pub fn to_hf_json(&self, torch_dtype: &str) -> Value {
        let mut map = Map::new();
        let mut put = |key: &str, value: Value| {
            map.insert(key.into(), value);
        };
        put("architectures", json!([self.arch.class_name()]));
        put("model_type", json!(self.arch.model_type()));
        put("torch_dtype", json!(torch_dtype));
        put("vocab_size", json!(self.vocab_size));
        put("hidden_size", json!(self.hidden_size));
        put("intermediate_size", json!(self.intermediate_size));
        put("num_hidden_layers", json!(self.num_layers));
        put("num_attention_heads", json!(self.num_heads));
        put("num_key_value_heads", json!(self.num_kv_heads));
        put("head_dim", json!(self.head_dim));
        put("hidden_act", json!("silu"));
        put("max_position_embeddings", json!(self.max_position_embeddings));
        put("initializer_range", json!(self.initializer_range));
        put("rms_norm_eps", json!(self.rms_norm_eps));
        put("rope_theta", json!(self.rope_theta));
        put("rope_scaling", self.rope_scaling_json());
        put("attention_dropout", json!(0.0));
        put("use_cache", json!(true));
        put("tie_word_embeddings", json!(self.tie_word_embeddings));
        put("bos_token_id", json!(self.bos_token_id));
        put(
            "eos_token_id",
            match self.eos_token_ids.as_slice() {
                [] => Value::Null,
                [id] => json!(id),
                ids => json!(ids),
            },
        );
        match self.arch {
            Arch::Llama => {
                put("attention_bias", json!(self.attention_bias));
                put("mlp_bias", json!(self.mlp_bias));
            }
            Arch::Mistral => put("sliding_window", json!(self.sliding_window)),
            Arch::Qwen2 | Arch::Qwen3 => {
                if self.arch == Arch::Qwen3 {
                    put("attention_bias", json!(self.attention_bias));
                }
                put("use_sliding_window", json!(self.sliding_window.is_some()));
                put("sliding_window", json!(self.sliding_window));
                put("max_window_layers", json!(self.sliding_from_layer));
            }
        }
        Value::Object(map)
    }

    fn rope_scaling_json(&self) -> Value {
        match &self.rope_scaling {
            None => Value::Null,
            Some(RopeScaling::Linear { factor }) => json!({ "rope_type": "linear", "factor": factor }),
            Some(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context }) => {
                json!({
                    "rope_type": "llama3",
                    "factor": factor,
                    "low_freq_factor": low_freq_factor,
                    "high_freq_factor": high_freq_factor,
                    "original_max_position_embeddings": original_context,
                })
            }
            // The one type with room for explicit divisors.
            Some(RopeScaling::Divisors(divisors)) => json!({
                "rope_type": "longrope",
                "short_factor": divisors,
                "long_factor": divisors,
                "attention_factor": 1.0,
                "original_max_position_embeddings": self.max_position_embeddings,
            }),
        }
    }
}
