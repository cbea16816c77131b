//! One-shot passes over an arm's model: its channels are scaled before it is pruned, weights and scales chosen after.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use candle_core::Tensor;
use trimwick_nn::{LayerReport, Layers, Watch};
use trimwick_quant::run_pass_on_model;

use super::error::{Result, RunError};
use super::event::{Event, Report, Stage};
use super::origin::Built;
use super::passes::{Still, algorithm, fix, takes, told_of};
use super::snapshot::Expected;
use super::stages::Run;
use super::{data, kept, prune, quantize, snapshot};
use crate::{PassSpec, QuantizeSpec};

/// The dense model with its channels scaled.
const SMOOTHED: &str = "stages/smoothed.safetensors";
/// The scales that calibration found; the whole model where passes have changed it.
const QUANTIZERS: &str = "stages/quantizers.safetensors";
/// Records of what passes did, in their order.
const RECORDS: [&str; 3] = ["smoothed_layers", PRUNED_LAYERS, "quantized_layers"];
/// The record of pruning.
pub(crate) const PRUNED_LAYERS: &str = "pruned_layers";

impl Run<'_, '_> {
    /// The model that pruning starts from: dense, its channels scaled where the recipe has passes for that. They act on
    /// weights as they were trained, and a mask is chosen on what they leave.
    pub(crate) fn smoothed(&mut self) -> Result<Built> {
        let built = self.origin.build()?;
        let Some(spec) = self.quantize.clone().filter(|s| s.passes.iter().any(PassSpec::scales_channels))
        else {
            return Ok(built);
        };
        let path = self.folder.at(SMOOTHED);
        if kept::sealed(&path)? && self.passed(RECORDS[0])? {
            let whole = snapshot::whole(&built.store, None);
            snapshot::restore(&built.store, &path, Expected::Exactly(&whole))?;
            return Ok(built);
        }
        let reports = self.scale_channels(&built, &spec)?;
        snapshot::save(&built.store, &path, |_| true)?;
        self.keep_passed(RECORDS[0], reports)?;
        kept::seal(&path)?;
        Ok(built)
    }

    /// Quantizes a model in one shot; its scales, and what passes make of its weights, are found once and kept.
    pub(crate) fn quantized_stage(&mut self, built: &Built, spec: &QuantizeSpec) -> Result<Layers> {
        const NAME: &str = "quantized";
        self.go_on()?;
        let path = self.folder.at(QUANTIZERS);
        let layers = quantize::attach(built, spec)?;
        let changes = spec.passes.iter().any(|pass| !pass.scales_channels());
        if kept::sealed(&path)? && (!changes || self.passed(RECORDS[2])?) {
            if changes {
                let pruned = match &self.recipe.prune {
                    Some(prune) => Some(prune::selected(&built.store, prune)?.0),
                    None => None,
                };
                let whole = snapshot::whole(&built.store, pruned.as_ref());
                snapshot::restore(&built.store, &path, Expected::AndQuantizers(&whole))?;
            } else {
                snapshot::restore(&built.store, &path, Expected::Quantizers)?;
            }
            quantize::restore(built, &layers)?;
        } else {
            if self.recipe.export.targets.iter().any(|target| target.needs_quantizers()) {
                // Before scales are chosen for good, and before training: what is fused there must be trained as one.
                trimwick_quant::share_fused(&layers)?;
            }
            let reports = self.quantize_model(built, &layers, spec, NAME)?;
            snapshot::save(&built.store, &path, |name| changes || trimwick_quant::owns(name))?;
            if changes {
                self.keep_passed(RECORDS[2], reports)?;
            }
            kept::seal(&path)?;
        }
        self.measure_built(NAME, 0, built)?;
        Ok(layers)
    }

    /// Does to the tuned dense twin what is done to the recipe's own model.
    pub(crate) fn quantize_twin(
        &mut self,
        built: &Built,
        spec: &QuantizeSpec,
        name: &'static str,
    ) -> Result<()> {
        if spec.passes.iter().any(PassSpec::scales_channels) {
            self.scale_channels(built, spec)?;
        }
        let layers = quantize::attach(built, spec)?;
        self.quantize_model(built, &layers, spec, name).map(drop)
    }

    /// What passes did to each layer, those of earlier processes included.
    pub(crate) fn pass_reports(&mut self) -> Result<Vec<LayerReport>> {
        let mut all = Vec::new();
        for record in RECORDS {
            if self.passed(record)? {
                let known = self.passes.iter().filter(|(name, _)| *name == record);
                all.extend(known.flat_map(|(_, reports)| reports.iter().cloned()));
            }
        }
        Ok(all)
    }

