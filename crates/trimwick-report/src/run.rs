//! A finished run, read from its folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use trimwick_models::LlamaConfig;
use trimwick_quant::mixed::Sensitivities;
use trimwick_recipe::Recipe;
use trimwick_recipe::run::{Summary, layer_shapes};

use trimwick_train::{StepRecord, ValidationRecord};

use crate::shipped::Bench;
use crate::weights::Weights;
use crate::{Error, Result};

/// What a run left.
#[derive(Debug)]
pub(crate) struct Run {
    /// The name of the folder.
    pub(crate) name: String,
    pub(crate) summary: Summary,
    /// The trained arms, the main one first.
    pub(crate) curves: Vec<Curve>,
    /// The recipe as it was resolved.
    pub(crate) recipe: String,
    /// The command that finished the run, where it was one.
    pub(crate) command: Option<String>,
    /// The written weights, where they are still there.
    pub(crate) weights: Option<Weights>,
    /// What each scheme would have cost, where a budget has chosen.
    pub(crate) sensitivities: Option<Sensitivities>,
    /// What `trimwick bench` found, where it was put into the folder.
    pub(crate) bench: Option<Bench>,
}

/// How an arm was trained.
#[derive(Debug, Default)]
pub(crate) struct Curve {
    pub(crate) arm: String,
    pub(crate) steps: Vec<StepRecord>,
    pub(crate) validations: Vec<ValidationRecord>,
}

/// What the command line leaves: itself.
pub const COMMAND: &str = "command.txt";
const SUMMARY: &str = "summary.json";
const METRICS: &str = "metrics";
/// The model that one-shot pruning left, masks included.
const ONE_SHOT: &str = "stages/pruned.safetensors";
const SENSITIVITIES: &str = "stages/sensitivities.json";

impl Run {
    /// Reads the folder of a finished run.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let summary = path.join(SUMMARY);
        if !summary.is_file() {
            return Err(Error::NoRun { path: path.into(), found: listing(path) });
        }
        let summary: Summary = serde_json::from_str(&text(&summary)?).map_err(|e| broken(&summary, &e))?;
        let recipe = text(&path.join("recipe.toml"))?;
        let main = ["recovered", "trained"].into_iter().find(|arm| summary.arm(arm).is_some());
        let mut curves: Vec<Curve> =
            curves(path, main.unwrap_or("trained"))?.into_iter().map(|(_, curve)| curve).collect();
        curves.sort_by_key(|curve| (Some(curve.arm.as_str()) != main, curve.arm.clone()));
        let model = path.join("model");
        let weights = match model.is_dir() {
            true => Some(Weights::read(&model, &schemes(path, &model, &summary)?, &path.join(ONE_SHOT))?),
            false => None,
        };
        let absolute = path.canonicalize().unwrap_or_else(|_| path.into());
        let name = absolute.file_name().map_or_else(|| summary.name.clone(), |n| n.to_string_lossy().into());
        let (sensitivities, bench) = (sensitivities(&path.join(SENSITIVITIES))?, Bench::read(path)?);
        let command = path.join(COMMAND);
        let command =
            command.is_file().then(|| text(&command)).transpose()?.map(|line| line.trim().to_string());
        Ok(Self { name, summary, curves, recipe, command, weights, sensitivities, bench })
    }
}

fn sensitivities(path: &Path) -> Result<Option<Sensitivities>> {
    if !path.is_file() {
        return Ok(None);
    }
    let record: Record<Sensitivities> = serde_json::from_str(&text(path)?).map_err(|e| broken(path, &e))?;
    Ok(Some(record.result))
}

/// What a stage left, beside what it took.
#[derive(Deserialize)]
struct Record<T> {
    result: T,
}

/// The metrics files of a run with what they hold, by their names; `main` is the arm of the one without a name.
pub(crate) fn curves(run: &Path, main: &str) -> Result<Vec<(PathBuf, Curve)>> {
    let mut found = Vec::new();
    for file in entries(run) {
        let name =
            file.file_name().and_then(|name| name.to_str()?.strip_prefix(METRICS)?.strip_suffix(".jsonl"));
        if let Some(rest) = name {
            let arm = rest.strip_prefix('_').unwrap_or(main).to_string();
            let read = Curve { arm, ..curve(&file)? };
            found.push((file, read));
        }
    }
    Ok(found)
}

/// The scheme of each quantized layer: what a budget has chosen, else what the recipe says.
fn schemes(run: &Path, model: &Path, summary: &Summary) -> Result<BTreeMap<String, String>> {
    if let Some(mixed) = &summary.mixed {
        return Ok(mixed.layers.clone());
    }
    let (recipe, config) = (run.join("recipe.toml"), model.join("config.json"));
    let shapes = LlamaConfig::from_hf_json(&text(&config)?, &config.display().to_string())
        .map_err(|e| broken(&config, &e))?;
    let wanted = Recipe::load(&recipe, &[]).map_err(|e| broken(&recipe, &e))?;
    let rules = wanted.check_layers(&layer_shapes(&shapes)).map_err(|e| broken(&recipe, &e))?;
    Ok(rules.layers.into_iter().filter_map(|rule| Some((rule.path, rule.quant?.scheme))).collect())
}

fn curve(path: &Path) -> Result<Curve> {
    let mut curve = Curve::default();
    for (i, line) in text(path)?.lines().enumerate() {
        let wrong = |_| {
            let found = line.chars().take(60).collect::<String>().escape_debug().to_string();
            Error::Line { path: path.into(), line: i + 1, found }
        };
        let value: Value = serde_json::from_str(line).map_err(wrong)?;
        match value.get("eval_loss") {
            Some(_) => curve.validations.push(serde_json::from_value(value).map_err(wrong)?),
            None => curve.steps.push(serde_json::from_value(value).map_err(wrong)?),
        }
    }
    Ok(curve)
}

/// A file of a run. The largest are metrics: a line for each step.
pub(crate) fn text(path: &Path) -> Result<String> {
    const LARGEST: u64 = 1 << 30;
    let bytes = trimwick_formats::read_small(path, LARGEST)?.ok_or_else(|| broken(path, &"not there"))?;
    String::from_utf8(bytes).map_err(|e| broken(path, &e.utf8_error()))
}

pub(crate) fn broken(path: &Path, problem: &dyn std::fmt::Display) -> Error {
    Error::File { path: path.into(), problem: problem.to_string() }
}

fn entries(path: &Path) -> Vec<PathBuf> {
    let Ok(found) = std::fs::read_dir(path) else { return Vec::new() };
    let mut found: Vec<_> = found.filter_map(|entry| Some(entry.ok()?.path())).collect();
    found.sort();
    found
}

/// The first few names in a folder, for people.
fn listing(path: &Path) -> String {
    const SHOWN: usize = 6;
    if !path.is_dir() {
        return if path.exists() { "a file".into() } else { "nothing".into() };
    }
    let names: Vec<_> = entries(path)
        .iter()
        .filter_map(|entry| Some(entry.file_name()?.to_string_lossy().escape_debug().to_string()))
        .collect();
    match names.len() {
        0 => "an empty folder".into(),
        n if n > SHOWN => format!("{} and {} more", names[..SHOWN].join(", "), n - SHOWN),
        _ => names.join(", "),
    }
}
