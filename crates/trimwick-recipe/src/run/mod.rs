//! A recipe at work: model and texts in, arms measured, the model written and proved, a summary out.
//!
//! Each stage leaves a record in the run's folder; running the same recipe again continues after the last one, and
//! a stage that trains continues from its newest checkpoint. The order is: measure the dense model; prune it by
//! magnitude and measure; prune it by the recipe's method and measure; quantize it and measure; train and measure;
//! train the dense twin on the same tokens and measure, as it is and quantized; write, reopen, prove; measure what
//! the written file computes.

mod data;
mod error;
mod event;
mod export;
mod folder;
mod origin;
mod prune;
mod quantize;
mod snapshot;
mod summary;
mod train;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use candle_core::{Device, Tensor};
use trimwick_formats::atomic_write;
use trimwick_nn::Layers;
use trimwick_train::{EvaluateOptions, Windows, evaluate};

pub use error::{Result as RunResult, RunError};
pub use event::{Event, Report, Stage};
pub use origin::layer_shapes;
pub use quantize::Quantization;
pub use summary::{Arm as MeasuredArm, Summary};

use crate::{Arm, ModelSpec, PruneSchedule, QuantizeSpec, Recipe, Teacher, TrainSpec};
use error::Result;
use export::Written;
use folder::RunFolder;
use origin::{Built, Origin};
use train::Job;

/// Weights of the dense twin after training, kept where it teaches.
const TUNED_TEACHER: &str = "stages/dense_tuned.safetensors";

/// How a run ended.
#[derive(Debug)]
pub enum RunOutcome {
    /// Everything is done; the summary is in `summary.json`.
    Finished(Box<Summary>),
    /// The stop flag ended it; the same recipe continues.
    Stopped,
}

/// Runs a recipe in the folder `out`, from where an earlier process stopped.
///
/// `stop` is looked at between stages and between training steps. `report` is told what happens.
///
/// # Errors
/// [`RunError`]; nothing half-written is left, and the stages that were done stay done.
pub fn run(recipe: &Recipe, out: &Path, stop: &AtomicBool, report: Report<'_>) -> Result<RunOutcome> {
    recipe.check_files()?;
    // A tokenizer that the run trains is kept in its folder. Otherwise model and texts are read first, so that a
    // broken one leaves no folder behind.
    let folder = match recipe.model {
        ModelSpec::Pretrain(_) => Some(RunFolder::open(out, recipe)?),
        ModelSpec::Source(_) => None,
    };
    let origin = Origin::open(recipe, folder.as_ref(), report)?;
    report(Event::Begin(Stage::Data));
    let vocab = origin.config.vocab_size;
    let held_out = data::held_out(recipe, &origin.tokenizer, vocab)?;
    let training = data::training(recipe, &origin.tokenizer, vocab)?;
    let mut folder = match folder {
        Some(folder) => folder,
        None => RunFolder::open(out, recipe)?,
    };
    let mut run =
        Run { recipe, folder: &mut folder, origin: &origin, held_out, training, stop, arms: vec![], report };
    let finished = run.stages()?;
    match finished {
        None => Ok(RunOutcome::Stopped),
        Some(finished) => {
            let arms = run.arms;
            let summary = summarize(recipe, &folder, &origin.name, arms, finished);
            let path = folder.at("summary.json");
            let text = serde_json::to_vec_pretty(&summary)
                .map_err(|source| RunError::Record { path: path.clone(), source })?;
            atomic_write(&path, &text)?;
            Ok(RunOutcome::Finished(Box::new(summary)))
        }
    }
}

struct Run<'a, 'r> {
    recipe: &'a Recipe,
    folder: &'a mut RunFolder,
    origin: &'a Origin,
    held_out: Windows,
    training: Option<Windows>,
    stop: &'a AtomicBool,
    arms: Vec<MeasuredArm>,
    report: Report<'r>,
}

/// A model as it goes into training.
struct Student {
    built: Built,
    /// Its quantized layers.
    quantized: Option<Layers>,
}

/// What was written, and what it was proved to hold.
struct Finished {
    written: Written,
    pattern: Option<trimwick_sparse::Pattern>,
    quantized: Option<Quantization>,
}

