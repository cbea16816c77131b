//! A model that is compiled into the program.

use trimwick_formats::ByteSource;
use trimwick_formats::safetensors::SafetensorsFile;

use super::ModelFiles;
use super::folder::Parts;
use super::parse::no_such_builtin;
use crate::builtin::model;
use crate::error::Result;

/// Opens a built-in model; it passes the same checks as a stranger's.
pub(super) fn open(name: &str) -> Result<ModelFiles> {
    let model = model(name).ok_or_else(|| no_such_builtin(name))?;
    let origin = format!("builtin:{name}");
    let parts =
        Parts { config: model.config.into(), generation: None, tokenizer: Some(model.tokenizer.into()) };
    let weights = || Ok(SafetensorsFile::from_source(ByteSource::memory(model.weights, &origin))?);
    parts.open(weights, origin.clone(), |file| format!("{origin}/{file}"))
}
