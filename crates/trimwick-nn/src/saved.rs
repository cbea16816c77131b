//! A store as a safetensors file, and back.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Result as CandleResult, Tensor};
use trimwick_formats::safetensors::{Dtype, NewTensor, SafetensorsFile, write};

use crate::param::Role;
use crate::store::ParamStore;
use crate::{Error, Result};

impl ParamStore {
    /// Writes every parameter and buffer under its name: floats as f32, bitsets as bytes. The file is whole or not there.
    ///
    /// # Errors
    /// [`Error::DType`] for f64, which f32 does not hold; [`Error::Format`] when the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.save_where(path, |_| true)
    }

    /// The same for those that `wanted` names.
    ///
    /// # Errors
    /// As [`ParamStore::save`].
    pub fn save_where(&self, path: impl AsRef<Path>, wanted: impl Fn(&str) -> bool) -> Result<()> {
        let params = self.params();
        let mut held = Vec::new();
        for param in params.iter().filter(|param| wanted(param.name())) {
            if param.dtype() == DType::F64 {
                let what = format!("parameter {}", param.name());
                return Err(Error::DType { what, found: DType::F64, expected: "f32, f16 or bf16" });
            }
            held.push((param.name(), param.shape().dims().to_vec(), Values::of(&param.value()?)?));
        }
        let tensors = held.iter().map(|(name, shape, values)| match values {
            Values::Bytes(v) => NewTensor::bytes(*name, Dtype::U8, shape, v),
            Values::Floats(v) => NewTensor::floats(*name, Dtype::F32, shape, v),
        });
        Ok(write(path.as_ref(), tensors, &BTreeMap::new())?)
    }

    /// Puts the values of a file that [`ParamStore::save`] wrote back into the store of the same model, the buffers of its layers
    /// included. Masks and quantizers take up theirs by the `restore` of their crates.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] for a parameter that the file lacks, [`Error::UnknownParam`] for a tensor that belongs to none
    /// of the store's layers; [`Error::Mismatch`] for another shape; [`Error::Format`].
    pub fn restore(&self, path: impl AsRef<Path>) -> Result<()> {
        let file = SafetensorsFile::open(path.as_ref())?;
        let of_layer =
            |name: &str, path: &str| name.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'));
        let (layers, slots) = (self.layers(), self.kv_slots());
        let known = |name: &str| {
            self.get(name).is_some()
                || layers.iter().any(|layer| of_layer(name, layer.path()))
                || slots.iter().any(|slot| of_layer(name, slot.path()))
        };
        if let Some(name) = file.tensors().keys().find(|name| !known(name)) {
            return Err(Error::UnknownParam { name: name.clone() });
        }
        let lacks = |param: &&crate::Param| {
            param.role() != Role::Buffer && !file.tensors().contains_key(param.name())
        };
        if let Some(param) = self.params().iter().find(lacks) {
            let (name, expected) = (param.name().to_string(), param.shape().dims().to_vec());
            return Err(Error::MissingTensor { name, origin: path.as_ref().display().to_string(), expected });
        }
        self.restore_where(&file, |_| true)
    }

    /// Puts those values of a file back that are `wanted`; what the store does not know becomes a buffer.
    ///
    /// # Errors
    /// [`Error::Mismatch`] for another shape, [`Error::Format`].
    pub fn restore_where(&self, file: &SafetensorsFile, wanted: impl Fn(&str) -> bool) -> Result<()> {
        for (name, info) in file.tensors().iter().filter(|(name, _)| wanted(name)) {
            let bytes = info.dtype == Dtype::U8;
            let values = match bytes {
                true => Tensor::from_vec(file.read_raw(name)?, info.shape.clone(), &Device::Cpu)?,
                false => Tensor::from_vec(file.read_f32(name)?, info.shape.clone(), &Device::Cpu)?,
            };
            match self.get(name).filter(|_| !bytes) {
                Some(param) => param.set(&values.to_dtype(param.dtype())?.to_device(self.device())?)?,
                None => drop(self.set_buffer(name, &values)?),
            }
        }
        Ok(())
    }
}

enum Values {
    Bytes(Vec<u8>),
    Floats(Vec<f32>),
}

impl Values {
    fn of(t: &Tensor) -> CandleResult<Self> {
        let flat = t.to_device(&Device::Cpu)?.flatten_all()?;
        Ok(match flat.dtype() {
            DType::U8 => Self::Bytes(flat.to_vec1()?),
            _ => Self::Floats(flat.to_dtype(DType::F32)?.to_vec1()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linear;

    fn store(dtype: DType, names: &[&str]) -> ParamStore {
        let store = ParamStore::with_seed(dtype, &Device::Cpu, 1);
        for name in names {
            linear(4, 2, store.var_builder().pp(name)).unwrap();
        }
        store
    }

    #[test]
    fn a_store_comes_back_whole_or_says_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.safetensors");
        let saved = store(DType::F32, &["a", "b"]);
        saved.set_buffer("a.weight_mask", &Tensor::new(&[7u8], &Device::Cpu).unwrap()).unwrap();
        saved.save(&path).unwrap();
        let values = |store: &ParamStore, name: &str| {
            store.get(name).unwrap().value().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };

        let back = ParamStore::new(DType::F32, &Device::Cpu);
        let vb = back.var_builder();
        let _layers = (linear(4, 2, vb.pp("a")).unwrap(), linear(4, 2, vb.pp("b")).unwrap());
        assert_ne!(values(&back, "a.weight"), values(&saved, "a.weight"));
        back.restore(&path).unwrap();
        for name in ["a.weight", "a.bias", "b.weight", "b.bias"] {
            assert_eq!(values(&back, name), values(&saved, name), "{name}");
        }
        assert_eq!(back.get("a.weight_mask").unwrap().role(), Role::Buffer);
        assert_eq!(back.all_vars().len(), 4);

        let more = store(DType::F32, &["a", "b", "c"]).restore(&path).unwrap_err().to_string();
        assert!(more.contains("tensor c.bias: missing in"), "{more}");
        let less = store(DType::F32, &["a"]).restore(&path).unwrap_err().to_string();
        assert!(less.contains("b.bias: not in the store"), "{less}");
        let wide = store(DType::F64, &["a"]).save(&path).unwrap_err().to_string();
        assert!(wide.contains("F64") && wide.contains("a.bias"), "{wide}");
    }
}