    /// Whether a record of passes is there.
    pub(crate) fn passed(&mut self, record: &'static str) -> Result<bool> {
        if self.passes.iter().any(|(name, _)| *name == record) {
            return Ok(true);
        }
        let Some(reports) = self.folder.done::<Vec<LayerReport>>(record)? else { return Ok(false) };
        self.passes.push((record, reports));
        Ok(true)
    }

    pub(crate) fn keep_passed(&mut self, record: &'static str, reports: Vec<LayerReport>) -> Result<()> {
        self.folder.finish(record, &reports)?;
        self.passes.retain(|(name, _)| *name != record);
        self.passes.push((record, reports));
        Ok(())
    }

    /// Runs the passes that scale channels, under quantizers that are gone afterwards.
    fn scale_channels(&mut self, built: &Built, spec: &QuantizeSpec) -> Result<Vec<LayerReport>> {
        let layers = quantize::attach(built, spec)?;
        let reports = self.run_passes(built, &layers, spec, PassSpec::scales_channels)?;
        trimwick_quant::detach(&layers);
        trimwick_quant::kv::detach(&built.store.kv_slots());
        Ok(reports)
    }

    /// Runs the other passes on a model with quantizers, and calibrates.
    fn quantize_model(
        &mut self,
        built: &Built,
        layers: &Layers,
        spec: &QuantizeSpec,
        name: &'static str,
    ) -> Result<Vec<LayerReport>> {
        if let Some(prune) = self.recipe.prune.as_ref().filter(|_| spec.joint()) {
            // Masks that the model brings along give way to those that are chosen here.
            prune::selected(&built.store, prune)?.0.iter().try_for_each(trimwick_sparse::lift)?;
        }
        let reports = self.run_passes(built, layers, spec, |pass| !pass.scales_channels())?;
        // A pass calibrates the layers that it takes, on the quantized outputs of the blocks before.
        let taken: BTreeSet<&str> = reports.iter().map(|report| report.layer.as_str()).collect();
        let rest = layers.retain(|layer| !taken.contains(layer.path()));
        (self.report)(Event::Begin(Stage::Quantize(name)));
        let windows = self.calibration()?;
        quantize::calibrate(built, &rest, &windows, self.stop, self.report)?;
        Ok(reports)
    }

    pub(crate) fn calibration(&self) -> Result<Vec<Tensor>> {
        match (&self.recipe.calibration, &self.calibrating) {
            (Some(spec), Some(windows)) => data::calibration(spec, windows),
            _ => Ok(Vec::new()),
        }
    }

    /// Runs those of the recipe's passes that are `wanted`, one after the other, each block after block.
    fn run_passes(
        &mut self,
        built: &Built,
        layers: &Layers,
        spec: &QuantizeSpec,
        wanted: fn(&PassSpec) -> bool,
    ) -> Result<Vec<LayerReport>> {
        let mut all = Vec::new();
        let windows = self.calibration()?;
        let pruned: BTreeSet<String> = match self.recipe.prune.as_ref().filter(|_| spec.joint()) {
            Some(prune) => {
                prune::selected(&built.store, prune)?.0.iter().map(|l| l.path().to_string()).collect()
            }
            None => BTreeSet::new(),
        };
        for pass in spec.passes.iter().filter(|pass| wanted(pass)) {
            self.go_on()?;
            (self.report)(Event::Begin(Stage::Pass(pass.name())));
            let taken = layers.retain(|layer| takes(pass, layer));
            let algorithm = algorithm(pass, spec, self.recipe.prune.as_ref(), &pruned, &fix);
            let stop = self.stop;
            let mut progress = telling(&mut *self.report);
            let stopped = || stop.load(Ordering::Relaxed);
            let watch = Watch { progress: &mut progress, stop: &stopped };
            let still = Still::new(&built.store);
            let done = run_pass_on_model(&built.model, &taken, &*algorithm, &windows, watch)?;
            drop((still, progress));
            let reports = done.ok_or(RunError::Stopped)?;
            (self.report)(Event::Note(average(pass.name(), &reports)));
            all.extend(reports);
        }
        Ok(all)
    }
}

/// Tells what was done so far, each layer once.
pub(crate) fn telling(report: Report<'_>) -> impl FnMut(usize, usize, &[LayerReport]) {
    let mut told = 0;
    move |done, total, reports| {
        reports[told..].iter().for_each(|layer| report(Event::Note(told_of(layer))));
        told = reports.len();
        report(Event::Part { done, total, loss: None });
    }
}

/// The mean over the layers, in a line.
pub(crate) fn average(pass: &str, reports: &[LayerReport]) -> String {
    let mean =
        |of: fn(&LayerReport) -> f64| reports.iter().map(of).sum::<f64>() / reports.len().max(1) as f64;
    let (before, after) = (mean(|r| r.before_db), mean(|r| r.after_db));
    format!("{pass}: {before:.2} → {after:.2} dB, the mean of {} layers", reports.len())
}
