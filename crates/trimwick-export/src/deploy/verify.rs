//! An export opened by its reader and compared, value by value, with what it should hold.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use trimwick_formats::blocks::GgmlType;
use trimwick_formats::folder::ModelFolder;
use trimwick_formats::gguf::GgufFile;
use trimwick_formats::safetensors::Dtype;
use trimwick_kernels::violations_nm;
use trimwick_models::source::{self, ModelFiles, ModelSource, OpenOptions};
use trimwick_models::{LlamaConfig, gguf_to_hf};

use super::model::Trained;
use super::target::Dense;
use crate::{Error, Result};

/// What a proof found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Verified {
    /// Tensors of the model, each of which was decoded.
    pub tensors: usize,
    /// Of these, those that are stored as codes.
    pub packed: usize,
    /// Values of the model.
    pub parameters: u64,
    /// Values that are +0.
    pub zeros: u64,
    /// Bytes of all tensors in the files.
    pub bytes: u64,
    /// Weights of which at most two of every four values are not zero, in every group.
    pub sparse: usize,
    /// Their groups of four.
    pub groups: u64,
    /// Values that were compared with others.
    pub compared: u64,
    /// Of these, those that are equal once the finer one is rounded to the 16 bits in which the other is stored; the rest is
    /// equal bit for bit.
    pub rounded: u64,
    /// What the reader had to say.
    pub notes: Vec<String>,
}

impl Verified {
    /// Bits in the files for each value of the model, scales and everything else counted.
    pub fn bits(&self) -> f64 {
        8. * self.bytes as f64 / self.parameters.max(1) as f64
    }
}

/// Opens an export of any target, decodes every tensor, and compares it with the model in `against`, if given: another
/// export, the folder of the trained model, or that of a run. Where one of them stores a tensor as floats of 16 bits, the
/// values of the other are rounded to them first.
///
/// # Errors
/// [`Error::Mismatch`] for the first value or key of the configuration that differs; whatever keeps one of them from being
/// opened: missing tensors, shapes that do not fit the configuration, values that are not finite.
pub fn verify(path: &Path, against: Option<&Path>) -> Result<Verified> {
    let Some(against) = against else { return check(path, None, &|_| Ok(None)) };
    // A run has its model in a folder of that name.
    let inner = against.join("model");
    let against = if inner.join("config.json").is_file() { inner } else { against.into() };
    let (other, stored) = (open(&against)?, Stored::of(&against)?);
    let expected = |name: &str| Ok(Some((values(&other, name)?, stored.dense.get(name).copied())));
    check(path, Some(&other.config), &expected)
}

/// The same against the model that was exported; what its masks drop must be +0.0.
pub(crate) fn against_model(path: &Path, trained: &Trained<'_>) -> Result<Verified> {
    let pieces: BTreeMap<String, _> =
        trained.pieces()?.into_iter().map(|piece| (piece.name.clone(), piece)).collect();
    let expected = |name: &str| {
        let Some(piece) = pieces.get(name) else { return Ok(None) };
        let values = piece.values()?;
        if let Some(mask) = piece.mask()? {
            let dropped = |i: usize| mask.get(i / 8).is_some_and(|byte| byte >> (i % 8) & 1 == 0);
            if let Some(i) = (0..values.len()).find(|&i| dropped(i) && values[i].to_bits() != 0) {
                return Err(mismatch(path, name, i, 0., values[i]));
            }
        }
        Ok(Some((values, Some(Dense::F32))))
    };
    check(path, Some(trained.config), &expected)
}

fn mismatch(path: &Path, name: &str, index: usize, expected: f32, found: f32) -> Error {
    Error::Mismatch {
        path: path.into(),
        what: format!("tensor {name}, element {index}"),
        expected: format!("{expected:e} ({:#010x})", expected.to_bits()),
        found: format!("{found:e} ({:#010x})", found.to_bits()),
    }
}

/// Opens a folder or a file.
fn open(path: &Path) -> Result<ModelFiles> {
    let source = match path.is_dir() {
        true => ModelSource::Folder(path.into()),
        false => ModelSource::Gguf(path.into()),
    };
    Ok(source::open(&source, &OpenOptions::default())?)
}

fn values(files: &ModelFiles, name: &str) -> Result<Vec<f32>> {
    Ok(files.weights.load(name, DType::F32, &Device::Cpu)?.flatten_all()?.to_vec1()?)
}

/// The values that a tensor should have, and how they are stored if they are plain floats.
type Expected<'a> = dyn Fn(&str) -> Result<Option<(Vec<f32>, Option<Dense>)>> + 'a;

