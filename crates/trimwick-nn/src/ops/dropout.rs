//! Dropout whose choices are a function of (seed, stream, step, name): a resumed run drops the same elements.

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor, bail};
use trimwick_kernels::{self as kernels, Rng};

use super::cpu::{by_dtype, cpu_slice, dtype_of, fused, owned, tensor_like, with_slices, zeros};

/// Zeroes each element with probability `p` and scales the rest by `1/(1−p)` (JMLR 15, 2014).
///
/// # Errors
/// `p` outside `[0, 1)`.
pub fn dropout(x: &Tensor, p: f64, rng: Rng) -> Result<Tensor> {
    if !(0. ..1.).contains(&p) {
        bail!("dropout: probability {p} is outside [0, 1)");
    }
    if p == 0. {
        return Ok(x.clone());
    }
    if fused(&[x]) {
        return x.contiguous()?.apply_op1(Dropout { p, rng });
    }
    let mut factors = vec![0f32; x.elem_count()];
    kernels::dropout(&vec![1f32; x.elem_count()], p, &rng, &mut factors);
    let factors = Tensor::from_vec(factors, x.shape(), &Device::Cpu)?;
    x * factors.to_dtype(x.dtype())?.to_device(x.device())?
}

struct Dropout {
    p: f64,
    rng: Rng,
}

impl CustomOp1 for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        by_dtype!(dtype_of(s), T => {
            let x = cpu_slice::<T>(s, l)?;
            let mut y = zeros::<T>(x.len());
            kernels::dropout(x, self.p, &self.rng, &mut y);
            Ok((owned(y), l.shape().clone()))
        })
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        by_dtype!(x.dtype(), T => with_slices::<T, _, 1>([g], |[gs]| {
            let mut dx = zeros::<T>(gs.len());
            kernels::dropout(gs, self.p, &self.rng, &mut dx);
            Ok(Some(tensor_like(dx, x)?))
        }))
    }
}
