//! Models of which one piece is in memory: the blocks that a run keeps, and the folder that it writes.

use std::path::PathBuf;
use std::sync::Arc;

use candle_core::{Device, Error as CandleError, Result as CandleResult};
use trimwick_models::StreamedLlama;
use trimwick_nn::{FolderSource, LoadedBlock, LoadedEnd, StreamedLm};

use super::blocks::Blocks;
use super::error::Result;
use super::origin::{Origin, layer_shapes, open_source};
use super::quantize::{Schemes, wear_inputs};
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

    fn load_embedding(&self) -> CandleResult<LoadedEnd> {
        self.model.load_embedding()
    }

    fn load_block(&self, index: usize) -> CandleResult<LoadedBlock> {
        self.load(index).map_err(CandleError::wrap)
    }

    fn load_head(&self) -> CandleResult<LoadedEnd> {
        self.model.load_head()
    }
}

/// The written model, with the quantizers of activations that it was trained with: they are no part of the file.
pub(crate) struct Exported<'a> {
    model: StreamedLlama,
    trained: Option<&'a Stored<'a>>,
}

impl<'a> Exported<'a> {
    pub(crate) fn open(folder: PathBuf, recipe: &Recipe, stored: &'a Stored<'a>) -> Result<Self> {
        let files = open_source(&ModelSource::Folder(folder))?;
        let context = Some(recipe.data.context);
        let model = StreamedLlama::new(&files.config, context, files.weights, &Device::Cpu)?;
        Ok(Self { model, trained: recipe.quantize.as_ref().map(|_| stored) })
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

    fn load_embedding(&self) -> CandleResult<LoadedEnd> {
        self.model.load_embedding()
    }

    fn load_block(&self, index: usize) -> CandleResult<LoadedBlock> {
        let block = self.model.load_block(index)?;
        if let Some(trained) = self.trained {
            wear_inputs(&block.store, &trained.load_block(index)?.store);
        }
        Ok(block)
    }

    fn load_head(&self) -> CandleResult<LoadedEnd> {
        self.model.load_head()
    }
}
