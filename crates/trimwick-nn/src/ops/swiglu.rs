//! `silu(gate) · up` (arXiv 2002.05202).

use candle_core::{Result, Tensor, bail};
use trimwick_kernels as kernels;

use super::cpu::{Elem, by_dtype, fused, with_slices, zeros};
use crate::grad::{Backward, Inputs, buffer, record};

/// `silu(gate) · up`, element by element, for two tensors of one shape.
///
/// # Errors
/// Shapes that differ.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if gate.shape() != up.shape() {
        bail!("swiglu: gate is {:?} but up is {:?}; they must be equal", gate.dims(), up.dims());
    }
    if fused(&[gate, up]) {
        let (gate, up) = (gate.contiguous()?, up.contiguous()?);
        return by_dtype!(gate.dtype(), T => {
            let mut y = zeros::<T>(gate.elem_count());
            with_slices::<T, _, 2>([&gate, &up], |[gate, up]| {
                kernels::swiglu(gate, up, &mut y);
                Ok(())
            })?;
            record(y, gate.shape(), &[&gate, &up], SwiGlu { gate: gate.detach(), up: up.detach() })
        });
    }
    gate.silu()? * up
}

struct SwiGlu {
    gate: Tensor,
    up: Tensor,
}

impl<T: Elem> Backward<T> for SwiGlu {
    fn backward(&self, g: &[T], to: &mut Inputs<'_, T>) -> Result<()> {
        with_slices::<T, _, 2>([&self.gate, &self.up], |[gate, up]| {
            let mut dup = buffer::<T>(up.len());
            to.overwrite(0, gate.len(), |dgate| kernels::swiglu_backward(gate, up, g, dgate, &mut dup))?;
            to.give(1, dup)
        })
    }
}
