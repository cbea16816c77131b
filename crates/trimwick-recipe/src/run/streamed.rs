//! A run of which one block is in memory at a time: compressed, trained, kept, measured and written block by block.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{Error as CandleError, Result as CandleResult};
use trimwick_nn::{LayerReport, Layers, LoadedBlock, StreamedLm};
use trimwick_quant::run_pass;
use trimwick_sparse::{Propagate, prune_with};
use trimwick_train::blockwise::{BlockReport, BlockSteps, Blockwise, States, Streams};

use super::blocks::Blocks;
use super::blockwise::{BLOCKWISE, refresh, steps_of, tell, training, windows};
use super::error::{Result, RunError};
use super::event::{Event, Stage};
use super::export::{Masked, Written, check_weights};
use super::finish::Finished;
use super::origin::{Origin, layer_shapes};
use super::passes::{Still, algorithm, fix, takes, told_of};
use super::prune::{method_of, pattern_of};
use super::shards;
use super::stages::Run;
use super::stored::{Exported, Stored};
use crate::{ExportDtype, PassSpec, QuantizeSpec, Recipe};

impl Run<'_, '_> {
    /// The stages of a streamed run, in order.
    ///
    /// # Errors
    /// [`RunError::Stopped`] when the stop flag ended one of them.
    pub(crate) fn streamed_stages(&mut self) -> Result<Finished> {
        let (recipe, origin) = (self.recipe, self.origin);
        self.check_f16()?;
        self.measure_streamed("dense", 0, &origin.streamed()?)?;
        let name = match (&recipe.blockwise, &recipe.quantize) {
            (Some(_), _) => BLOCKWISE,
            (None, Some(_)) => "quantized",
            (None, None) => "pruned",
        };
        let pruned: BTreeSet<String> = match &recipe.prune {
            Some(_) => {
                let rules = recipe.check_layers(&layer_shapes(&origin.config))?;
                rules.pruned().map(str::to_string).collect()
            }
            None => BTreeSet::new(),
        };
        let stored = Stored::new(recipe, origin, Blocks::open(self.folder)?)?;
        self.walk(name, &stored, &pruned)?;
        let tokens = recipe.blockwise.as_ref().map_or(0, |spec| spec.tokens(recipe.data.context));
        self.measure_streamed(name, tokens, &stored)?;
        self.write_streamed(&stored, &pruned, tokens)
    }

    /// Refuses weights that the type of the export cannot hold before anything else is done.
    fn check_f16(&self) -> Result<()> {
        let dtype = self.recipe.export.dtype;
        if dtype != ExportDtype::F16 {
            return Ok(());
        }
        let dense = self.origin.streamed()?;
        check_weights(&dense.load_embedding()?.store, dtype)?;
        for index in 0..dense.blocks() {
            self.go_on()?;
            check_weights(&dense.load_block(index)?.store, dtype)?;
        }
        check_weights(&dense.load_head()?.store, dtype)
    }

    /// Takes every block through compression and training.
    fn walk(&mut self, name: &'static str, stored: &Stored<'_>, pruned: &BTreeSet<String>) -> Result<()> {
        let (recipe, origin) = (self.recipe, self.origin);
        let from = if recipe.blockwise.is_some() { &self.training } else { &self.calibrating };
        let windows = windows(recipe, from.as_ref())?;
        let training = recipe.blockwise.as_ref().map(|spec| training(recipe, spec));
        (self.report)(Event::Begin(Stage::Blocks(name)));
        let walk = Blockwise {
            dense: &origin.streamed()?,
            windows: &windows,
            training: training.as_ref(),
            spill: self.spill()?,
            stop: self.stop,
        };
        let shared = RefCell::new(&mut *self.report);
        let mut steps = Compress {
            recipe,
            origin,
            stored,
            pruned,
            stop: self.stop,
            reports: Vec::new(),
            note: &|text| (shared.borrow_mut())(Event::Note(text)),
        };
        let mut said = |event: Event<'_>| (shared.borrow_mut())(event);
        let mut report = tell(&mut said, steps_of(recipe));
        let reports = walk.run(&mut steps, &mut report)?.ok_or(RunError::Stopped)?;
        drop(report);
        if training.is_some() {
            self.blocks = reports;
        }
        Ok(())
    }

