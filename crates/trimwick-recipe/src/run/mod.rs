//! A recipe at work: model and texts in, arms measured, the model written and proved, a summary out.
//!
//! Each stage leaves a record in the run's folder; running the same recipe again continues after the last one, and
//! a stage that trains continues from its newest checkpoint. The order is: measure the dense model; choose a scheme for each
//! layer, where a budget asks for that; prune it by magnitude and measure; scale its channels by one-shot passes; prune it by
//! the recipe's method and measure; quantize it, with the other passes, and measure; train it block after block and measure;
//! train it end to end and measure; train the dense twin on the same tokens and measure, as it is and quantized; write, reopen,
//! prove; measure what the written file computes. A streamed run does as much of that as can be done with one block in memory.

mod blocks;
mod blockwise;
mod chat;
mod data;
mod deploy;
mod error;
mod event;
mod export;
mod finish;
mod folder;
mod fresh;
mod inactive;
mod inputs;
mod kept;
mod masks;
mod measure;
mod mixed;
mod needs;
mod oneshot;
mod origin;
mod passes;
mod place;
mod plan;
mod preview;
mod proof;
mod prune;
mod quantize;
mod shards;
mod snapshot;
mod stages;
mod stored;
mod streamed;
mod summary;
mod train;
mod work;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use trimwick_formats::atomic_write;

pub use chat::check_templates;
pub use error::{Result as RunResult, RunError};
pub use event::{Event, Report, Stage};
pub use fresh::config_of;
pub use masks::MASKS;
pub use mixed::MixedChoice;
pub use needs::{DiskPlan, WholePlan, disk_plan, whole_plan};
pub use origin::layer_shapes;
pub use place::check_place;
pub use plan::{StreamedPlan, streamed_plan};
pub use preview::{Preview, PreviewPart, PreviewSource, PreviewWindow, preview};
pub use proof::{Export, RunMeasure, measure_file};
pub use quantize::{OnGrid, Quantization};
pub use summary::{Arm as MeasuredArm, Summary};
pub use trimwick_nn::LayerReport;
pub use trimwick_train::blockwise::BlockReport;
pub use work::{Work, work};

use crate::Recipe;
pub(crate) use deploy::{dense_of, format_of};
use error::Result;
use folder::RunFolder;
use inputs::Inputs;
use origin::Origin;
use stages::Run;

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
/// `stop` is looked at between stages, and in each of them between steps, windows and blocks. `report` is told what
/// happens.
///
/// # Errors
/// [`RunError`]; nothing half-written is left, and the stages that were done stay done.
pub fn run(recipe: &Recipe, out: &Path, stop: &AtomicBool, report: Report<'_>) -> Result<RunOutcome> {
    recipe.check_files()?;
    check_place(out, recipe)?;
    // Model and texts are read first, so that broken ones leave no folder behind.
    let origin = Origin::open(recipe, out, report)?;
    report(Event::Begin(Stage::Data));
    let held_out = data::held_out(recipe, origin.with())?;
    let training = data::training(recipe, origin.with(), report)?;
    let calibrating = data::calibrating(recipe, origin.with())?;
    data::check_drawn(recipe, training.as_ref(), calibrating.as_ref())?;
    if let Some(training) = &training
        && training.ids().starts_with(held_out.ids())
    {
        let what =
            "data.train begins with the text of data.eval: the numbers say nothing about text that is new";
        report(Event::Note(what.into()));
    }
    let inputs = Inputs::new(&held_out, training.as_ref(), calibrating.as_ref(), &origin.identity);
    let mut folder = RunFolder::open(out, recipe)?;
    inputs.settle(&folder)?;
    origin.keep_tokenizer(&folder)?;
    origin.note_masks(recipe, report)?;
    let mut run = Run {
        recipe,
        folder: &mut folder,
        origin: &origin,
        held_out,
        calibrating: calibrating.or_else(|| training.clone()),
        training,
        stop,
        arms: vec![],
        blocks: vec![],
        quantize: None,
        mixed: None,
        passes: vec![],
        report,
    };
    let stages = if recipe.stream { run.streamed_stages() } else { run.stages() };
    let finished = match stages {
        Err(RunError::Stopped) => return Ok(RunOutcome::Stopped),
        finished => finished?,
    };
    let (arms, blocks) = (run.arms, run.blocks);
    let summary = finish::summarize(recipe, &folder, &origin.name, &inputs, arms, blocks, finished);
    let path = folder.at(proof::SUMMARY);
    let text = serde_json::to_vec_pretty(&summary)
        .map_err(|source| RunError::Record { path: path.clone(), source })?;
    atomic_write(&path, &text)?;
    Ok(RunOutcome::Finished(Box::new(summary)))
}
