//! Models of which one piece is in memory: the blocks that a run keeps, and the folder that it writes.

use std::path::PathBuf;
use std::sync::Arc;

use candle_core::{Device, Error as CandleError, Result as CandleResult};
use trimwick_models::StreamedLlama;
use trimwick_nn::{FolderSource, LoadedBlock, LoadedEmbedding, LoadedHead, StreamedLm};

use super::blocks::Blocks;
use super::error::Result;
use super::export::QUANTIZERS;
use super::origin::{Origin, layer_shapes, open_source};
use super::quantize::{Schemes, wear_block};
use super::snapshot;
use crate::{ModelSource, QuantizeSpec, Recipe};

/// A model whose blocks are in the run's folder.
pub(crate) struct Stored<'a> {
    model: StreamedLlama,
    pub(crate) blocks: Blocks,
    pub(crate) quantize: Option<(&'a QuantizeSpec, Schemes)>,
}

impl<'a> Stored<'a> {
    pub(crate) fn new(recipe: &'a Recipe, origin: &Origin, blocks: Blocks) -> Result<Self> {
        let shapes = layer_shapes(&origin.config);
        let layers =
            shapes.iter().filter_map(|l| Some((l.path.as_str(), l.kind.computing()?, l.shape.as_slice())));
        let quantize = match &recipe.quantize {
            Some(spec) => Some((spec, Schemes::over(layers, spec)?)),
            None => None,
        };
        Ok(Self { model: origin.streamed()?, blocks, quantize })
    }

    /// The file of a block.
    pub(crate) fn path(&self, index: usize) -> PathBuf {
        self.blocks.path(index)
    }

    /// The schemes of the recipe.
    pub(crate) fn schemes(&self) -> Option<&Schemes> {
        self.quantize.as_ref().map(|(_, schemes)| schemes)
    }

    /// A finished block, with its masks and quantizers.
    pub(crate) fn load(&self, index: usize) -> Result<LoadedBlock> {
        let path = self.path(index);
        let block = self.model.load_block_from(index, Arc::new(FolderSource::open(&path)?))?;
        let (layers, slots) = (block.layers(), block.kv_slots());
        if let Some((spec, schemes)) = &self.quantize {
            schemes.attach(&layers, &slots, spec)?;
        }
        snapshot::complete(&block.store, &path)?;
        trimwick_quant::restore(&layers)?;
        trimwick_quant::kv::restore(&slots)?;
        Ok(block)
    }
}

impl StreamedLm for Stored<'_> {
    fn vocab_size(&self) -> usize {
        self.model.vocab_size()
    }

    fn max_context(&self) -> usize {
        self.model.max_context()
    }

    fn blocks(&self) -> usize {
        self.model.blocks()
    }

    fn load_embedding(&self) -> CandleResult<LoadedEmbedding> {
        self.model.load_embedding()
    }

    fn load_block(&self, index: usize) -> CandleResult<LoadedBlock> {
        self.load(index).map_err(CandleError::wrap)
    }

    fn load_head(&self) -> CandleResult<LoadedHead> {
        self.model.load_head()
    }
}

/// The written model, with the quantizers of activations that it was trained with: they are no part of its weights.
pub(crate) struct Exported<'a> {
    model: StreamedLlama,
    quantize: Option<&'a (&'a QuantizeSpec, Schemes)>,
    /// What the quantizers keep.
    kept: PathBuf,
}

impl<'a> Exported<'a> {
    pub(crate) fn open(folder: PathBuf, recipe: &Recipe, stored: &'a Stored<'a>) -> Result<Self> {
        let kept = folder.join(QUANTIZERS);
        let files = open_source(&ModelSource::Folder(folder))?;
        let context = Some(recipe.data.context);
        let model = StreamedLlama::new(&files.config, context, files.weights, &Device::Cpu)?;
        Ok(Self { model, quantize: stored.quantize.as_ref(), kept })
    }
}

impl StreamedLm for Exported<'_> {
    fn vocab_size(&self) -> usize {
        self.model.vocab_size()
    }

    fn max_context(&self) -> usize {
        self.model.max_context()
    }

    fn blocks(&self) -> usize {
        self.model.blocks()
    }

    fn load_embedding(&self) -> CandleResult<LoadedEmbedding> {
        self.model.load_embedding()
    }

    fn load_block(&self, index: usize) -> CandleResult<LoadedBlock> {
        let block = self.model.load_block(index)?;
        if let Some((spec, schemes)) = self.quantize {
            wear_block(&block, spec, schemes, &self.kept).map_err(CandleError::wrap)?;
        }
        Ok(block)
    }

    fn load_head(&self) -> CandleResult<LoadedHead> {
        self.model.load_head()
    }
}