impl Run<'_, '_> {
    /// Every stage in order; `None` when the stop flag ended it.
    fn stages(&mut self) -> Result<Option<Finished>> {
        let recipe = self.recipe;
        let pretrains = matches!(recipe.model, ModelSpec::Pretrain(_));
        if !pretrains {
            self.measure("dense", 0, |run| run.origin.build())?;
        }
        if recipe.compare.arms.contains(&Arm::PrunedMagnitude) && !self.stopped() {
            self.measure("pruned_magnitude", 0, |run| run.pruned("pruned_magnitude", true))?;
        }
        let tokens_of =
            |spec: &TrainSpec| spec.steps(recipe.data.context) * spec.tokens_per_step(recipe.data.context);
        if let Some(spec) = recipe.train.as_ref().filter(|_| self.tuned_teacher())
            && !self.dense_tuned(spec, tokens_of(spec))?
        {
            return Ok(None);
        }
        let Some(mut current) = self.start()? else { return Ok(None) };
        if let Some(spec) = &recipe.train {
            let name =
                if recipe.prune.is_some() || recipe.quantize.is_some() { "recovered" } else { "trained" };
            if !self.train(name, spec, &current)? {
                return Ok(None);
            }
            let tokens = tokens_of(spec);
            self.measure_built(name, tokens, &current.built)?;
            if recipe.compare.arms.contains(&Arm::DenseTuned) && !self.tuned_teacher() {
                // The control arm comes while the result waits on disk: two models are enough in memory.
                drop(current);
                if !self.dense_tuned(spec, tokens)? {
                    return Ok(None);
                }
                current = match self.start()? {
                    Some(built) => built,
                    None => return Ok(None),
                };
                if !self.train(name, spec, &current)? {
                    return Ok(None);
                }
            }
        }
        if recipe.lora.is_some() {
            trimwick_train::lora::merge(&current.built.store.layers())?;
        }
        self.export(&current.built).map(Some)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The model that training starts from: pruned, quantized, adapted, as far as the recipe says.
    fn start(&mut self) -> Result<Option<Student>> {
        let Some(built) = self.pruned_stage()? else { return Ok(None) };
        let quantized = match &self.recipe.quantize {
            Some(_) if self.stopped() => return Ok(None),
            Some(spec) => Some(self.quantized_stage(&built, spec)?),
            None => None,
        };
        if let Some(spec) = &self.recipe.lora {
            train::adapt(&built, spec, self.recipe.seed)?;
        }
        Ok(Some(Student { built, quantized }))
    }

    /// Quantizes a model in one shot; its scales are found once and kept.
    fn quantized_stage(&mut self, built: &Built, spec: &QuantizeSpec) -> Result<Layers> {
        const NAME: &str = "quantized";
        let path = self.folder.at("stages/quantizers.safetensors");
        let layers = quantize::attach(built, spec)?;
        if path.exists() {
            snapshot::restore(&built.store, &path)?;
            quantize::restore(built, &layers)?;
        } else {
            (self.report)(Event::Begin(Stage::Quantize(NAME)));
            self.calibrate(built, &layers)?;
            snapshot::save(&built.store, &path, trimwick_quant::owns)?;
        }
        self.measure_built(NAME, 0, built)?;
        Ok(layers)
    }

    fn calibrate(&mut self, built: &Built, layers: &Layers) -> Result<()> {
        let windows: Vec<Tensor> = match (&self.recipe.calibration, &self.training) {
            (Some(spec), Some(windows)) => data::calibration(spec, windows)?,
            _ => Vec::new(),
        };
        quantize::calibrate(built, layers, &windows, self.report)
    }

    /// The model that pruning leaves: pruned in one shot, or dense for a schedule that prunes on the way.
    fn pruned_stage(&mut self) -> Result<Option<Built>> {
        if self.stopped() {
            return Ok(None);
        }
        let Some(spec) = &self.recipe.prune else { return self.origin.build().map(Some) };
        let path = self.folder.at("stages/pruned.safetensors");
        let begun = Instant::now();
        let built = if path.exists() {
            let built = self.origin.build()?;
            snapshot::restore(&built.store, &path)?;
            built
        } else {
            let built = self.pruned("pruned", false)?;
            snapshot::save(&built.store, &path, |_| true)?;
            (self.report)(Event::Note(format!("pruned in {}", origin::since(begun))));
            built
        };
        self.measure_built("pruned", 0, &built)?;
        match spec.schedule {
            PruneSchedule::OneShot => Ok(Some(built)),
            _ => self.origin.build().map(Some),
        }
    }

    fn pruned(&mut self, arm: &'static str, by_magnitude: bool) -> Result<Built> {
        (self.report)(Event::Begin(Stage::Prune(arm)));
        let built = self.origin.build()?;
        if let Some(spec) = &self.recipe.prune {
            let calibration: Vec<Tensor> = match (&self.recipe.calibration, &self.training) {
                (Some(spec), Some(windows)) if !by_magnitude => data::calibration(spec, windows)?,
                _ => Vec::new(),
            };
            prune::prune(&built, spec, by_magnitude, &calibration, self.report)?;
        }
        Ok(built)
    }

    fn teacher(&self, teacher: Teacher) -> Result<Built> {
        let built = self.origin.teacher()?;
        if teacher == Teacher::DenseTuned {
            snapshot::restore(&built.store, &self.folder.at(TUNED_TEACHER))?;
        }
        Ok(built)
    }

    /// Whether the dense twin has to be trained before the recipe's own arm.
    fn tuned_teacher(&self) -> bool {
        self.recipe.distill.as_ref().is_some_and(|d| d.teacher == Teacher::DenseTuned)
    }

    fn dense_tuned(&mut self, spec: &TrainSpec, tokens: u64) -> Result<bool> {
        const NAME: &str = "dense_tuned";
        const QUANTIZED: &str = "dense_tuned_quantized";
        let quantize = self.recipe.quantize.as_ref().filter(|_| self.recipe.prune.is_none());
        // The checkpoints go when both arms are measured.
        if let Some(arm) = self.folder.done::<MeasuredArm>(NAME)? {
            let quantized = self.folder.done::<MeasuredArm>(QUANTIZED)?;
            if quantized.is_some() || quantize.is_none() {
                self.known(NAME, arm);
                quantized.into_iter().for_each(|arm| self.known(QUANTIZED, arm));
                return Ok(true);
            }
        }
        let dense = Student { built: self.origin.build()?, quantized: None };
        if !self.train(NAME, spec, &dense)? {
            return Ok(false);
        }
        let dense = dense.built;
        if self.tuned_teacher() {
            snapshot::save(&dense.store, &self.folder.at(TUNED_TEACHER), |_| true)?;
        }
        self.measure_built(NAME, tokens, &dense)?;
        if let Some(spec) = quantize {
            // What one would deploy without training on the grid: tuned first, quantized after.
            let layers = quantize::attach(&dense, spec)?;
            self.calibrate(&dense, &layers)?;
            self.measure_built(QUANTIZED, tokens, &dense)?;
        }
        let path = self.folder.at("checkpoints/dense_tuned");
        // Nobody continues a control arm: its checkpoints are the largest files of a run.
        std::fs::remove_dir_all(&path).map_err(|source| RunError::Io { path, source })?;
        Ok(true)
    }

    /// Trains an arm; the recipe's own, unlike the control arm, distills and may change masks.
    fn train(&mut self, name: &'static str, spec: &TrainSpec, student: &Student) -> Result<bool> {
        if self.stopped() {
            return Ok(false);
        }
        let Some(windows) = &self.training else { return Ok(true) };
        (self.report)(Event::Begin(Stage::Train(name)));
        let own = name != "dense_tuned";
        let teacher = match &self.recipe.distill {
            Some(d) if own => Some((self.teacher(d.teacher)?, d)),
            _ => None,
        };
        let quantizers = match (&student.quantized, &self.recipe.quantize) {
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
        train::train(self.recipe, spec, &job, self.folder, self.stop, self.report)
    }

    /// Measures the model that `build` gives, unless an earlier process did.
    fn measure(
        &mut self,
        name: &'static str,
        tokens: u64,
        build: impl FnOnce(&mut Self) -> Result<Built>,
    ) -> Result<()> {
        if self.stopped() {
            return Ok(());
        }
        if let Some(arm) = self.folder.done::<MeasuredArm>(name)? {
            self.known(name, arm);
            return Ok(());
        }
        let built = build(self)?;
        self.measure_built(name, tokens, &built)
    }

    fn measure_built(&mut self, name: &'static str, tokens: u64, built: &Built) -> Result<()> {
        if self.arms.iter().any(|a| a.name == name) {
            return Ok(());
        }
        if let Some(arm) = self.folder.done::<MeasuredArm>(name)? {
            self.known(name, arm);
            return Ok(());
        }
        (self.report)(Event::Begin(Stage::Evaluate(name)));
        let report = &mut self.report;
        let mut progress = |done, total, loss| report(Event::Part { done, total, loss: Some(loss) });
        let options = EvaluateOptions::default();
        let evaluation = evaluate(&built.model, &Device::Cpu, &self.held_out, options, &mut progress)?;
        let arm = MeasuredArm::new(name, &evaluation, tokens);
        self.folder.finish(name, &arm)?;
        (self.report)(Event::Measured(&arm));
        self.arms.push(arm);
        Ok(())
    }

    fn known(&mut self, name: &'static str, arm: MeasuredArm) {
        (self.report)(Event::Skipped(Stage::Evaluate(name)));
        (self.report)(Event::Measured(&arm));
        self.arms.push(arm);
    }

    fn export(&mut self, built: &Built) -> Result<Finished> {
        let recipe = self.recipe;
        let pattern = match &recipe.prune {
            Some(spec) => Some(prune::selected(&built.store, spec)?.1),
            None => None,
        };
        let quantized = match &recipe.quantize {
            Some(spec) => Some(quantize::describe(&built.store, spec)?),
            None => None,
        };
        if let Some(off) = quantized.as_ref().map(|q| q.off_grid).filter(|&off| off > 0) {
            let what = format!("{off} weights are not on their grid; report this recipe");
            let (path, tensor) = (self.folder.at("model"), "file".into());
            return Err(RunError::Proof { path, tensor, what });
        }
        let folder = self.folder.at("model");
        (self.report)(Event::Begin(Stage::Export));
        let Origin { config, tokenizer, .. } = self.origin;
        let written = export::export(&built.store, config, tokenizer, recipe.export.dtype, pattern, &folder)?;
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
            quantize::wear_inputs(&store, &built.store);
            Ok(Built { store, model })
        };
        let tokens = self.arms.iter().map(|a| a.train_tokens).max().unwrap_or(0);
        self.measure("exported", tokens, |_| exported())?;
        Ok(Finished { written, pattern, quantized })
    }
}

fn summarize(
    recipe: &Recipe,
    folder: &RunFolder,
    model: &str,
    mut arms: Vec<MeasuredArm>,
    finished: Finished,
) -> Summary {
    const ORDER: [&str; 9] = [
        "dense",
        "dense_tuned",
        "pruned_magnitude",
        "pruned",
        "quantized",
        "dense_tuned_quantized",
        "recovered",
        "trained",
        "exported",
    ];
    arms.sort_by_key(|a| ORDER.iter().position(|n| *n == a.name));
    let first = |names: &[&'static str]| {
        names.iter().copied().find(|name| arms.iter().any(|a| a.name == *name)).unwrap_or("pruned")
    };
    // The naive way to the same size opens the gap; the best one-shot way to it is what training starts from.
    let opened = first(&["pruned_magnitude", "pruned", "quantized"]);
    let one_shot = first(&["quantized", "pruned"]);
    let Finished { written, pattern, quantized } = finished;
    let cost = folder.cost();
    Summary {
        name: recipe.name.clone(),
        fingerprint: folder.fingerprint().into(),
        model: model.into(),
        gap_recovered: summary::closed(&arms, opened, "recovered", "dense"),
        gap_recovered_to_tuned: summary::closed(&arms, one_shot, "recovered", "dense_tuned"),
        training_helped: summary::beaten(&arms, &["quantized", "dense_tuned_quantized"], "recovered"),
        arms,
        pattern: pattern.map(|p| p.to_string()),
        quantization: quantized,
        groups_violating: written.groups_violating,
        groups: written.groups,
        parameters: written.parameters,
        zeros: written.zeros,
        bytes: written.bytes,
        seconds: cost.seconds,
        peak_rss_bytes: cost.peak_rss_bytes,
        seed: recipe.seed,
        digests: written.digests,
    }
}
