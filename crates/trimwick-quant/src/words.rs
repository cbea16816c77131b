//! The words of schemes, and what was probably meant by another.

use trimwick_kernels::quant::{Code, ScaleFormat};

use crate::{Error, Result};

/// Every code by the name that it has in schemes.
pub(crate) const CODES: &[(&str, Code)] = &[
    ("int8", Code::Int { bits: 8 }),
    ("int7", Code::Int { bits: 7 }),
    ("int6", Code::Int { bits: 6 }),
    ("int5", Code::Int { bits: 5 }),
    ("int4", Code::Int { bits: 4 }),
    ("int3", Code::Int { bits: 3 }),
    ("int2", Code::Int { bits: 2 }),
    ("ternary", Code::Ternary),
    ("uint8", Code::Uint { bits: 8 }),
    ("uint7", Code::Uint { bits: 7 }),
    ("uint6", Code::Uint { bits: 6 }),
    ("uint5", Code::Uint { bits: 5 }),
    ("uint4", Code::Uint { bits: 4 }),
    ("uint3", Code::Uint { bits: 3 }),
    ("uint2", Code::Uint { bits: 2 }),
    ("e2m1", Code::E2M1),
    ("e2m3", Code::E2M3),
    ("e3m2", Code::E3M2),
    ("e4m3", Code::E4M3),
    ("e5m2", Code::E5M2),
];

/// Every scale format by the name that it has in schemes.
pub(crate) const SCALES: &[(&str, ScaleFormat)] = &[
    ("f32", ScaleFormat::F32),
    ("f16", ScaleFormat::F16),
    ("bf16", ScaleFormat::BF16),
    ("e4m3", ScaleFormat::E4M3),
    ("e8m0", ScaleFormat::E8M0Ceil),
    ("e8m0-floor", ScaleFormat::E8M0Floor),
];

/// The entry called `word`.
pub(crate) fn find<T: Copy>(what: &'static str, word: &str, known: &[(&str, T)]) -> Result<T> {
    match known.iter().find(|(name, _)| *name == word) {
        Some((_, value)) => Ok(*value),
        None => Err(unknown(what, word, known.iter().map(|(name, _)| *name))),
    }
}

/// The name of an entry.
pub(crate) fn name_of<T: PartialEq>(value: &T, known: &[(&'static str, T)]) -> &'static str {
    known.iter().find(|(_, v)| v == value).map_or("?", |(name, _)| name)
}

/// The error of a word that is not among `known`, with the nearest one that is.
pub(crate) fn unknown<'a>(what: &'static str, word: &str, known: impl IntoIterator<Item = &'a str>) -> Error {
    let known: Vec<&str> = known.into_iter().collect();
    // A word from a stranger may be as long as a file; the distance is quadratic.
    let folded: String = word.chars().take(64).map(fold).collect();
    let near = known
        .iter()
        .map(|k| (strsim::damerau_levenshtein(&folded, &k.chars().map(fold).collect::<String>()), *k))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, k)| *distance <= k.len().max(folded.len()).div_ceil(3));
    Error::Unknown {
        what,
        found: word.chars().take(64).collect(),
        hint: near.map(|(_, k)| format!("did you mean {k:?}? ")).unwrap_or_default(),
        known: known.join(", "),
    }
}

fn fold(c: char) -> char {
    if c == '_' { '-' } else { c.to_ascii_lowercase() }
}