    /// Writes the model that the run ends with, and measures what was written.
    fn write_streamed(
        &mut self,
        stored: &Stored<'_>,
        pruned: &BTreeSet<String>,
        tokens: u64,
    ) -> Result<Finished> {
        let recipe = self.recipe;
        // Every layer that must have a mask: those that the model brought along, and those of the recipe.
        let mut masked: Masked = self.origin.carried.layers().map(|path| (path.to_string(), None)).collect();
        let pattern = recipe.prune.as_ref().map(pattern_of).transpose()?;
        masked.extend(pruned.iter().map(|path| (path.clone(), pattern)));
        let folder = self.folder.at("model");
        (self.report)(Event::Begin(Stage::Export));
        let stop = self.stop;
        let go_on = || if stop.load(Ordering::Relaxed) { Err(RunError::Stopped) } else { Ok(()) };
        let (written, quantized, inactive) =
            shards::export(stored, self.origin, recipe, &masked, &folder, &go_on, &mut *self.report)?;
        if self.folder.done::<Written>("export")?.is_none() {
            self.folder.finish("export", &written)?;
        }
        self.measure_streamed("exported", tokens, &Exported::open(folder, recipe, stored)?)?;
        let (passes, mixed) = (passed(recipe, stored)?, None);
        // Formats of packed weights need the whole model, which a recipe of a streamed one cannot ask for.
        let (exports, warnings) = (Vec::new(), self.warn(&inactive));
        Ok(Finished { written, pattern, quantized, passes, mixed, exports, warnings })
    }
}

/// What passes did to each layer, pass after pass.
fn passed(recipe: &Recipe, stored: &Stored<'_>) -> Result<Vec<LayerReport>> {
    let mut reports = Vec::new();
    for index in 0..stored.blocks() {
        reports.extend(stored.blocks.passes(index)?);
    }
    // In the order of the stages: channels are scaled before anything is pruned.
    let order = |report: &LayerReport| {
        let mut passes = recipe.quantize.iter().flat_map(|spec| &spec.passes).enumerate();
        match passes.find(|(_, pass)| pass.name() == report.pass) {
            Some((position, pass)) if pass.scales_channels() => (0, position),
            Some((position, _)) => (2, position),
            None => (1, 0),
        }
    };
    reports.sort_by_key(order);
    Ok(reports)
}

/// Prunes and quantizes each block as its turn comes, with the one-shot passes of the recipe.
struct Compress<'a> {
    recipe: &'a Recipe,
    origin: &'a Origin,
    stored: &'a Stored<'a>,
    pruned: &'a BTreeSet<String>,
    stop: &'a AtomicBool,
    /// What passes did to the block in hand.
    reports: Vec<LayerReport>,
    note: &'a dyn Fn(String),
}

