//! Training block after block: of a model in memory, against its dense twin read block by block.

use std::sync::Arc;

use candle_core::Tensor;
use trimwick_nn::{Layers, LoadedBlock};
use trimwick_quant::{LEARNED_SCALES, ScalePolicy};
use trimwick_train::blockwise::{
    BlockEvent, BlockInputs, BlockReport, BlockSteps, BlockTraining, Blockwise, Parts, Spill, Streams,
};
use trimwick_train::{AdamWConfig, ParamGroup, Warmup, Windows};

use super::blocks::Blocks;
use super::error::{Result, RunError};
use super::event::{Event, Report, Stage};
use super::origin::Built;
use super::snapshot::Expected;
use super::stages::Run;
use super::{data, snapshot};
use crate::{BlockInputs as Inputs, BlockParts, BlockwiseSpec, Recipe, Warmup as RecipeWarmup};

/// Where hidden states go that do not fit.
pub(crate) const STATES: &str = "stages/states";
/// The arm.
pub(crate) const BLOCKWISE: &str = "blockwise";

/// How the recipe trains a block.
pub(crate) fn training(recipe: &Recipe, spec: &BlockwiseSpec) -> BlockTraining {
    let learned = recipe.quantize.as_ref().filter(|q| q.scales == ScalePolicy::Learned);
    let learned = learned.map(|q| ParamGroup {
        pattern: LEARNED_SCALES.into(),
        lr_scale: q.scale_lr,
        weight_decay: Some(0.),
    });
    BlockTraining {
        windows: spec.windows,
        epochs: spec.epochs,
        batch: spec.batch,
        lr: spec.lr,
        warmup: match spec.warmup {
            RecipeWarmup::Fraction(fraction) => Warmup::Fraction(fraction),
            RecipeWarmup::Steps(steps) => Warmup::Steps(steps),
        },
        clip: spec.clip,
        parts: match spec.parts {
            BlockParts::Block => Parts::Block,
            BlockParts::Split => Parts::Split,
        },
        inputs: match spec.inputs {
            Inputs::Compressed => BlockInputs::Compressed,
            Inputs::Dense => BlockInputs::Dense,
        },
        seed: recipe.seed,
        optimizer: AdamWConfig::default(),
        groups: learned.into_iter().collect(),
    }
}

/// The windows that a walk starts from. Those of calibration are the first of them.
pub(crate) fn windows(recipe: &Recipe, training: Option<&Windows>) -> Result<Vec<Tensor>> {
    let calibrated = recipe.calibration.as_ref().map_or(0, |spec| spec.windows);
    let trained = recipe.blockwise.as_ref().map_or(0, |spec| spec.windows);
    let seed = recipe.calibration.as_ref().map_or(recipe.seed, |spec| spec.seed);
    match training {
        Some(windows) => data::drawn(windows, seed, calibrated.max(trained)),
        None => Ok(Vec::new()),
    }
}

/// Moves the scales that follow weights and inputs, as training end to end does before each step.
pub(crate) fn refresh(layers: &Layers, step: u64) -> Result<()> {
    if step > 0 {
        trimwick_quant::refresh(layers)?;
    }
    Ok(())
}

/// Tells a walk's events as those of a run.
pub(crate) fn tell(report: Report<'_>, steps: u64) -> impl FnMut(BlockEvent<'_>) {
    let mut blocks = 1;
    move |event| match event {
        BlockEvent::Begin { index, blocks: all, .. } => {
            blocks = all;
            report(Event::Part { done: index * steps as usize, total: all * steps as usize, loss: None });
        }
        BlockEvent::Step { index, step, .. } => {
            let done = index as u64 * steps + step;
            report(Event::Part { done: done as usize, total: blocks * steps as usize, loss: None });
        }
        BlockEvent::Done { report: done, .. } => {
            let decibels = BlockReport::decibels;
            let (before, after) = (done.error_before, done.error_after);
            let text = format!(
                "{}: error {before:.5} → {after:.5} ({:.1} → {:.1} dB) in {:.1} s",
                done.path,
                decibels(before),
                decibels(after),
                done.seconds
            );
            report(Event::Note(text));
        }
    }
}

