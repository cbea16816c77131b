//! What pruning, training and evaluation ask of a language model.

use candle_core::{Result, Tensor};

use crate::feed::Feed;
use crate::ops::Logits;

/// A causal language model as a stack of blocks: algorithms that go block after block, and losses that look at
/// every position, need no more than this.
pub trait CausalLm: Send + Sync {
    /// Size of the vocabulary.
    fn vocab_size(&self) -> usize;

    /// The longest sequence, in tokens.
    fn max_context(&self) -> usize;

    /// Number of blocks.
    fn blocks(&self) -> usize;

    /// Path below which the layers of block `index` are registered, such as `model.layers.0`.
    fn block_path(&self, index: usize) -> String;

    /// Token ids `[b, t]` (u32) to the input of block 0, `[b, t, hidden]`.
    ///
    /// # Errors
    /// Ids outside the vocabulary.
    fn embed(&self, ids: &Tensor) -> Result<Tensor>;

    /// Block `index` on `[b, t, hidden]`, causal over `t`, positions from 0.
    ///
    /// # Errors
    /// Tensor operations.
    fn block(&self, index: usize, x: &Tensor) -> Result<Tensor>;

    /// Output of the last block `[.., hidden]` to logits `[.., vocabulary]`.
    ///
    /// # Errors
    /// Tensor operations.
    fn head(&self, x: &Tensor) -> Result<Tensor>;

    /// Which layers of block `index` share an input, and what makes it; those of the head for the number of blocks. In
    /// the order of the computation. A layer that is in none of them has an input of its own that nothing can scale.
    fn feeds(&self, _index: usize) -> Vec<Feed> {
        Vec::new()
    }

    /// What [`CausalLm::head`] gives, or two factors of it: a loss can do without the logits of all tokens at once
    /// ([`crate::ops::head_loss`]).
    ///
    /// # Errors
    /// Tensor operations.
    fn logits(&self, x: &Tensor) -> Result<Logits> {
        Ok(Logits::Whole(self.head(x)?))
    }

    /// Logits of every position: `[b, t]` to `[b, t, vocabulary]`.
    ///
    /// # Errors
    /// Ids outside the vocabulary.
    fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        let mut x = self.embed(ids)?;
        for index in 0..self.blocks() {
            x = self.block(index, &x)?;
        }
        self.head(&x)
    }
}
