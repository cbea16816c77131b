//! The values of a store as a safetensors file between two stages: every parameter and buffer, bit for bit.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use trimwick_formats::safetensors::{Dtype, NewTensor, SafetensorsFile, write};
use trimwick_nn::ParamStore;
use trimwick_sparse::MASK_BUFFER;

use super::error::{Result, RunError};

/// Writes the parameters and buffers of a store that `wanted` names, floats in f32.
pub(crate) fn save(store: &ParamStore, path: &Path, wanted: impl Fn(&str) -> bool) -> Result<()> {
    let params = store.params();
    let mut held = Vec::new();
    for p in params.iter().filter(|p| wanted(p.name())) {
        held.push((p.name(), p.shape().dims().to_vec(), Values::of(&p.value()?)?));
    }
    let tensors = held.iter().map(|(name, shape, values)| match values {
        Values::Bytes(v) => NewTensor::bytes(*name, Dtype::U8, shape, v),
        Values::Floats(v) => NewTensor::floats(*name, Dtype::F32, shape, v),
    });
    Ok(write(path, tensors, &BTreeMap::new())?)
}

/// Puts the values of a snapshot back into the store of the same model, masks included.
pub(crate) fn restore(store: &ParamStore, path: &Path) -> Result<()> {
    let file = SafetensorsFile::open(path)?;
    for (name, info) in file.tensors() {
        let device = store.device();
        if info.dtype == Dtype::U8 {
            let bits = Tensor::from_vec(file.read_raw(name)?, info.shape.clone(), &Device::Cpu)?;
            store.set_buffer(name, &bits)?;
        } else {
            let values = Tensor::from_vec(file.read_f32(name)?, info.shape.clone(), &Device::Cpu)?;
            let unknown = || RunError::Proof {
                path: path.into(),
                tensor: name.clone(),
                what: "the model has no such parameter".into(),
            };
            let Some(param) = store.get(name) else {
                if !trimwick_quant::owns(name) {
                    return Err(unknown());
                }
                store.set_buffer(name, &values)?;
                continue;
            };
            param.set(&values.to_dtype(param.dtype())?.to_device(device)?)?;
        }
    }
    trimwick_sparse::restore(&store.layers(), None)?;
    Ok(())
}

/// Whether a parameter's name is that of a mask.
pub(crate) fn is_mask(name: &str) -> bool {
    name.rsplit('.').next() == Some(MASK_BUFFER)
}

enum Values {
    Bytes(Vec<u8>),
    Floats(Vec<f32>),
}

impl Values {
    fn of(t: &Tensor) -> Result<Self> {
        let flat = t.to_device(&Device::Cpu)?.flatten_all()?;
        Ok(match flat.dtype() {
            DType::U8 => Self::Bytes(flat.to_vec1()?),
            _ => Self::Floats(flat.to_dtype(DType::F32)?.to_vec1()?),
        })
    }
}
