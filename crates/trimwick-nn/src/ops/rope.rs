//! Rotary position embedding (arXiv 2104.09864), in the rotate-half convention: feature `i` turns with `i + d/2`.

use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor};
use trimwick_kernels as kernels;

use super::cpu::{Elem, by_dtype, cpu_slice, dtype_of, fused, owned, tensor_like, with_slices, zeros};

/// Rotates x `[batch, tokens, heads, d]` by the angles whose cosines and sines are `[tokens, d/2]`.
///
/// # Errors
/// Shapes that do not fit.
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (_, t, _, d) = x.dims4()?;
    if cos.dims() != [t, d / 2] || sin.dims() != [t, d / 2] {
        candle_core::bail!(
            "rope: expected angles [{t}, {}], found {:?} and {:?}",
            d / 2,
            cos.dims(),
            sin.dims()
        );
    }
    if fused(&[x, cos, sin]) {
        let op = Rope { cos: cos.detach(), sin: sin.detach(), inverse: false };
        return x.contiguous()?.apply_op1(op);
    }
    rope_composed(x, cos, sin)
}

pub(crate) fn rope_composed(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (_, t, _, d) = x.dims4()?;
    let angle = |a: &Tensor| a.to_dtype(x.dtype())?.reshape((1, t, 1, d / 2));
    let (cos, sin) = (angle(cos)?, angle(sin)?);
    let (a, b) = (x.narrow(D::Minus1, 0, d / 2)?, x.narrow(D::Minus1, d / 2, d / 2)?);
    let lo = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let hi = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    Tensor::cat(&[lo, hi], D::Minus1)
}

struct Rope {
    cos: Tensor,
    sin: Tensor,
    inverse: bool,
}

impl Rope {
    fn run<T: Elem>(&self, x: &[T], dims: [usize; 4], inverse: bool) -> Result<Vec<T>> {
        let [b, t, h, d] = dims;
        with_slices::<T, _, 2>([&self.cos, &self.sin], |[cos, sin]| {
            let mut y = zeros::<T>(x.len());
            kernels::rope(x, cos, sin, &mut y, b, t, h, d, inverse);
            Ok(y)
        })
    }
}

impl CustomOp1 for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let (b, t, h, d) = l.shape().dims4()?;
        by_dtype!(dtype_of(s), T => {
            let y = self.run::<T>(cpu_slice(s, l)?, [b, t, h, d], self.inverse)?;
            Ok((owned(y), l.shape().clone()))
        })
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let (b, t, h, d) = x.dims4()?;
        by_dtype!(x.dtype(), T => with_slices::<T, _, 1>([g], |[gs]| {
            // The inverse of a rotation is its transpose.
            Ok(Some(tensor_like(self.run::<T>(gs, [b, t, h, d], !self.inverse)?, x)?))
        }))
    }
}
