//! Rotary position embedding (arXiv 2104.09864), in the rotate-half convention: feature `i` turns with `i + d/2`.

use candle_core::{D, Result, Tensor};
use trimwick_kernels as kernels;

use super::cpu::{Elem, by_dtype, fused, with_slices, zeros};
use crate::grad::{Backward, Inputs, record};

/// Rotates x `[batch, tokens, heads, d]` by the angles whose cosines and sines are `[tokens, d/2]`.
///
/// # Errors
/// Shapes that do not fit.
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (b, t, h, d) = x.dims4()?;
    if cos.dims() != [t, d / 2] || sin.dims() != [t, d / 2] {
        candle_core::bail!(
            "rope: expected angles [{t}, {}], found {:?} and {:?}",
            d / 2,
            cos.dims(),
            sin.dims()
        );
    }
    if fused(&[x, cos, sin]) {
        let x = x.contiguous()?;
        let op = Rope { cos: cos.detach(), sin: sin.detach(), dims: [b, t, h, d] };
        return by_dtype!(x.dtype(), T => {
            let mut y = zeros::<T>(x.elem_count());
            with_slices::<T, _, 1>([&x], |[x]| op.run(x, &mut y, false))?;
            record(y, x.shape(), &[&x], op)
        });
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
    dims: [usize; 4],
}

impl Rope {
    fn run<T: Elem>(&self, x: &[T], y: &mut [T], inverse: bool) -> Result<()> {
        let [b, t, h, d] = self.dims;
        with_slices::<T, _, 2>([&self.cos, &self.sin], |[cos, sin]| {
            kernels::rope(x, cos, sin, y, b, t, h, d, inverse);
            Ok(())
        })
    }
}

impl<T: Elem> Backward<T> for Rope {
    fn backward(&self, g: &[T], to: &mut Inputs<'_, T>) -> Result<()> {
        let mut done = Ok(());
        // The inverse of a rotation is its transpose.
        to.overwrite(0, g.len(), |dx| done = self.run(g, dx, true))?;
        done
    }
}
