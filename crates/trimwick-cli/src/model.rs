//! Models by what the user writes for them.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use candle_core::{DType, Device};
use trimwick_models::source::{self, Progress};
use trimwick_models::{Llama, ModelFiles, ModelSource, OpenOptions, builtin};
use trimwick_nn::{ParamStore, Role};

use crate::progress::{Meter, line};

/// Where a hub model may come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hub {
    /// The network, where the cache on this machine does not have it.
    Fetch,
    /// The cache alone.
    Cached,
}

/// Opens a model, with a bar while it is downloaded; nothing of its weights but headers is read.
///
/// # Errors
/// [`trimwick_models::Error`].
pub(crate) fn open(from: &ModelSource, hub: Hub) -> Result<ModelFiles> {
    let mut options = OpenOptions::default();
    match hub {
        Hub::Fetch => options.hub.progress = Some(downloads()),
        Hub::Cached => options.hub.offline = true,
    }
    let files = source::open(from, &options)?;
    files.notes.iter().for_each(|note| line(&format!("note: {note}")));
    Ok(files)
}

/// Reads the weights in f32 and freezes them, so that computing with them records no graph.
///
/// # Errors
/// Weights that cannot be read or are not finite; a context beyond the model's.
pub(crate) fn load(files: &ModelFiles, context: usize) -> Result<(ParamStore, Llama)> {
    let store = ParamStore::from_source(files.weights.clone(), DType::F32, &Device::Cpu, 0);
    let model = Llama::new(&files.config, Some(context), store.var_builder())?;
    store.params().iter().for_each(|p| p.set_role(Role::Frozen));
    Ok((store, model))
}

/// The text that comes with a built-in model, and its name.
pub(crate) fn held_out(source: &ModelSource) -> Option<(&'static str, &'static str)> {
    match source {
        ModelSource::Builtin(_) => Some(("builtin:sotu-eval", builtin::text("sotu-eval")?)),
        _ => None,
    }
}

/// One meter for each file that is worth one, in megabytes.
fn downloads() -> Progress {
    const MEGABYTE: u64 = 1_000_000;
    let current: Mutex<Option<(String, Meter)>> = Mutex::default();
    Arc::new(move |file: &str, done: u64, total: u64| {
        let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);
        if total < MEGABYTE {
            return;
        }
        if current.as_ref().is_none_or(|(name, _)| name != file) {
            // The old bar goes before the new one is drawn.
            *current = None;
            *current = Some((file.to_string(), Meter::new(&format!("downloading {file}"))));
        }
        if let Some((_, meter)) = current.as_mut() {
            let left = (done > 0).then(|| meter.seconds() / done as f64 * total.saturating_sub(done) as f64);
            meter.at(done / MEGABYTE, total / MEGABYTE, "MB", left);
        }
        if done >= total {
            *current = None;
        }
    })
}
