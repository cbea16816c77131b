//! Which tensors of a file are quantized.

use std::collections::BTreeMap;

use globset::{GlobBuilder, GlobMatcher};
use trimwick_formats::folder::ModelFolder;
use trimwick_formats::safetensors::{Dtype, TensorInfo};
use trimwick_quant::QuantSpec;

use crate::layout::Layout;
use crate::quantize::QuantizeOptions;
use crate::{Error, Result};

/// The layout of every tensor that is to be quantized, by its name. Nothing but headers is read.
pub(crate) fn select(
    folder: &ModelFolder,
    spec: QuantSpec,
    options: &QuantizeOptions,
) -> Result<BTreeMap<String, Layout>> {
    let able = |name: &&str| folder.info(name).is_some_and(can_be_quantized);
    let mut chosen: Vec<&str> = folder.names().filter(able).collect();
    if chosen.is_empty() {
        let found = match folder.len() {
            0 => "no tensors".into(),
            n => format!("{n} tensors, none of that kind"),
        };
        return Err(Error::Nothing { path: folder.path().into(), found });
    }
    if !options.tensors.is_empty() {
        let globs = matchers("tensors", &options.tensors, &chosen)?;
        chosen.retain(|name| globs.iter().any(|glob| glob.is_match(name)));
    }
    let skips = matchers("skip", &options.skip, &chosen)?;
    chosen.retain(|name| !skips.iter().any(|glob| glob.is_match(name)));
    if chosen.is_empty() {
        return Err(Error::Nothing { path: folder.path().into(), found: "all of them skipped".into() });
    }

    let mut layouts = BTreeMap::new();
    let mut misfits = Vec::new();
    for name in chosen {
        let Some(info) = folder.info(name) else { continue };
        match Layout::new(name, &info.shape, spec) {
            Ok(layout) => drop(layouts.insert(name.to_string(), layout)),
            Err(Error::Quant(source)) => misfits.push(source),
            Err(error) => return Err(error),
        }
    }
    let others = misfits.len().saturating_sub(1);
    match misfits.into_iter().next() {
        Some(source) => Err(Error::Misfit { source: Box::new(source), others }),
        None => Ok(layouts),
    }
}

/// Floats that are numbers by themselves, in rows.
fn can_be_quantized(info: &TensorInfo) -> bool {
    let floats = matches!(info.dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16);
    floats && info.shape.len() >= 2 && !info.shape.contains(&0)
}

/// The globs, each of which matches something.
fn matchers(option: &'static str, patterns: &[String], names: &[&str]) -> Result<Vec<GlobMatcher>> {
    let matcher = |pattern: &String| {
        let glob = GlobBuilder::new(pattern).literal_separator(false).build();
        let glob = glob.map_err(|e| Error::Pattern {
            option,
            pattern: pattern.clone(),
            reason: e.kind().to_string(),
        })?;
        let glob = glob.compile_matcher();
        match names.iter().any(|name| glob.is_match(name)) {
            true => Ok(glob),
            false => Err(Error::NoMatch { option, pattern: pattern.clone(), known: listing(names) }),
        }
    };
    patterns.iter().map(matcher).collect()
}

/// The first few names, and how many there are.
fn listing(names: &[&str]) -> String {
    const SHOWN: usize = 4;
    match names.len() {
        n if n > SHOWN => format!("{}, … ({n} tensors)", names[..SHOWN].join(", ")),
        _ => names.join(", "),
    }
}
