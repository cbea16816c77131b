//! The Llama family: Llama 2 and 3, SmolLM2, TinyLlama, Mistral, Qwen2 (biases on q, k, v), Qwen3 (norms on q, k).
//!
//! One model, parametrized by [`LlamaConfig`]: pre-norm blocks of causal grouped-query attention and SwiGLU, RMS
//! norms, rotary positions. Parameter names are those of Hugging Face checkpoints, logits come for every
//! position (a language-model loss needs them), and every parameter is reached by the gradient.

use candle_core::{IndexOp, Result, Tensor};
use trimwick_nn::ops::Logits;
use trimwick_nn::{CausalLm, DecoderBlock, Embedding, Feed, KvCache, LmHead, Module, VarBuilder};

use crate::block::{LlamaBlock, LlamaHead, embedding, rotary};
use crate::config::LlamaConfig;

/// A Llama-family language model.
#[derive(Clone, Debug)]
pub struct Llama {
    embed_tokens: Embedding,
    layers: Vec<LlamaBlock>,
    head: LlamaHead,
    config: LlamaConfig,
}

impl Llama {
    /// Builds the model at the root of `vb`, with rotary tables for `context` tokens (at most the
    /// configuration's `max_position_embeddings`; `None` for all of them).
    ///
    /// # Errors
    /// Tensors that the store's source lacks or holds in another shape; a context beyond the configuration's.
    pub fn new(config: &LlamaConfig, context: Option<usize>, vb: VarBuilder) -> Result<Self> {
        let rotary = rotary(config, context, vb.dtype(), vb.device())?;
        let embed_tokens = embedding(config, &vb)?;
        let layers = (0..config.num_layers)
            .map(|i| LlamaBlock::new(config, i, rotary.clone(), &vb))
            .collect::<Result<Vec<_>>>()?;
        let head = LlamaHead::new(config, &embed_tokens, &vb)?;
        Ok(Self { embed_tokens, layers, head, config: config.clone() })
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
            x = block.forward_cached(&x, cache)?;
        }
        let last = x.i((.., x.dim(1)? - 1, ..))?.contiguous()?;
        self.head(&last)
    }

    /// A handle to one block, which shares its parameters.
    ///
    /// # Panics
    /// When `index` is not below the number of blocks.
    pub fn decoder_block(&self, index: usize) -> LlamaBlock {
        self.layers[index].clone()
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
        LlamaBlock::path_of(index)
    }

    fn feeds(&self, index: usize) -> Vec<Feed> {
        match self.layers.get(index) {
            Some(block) => block.feeds(),
            // A head that shares the embedding's weight must not be scaled for the norm before it.
            None if self.config.tie_word_embeddings => Vec::new(),
            None => vec![self.head.feed()],
        }
    }

    fn embed(&self, ids: &Tensor) -> Result<Tensor> {
        self.embed_tokens.forward(ids)
    }

    fn block(&self, index: usize, x: &Tensor) -> Result<Tensor> {
        self.layers[index].forward(x)
    }

    fn head(&self, x: &Tensor) -> Result<Tensor> {
        self.head.logits(x)?.whole()
    }

    fn logits(&self, x: &Tensor) -> Result<Logits> {
        self.head.logits(x)
    }
}
