//! The end of a run: the model written and proved, the summary put together.

use std::path::Path;

use candle_core::Device;
use trimwick_nn::LayerReport;
use trimwick_sparse::Pattern;
use trimwick_train::blockwise::BlockReport;

use super::error::{Result, RunError};
use super::event::{Event, Stage};
use super::export::{self, Masked, Written};
use super::folder::RunFolder;
use super::inactive::Inactive;
use super::inputs::Inputs;
use super::mixed::MixedChoice;
use super::origin::{self, Built};
use super::proof::Export;
use super::prune;
use super::quantize::{self, Quantization};
use super::stages::Run;
use super::summary::{self, Arm as MeasuredArm, Summary};
use crate::Recipe;

/// What was written, and what it was proved to hold.
pub(crate) struct Finished {
    pub(super) written: Written,
    pub(super) pattern: Option<Pattern>,
    pub(super) quantized: Option<Quantization>,
    /// What one-shot passes did to each layer.
    pub(super) passes: Vec<LayerReport>,
    /// What a budget has chosen.
    pub(super) mixed: Option<MixedChoice>,
    /// The model in the formats of runtimes.
    pub(super) exports: Vec<Export>,
    /// About masks and quantizers that did nothing.
    pub(super) warnings: Vec<String>,
}

impl Run<'_, '_> {
    /// Writes the model that the run ends with, and measures what was written.
    pub(crate) fn export(&mut self, built: &Built) -> Result<Finished> {
        let recipe = self.recipe;
        // Every layer that must have a mask: those that the model brought along, and those of the recipe.
        let mut masked: Masked = self.origin.carried.layers().map(|path| (path.to_string(), None)).collect();
        let mut pattern = None;
        if let Some(spec) = &recipe.prune {
            let (layers, chosen) = prune::selected(&built.store, spec)?;
            masked.extend(layers.iter().map(|layer| (layer.path().to_string(), Some(chosen))));
            pattern = Some(chosen);
        }
        let quantize = self.quantize.clone();
        let quantized = match &quantize {
            Some(spec) => Some(quantize::describe(&built.store, spec)?),
            None => None,
        };
        let mut inactive = Inactive::default();
        inactive.add(&built.store.layers(), &masked)?;
        let folder = self.folder.at("model");
        on_grid(quantized.as_ref(), &folder)?;
        self.go_on()?;
        (self.report)(Event::Begin(Stage::Export));
        let written = export::export(&built.store, self.origin, recipe.export.dtype, &masked, &folder)?;
        if self.folder.done::<Written>("export")?.is_none() {
            self.folder.finish("export", &written)?;
        }
        let exported = || {
            let source = crate::ModelSource::Folder(folder.clone());
            let files = origin::open_source(&source)?;
            let store = trimwick_nn::ParamStore::from_source(
                files.weights,
                candle_core::DType::F32,
                &Device::Cpu,
                recipe.seed,
            );
            let context = Some(recipe.data.context);
            let model = trimwick_models::Llama::new(&files.config, context, store.var_builder())?;
            let read = Built { store, model };
            if let Some(spec) = &quantize {
                quantize::wear_inputs(&read, spec, &folder.join(export::QUANTIZERS))?;
            }
            Ok(read)
        };
        let tokens = self.arms.iter().map(|a| a.train_tokens).max().unwrap_or(0);
        self.measure("exported", tokens, |_| exported())?;
        let exports = self.deploy(built)?;
        let (passes, mixed) = (self.pass_reports()?, self.mixed.take());
        Ok(Finished { written, pattern, quantized, passes, mixed, exports, warnings: self.warn(&inactive) })
    }

    /// Says what did nothing.
    pub(super) fn warn(&mut self, inactive: &Inactive) -> Vec<String> {
        let warnings = inactive.warnings();
        for warning in &warnings {
            (self.report)(Event::Note(format!("warning: {warning}")));
        }
        warnings
    }
}

/// Refuses to write weights that are not on their grid.
pub(super) fn on_grid(quantized: Option<&Quantization>, folder: &Path) -> Result<()> {
    match quantized.map(|q| q.off_grid).filter(|&off| off > 0) {
        Some(off) => {
            let what = format!("{off} weights are not on their grid; report this recipe");
            Err(RunError::Proof { path: folder.into(), tensor: "file".into(), what })
        }
        None => Ok(()),
    }
}

/// The summary of a run that is done.
pub(crate) fn summarize(
    recipe: &Recipe,
    folder: &RunFolder,
    model: &str,
    inputs: &Inputs,
    mut arms: Vec<MeasuredArm>,
    blocks: Vec<BlockReport>,
    finished: Finished,
) -> Summary {
    arms.sort_by_key(|a| summary::ARMS.iter().position(|n| *n == a.name));
    // What was not measured closes nothing, whatever its name.
    let first = |names: &[&str]| summary::first(&arms, names).map_or("", |arm| arm.name.as_str());
    let opened = first(summary::OPENED);
    let (one_shot, recovered) = (first(summary::ONE_SHOT), first(summary::RECOVERED));
    let Finished { written, pattern, quantized, passes, mixed, exports, warnings } = finished;
    let cost = folder.cost();
    Summary {
        name: recipe.name.clone(),
        fingerprint: folder.fingerprint().into(),
        model: model.into(),
        gap_recovered: summary::closed(&arms, opened, recovered, "dense"),
        gap_recovered_to_tuned: summary::closed(&arms, one_shot, recovered, "dense_tuned"),
        training_helped: summary::beaten(&arms, &["quantized", "dense_tuned_quantized"], recovered),
        arms,
        blocks,
        pattern: pattern.map(|p| p.to_string()),
        quantization: quantized,
        passes,
        mixed,
        groups_violating: written.groups_violating,
        groups: written.groups,
        parameters: written.parameters,
        zeros: written.zeros,
        bytes: written.bytes,
        seconds: cost.seconds,
        peak_rss_bytes: cost.peak_rss_bytes,
        seed: recipe.seed,
        version: env!("CARGO_PKG_VERSION").into(),
        inputs: inputs.digests(),
        digests: written.digests,
        exports,
        warnings,
    }
}
