//! The stages of a run, in order.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use candle_core::Tensor;
use trimwick_nn::LayerReport;
use trimwick_nn::Layers;
use trimwick_train::Windows;
use trimwick_train::blockwise::BlockReport;
use trimwick_train::lora::BaseFormat;

use super::error::{Result, RunError};
use super::event::{Event, Report, Stage};
use super::finish::Finished;
use super::folder::RunFolder;
use super::mixed::MixedChoice;
use super::oneshot::PRUNED_LAYERS;
use super::origin::{self, Built, Origin};
use super::snapshot::Expected;
use super::summary::Arm as MeasuredArm;
use super::train::{self, Job};
use super::{data, export, kept, prune, snapshot};
use crate::{
    Arm, DistillSpec, ExportDtype, ModelSpec, PruneSchedule, QuantizeSpec, Recipe, Storage, Teacher,
    TrainSpec,
};

/// The model that pruning leaves.
const PRUNED: &str = "stages/pruned.safetensors";
/// Weights of the dense twin after training, kept where it teaches.
const TUNED_TEACHER: &str = "stages/dense_tuned.safetensors";
/// Checkpoints of the dense twin.
const TUNED_CHECKPOINTS: &str = "checkpoints/dense_tuned";

pub(crate) struct Run<'a, 'r> {
    pub(crate) recipe: &'a Recipe,
    pub(crate) folder: &'a mut RunFolder,
    pub(crate) origin: &'a Origin,
    pub(crate) held_out: Windows,
    pub(crate) training: Option<Windows>,
    /// What calibration windows are drawn from: a text of its own, or that of training.
    pub(crate) calibrating: Option<Windows>,
    pub(crate) stop: &'a AtomicBool,
    pub(crate) arms: Vec<MeasuredArm>,
    /// What became of the blocks that were trained one by one.
    pub(crate) blocks: Vec<BlockReport>,
    /// Which layers compute on a grid, what a budget chooses included.
    pub(crate) quantize: Option<QuantizeSpec>,
    /// What a budget has chosen.
    pub(crate) mixed: Option<MixedChoice>,
    /// What one-shot passes did, by the names of their records.
    pub(crate) passes: Vec<(&'static str, Vec<LayerReport>)>,
    pub(crate) report: Report<'r>,
}

/// A model as it goes into training.
struct Student {
    built: Built,
    /// Its quantized layers.
    quantized: Option<Layers>,
}

impl Run<'_, '_> {
    /// Every stage in order.
    ///
    /// # Errors
    /// [`RunError::Stopped`] when the stop flag ended one of them.
    pub(crate) fn stages(&mut self) -> Result<Finished> {
        let recipe = self.recipe;
        let pretrains = matches!(recipe.model, ModelSpec::Pretrain(_));
        if !pretrains {
            if recipe.export.dtype == ExportDtype::F16 {
                export::check_weights(&self.origin.build()?.store, recipe.export.dtype)?;
            }
            self.measure("dense", 0, |run| run.origin.build())?;
        }
        self.choose()?;
        if recipe.compare.arms.contains(&Arm::PrunedMagnitude) {
            self.measure("pruned_magnitude", 0, |run| Ok(run.pruned("pruned_magnitude", true)?.0))?;
        }
        let tokens_of =
            |spec: &TrainSpec| spec.steps(recipe.data.context) * spec.tokens_per_step(recipe.data.context);
        if let Some(spec) = recipe.train.as_ref().filter(|_| self.tuned_teacher()) {
            self.dense_tuned(spec, tokens_of(spec))?;
        }
        let mut current = self.start()?;
        if let Some(spec) = &recipe.train {
            let name =
                if recipe.prune.is_some() || recipe.quantize.is_some() { "recovered" } else { "trained" };
            self.train(name, spec, &current)?;
            let before = recipe.blockwise.as_ref().map_or(0, |b| b.tokens(recipe.data.context));
            let tokens = tokens_of(spec);
            self.measure_built(name, before + tokens, &current.built)?;
            if recipe.compare.arms.contains(&Arm::DenseTuned) && !self.tuned_teacher() {
                // The control arm comes while the result waits on disk: two models are enough in memory.
                drop(current);
                self.dense_tuned(spec, tokens)?;
                current = self.start()?;
                self.train(name, spec, &current)?;
            }
        }
        if recipe.lora.is_some() {
            trimwick_train::lora::merge(&current.built.store.layers())?;
        }
        self.export(&current.built)
    }

    /// Ends the run here when the stop flag is set.
    pub(crate) fn go_on(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(RunError::Stopped) } else { Ok(()) }
    }

    /// The model that training starts from: pruned, quantized, trained block by block, adapted, as far as the recipe says.
    fn start(&mut self) -> Result<Student> {
        let built = self.pruned_stage()?;
        let quantized = match self.quantize.clone() {
            Some(spec) => Some(self.quantized_stage(&built, &spec)?),
            None => None,
        };
        if let Some(spec) = &self.recipe.blockwise {
            self.blockwise_stage(&built, spec)?;
        }
        if let Some(spec) = &self.recipe.lora {
            train::adapt(&built, spec, self.recipe.seed)?;
        }
        Ok(Student { built, quantized })
    }

