//! What algorithms that hold one block at a time ask of a language model.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use crate::embedding::Embedding;
use crate::feed::Feed;
use crate::kv::KvSlot;
use crate::layer::Layers;
use crate::ops::Logits;
use crate::param::Param;
use crate::store::ParamStore;

/// A decoder block in its two halves, each with its residual: `h = x + attention(norm(x))`, `y = h + mlp(norm(h))`.
pub trait DecoderBlock: Send + Sync {
    /// Path below which the block's layers are registered, such as `model.layers.0`.
    fn path(&self) -> &str;

    /// The first half: x `[b, t, hidden]` to h of that shape, causal over `t`, positions from 0.
    ///
    /// # Errors
    /// Tensor operations.
    fn attention(&self, x: &Tensor) -> Result<Tensor>;

    /// The second half: h `[b, t, hidden]` to y of that shape, each token by itself.
    ///
    /// # Errors
    /// Tensor operations.
    fn mlp(&self, h: &Tensor) -> Result<Tensor>;

    /// Whether the parameter of that full name belongs to the first half.
    fn in_attention(&self, name: &str) -> bool;

    /// Which of the block's layers share an input, and what makes it, in the order of the computation: as
    /// [`CausalLm::feeds`](crate::CausalLm::feeds) says it of a model.
    fn feeds(&self) -> Vec<Feed> {
        Vec::new()
    }

    /// The whole block: x `[b, t, hidden]` to y of that shape.
    ///
    /// # Errors
    /// Tensor operations.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.mlp(&self.attention(x)?)
    }
}

/// A block and the store that its parameters are in: one of its own, or that of the whole model. Clones share both.
#[derive(Clone)]
pub struct LoadedBlock {
    /// The store.
    pub store: ParamStore,
    /// The block.
    pub block: Arc<dyn DecoderBlock>,
}

impl LoadedBlock {
    /// The block's parameters and buffers, sorted by name.
    pub fn params(&self) -> Vec<Param> {
        let mut params = self.store.params();
        params.retain(|p| self.holds(p.name()));
        params
    }

    /// The block's layers, in the order they were built.
    pub fn layers(&self) -> Layers {
        self.store.layers().retain(|layer| self.holds(layer.path()))
    }

    /// Where keys and values pass in the block.
    pub fn kv_slots(&self) -> Vec<KvSlot> {
        let mut slots = self.store.kv_slots();
        slots.retain(|slot| self.holds(slot.path()));
        slots
    }

    /// Whether a name or path lies below the block's.
    pub fn holds(&self, name: &str) -> bool {
        name.strip_prefix(self.block.path()).is_some_and(|rest| rest.starts_with('.'))
    }
}

impl std::fmt::Debug for LoadedBlock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.block.path())
    }
}

/// What stands before the blocks, with a store of its own.
pub struct LoadedEmbedding {
    /// The store.
    pub store: ParamStore,
    /// Token ids `[b, t]` (u32) to `[b, t, hidden]`.
    pub embedding: Embedding,
}

/// What turns the output of the last block into logits.
pub trait LmHead: Send + Sync {
    /// x `[.., hidden]` to logits `[.., vocabulary]`, or to two factors of them.
    ///
    /// # Errors
    /// Tensor operations.
    fn logits(&self, x: &Tensor) -> Result<Logits>;
}

/// What stands behind the blocks, with a store of its own.
pub struct LoadedHead {
    /// The store.
    pub store: ParamStore,
    /// The head.
    pub head: Box<dyn LmHead>,
}

/// A causal language model of which one piece at a time is in memory. What is loaded is computed as in the
/// [`CausalLm`](crate::CausalLm) of the same weights, bit for bit, under the same names.
pub trait StreamedLm: Send + Sync {
    /// Size of the vocabulary.
    fn vocab_size(&self) -> usize;

    /// The longest sequence, in tokens.
    fn max_context(&self) -> usize;

    /// Number of blocks.
    fn blocks(&self) -> usize;

    /// Reads the embedding.
    ///
    /// # Errors
    /// Weights that cannot be read, by name.
    fn load_embedding(&self) -> Result<LoadedEmbedding>;

    /// Reads block `index`.
    ///
    /// # Errors
    /// Weights that cannot be read, by name.
    fn load_block(&self, index: usize) -> Result<LoadedBlock>;

    /// Reads the head; a tied one reads the embedding once more.
    ///
    /// # Errors
    /// Weights that cannot be read, by name.
    fn load_head(&self) -> Result<LoadedHead>;
}
