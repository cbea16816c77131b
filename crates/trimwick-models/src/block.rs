//! The pieces of a Llama: its decoder blocks, the embedding before them and the head behind.
//!
//! A [`Llama`](crate::Llama) is built of them all at once, a [`StreamedLlama`](crate::StreamedLlama) of one after the
//! other; the computation, and the names of the parameters, are these in both.

use std::sync::Arc;

use candle_core::{D, DType, Device, Result, Tensor};
use trimwick_nn::ops::{self, Logits};
use trimwick_nn::{
    AttentionConfig, CausalAttention, DecoderBlock, Embedding, Feed, Init, KvCache, Linear, LmHead, Module,
    RmsNorm, Rotary, SwiGluMlp, SwiGluMlpConfig, VarBuilder, embedding_init, linear_init, rms_norm,
};

use crate::config::LlamaConfig;

/// One decoder block: `x + attention(norm(x))`, then `x + mlp(norm(x))`. Clones share the parameters.
#[derive(Clone, Debug)]
pub struct LlamaBlock {
    path: String,
    input_layernorm: RmsNorm,
    self_attn: CausalAttention,
    post_attention_layernorm: RmsNorm,
    mlp: SwiGluMlp,
}

impl LlamaBlock {
    /// Builds block `index` of a model whose root is `vb`, at [`LlamaBlock::path_of`] below it.
    ///
    /// # Errors
    /// Tensors that the store's source lacks or holds in another shape.
    pub fn new(config: &LlamaConfig, index: usize, rotary: Arc<Rotary>, vb: &VarBuilder) -> Result<Self> {
        let vb = vb.pp("model").pp("layers").pp(index);
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
            path: vb.prefix(),
            input_layernorm: rms_norm(config.hidden_size, eps, vb.pp("input_layernorm"))?,
            self_attn: CausalAttention::new(attention, rotary, vb.pp("self_attn"))?,
            post_attention_layernorm: rms_norm(config.hidden_size, eps, vb.pp("post_attention_layernorm"))?,
            mlp: SwiGluMlp::new(&mlp, vb.pp("mlp"))?,
        })
    }

    /// The path of a block in a model: `model.layers.INDEX`.
    pub fn path_of(index: usize) -> String {
        format!("model.layers.{index}")
    }

    /// The block on x `[b, t, hidden]`, which follows the cached positions; the cache grows by `t`.
    ///
    /// # Errors
    /// Positions beyond the rotary tables, another batch size than the cache's.
    pub fn forward_cached(&self, x: &Tensor, cache: &mut KvCache) -> Result<Tensor> {
        let attended = self.self_attn.forward_cached(&self.input_layernorm.forward(x)?, cache)?;
        self.mlp(&ops::add(x, &attended)?)
    }
}

impl DecoderBlock for LlamaBlock {
    fn path(&self) -> &str {
        &self.path
    }

    fn attention(&self, x: &Tensor) -> Result<Tensor> {
        ops::add(x, &self.self_attn.forward(&self.input_layernorm.forward(x)?)?)
    }

    fn mlp(&self, h: &Tensor) -> Result<Tensor> {
        ops::add(h, &self.mlp.forward(&self.post_attention_layernorm.forward(h)?)?)
    }

    fn feeds(&self) -> Vec<Feed> {
        vec![
            self.input_layernorm.feed(self.self_attn.inputs()),
            self.self_attn.inner_feed(),
            self.post_attention_layernorm.feed(self.mlp.inputs()),
            self.mlp.inner_feed(),
        ]
    }

    fn in_attention(&self, name: &str) -> bool {
        let inside = name.strip_prefix(&self.path).and_then(|name| name.strip_prefix('.'));
        inside.is_some_and(|name| name.starts_with("self_attn.") || name.starts_with("input_layernorm."))
    }
}

/// What turns the last block's output into logits: a norm and the output projection.
#[derive(Clone, Debug)]
pub(crate) struct LlamaHead {
    norm: RmsNorm,
    lm_head: Linear,
}

impl LlamaHead {
    /// The head of a model whose root is `vb`; a tied one projects with `embedding`.
    pub(crate) fn new(config: &LlamaConfig, embedding: &Embedding, vb: &VarBuilder) -> Result<Self> {
        let norm = rms_norm(config.hidden_size, config.rms_norm_eps, vb.pp("model").pp("norm"))?;
        let lm_head = match config.tie_word_embeddings {
            true => Linear::tied(embedding),
            false => Self::projection(config, vb)?,
        };
        Ok(Self { norm, lm_head })
    }

    /// The head without the rest of the model.
    pub(crate) fn alone(config: &LlamaConfig, vb: &VarBuilder) -> Result<Self> {
        if config.tie_word_embeddings {
            return Self::new(config, &embedding(config, vb)?, vb);
        }
        let norm = rms_norm(config.hidden_size, config.rms_norm_eps, vb.pp("model").pp("norm"))?;
        Ok(Self { norm, lm_head: Self::projection(config, vb)? })
    }

    /// The norm feeds the output projection.
    pub(crate) fn feed(&self) -> Feed {
        self.norm.feed([self.lm_head.layer().clone()].into_iter().collect())
    }

    fn projection(config: &LlamaConfig, vb: &VarBuilder) -> Result<Linear> {
        linear_init(config.hidden_size, config.vocab_size, false, fresh(config), vb.pp("lm_head"))
    }
}

impl LmHead for LlamaHead {
    fn logits(&self, x: &Tensor) -> Result<Logits> {
        debug_assert_eq!(x.dim(D::Minus1)?, self.norm.weight().elem_count());
        self.lm_head.logits(&self.norm.forward(x)?)
    }
}

/// The embedding of a model whose root is `vb`.
pub(crate) fn embedding(config: &LlamaConfig, vb: &VarBuilder) -> Result<Embedding> {
    let vb = vb.pp("model").pp("embed_tokens");
    embedding_init(config.vocab_size, config.hidden_size, fresh(config), vb)
}

/// The rotary tables of a model, for `context` tokens or for all that it has positions for.
///
/// # Errors
/// A context beyond the configuration's.
pub(crate) fn rotary(
    config: &LlamaConfig,
    context: Option<usize>,
    dtype: DType,
    device: &Device,
) -> Result<Arc<Rotary>> {
    let longest = config.max_position_embeddings;
    let context = context.unwrap_or(longest);
    if context > longest {
        candle_core::bail!("context of {context} tokens: the model has positions for {longest}");
    }
    let scaling = config.rope_scaling.as_ref();
    Ok(Arc::new(Rotary::new(config.head_dim, context, config.rope_theta, scaling, dtype, device)?))
}

/// How weights start when there is no checkpoint: as in Hugging Face's models.
fn fresh(config: &LlamaConfig) -> Init {
    Init::Randn { mean: 0., stdev: config.initializer_range }
}
