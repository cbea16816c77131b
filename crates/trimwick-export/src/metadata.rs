//! What a file says about itself.

use std::collections::BTreeMap;
use std::path::Path;

use trimwick_formats::folder::ModelFolder;
use trimwick_formats::safetensors::SafetensorsFile;
use trimwick_quant::{QuantSpec, Scheme};

use crate::{Error, Result};

const SCHEME: &str = "trimwick.scheme";
const LAYOUT: &str = "trimwick.layout";
/// Names, a line each: they hold no line breaks.
const TENSORS: &str = "trimwick.tensors";

/// The version of the layout that this crate writes and reads.
const PACKED: &str = "packed 1";
/// Floats under the names of the input.
const FAKE: &str = "dequantized 1";

/// The metadata of an output: that of its input, and what was done.
pub(crate) fn describe<'a>(
    mut of_input: BTreeMap<String, String>,
    scheme: &Scheme,
    fake: bool,
    tensors: impl Iterator<Item = &'a str>,
) -> BTreeMap<String, String> {
    of_input.insert(SCHEME.into(), scheme.to_string());
    of_input.insert(LAYOUT.into(), if fake { FAKE } else { PACKED }.into());
    of_input.insert(TENSORS.into(), tensors.collect::<Vec<_>>().join("\n"));
    of_input
}

/// What the files of an input say, the first of several first.
pub(crate) fn of_folder(input: &ModelFolder) -> BTreeMap<String, String> {
    input.files().iter().rev().flat_map(|file| file.metadata().clone()).collect()
}

/// Refuses files whose floats are scales.
pub(crate) fn refuse_packed(input: &ModelFolder) -> Result<()> {
    for file in input.files() {
        let says = |key| file.metadata().get(key).map(String::as_str);
        if says(LAYOUT).is_some_and(|layout| layout.starts_with("packed ")) {
            let scheme = says(SCHEME).unwrap_or("unknown").to_string();
            return Err(Error::AlreadyPacked { path: file.path().into(), scheme });
        }
    }
    Ok(())
}

/// What a packed file says: its scheme with the weight quantizer, and the names of its packed tensors.
pub(crate) fn read(file: &SafetensorsFile) -> Result<(Scheme, QuantSpec, Vec<String>)> {
    let (path, metadata) = (file.path(), file.metadata());
    let says = |key| metadata.get(key).map(String::as_str);
    match says(LAYOUT) {
        Some(PACKED) => {}
        found => return Err(strange(path, LAYOUT, &format!("{PACKED:?}"), found)),
    }
    let expected = "a scheme with a weight quantizer";
    let scheme: Option<Scheme> = says(SCHEME).and_then(|text| text.parse().ok());
    let Some((scheme, spec)) = scheme.and_then(|s| Some((s, s.weight?))) else {
        return Err(strange(path, SCHEME, expected, says(SCHEME)));
    };
    spec.check()?;
    let Some(names) = says(TENSORS) else {
        return Err(strange(path, TENSORS, "names of tensors", None));
    };
    Ok((scheme, spec, names.lines().map(str::to_string).collect()))
}

fn strange(path: &Path, key: &'static str, expected: &str, found: Option<&str>) -> Error {
    let found = found
        .map_or_else(|| "none".into(), |text| format!("{:?}", text.chars().take(64).collect::<String>()));
    Error::NotPacked { path: path.into(), key, expected: expected.into(), found }
}
