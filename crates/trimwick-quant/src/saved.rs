//! Scales and statistics in the buffers of a store.

use candle_core::{DType, Device, Tensor};
use trimwick_nn::{Param, Place};

use crate::{Error, Result};

/// Elements of a float tensor on the host, row-major, as f32.
pub(crate) fn host(t: &Tensor) -> candle_core::Result<Vec<f32>> {
    t.detach().to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}

/// The `len` values of a buffer, if there is one.
pub(crate) fn floats(place: &Place, buffer: &'static str, len: usize) -> Result<Option<Vec<f32>>> {
    let Some(param) = place.buffer(buffer) else { return Ok(None) };
    check(place, buffer, &param, len)?;
    Ok(Some(host(&param.tensor())?))
}

/// Whether a saved tensor has the number of f32 values that it should.
pub(crate) fn check(place: &Place, buffer: &'static str, param: &Param, len: usize) -> Result<()> {
    if param.elem_count() == len && param.dtype() == DType::F32 {
        return Ok(());
    }
    Err(Error::Buffer {
        layer: place.path().into(),
        buffer,
        expected: format!("{len} values of f32"),
        found: format!("{:?} of {:?}", param.shape().dims(), param.dtype()),
    })
}

/// Suffixes of what a static quantizer of activations saves.
pub(crate) struct Names {
    /// What errors call the values.
    pub(crate) what: &'static str,
    pub(crate) scale: &'static str,
    pub(crate) zero_point: &'static str,
    pub(crate) global: &'static str,
    pub(crate) log2: &'static str,
    /// Least and largest value of calibration, or their averages.
    pub(crate) range: &'static str,
    /// Least and largest value of the step that is under way.
    pub(crate) seen: &'static str,
    pub(crate) histogram: &'static str,
}

macro_rules! names {
    ($what:literal, $prefix:literal) => {
        Names {
            what: $what,
            scale: concat!($prefix, "_scale"),
            zero_point: concat!($prefix, "_zero_point"),
            global: concat!($prefix, "_global_scale"),
            log2: concat!($prefix, "_log2_scale"),
            range: concat!($prefix, "_range"),
            seen: concat!($prefix, "_seen"),
            histogram: concat!($prefix, "_histogram"),
        }
    };
}

pub(crate) const INPUT: Names = names!("input", "input");
pub(crate) const KEYS: Names = names!("keys", "k");
pub(crate) const VALUES: Names = names!("values", "v");