/// Steps of a block in all its parts; 1 where it is not trained.
pub(crate) fn steps_of(recipe: &Recipe) -> u64 {
    recipe.blockwise.as_ref().map_or(1, |spec| match spec.parts {
        BlockParts::Block => spec.steps(),
        BlockParts::Split => 2 * spec.steps(),
    })
}

/// Bytes of hidden states that stay in memory.
pub(crate) fn spill_limit(recipe: &Recipe) -> u64 {
    const DEFAULT_MIB: u64 = 1024;
    recipe.blockwise.as_ref().map_or(DEFAULT_MIB, |spec| spec.spill_mib) << 20
}

impl Run<'_, '_> {
    /// A place for hidden states.
    pub(crate) fn spill(&self) -> Result<Spill> {
        Ok(Spill::new(&self.folder.at(STATES), spill_limit(self.recipe))?)
    }

    /// Trains the blocks of a model in memory. Those that an earlier process finished are taken from their files.
    pub(crate) fn blockwise_stage(&mut self, built: &Built, spec: &BlockwiseSpec) -> Result<()> {
        self.go_on()?;
        let mut steps = InMemory { built, blocks: Blocks::open(self.folder)? };
        steps.take_back()?;
        let windows = windows(self.recipe, self.training.as_ref())?;
        // Calibration is over: only the windows that are trained on go through the blocks.
        let windows = &windows[..spec.windows.min(windows.len())];
        (self.report)(Event::Begin(Stage::Blocks(BLOCKWISE)));
        let walk = Blockwise {
            dense: &self.origin.streamed()?,
            windows,
            training: Some(&training(self.recipe, spec)),
            spill: self.spill()?,
            stop: self.stop,
        };
        let mut report = tell(&mut *self.report, steps_of(self.recipe));
        let reports = walk.run(&mut steps, &mut report)?.ok_or(RunError::Stopped)?;
        drop(report);
        self.blocks = reports;
        self.measure_built(BLOCKWISE, spec.tokens(self.recipe.data.context), built)
    }
}

/// The blocks of a model in memory, which are compressed already.
struct InMemory<'a> {
    built: &'a Built,
    blocks: Blocks,
}

impl InMemory<'_> {
    /// Puts the values of finished blocks into the model.
    fn take_back(&self) -> Result<()> {
        let store = &self.built.store;
        for index in 0..self.built.model.config().num_layers {
            if self.blocks.finished(index)?.is_none() {
                break;
            }
            let block = self.block(index);
            let expected = block.params().iter().map(|p| p.name().to_string()).collect();
            snapshot::restore(store, &self.blocks.path(index), Expected::Exactly(&expected))?;
            trimwick_quant::restore(&block.layers())?;
            trimwick_quant::kv::restore(&block.kv_slots())?;
        }
        Ok(())
    }

    fn block(&self, index: usize) -> LoadedBlock {
        let block = Arc::new(self.built.model.decoder_block(index));
        LoadedBlock { store: self.built.store.clone(), block }
    }
}

impl BlockSteps for InMemory<'_> {
    type Error = RunError;

    fn finished(&mut self, index: usize) -> Result<Option<BlockReport>> {
        self.blocks.finished(index)
    }

    fn load(&mut self, index: usize) -> Result<LoadedBlock> {
        Ok(self.block(index))
    }

    fn compress(&mut self, _: LoadedBlock, streams: &Streams<'_>) -> Result<Option<LoadedBlock>> {
        Ok(Some(self.block(streams.index)))
    }

    fn before_step(&mut self, block: &LoadedBlock, step: u64) -> Result<()> {
        refresh(&block.layers(), step)
    }

    fn keep(&mut self, index: usize, block: &LoadedBlock, report: &BlockReport) -> Result<()> {
        self.blocks.keep(index, block, report)
    }
}
