//! RMS and layer normalization over the last axis. Candle's fused versions have no backward: the graph ends
//! there without an error.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, D, DType, Layout, Result, Shape, Tensor};
use trimwick_kernels as kernels;

use super::cpu::{by_dtype, cpu_slice, dtype_of, fused, owned, tensor_like, with_slices, zeros};

/// `x / sqrt(mean(x²) + eps) · weight` over the last axis: x `[.., d]`, weight `[d]` (arXiv 1910.07467).
///
/// # Errors
/// Shapes that do not fit.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    if x.dim(D::Minus1)? == weight.dims1()? && fused(&[x, weight]) {
        return x.contiguous()?.apply_op2(&weight.contiguous()?, RmsNorm { eps });
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
        return x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, LayerNorm { eps });
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
    eps: f64,
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        by_dtype!(dtype_of(s1), T => {
            let (x, w) = (cpu_slice::<T>(s1, l1)?, cpu_slice::<T>(s2, l2)?);
            let mut y = zeros::<T>(x.len());
            kernels::rms_norm(x, w, self.eps, &mut y, w.len());
            Ok((owned(y), l1.shape().clone()))
        })
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        by_dtype!(x.dtype(), T => with_slices::<T, _, 3>([x, w, g], |[xs, ws, gs]| {
            let (mut dx, mut dw) = (zeros::<T>(xs.len()), zeros::<T>(ws.len()));
            kernels::rms_norm_backward(xs, ws, gs, self.eps, &mut dx, &mut dw, ws.len());
            Ok((Some(tensor_like(dx, x)?), Some(tensor_like(dw, w)?)))
        }))
    }
}

struct LayerNorm {
    eps: f64,
}

type Grads3 = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        by_dtype!(dtype_of(s1), T => {
            let (x, w, b) = (cpu_slice::<T>(s1, l1)?, cpu_slice::<T>(s2, l2)?, cpu_slice::<T>(s3, l3)?);
            let mut y = zeros::<T>(x.len());
            kernels::layer_norm(x, w, Some(b), self.eps, &mut y, w.len());
            Ok((owned(y), l1.shape().clone()))
        })
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, b: &Tensor, _y: &Tensor, g: &Tensor) -> Result<Grads3> {
        by_dtype!(x.dtype(), T => with_slices::<T, _, 3>([x, w, g], |[xs, ws, gs]| {
            let (mut dx, mut dw, mut db) = (zeros::<T>(xs.len()), zeros::<T>(ws.len()), zeros::<T>(ws.len()));
            kernels::layer_norm_backward(xs, ws, gs, self.eps, &mut dx, &mut dw, &mut db, ws.len());
            Ok((Some(tensor_like(dx, x)?), Some(tensor_like(dw, w)?), Some(tensor_like(db, b)?)))
        }))
    }
}