    /// The model that pruning leaves: pruned in one shot, or dense for a schedule that prunes on the way.
    fn pruned_stage(&mut self) -> Result<Built> {
        self.go_on()?;
        let jointly = self.quantize.as_ref().is_some_and(QuantizeSpec::joint);
        let Some(spec) = self.recipe.prune.as_ref().filter(|_| !jointly) else { return self.smoothed() };
        let path = self.folder.at(PRUNED);
        let begun = Instant::now();
        let built = if kept::sealed(&path)? && self.passed(PRUNED_LAYERS)? {
            let built = self.origin.build()?;
            let (layers, _) = prune::selected(&built.store, spec)?;
            let whole = snapshot::whole(&built.store, Some(&layers));
            snapshot::restore(&built.store, &path, Expected::Exactly(&whole))?;
            built
        } else {
            let (built, reports) = self.pruned("pruned", false)?;
            snapshot::save(&built.store, &path, |_| true)?;
            self.keep_passed(PRUNED_LAYERS, reports)?;
            kept::seal(&path)?;
            (self.report)(Event::Note(format!("pruned in {}", origin::since(begun))));
            built
        };
        self.measure_built("pruned", 0, &built)?;
        if spec.schedule == PruneSchedule::OneShot {
            return Ok(built);
        }
        let built = self.origin.build()?;
        // Masks that the model brings along give way to those of the schedule.
        prune::selected(&built.store, spec)?.0.iter().try_for_each(trimwick_sparse::lift)?;
        Ok(built)
    }

    fn pruned(&mut self, arm: &'static str, by_magnitude: bool) -> Result<(Built, Vec<LayerReport>)> {
        let built = if by_magnitude { self.origin.build()? } else { self.smoothed()? };
        (self.report)(Event::Begin(Stage::Prune(arm)));
        let mut reports = Vec::new();
        if let Some(spec) = &self.recipe.prune {
            let calibration: Vec<Tensor> = match (&self.recipe.calibration, &self.calibrating) {
                (Some(spec), Some(windows)) if !by_magnitude => data::calibration(spec, windows)?,
                _ => Vec::new(),
            };
            reports = prune::prune(&built, spec, by_magnitude, &calibration, self.stop, self.report)?;
        }
        Ok((built, reports))
    }

    fn teacher(&self, spec: &DistillSpec) -> Result<Built> {
        let built = self.origin.teacher()?;
        if spec.teacher == Teacher::DenseTuned {
            let path = self.folder.at(TUNED_TEACHER);
            // It was there when its arm was found to be done.
            kept::sealed(&path)?;
            let whole = snapshot::whole(&built.store, None);
            snapshot::restore(&built.store, &path, Expected::Exactly(&whole))?;
        }
        if spec.storage == Storage::Bf16 {
            trimwick_train::compact_weights(&built.store.layers(), BaseFormat::Bf16)?;
        }
        Ok(built)
    }

    /// Whether the dense twin has to be trained before the recipe's own arm.
    fn tuned_teacher(&self) -> bool {
        self.recipe.distill.as_ref().is_some_and(|d| d.teacher == Teacher::DenseTuned)
    }

    fn dense_tuned(&mut self, spec: &TrainSpec, tokens: u64) -> Result<()> {
        const NAME: &str = "dense_tuned";
        const QUANTIZED: &str = "dense_tuned_quantized";
        let quantize = self.quantize.clone().filter(|_| self.recipe.prune.is_none());
        // The checkpoints go when both arms are measured, unless a process was killed right before.
        let teaches = !self.tuned_teacher() || kept::sealed(&self.folder.at(TUNED_TEACHER))?;
        let measured = self.has_measured(NAME) && (quantize.is_none() || self.has_measured(QUANTIZED));
        if teaches && measured {
            self.measured(NAME, tokens)?;
            if quantize.is_some() {
                self.measured(QUANTIZED, tokens)?;
            }
            return self.forget_tuned();
        }
        let dense = Student { built: self.origin.build()?, quantized: None };
        self.train(NAME, spec, &dense)?;
        let dense = dense.built;
        if self.tuned_teacher() {
            let path = self.folder.at(TUNED_TEACHER);
            snapshot::save(&dense.store, &path, |_| true)?;
            kept::seal(&path)?;
        }
        self.measure_built(NAME, tokens, &dense)?;
        if let Some(spec) = quantize {
            // What one would deploy without training on the grid: tuned first, quantized after.
            self.quantize_twin(&dense, &spec, QUANTIZED)?;
            self.measure_built(QUANTIZED, tokens, &dense)?;
        }
        self.forget_tuned()
    }

    /// Nobody continues a control arm: its checkpoints are the largest files of a run.
    fn forget_tuned(&self) -> Result<()> {
        let path = self.folder.at(TUNED_CHECKPOINTS);
        match std::fs::remove_dir_all(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(RunError::Io { path, source })
            }
            _ => Ok(()),
        }
    }

    /// Trains an arm; the recipe's own, unlike the control arm, distills and may change masks.
    fn train(&mut self, name: &'static str, spec: &TrainSpec, student: &Student) -> Result<()> {
        self.go_on()?;
        let Some(windows) = &self.training else { return Ok(()) };
        (self.report)(Event::Begin(Stage::Train(name)));
        let own = name != "dense_tuned";
        let teacher = match &self.recipe.distill {
            Some(d) if own => Some((self.teacher(d)?, d)),
            _ => None,
        };
        let quantizers = match (&student.quantized, &self.quantize) {
            (Some(layers), Some(spec)) => Some((layers, spec)),
            _ => None,
        };
        let job = Job {
            name,
            student: &student.built,
            quantizers,
            teacher: teacher.as_ref().map(|(t, d)| (t, *d)),
            masks: self.recipe.prune.as_ref().filter(|_| own),
            windows,
            held_out: &self.held_out,
            metrics: if own { "metrics.jsonl" } else { "metrics_dense_tuned.jsonl" },
        };
        match train::train(self.recipe, spec, &job, self.folder, self.stop, self.report)? {
            true => Ok(()),
            false => Err(RunError::Stopped),
        }
    }
}
