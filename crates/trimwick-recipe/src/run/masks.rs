//! The masks that a model brings along: `masks.safetensors` beside the weights, as an export writes it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use trimwick_formats::read_small;
use trimwick_formats::safetensors::{Dtype, SafetensorsFile};
use trimwick_models::LlamaConfig;
use trimwick_nn::Layers;
use trimwick_sparse::MASK_BUFFER;

use super::error::{Result, RunError};
use super::export::{INDEX, WEIGHTS};

/// The file of masks beside a written model.
pub const MASKS: &str = "masks.safetensors";
/// The key in the metadata of exported weights that says how many layers are masked.
pub(crate) const MASKED_LAYERS: &str = "trimwick.masked_layers";

/// No index of shards is as long, in bytes.
const LARGEST_INDEX: u64 = 64 << 20;

/// Bitsets by the paths of their layers.
pub(crate) struct Carried {
    path: PathBuf,
    bits: BTreeMap<String, Vec<u8>>,
}

impl Carried {
    /// Reads the masks in the folder of a model, if it has any.
    ///
    /// # Errors
    /// [`RunError::Masks`] for one that fits no layer of the model, and for fewer or more than the weights were written
    /// with; a file that is none.
    pub(crate) fn read(folder: Option<&Path>, config: &LlamaConfig) -> Result<Self> {
        let path = folder.map(|folder| folder.join(MASKS)).unwrap_or_default();
        let mut carried = Self { path, bits: BTreeMap::new() };
        let Some(folder) = folder else { return Ok(carried) };
        let written_with = masked_layers(folder)?;
        if std::fs::symlink_metadata(&carried.path).is_ok() {
            carried.fill(config)?;
        }
        match written_with {
            Some(layers) if layers != carried.bits.len() => {
                let expected = format!("the masks of {layers} layers, as the weights were written with");
                Err(carried.fault("file", expected, carried.bits.len().to_string()))
            }
            _ => Ok(carried),
        }
    }

    fn fill(&mut self, config: &LlamaConfig) -> Result<()> {
        let file = SafetensorsFile::open(&self.path)?;
        let weights: BTreeMap<String, Vec<usize>> = config.tensors().into_iter().collect();
        for (name, info) in file.tensors() {
            let layer = name.strip_suffix(MASK_BUFFER).and_then(|name| name.strip_suffix('.'));
            let weight = |layer: &str| weights.get(&format!("{layer}.weight")).filter(|s| s.len() == 2);
            let Some((layer, weight)) = layer.and_then(|layer| Some((layer, weight(layer)?))) else {
                return Err(self.fault(name, "the mask of a linear layer of the model", "none"));
            };
            let bytes = weight.iter().product::<usize>().div_ceil(8);
            if info.dtype != Dtype::U8 || info.shape != [bytes] {
                let found = format!("{:?} {:?}", info.dtype, info.shape);
                return Err(self.fault(name, format!("U8 [{bytes}], a bit for each weight"), found));
            }
            self.bits.insert(layer.to_string(), file.read_raw(name)?);
        }
        Ok(())
    }

    /// The layers that have a mask.
    pub(crate) fn layers(&self) -> impl Iterator<Item = &str> {
        self.bits.keys().map(String::as_str)
    }

    /// Fixes the masks of those layers that are part of a model.
    ///
    /// # Errors
    /// As [`Carried::put`].
    pub(crate) fn put_on_part(&self, layers: &Layers) -> Result<()> {
        self.put_some(layers, |path| layers.get(path).is_some())
    }

    /// Fixes the masks on a model's layers.
    ///
    /// # Errors
    /// [`RunError::Masks`] where a weight that a mask drops is not zero: the file belongs to other weights.
    pub(crate) fn put(&self, layers: &Layers) -> Result<()> {
        self.put_some(layers, |_| true)
    }

    fn put_some(&self, layers: &Layers, wanted: impl Fn(&str) -> bool) -> Result<()> {
        for (path, bits) in self.bits.iter().filter(|(path, _)| wanted(path)) {
            let name = format!("{path}.{MASK_BUFFER}");
            let Some(layer) = layers.get(path) else {
                return Err(self.fault(&name, "the mask of a layer of the model", "none"));
            };
            let values = layer.weight().value()?.flatten_all()?.to_vec1::<f32>()?;
            let drops = |i: usize| bits[i / 8] >> (i % 8) & 1 == 0;
            if let Some(i) = (0..values.len()).find(|&i| drops(i) && values[i] != 0.) {
                let found = format!("{} at element {i} of {path}.weight", values[i]);
                return Err(self.fault(&name, "zeros where it drops weights", found));
            }
            trimwick_sparse::fix(layer, bits)?;
        }
        Ok(())
    }

    fn fault(&self, tensor: &str, expected: impl Into<String>, found: impl Into<String>) -> RunError {
        let (path, tensor) = (self.path.clone(), tensor.to_string());
        RunError::Masks { path, tensor, expected: expected.into(), found: found.into() }
    }
}

/// How many layers the weights of an export say that masks belong to; `None` for weights that say nothing. Those in
/// shards say it in their index.
fn masked_layers(folder: &Path) -> Result<Option<usize>> {
    let path = folder.join(WEIGHTS);
    if path.is_file() {
        let file = SafetensorsFile::open(path)?;
        return Ok(file.metadata().get(MASKED_LAYERS).and_then(|layers| layers.parse().ok()));
    }
    let Some(text) = read_small(folder.join(INDEX), LARGEST_INDEX)? else { return Ok(None) };
    // A broken index was refused when the weights were opened.
    let index: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    Ok(index["metadata"][MASKED_LAYERS].as_str().and_then(|layers| layers.parse().ok()))
}
