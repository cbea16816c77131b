//! Sums and views: operations whose backward hands the gradient on as it is.

use candle_core::shape::ShapeWithOneHole;
use candle_core::{Result, Tensor};
use trimwick_kernels as kernels;

use super::cpu::{Elem, by_dtype, fused, with_slices, zeros};
use crate::grad::{Backward, Inputs, alias, record};

/// `a + b` for two tensors of one shape: a residual connection.
///
/// # Errors
/// Shapes that differ.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.shape() == b.shape() && fused(&[a, b]) {
        let (a, b) = (a.contiguous()?, b.contiguous()?);
        return by_dtype!(a.dtype(), T => {
            let mut y = zeros::<T>(a.elem_count());
            with_slices::<T, _, 2>([&a, &b], |[a, b]| {
                kernels::add(a, b, &mut y);
                Ok(())
            })?;
            record(y, a.shape(), &[&a, &b], Add)
        });
    }
    a + b
}

struct Add;

impl<T: Elem> Backward<T> for Add {
    fn backward(&self, _g: &[T], to: &mut Inputs<'_, T>) -> Result<()> {
        to.pass(0)?;
        to.pass(1)
    }
}

/// `x` in another shape. Unlike candle's own `reshape`, it is no step of the backward between operations of this crate.
///
/// # Errors
/// A shape of another number of elements.
pub fn reshape(x: &Tensor, shape: impl ShapeWithOneHole) -> Result<Tensor> {
    let y = x.reshape(shape)?;
    alias(x, &y);
    Ok(y)
}
