//! The masks that a model brings along: `masks.safetensors` beside the weights, as an export writes it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use trimwick_formats::safetensors::{Dtype, SafetensorsFile};
use trimwick_models::LlamaConfig;
use trimwick_nn::Layers;
use trimwick_sparse::MASK_BUFFER;

use super::error::{Result, RunError};

/// The file's name.
pub(crate) const MASKS: &str = "masks.safetensors";

/// Bitsets by the paths of their layers.
pub(crate) struct Carried {
    path: PathBuf,
    bits: BTreeMap<String, Vec<u8>>,
}

impl Carried {
    /// Reads the masks in the folder of a model, if it has any.
    ///
    /// # Errors
    /// [`RunError::Masks`] for one that fits no layer of the model; a file that is none.
    pub(crate) fn read(folder: Option<&Path>, config: &LlamaConfig) -> Result<Self> {
        let path = folder.map(|folder| folder.join(MASKS)).unwrap_or_default();
        let mut carried = Self { path, bits: BTreeMap::new() };
        if folder.is_none() || std::fs::symlink_metadata(&carried.path).is_err() {
            return Ok(carried);
        }
        let file = SafetensorsFile::open(&carried.path)?;
        let weights: BTreeMap<String, Vec<usize>> = config.tensors().into_iter().collect();
        for (name, info) in file.tensors() {
            let layer = name.strip_suffix(MASK_BUFFER).and_then(|name| name.strip_suffix('.'));
            let weight = |layer: &str| weights.get(&format!("{layer}.weight")).filter(|s| s.len() == 2);
            let Some((layer, weight)) = layer.and_then(|layer| Some((layer, weight(layer)?))) else {
                return Err(carried.fault(name, "the mask of a linear layer of the model", "none"));
            };
            let bytes = weight.iter().product::<usize>().div_ceil(8);
            if info.dtype != Dtype::U8 || info.shape != [bytes] {
                let found = format!("{:?} {:?}", info.dtype, info.shape);
                return Err(carried.fault(name, format!("U8 [{bytes}], a bit for each weight"), found));
            }
            carried.bits.insert(layer.to_string(), file.read_raw(name)?);
        }
        Ok(carried)
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