impl Compress<'_> {
    /// Runs a block on the calibration windows.
    fn calibrate(&self, block: &LoadedBlock, states: &States) -> CandleResult<()> {
        let windows = self.recipe.calibration.as_ref().map_or(0, |spec| spec.windows);
        (0..windows.min(states.len())).try_for_each(|i| {
            if self.stop.load(Ordering::Relaxed) {
                return Err(CandleError::Msg("stopped".into()));
            }
            block.block.forward(&states.get(i).map_err(CandleError::wrap)?).map(drop)
        })
    }

    fn prune(&mut self, block: &LoadedBlock, streams: &Streams<'_>) -> Result<()> {
        let Some(spec) = &self.recipe.prune else { return Ok(()) };
        let layers = block.layers().retain(|layer| self.pruned.contains(layer.path()));
        if layers.is_empty() {
            return Ok(());
        }
        if self.stored.quantize.as_ref().is_some_and(|(spec, _)| spec.joint()) {
            // Masks that the model brings along give way to those that are chosen with the grid.
            return Ok(layers.iter().try_for_each(trimwick_sparse::lift)?);
        }
        let (method, propagate) = method_of(spec);
        let states = match propagate {
            Propagate::Dense => streams.dense,
            Propagate::Pruned => streams.compressed,
        };
        let still = Still::new(&block.store);
        let reports = prune_with(&layers, pattern_of(spec)?, &*method, || self.calibrate(block, states))?;
        drop(still);
        reports.iter().for_each(|report| (self.note)(told_of(report)));
        self.reports.extend(reports);
        Ok(())
    }

    /// Scales the channels of a block, under quantizers that are gone afterwards.
    fn scale_channels(&mut self, block: &LoadedBlock, streams: &Streams<'_>) -> Result<()> {
        self.reports.clear();
        let Some((spec, schemes)) = &self.stored.quantize else { return Ok(()) };
        if spec.passes.iter().any(PassSpec::scales_channels) {
            let slots = block.kv_slots();
            let layers = schemes.attach(&block.layers(), &slots, spec)?;
            self.run_passes(block, &layers, spec, streams, PassSpec::scales_channels)?;
            trimwick_quant::detach(&layers);
            trimwick_quant::kv::detach(&slots);
        }
        Ok(())
    }

    fn run_passes(
        &mut self,
        block: &LoadedBlock,
        layers: &Layers,
        spec: &QuantizeSpec,
        streams: &Streams<'_>,
        wanted: fn(&PassSpec) -> bool,
    ) -> Result<()> {
        for pass in spec.passes.iter().filter(|pass| wanted(pass)) {
            let taken = layers.retain(|layer| takes(pass, layer));
            if taken.is_empty() {
                continue;
            }
            let algorithm = algorithm(pass, spec, self.recipe.prune.as_ref(), self.pruned, &fix);
            let still = Still::new(&block.store);
            let forward = || self.calibrate(block, streams.compressed);
            let reports = run_pass(&taken, &block.block.feeds(), &*algorithm, forward)?;
            drop(still);
            reports.iter().for_each(|report| (self.note)(told_of(report)));
            self.reports.extend(reports);
        }
        Ok(())
    }

    fn quantize(&mut self, block: &LoadedBlock, streams: &Streams<'_>) -> Result<()> {
        let Some((spec, schemes)) = &self.stored.quantize else { return Ok(()) };
        let slots = block.kv_slots();
        let layers = schemes.attach(&block.layers(), &slots, spec)?;
        self.run_passes(block, &layers, spec, streams, |pass| !pass.scales_channels())?;
        let forward = || self.calibrate(block, streams.compressed);
        Ok(trimwick_quant::calibrate_all(&layers, &slots, forward)?)
    }
}

impl BlockSteps for Compress<'_> {
    type Error = RunError;

    fn finished(&mut self, index: usize) -> Result<Option<BlockReport>> {
        self.stored.blocks.finished(index)
    }

    fn load(&mut self, index: usize) -> Result<LoadedBlock> {
        self.stored.load(index)
    }

    fn compress(&mut self, dense: LoadedBlock, streams: &Streams<'_>) -> Result<Option<LoadedBlock>> {
        self.origin.carried.put_on_part(&dense.layers())?;
        let scaled = self.scale_channels(&dense, streams);
        let pruned = scaled.and_then(|()| self.prune(&dense, streams));
        match pruned.and_then(|()| self.quantize(&dense, streams)) {
            Err(_) if self.stop.load(Ordering::Relaxed) => Ok(None),
            done => done.map(|()| Some(dense)),
        }
    }

    fn before_step(&mut self, block: &LoadedBlock, step: u64) -> Result<()> {
        refresh(&block.layers(), step)
    }

    fn keep(&mut self, index: usize, block: &LoadedBlock, report: &BlockReport) -> Result<()> {
        if !self.reports.is_empty() {
            self.stored.blocks.keep_passes(index, &self.reports)?;
        }
        self.stored.blocks.keep(index, block, report)
    }
}