fn check(path: &Path, config: Option<&LlamaConfig>, expected: &Expected<'_>) -> Result<Verified> {
    let files = open(path)?;
    if let Some(config) = config {
        same_model(path, &files.config, config)?;
    }
    let stored = Stored::of(path)?;
    let mut found = Verified { bytes: stored.bytes, notes: files.notes.clone(), ..Verified::default() };
    for (name, shape) in files.config.tensors() {
        let values = values(&files, &name)?;
        let dense = stored.dense.get(&name);
        if let Some((expected, theirs)) = expected(&name)? {
            let rounded = |v: f32| dense.map_or(v, |dense| dense.rounded(v));
            if expected.len() != values.len() {
                return Err(Error::Mismatch {
                    path: path.into(),
                    what: format!("tensor {name}"),
                    expected: format!("{} values", expected.len()),
                    found: values.len().to_string(),
                });
            }
            // Where they are the coarser ones.
            let coarser = theirs.filter(|_| dense.is_some());
            let equal = |a: f32, b: f32| a.to_bits() == b.to_bits();
            let differs = |i: &usize| {
                let (found, expected) = (values[*i], expected[*i]);
                !equal(found, rounded(expected))
                    && !coarser.is_some_and(|theirs| equal(theirs.rounded(found), expected))
            };
            if let Some(i) = (0..values.len()).find(differs) {
                return Err(mismatch(path, &name, i, rounded(expected[i]), values[i]));
            }
            found.compared += values.len() as u64;
            found.rounded += values.iter().zip(&expected).filter(|(a, b)| !equal(**a, **b)).count() as u64;
        }
        let zeros = values.iter().filter(|v| v.to_bits() == 0).count();
        found.tensors += 1;
        found.packed += usize::from(dense.is_none());
        found.parameters += values.len() as u64;
        found.zeros += zeros as u64;
        if let [_, row] = shape[..]
            && row.is_multiple_of(4)
            && 2 * zeros >= values.len()
            && violations_nm(&values, row, 2, 4) == 0
        {
            found.sparse += 1;
            found.groups += (values.len() / 4) as u64;
        }
    }
    Ok(found)
}

/// Compares what changes the computation. GGUF has no word for the rest.
fn same_model(path: &Path, found: &LlamaConfig, expected: &LlamaConfig) -> Result<()> {
    let fault = |what: &str, expected: String, found: String| {
        Err(Error::Mismatch { path: path.into(), what: what.into(), expected, found })
    };
    if found.tensors() != expected.tensors() {
        return fault("configuration", "the tensors of the model".into(), "others".into());
    }
    let keys = |c: &LlamaConfig| {
        [
            ("num_attention_heads", c.num_heads as f64),
            ("num_key_value_heads", c.num_kv_heads as f64),
            ("head_dim", c.head_dim as f64),
            ("rms_norm_eps", c.rms_norm_eps),
            ("rope_theta", c.rope_theta),
            ("max_position_embeddings", c.max_position_embeddings as f64),
            ("sliding_window", c.sliding_window.unwrap_or(0) as f64),
            ("max_window_layers", c.sliding_from_layer as f64),
        ]
    };
    // GGUF keeps these in 32 bits.
    for ((key, found), (_, expected)) in keys(found).into_iter().zip(keys(expected)) {
        if found as f32 != expected as f32 {
            return fault(key, expected.to_string(), found.to_string());
        }
    }
    Ok(())
}

/// How the tensors lie in the files.
struct Stored {
    /// Bytes of all of them.
    bytes: u64,
    /// Those that are plain floats, by their Hugging Face names.
    dense: BTreeMap<String, Dense>,
}

impl Stored {
    fn of(path: &Path) -> Result<Self> {
        let mut dense = BTreeMap::new();
        if !path.is_dir() {
            let file = GgufFile::open(PathBuf::from(path))?;
            for (name, info) in file.tensors() {
                let kind = match info.dtype {
                    GgmlType::F32 => Dense::F32,
                    GgmlType::F16 => Dense::F16,
                    GgmlType::BF16 => Dense::BF16,
                    _ => continue,
                };
                dense.extend(gguf_to_hf(name).map(|name| (name, kind)));
            }
            return Ok(Self { bytes: file.tensors().values().map(|info| info.bytes).sum(), dense });
        }
        let folder = ModelFolder::open(path)?;
        for name in folder.names() {
            let kind = match folder.info(name).map(|info| info.dtype) {
                Some(Dtype::F32) => Dense::F32,
                Some(Dtype::F16) => Dense::F16,
                Some(Dtype::BF16) => Dense::BF16,
                _ => continue,
            };
            // A container's values lie under a name of their own.
            let name = name.strip_suffix("_values").unwrap_or(name);
            dense.insert(name.to_string(), kind);
        }
        Ok(Self { bytes: folder.total_bytes(), dense })
    }
}
