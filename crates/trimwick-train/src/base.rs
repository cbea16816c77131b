//! A frozen weight in fewer bytes: bf16, int8 by row, or NF4 in blocks of 64.

use std::sync::Arc;

use candle_core::{DType, Device, Result as CandleResult, Shape, Tensor};
use half::bf16;
use rayon::prelude::*;
use trimwick_kernels::quant::{self, Code, Grid, ScaleFormat};
use trimwick_kernels::{nf4_decode, nf4_encode};
use trimwick_nn::{Compact, Layer, Layers, ops};

use crate::{Error, Result};

/// Elements one task expands.
const CHUNK: usize = 64 * 1024;
/// Values that share a scale in NF4.
const NF4_BLOCK: usize = 64;
/// Int8 with an f32 scale for each row.
const INT8: Grid = Grid { code: Code::Int { bits: 8 }, scale: ScaleFormat::F32 };

/// How a frozen weight is stored: that under an adapter, or a teacher's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BaseFormat {
    /// As it is.
    #[default]
    Full,
    /// 16 bits a value.
    Bf16,
    /// 8 bits a value, one f32 scale for each row.
    Int8,
    /// 4 bits a value and an f32 scale for each 64 of them: 4.5 bits.
    Nf4,
}

/// Freezes the weights of layers and stores them in fewer bytes: those of a teacher, above all. They are expanded
/// anew for each use, and computed with in the parameter's dtype. bf16 loses nothing of a model that came in bf16.
/// Norm weights and biases stay as they are.
///
/// # Errors
/// A weight that the format does not take, before the first is changed; NaN or infinity in one that is quantized.
pub fn compact_weights(layers: &Layers, format: BaseFormat) -> Result<()> {
    layers.iter().try_for_each(|layer| check(layer, format))?;
    layers.iter().try_for_each(|layer| store(layer, format))
}

/// Whether the format takes the layer's weight.
pub(crate) fn check(layer: &Layer, format: BaseFormat) -> Result<()> {
    let cols = layer.weight().shape().dims().last().copied().unwrap_or(1);
    if format == BaseFormat::Nf4 && cols % NF4_BLOCK != 0 {
        let expected = format!("rows of a multiple of {NF4_BLOCK} inputs for an NF4 base");
        return Err(Error::Adapter { layer: layer.path().into(), expected, found: cols.to_string() });
    }
    Ok(())
}

/// Stores the layer's weight in the format, rounded to it.
pub(crate) fn store(layer: &Layer, format: BaseFormat) -> Result<()> {
    let weight = layer.weight();
    let (shape, dtype, device) = (weight.shape().clone(), weight.dtype(), weight.device().clone());
    let value = weight.value()?.detach();
    let place = move |t: Tensor| t.to_dtype(dtype)?.to_device(&device);
    let codes = match format {
        BaseFormat::Full => return Ok(()),
        BaseFormat::Bf16 => Codes::Bf16(value.to_dtype(DType::BF16)?),
        BaseFormat::Int8 | BaseFormat::Nf4 => {
            let cols = shape.dims().last().copied().unwrap_or(1);
            let x = value.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
            if let Some(index) = x.iter().position(|v| !v.is_finite()) {
                let (layer, found) = (layer.path().into(), format!("{} at element {index}", x[index]));
                return Err(Error::Adapter { layer, expected: "finite weights".into(), found });
            }
            if format == BaseFormat::Int8 { Codes::int8(&x, cols) } else { Codes::nf4(&x) }
        }
    };
    Ok(weight.compact(Arc::new(Stored { codes, shape, place }))?)
}

enum Codes {
    Bf16(Tensor),
    Int8 { codes: Vec<u8>, scales: Vec<f32>, cols: usize },
    Nf4 { codes: Vec<u8>, scales: Vec<f32> },
}

impl Codes {
    fn int8(x: &[f32], cols: usize) -> Self {
        let mut scales = vec![0.; x.len() / cols];
        let mut codes = vec![0; x.len()];
        // The values were found to be finite, the one thing that this reports.
        let _ = quant::scales(INT8, x, cols, None, &mut scales, None);
        quant::encode(INT8, x, cols, &scales, None, &mut codes);
        Self::Int8 { codes, scales, cols }
    }

    fn nf4(x: &[f32]) -> Self {
        let mut scales = vec![0.; x.len() / NF4_BLOCK];
        let mut codes = vec![0; x.len() / 2];
        nf4_encode(x, NF4_BLOCK, &mut codes, &mut scales);
        Self::Nf4 { codes, scales }
    }
}

struct Stored<F> {
    codes: Codes,
    shape: Shape,
    /// To the parameter's dtype and device.
    place: F,
}

impl<F: Fn(Tensor) -> CandleResult<Tensor> + Send + Sync> Compact for Stored<F> {
    fn expand(&self) -> CandleResult<Tensor> {
        let mut x = Vec::new();
        match &self.codes {
            Codes::Bf16(t) if t.device().is_cpu() => {
                // Candle converts on one thread.
                x.resize(self.shape.elem_count(), 0.);
                ops::with_slices::<bf16, _, 1>([t], |[t]| {
                    let widen = |(x, t): (&mut [f32], &[bf16])| {
                        x.iter_mut().zip(t).for_each(|(x, t)| *x = t.to_f32());
                    };
                    x.par_chunks_mut(CHUNK).zip(t.par_chunks(CHUNK)).for_each(widen);
                    Ok(())
                })?;
            }
            Codes::Bf16(t) => return (self.place)(t.clone()),
            Codes::Int8 { codes, scales, cols } => {
                x.resize(self.shape.elem_count(), 0.);
                quant::decode(INT8, codes, *cols, scales, None, &mut x);
            }
            Codes::Nf4 { codes, scales } => {
                x.resize(self.shape.elem_count(), 0.);
                nf4_decode(codes, scales, NF4_BLOCK, &mut x);
            }
        }
        (self.place)(Tensor::from_vec(x, self.shape.clone(), &Device::Cpu)?)
    }
}
