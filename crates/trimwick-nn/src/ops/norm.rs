//! RMS and layer normalization over the last axis. Candle's fused versions have no backward: the graph ends
//! there without an error.

use candle_core::{D, DType, Result, Tensor};
use trimwick_kernels as kernels;

use super::cpu::{Elem, by_dtype, fused, with_slices, zeros};
use crate::grad::{Backward, Inputs, buffer, record};

/// `x / sqrt(mean(x²) + eps) · weight` over the last axis: x `[.., d]`, weight `[d]` (arXiv 1910.07467).
///
/// # Errors
/// Shapes that do not fit.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    if x.dim(D::Minus1)? == weight.dims1()? && fused(&[x, weight]) {
        let (x, w) = (x.contiguous()?, weight.contiguous()?);
        return by_dtype!(x.dtype(), T => {
            let mut y = zeros::<T>(x.elem_count());
            with_slices::<T, _, 2>([&x, &w], |[x, w]| {
                kernels::rms_norm(x, w, eps, &mut y, w.len());
                Ok(())
            })?;
            record(y, x.shape(), &[&x, &w], RmsNorm { x: x.detach(), w: w.detach(), eps })
        });
    }
    rms_norm_composed(x, weight, eps)
}

pub(crate) fn rms_norm_composed(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let wide = accumulate(x)?;
    let ms = wide.sqr()?.mean_keepdim(D::Minus1)?;
    wide.broadcast_div(&(ms + eps)?.sqrt()?)?.to_dtype(x.dtype())?.broadcast_mul(weight)
}

/// `(x − mean) / sqrt(var + eps) · weight + bias` over the last axis: x `[.., d]`, weight and bias `[d]`
/// (arXiv 1607.06450).
///
/// # Errors
/// Shapes that do not fit.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let d = x.dim(D::Minus1)?;
    if d == weight.dims1()? && d == bias.dims1()? && fused(&[x, weight, bias]) {
        let (x, w, b) = (x.contiguous()?, weight.contiguous()?, bias.contiguous()?);
        return by_dtype!(x.dtype(), T => {
            let mut y = zeros::<T>(x.elem_count());
            with_slices::<T, _, 3>([&x, &w, &b], |[x, w, b]| {
                kernels::layer_norm(x, w, Some(b), eps, &mut y, w.len());
                Ok(())
            })?;
            record(y, x.shape(), &[&x, &w, &b], LayerNorm { x: x.detach(), w: w.detach(), eps })
        });
    }
    layer_norm_composed(x, weight, bias, eps)
}

pub(crate) fn layer_norm_composed(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let wide = accumulate(x)?;
    let centered = wide.broadcast_sub(&wide.mean_keepdim(D::Minus1)?)?;
    let var = centered.sqr()?.mean_keepdim(D::Minus1)?;
    let unit = centered.broadcast_div(&(var + eps)?.sqrt()?)?.to_dtype(x.dtype())?;
    unit.broadcast_mul(weight)?.broadcast_add(bias)
}

/// Narrow floats are summed in f32: candle accumulates in the tensor's own dtype.
fn accumulate(x: &Tensor) -> Result<Tensor> {
    match x.dtype() {
        DType::BF16 | DType::F16 => x.to_dtype(DType::F32),
        _ => Ok(x.clone()),
    }
}

struct RmsNorm {
    x: Tensor,
    w: Tensor,
    eps: f64,
}

impl<T: Elem> Backward<T> for RmsNorm {
    fn backward(&self, g: &[T], to: &mut Inputs<'_, T>) -> Result<()> {
        with_slices::<T, _, 2>([&self.x, &self.w], |[x, w]| {
            let mut dw = buffer::<T>(w.len());
            to.overwrite(0, x.len(), |dx| {
                kernels::rms_norm_backward(x, w, g, self.eps, dx, &mut dw, w.len())
            })?;
            to.give(1, dw)
        })
    }
}

struct LayerNorm {
    x: Tensor,
    w: Tensor,
    eps: f64,
}

impl<T: Elem> Backward<T> for LayerNorm {
    fn backward(&self, g: &[T], to: &mut Inputs<'_, T>) -> Result<()> {
        with_slices::<T, _, 2>([&self.x, &self.w], |[x, w]| {
            let (mut dw, mut db) = (buffer::<T>(w.len()), buffer::<T>(w.len()));
            to.overwrite(0, x.len(), |dx| {
                kernels::layer_norm_backward(x, w, g, self.eps, dx, &mut dw, &mut db, w.len());
            })?;
            to.give(1, dw)?;
            to.give(2, db)
        })
    }
}
