//! A written file measured by what it holds: computed from its packed weights, on the run's held-out text.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use trimwick_formats::read_small;
use trimwick_models::{Arithmetic, PackedLlama, PackedOptions};
use trimwick_quant::Scheme;
use trimwick_train::{Evaluation, Windows, evaluate_losses};

use super::chat::Chat;
use super::data::{self, With};
use super::error::{Result, RunError};
use super::folder::{LARGEST, RECIPE};
use super::inputs::Inputs;
use super::origin::open_source;
use super::summary::{Arm, Summary};
use crate::{KvGrid, ModelSource, Recipe};

/// How far the loss of a file may be from that of the model that was measured, as a share of it, or in nats where it is below 1.
/// The values are compared bit for bit elsewhere; this is about what is computed from them: sums in another order …
const SAME_TYPE: f64 = 5e-3;
/// … and weights without a grid that are written in another type than the model that was measured.
const OTHER_TYPE: f64 = 5e-2;
/// Results of a finished run.
pub(super) const SUMMARY: &str = "summary.json";

/// A model that was written for a runtime, and what was found in its file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Export {
    /// The format as the recipe writes it.
    pub target: String,
    /// Where it is in the run's folder.
    pub path: String,
    /// The type of weights without a quantizer.
    pub dense: String,
    /// SHA-256 of each of its files, by name.
    #[serde(default)]
    pub digests: BTreeMap<String, String>,
    /// Bytes of all tensors in it.
    pub bytes: u64,
    /// Bits for each parameter of the model, scales counted.
    pub bits_per_parameter: f64,
    /// Values that were compared with the trained ones.
    pub compared: u64,
    /// Of these, those that are equal once the trained one is rounded to the 16 bits of the file; the rest is equal bit for bit.
    #[serde(default)]
    pub rounded: u64,
    /// Mean loss on the held-out text computed from the file, in nats per scored token. Activations are not rounded.
    pub loss: f64,
    /// e to that loss.
    pub perplexity: f64,
}

/// What a finished run found on its held-out text, which stands here in the tokens of a file.
#[derive(Debug, Clone)]
pub struct RunMeasure {
    /// The text.
    pub windows: Windows,
    /// What the written model gave on it.
    pub arm: Arm,
    /// Whether inputs, keys or values were on a grid when it was measured.
    pub activations: bool,
    /// Whether exports hold weights without a grid in the type of the model that was measured.
    same_type: bool,
}

impl RunMeasure {
    /// Reads the run's recipe, its summary and its text, and cuts that with the tokenizer of the model at `path`.
    ///
    /// # Errors
    /// [`RunError::Changed`] when these are not the tokens that the run has measured on; files that cannot be read.
    pub fn of(run: &Path, path: &Path) -> Result<Self> {
        let recipe = Recipe::load(&run.join(RECIPE), &[])?;
        recipe.check_files()?;
        let files = open_source(&source(path))?;
        let chat = Chat::of_files(&recipe, &files)?;
        let tokenizer = files.require_tokenizer()?;
        let with = With { tokenizer, vocab: files.config.vocab_size, chat: &chat };
        let windows = data::held_out(&recipe, with)?;
        Inputs::check_held_out(run, &windows)?;
        let summary = summary(run)?;
        let kv = summary.quantization.as_ref().is_some_and(|q| q.kv_cache != KvGrid::None);
        let inputs = |scheme: &String| scheme.parse().is_ok_and(|s: Scheme| s.input.is_some());
        let activations = kv || summary.quantization.iter().flat_map(|q| q.schemes.keys()).any(inputs);
        let missing = || RunError::Changed { path: run.join(SUMMARY), what: "no arm \"exported\"".into() };
        let arm = summary.arm("exported").cloned().ok_or_else(missing)?;
        let same_type = recipe.export.dense == recipe.export.dtype;
        Ok(Self { windows, arm, activations, same_type })
    }

    /// Compares the loss of a file with that of the run; inputs that were on a grid then and are not now compare with nothing.
    ///
    /// # Errors
    /// [`RunError::Proof`] when they are not the same.
    pub fn compare(&self, path: &Path, found: &Evaluation) -> Result<()> {
        if self.activations { Ok(()) } else { compare(path, self.arm.loss, found, self.same_type) }
    }
}

fn summary(run: &Path) -> Result<Summary> {
    let path = run.join(SUMMARY);
    let missing =
        || RunError::Changed { path: path.clone(), what: "missing: the run is not finished".into() };
    let text = read_small(&path, 64 * LARGEST)?.ok_or_else(missing)?;
    serde_json::from_slice(&text).map_err(|source| RunError::Record { path, source })
}

fn source(path: &Path) -> ModelSource {
    if path.is_dir() { ModelSource::Folder(path.into()) } else { ModelSource::Gguf(path.into()) }
}

/// The loss of a model that is computed from the weights of a file as they are packed; activations are in f32. `progress` is
/// told windows done, windows in all and the mean loss so far; `None` when `stop` says so.
///
/// # Errors
/// A file that cannot be opened, or whose losses are not finite.
pub fn measure_file(
    path: &Path,
    windows: &Windows,
    progress: &mut dyn FnMut(usize, usize, f64),
    stop: &dyn Fn() -> bool,
) -> Result<Option<Evaluation>> {
    let files = open_source(&source(path))?;
    // The last token of a window is only a target.
    let context = windows.context().min(files.config.max_position_embeddings);
    let options =
        PackedOptions { arithmetic: Arithmetic::Float, context: Some(context), ..PackedOptions::default() };
    let model = PackedLlama::load(&files, options)?;
    evaluate_losses(windows, |window| Ok(model.losses(window)?), progress, stop)
}

/// Fails unless a file has the loss that its model had; `same_type` where both hold weights without a grid in one type.
pub(super) fn compare(path: &Path, expected: f64, found: &Evaluation, same_type: bool) -> Result<()> {
    let allowed = if same_type { SAME_TYPE } else { OTHER_TYPE } * expected.max(1.);
    if (found.loss - expected).abs() <= allowed {
        return Ok(());
    }
    let what = format!(
        "the held-out loss computed from the file is {}, that of the model {expected}, expected to be within {allowed:.3}",
        found.loss
    );
    Err(RunError::Proof { path: path.into(), tensor: "file".into(), what })
}
