//! `silu(gate) · up` (arXiv 2002.05202).

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use trimwick_kernels as kernels;

use super::cpu::{by_dtype, cpu_slice, dtype_of, fused, owned, tensor_like, with_slices, zeros};

/// `silu(gate) · up`, element by element, for two tensors of one shape.
///
/// # Errors
/// Shapes that differ.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if gate.shape() != up.shape() {
        bail!("swiglu: gate is {:?} but up is {:?}; they must be equal", gate.dims(), up.dims());
    }
    if fused(&[gate, up]) {
        return gate.contiguous()?.apply_op2(&up.contiguous()?, SwiGlu);
    }
    gate.silu()? * up
}

struct SwiGlu;

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        by_dtype!(dtype_of(s1), T => {
            let (gate, up) = (cpu_slice::<T>(s1, l1)?, cpu_slice::<T>(s2, l2)?);
            let mut y = zeros::<T>(gate.len());
            kernels::swiglu(gate, up, &mut y);
            Ok((owned(y), l1.shape().clone()))
        })
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        by_dtype!(a.dtype(), T => with_slices::<T, _, 3>([a, b, g], |[gate, up, gs]| {
            let (mut da, mut db) = (zeros::<T>(gate.len()), zeros::<T>(gate.len()));
            kernels::swiglu_backward(gate, up, gs, &mut da, &mut db);
            Ok((Some(tensor_like(da, a)?), Some(tensor_like(db, b)?)))
        }))
    }
}
