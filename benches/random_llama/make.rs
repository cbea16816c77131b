//! A Llama of any size with random bf16 weights, written shard by shard: what streaming is measured on.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;
use trimwick::formats::safetensors::{Dtype, NewTensor, write};
use trimwick::kernels::Rng;
use trimwick::models::LlamaConfig;
use trimwick::models::builtin;

/// The sizes of a model.
pub struct Shape {
    pub hidden: usize,
    pub intermediate: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub vocab: usize,
    pub seed: u64,
}

impl Default for Shape {
    /// Llama 2 7B: 13.5 GB.
    fn default() -> Self {
        Self {
            hidden: 4096,
            intermediate: 11008,
            layers: 32,
            heads: 32,
            kv_heads: 32,
            vocab: 32000,
            seed: 42,
        }
    }
}

/// Writes the model's folder: configuration, the built-in tokenizer, and a shard for the embedding, for each block and for
/// the head. One tensor is in memory at a time. Gives the bytes of the weights.
pub fn make(folder: &Path, shape: &Shape) -> anyhow::Result<u64> {
    let Shape { hidden, intermediate, layers, heads, kv_heads, vocab, seed } = *shape;
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
        "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": vocab,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": false, "bos_token_id": 0, "eos_token_id": 0,
    });
    let checked = LlamaConfig::from_hf_value(&config, "the sizes")?;
    let tokenizer = builtin::MODELS.first().map(|model| model.tokenizer).unwrap_or_default();
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("config.json"), serde_json::to_vec_pretty(&config)?)?;
    std::fs::write(folder.join("tokenizer.json"), tokenizer)?;

    let mut shards: BTreeMap<usize, Vec<(String, Vec<usize>)>> = BTreeMap::new();
    for (name, dims) in checked.tensors() {
        let block: Option<usize> =
            name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next()?.parse().ok());
        let shard = match (block, name.as_str()) {
            (Some(block), _) => 1 + block,
            (None, "model.embed_tokens.weight") => 0,
            (None, _) => 1 + layers,
        };
        shards.entry(shard).or_default().push((name, dims));
    }
    let (mut weight_map, mut total) = (BTreeMap::new(), 0);
    for (shard, tensors) in &shards {
        let file = format!("model-{:05}-of-{:05}.safetensors", shard + 1, layers + 2);
        let new = tensors.iter().map(|(name, dims)| {
            // Weights of this size keep the states of a deep model from growing or vanishing.
            let deviation = (1.0 / dims.last().copied().unwrap_or(1) as f64).sqrt();
            let norm = dims.len() == 1;
            NewTensor::stream(name, Dtype::BF16, dims, move |out| {
                let mut values = vec![1f32; dims.iter().product()];
                if !norm {
                    Rng::new(seed, "random-llama", 0, name).fill_normal(0.0, deviation, &mut values);
                }
                for piece in values.chunks(1 << 16) {
                    let bytes: Vec<u8> = piece.iter().flat_map(|&v| bf16(v).to_le_bytes()).collect();
                    out.write_all(&bytes)?;
                }
                Ok(())
            })
        });
        write(folder.join(&file), new, &BTreeMap::from([("format".into(), "pt".into())]))?;
        for (name, dims) in tensors {
            total += 2 * dims.iter().product::<usize>() as u64;
            weight_map.insert(name.clone(), file.clone());
        }
    }
    let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
    std::fs::write(folder.join("model.safetensors.index.json"), serde_json::to_vec_pretty(&index)?)?;
    Ok(total)
}

/// The upper half of a finite f32, rounded to nearest even.
fn bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}
