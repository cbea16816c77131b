//! The Llama family: Llama 2 and 3, SmolLM2, TinyLlama, Mistral, Qwen2 (biases on q, k, v), Qwen3 (norms on q, k).
//!
//! One model, parametrized by [`LlamaConfig`]: pre-norm blocks of causal grouped-query attention and SwiGLU, RMS
//! norms, rotary positions. Parameter names are those of Hugging Face checkpoints, logits come for every
//! position (a language-model loss needs them), and every parameter is reached by the gradient.

use std::sync::Arc;

use candle_core::{D, IndexOp, Result, Tensor};
use trimwick_nn::ops::{self, Logits};
use trimwick_nn::{
    AttentionConfig, CausalAttention, CausalLm, Embedding, Init, KvCache, Linear, Module, RmsNorm,
    RopeScaling, Rotary, SwiGluMlp, SwiGluMlpConfig, VarBuilder, embedding_init, linear_init, rms_norm,
};

use crate::config::LlamaConfig;

/// One decoder block: `x + attention(norm(x))`, then `x + mlp(norm(x))`.
#[derive(Clone, Debug)]
struct Block {
    input_layernorm: RmsNorm,
    self_attn: CausalAttention,
    post_attention_layernorm: RmsNorm,
    mlp: SwiGluMlp,
}

impl Block {
    fn new(config: &LlamaConfig, index: usize, rotary: Arc<Rotary>, vb: VarBuilder) -> Result<Self> {
        let eps = config.rms_norm_eps;
        let init = fresh(config);
        let attention = AttentionConfig {
            hidden: config.hidden_size,
            heads: config.num_heads,
            kv_heads: config.num_kv_heads,
            head_dim: config.head_dim,
            qkv_bias: config.attention_bias,
            out_bias: config.attention_out_bias,
            qk_norm_eps: config.qk_norm.then_some(eps),
            window: config.window_of_layer(index),
            init,
        };
        let mlp = SwiGluMlpConfig {
            hidden: config.hidden_size,
            intermediate: config.intermediate_size,
            bias: config.mlp_bias,
            init,
        };
        Ok(Self {
            input_layernorm: rms_norm(config.hidden_size, eps, vb.pp("input_layernorm"))?,
            self_attn: CausalAttention::new(attention, rotary, vb.pp("self_attn"))?,
            post_attention_layernorm: rms_norm(config.hidden_size, eps, vb.pp("post_attention_layernorm"))?,
            mlp: SwiGluMlp::new(&mlp, vb.pp("mlp"))?,
        })
    }

    fn forward(&self, x: &Tensor, cache: Option<&mut KvCache>) -> Result<Tensor> {
        let normed = self.input_layernorm.forward(x)?;
        let attended = match cache {
            Some(cache) => self.self_attn.forward_cached(&normed, cache)?,
            None => self.self_attn.forward(&normed)?,
        };
        let x = ops::add(x, &attended)?;
        ops::add(&x, &self.mlp.forward(&self.post_attention_layernorm.forward(&x)?)?)
    }
}

/// How weights start when there is no checkpoint: as in Hugging Face's models.
fn fresh(config: &LlamaConfig) -> Init {
    Init::Randn { mean: 0., stdev: config.initializer_range }
}

/// A Llama-family language model.
#[derive(Clone, Debug)]
pub struct Llama {
    embed_tokens: Embedding,
    layers: Vec<Block>,
    norm: RmsNorm,
    lm_head: Linear,
    config: LlamaConfig,
}

impl Llama {
    /// Builds the model at the root of `vb`, with rotary tables for `context` tokens (at most the
    /// configuration's `max_position_embeddings`; `None` for all of them).
    ///
    /// # Errors
    /// Tensors that the store's source lacks or holds in another shape; a context beyond the configuration's.
    pub fn new(config: &LlamaConfig, context: Option<usize>, vb: VarBuilder) -> Result<Self> {
        let longest = config.max_position_embeddings;
        let context = context.unwrap_or(longest);
        if context > longest {
            candle_core::bail!("context of {context} tokens: the model has positions for {longest}");
        }
        let scaling: Option<RopeScaling> = config.rope_scaling.clone();
        let rotary = Arc::new(Rotary::new(
            config.head_dim,
            context,
            config.rope_theta,
            scaling.as_ref(),
            vb.dtype(),
            vb.device(),
        )?);
        let (model, init) = (vb.pp("model"), fresh(config));
        let embed_tokens =
            embedding_init(config.vocab_size, config.hidden_size, init, model.pp("embed_tokens"))?;
        let layers = (0..config.num_layers)
            .map(|i| Block::new(config, i, rotary.clone(), model.pp("layers").pp(i)))
            .collect::<Result<Vec<_>>>()?;
        let norm = rms_norm(config.hidden_size, config.rms_norm_eps, model.pp("norm"))?;
        let lm_head = match config.tie_word_embeddings {
            true => Linear::tied(&embed_tokens),
            false => linear_init(config.hidden_size, config.vocab_size, false, init, vb.pp("lm_head"))?,
        };
        Ok(Self { embed_tokens, layers, norm, lm_head, config: config.clone() })
    }

    /// The configuration that the model was built from.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// Fresh caches, one for each block.
    pub fn new_caches(&self) -> Vec<KvCache> {
        self.layers.iter().map(|_| KvCache::default()).collect()
    }

    /// Logits `[b, vocabulary]` of the last of `ids` `[b, t]`, which follow the cached positions; the caches
    /// grow by `t`.
    ///
    /// # Errors
    /// Positions beyond the context, another number of caches than blocks.
    pub fn forward_cached(&self, ids: &Tensor, caches: &mut [KvCache]) -> Result<Tensor> {
        if caches.len() != self.layers.len() {
            candle_core::bail!("{} caches for {} blocks", caches.len(), self.layers.len());
        }
        let mut x = self.embed_tokens.forward(ids)?;
        for (block, cache) in self.layers.iter().zip(caches) {
            x = block.forward(&x, Some(cache))?;
        }
        let last = x.i((.., x.dim(1)? - 1, ..))?.contiguous()?;
        self.head(&last)
    }
}

impl CausalLm for Llama {
    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn max_context(&self) -> usize {
        self.config.max_position_embeddings
    }

    fn blocks(&self) -> usize {
        self.layers.len()
    }

    fn block_path(&self, index: usize) -> String {
        format!("model.layers.{index}")
    }

    fn embed(&self, ids: &Tensor) -> Result<Tensor> {
        self.embed_tokens.forward(ids)
    }

    fn block(&self, index: usize, x: &Tensor) -> Result<Tensor> {
        self.layers[index].forward(x, None)
    }

    fn head(&self, x: &Tensor) -> Result<Tensor> {
        debug_assert_eq!(x.dim(D::Minus1)?, self.config.hidden_size);
        self.lm_head.forward(&self.norm.forward(x)?)
    }

    fn logits(&self, x: &Tensor) -> Result<Logits> {
        self.lm_head.logits(&self.norm.forward(x)?)
    }
}
