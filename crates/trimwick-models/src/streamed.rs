//! A Llama of which one piece at a time is in memory.

use std::sync::Arc;

use candle_core::{DType, Device, Result};
use trimwick_nn::{LoadedBlock, LoadedEmbedding, LoadedHead, ParamStore, Rotary, StreamedLm, TensorSource};

use crate::block::{LlamaBlock, LlamaHead, embedding, rotary};
use crate::config::LlamaConfig;

/// A Llama whose embedding, blocks and head are read one by one, each into a store of its own, in f32.
///
/// Weights come from any [`TensorSource`] by positioned reads, tensor by tensor: what is in memory at any time is the
/// piece that was asked for, and the rotary tables, which all blocks share. Paths and names are those of the whole
/// [`Llama`](crate::Llama), and so is the computation, bit for bit.
pub struct StreamedLlama {
    config: LlamaConfig,
    rotary: Arc<Rotary>,
    weights: Arc<dyn TensorSource>,
    device: Device,
}

impl StreamedLlama {
    /// A model over `weights`, with rotary tables for `context` tokens (at most the configuration's
    /// `max_position_embeddings`; `None` for all of them). No weight is read.
    ///
    /// # Errors
    /// A context beyond the configuration's.
    pub fn new(
        config: &LlamaConfig,
        context: Option<usize>,
        weights: Arc<dyn TensorSource>,
        device: &Device,
    ) -> Result<Self> {
        let rotary = rotary(config, context, DType::F32, device)?;
        Ok(Self { config: config.clone(), rotary, weights, device: device.clone() })
    }

    /// The configuration.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// Block `index` with weights from another source: what was stored of it after it was changed.
    ///
    /// # Errors
    /// Tensors that the source lacks or holds in another shape; weights that cannot be read.
    pub fn load_block_from(&self, index: usize, weights: Arc<dyn TensorSource>) -> Result<LoadedBlock> {
        if index >= self.config.num_layers {
            candle_core::bail!("block {index}: the model has {}", self.config.num_layers);
        }
        let store = self.store(weights);
        let block = LlamaBlock::new(&self.config, index, self.rotary.clone(), &store.var_builder())?;
        Ok(LoadedBlock { store, block: Arc::new(block) })
    }

    fn store(&self, weights: Arc<dyn TensorSource>) -> ParamStore {
        ParamStore::from_source(weights, DType::F32, &self.device, 0)
    }
}

impl StreamedLm for StreamedLlama {
    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn max_context(&self) -> usize {
        self.config.max_position_embeddings
    }

    fn blocks(&self) -> usize {
        self.config.num_layers
    }

    fn load_embedding(&self) -> Result<LoadedEmbedding> {
        let store = self.store(self.weights.clone());
        let embedding = embedding(&self.config, &store.var_builder())?;
        Ok(LoadedEmbedding { store, embedding })
    }

    fn load_block(&self, index: usize) -> Result<LoadedBlock> {
        self.load_block_from(index, self.weights.clone())
    }

    fn load_head(&self) -> Result<LoadedHead> {
        let store = self.store(self.weights.clone());
        let head = Box::new(LlamaHead::alone(&self.config, &store.var_builder())?);
        Ok(LoadedHead { store, head })
    }
}

impl std::fmt::Debug for StreamedLlama {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamedLlama").field("config", &self.config).finish_non_exhaustive()
    }
}
