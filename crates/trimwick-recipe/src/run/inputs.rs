//! What a run's numbers are about beside its recipe: the tokens and the weights, by their digests.
//!
//! The recipe names files, and files change. A table whose rows come from before and after such a change compares nothing,
//! so the digests are written when the run begins and compared whenever it goes on.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use trimwick_formats::{atomic_write, read_small, sha256_bytes, sha256_file};
use trimwick_models::{Tokenizer, builtin};
use trimwick_train::Windows;

use super::error::{Result, RunError};
use super::folder::{LARGEST, RunFolder};
use crate::ModelSource;

/// The record of them.
const FILE: &str = "stages/inputs.json";

/// Digests of what a run reads.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Inputs {
    #[serde(rename = "data.eval")]
    eval: String,
    #[serde(rename = "data.train")]
    train: Option<String>,
    #[serde(rename = "calibration.data", default, skip_serializing_if = "Option::is_none")]
    calibration: Option<String>,
    #[serde(rename = "model.source")]
    model: String,
}

impl Inputs {
    /// Those of token ids with what is trained of them, and of a model as [`of_source`] or [`of_tokenizer`] tells it.
    pub(crate) fn new(
        held_out: &Windows,
        training: Option<&Windows>,
        calibration: Option<&Windows>,
        model: &str,
    ) -> Self {
        let (train, calibration) = (training.map(of_tokens), calibration.map(of_tokens));
        Self { eval: of_tokens(held_out), train, calibration, model: model.into() }
    }

    fn by_key(&self) -> [(&'static str, Option<&str>); 4] {
        [
            ("data.eval", Some(&self.eval)),
            ("data.train", self.train.as_deref()),
            ("calibration.data", self.calibration.as_deref()),
            ("model.source", Some(&self.model)),
        ]
    }

    /// The digests by the recipe's key.
    pub(crate) fn digests(&self) -> BTreeMap<String, String> {
        let there = self.by_key().into_iter().filter_map(|(key, digest)| Some((key.into(), digest?.into())));
        there.collect()
    }

    /// Compares them with those that the run began with, or writes them when it begins.
    ///
    /// # Errors
    /// [`RunError::Changed`] with the recipe's keys whose content is another one.
    pub(crate) fn settle(&self, folder: &RunFolder) -> Result<()> {
        let path = folder.at(FILE);
        let Some(text) = read_small(&path, LARGEST)? else {
            if folder.has_records() {
                let what = "missing beside records of finished stages";
                return Err(RunError::Changed { path, what: what.into() });
            }
            let text = serde_json::to_vec_pretty(self)
                .map_err(|source| RunError::Record { path: path.clone(), source })?;
            return Ok(atomic_write(&path, &text)?);
        };
        let began: Self = serde_json::from_slice(&text)
            .map_err(|error| RunError::Changed { path: path.clone(), what: format!("broken ({error})") })?;
        let pairs = self.by_key().into_iter().zip(began.by_key());
        let changed: Vec<_> = pairs.filter(|(now, then)| now != then).map(|((key, _), _)| key).collect();
        if changed.is_empty() {
            return Ok(());
        }
        let what = format!("{} changed since the run began", changed.join(" and "));
        Err(RunError::Changed { path: folder.root().into(), what })
    }
}

impl Inputs {
    /// Compares held-out tokens with those that a finished run was measured on.
    ///
    /// # Errors
    /// [`RunError::Changed`] for others, or where there is no record of them.
    pub(crate) fn check_held_out(run: &Path, held_out: &Windows) -> Result<()> {
        let path = run.join(FILE);
        let changed = |what: String| RunError::Changed { path: path.clone(), what };
        let text = read_small(&path, LARGEST)?.ok_or_else(|| changed("missing".into()))?;
        let began: Self =
            serde_json::from_slice(&text).map_err(|error| changed(format!("broken ({error})")))?;
        if began.eval == of_tokens(held_out) {
            return Ok(());
        }
        Err(changed("data.eval gives other tokens than the run was measured on".into()))
    }
}

fn of_tokens(windows: &Windows) -> String {
    let beside = windows.beside();
    let mut hash = Sha256::new();
    for part in [windows.ids(), &beside] {
        for piece in part.chunks(1 << 16) {
            let bytes: Vec<u8> = piece.iter().flat_map(|id| id.to_le_bytes()).collect();
            hash.update(&bytes);
        }
    }
    hex(hash)
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The identity of a fresh model, whose shape is in the recipe: that of its tokenizer.
pub(crate) fn of_tokenizer(tokenizer: &Tokenizer) -> Result<String> {
    Ok(sha256_bytes(tokenizer.to_json()?.as_bytes()))
}

/// The identity of a trained model: of everything in its folder or file that a run reads; of a model of the hub its
/// name and commit, which tell the content.
pub(crate) fn of_source(source: &ModelSource, origin: &str) -> Result<String> {
    match source {
        ModelSource::Hub { .. } => Ok(sha256_bytes(origin.as_bytes())),
        ModelSource::Gguf(path) => Ok(sha256_file(path)?),
        ModelSource::Folder(path) => of_folder(path),
        ModelSource::Builtin(name) => {
            let mut hash = Sha256::new();
            if let Some(model) = builtin::model(name) {
                hash.update(model.config);
                hash.update(model.tokenizer);
                hash.update(model.weights);
            }
            Ok(hex(hash))
        }
    }
}

fn of_folder(path: &Path) -> Result<String> {
    let io = |source| RunError::Io { path: path.into(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        let text = name.to_string_lossy();
        let read = text.ends_with(".safetensors") || text.ends_with(".json") || text == "chat_template.jinja";
        // What a killed process left of a file is not read.
        if read && !text.starts_with('.') && path.join(&name).is_file() {
            names.push(name);
        }
    }
    names.sort();
    let mut text = String::new();
    for name in names {
        text.push_str(&format!("{}  {}\n", sha256_file(path.join(&name))?, name.to_string_lossy()));
    }
    Ok(sha256_bytes(text.as_bytes()))
}
