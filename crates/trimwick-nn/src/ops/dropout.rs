//! Dropout whose choices are a function of (seed, stream, step, name): a resumed run drops the same elements.

use candle_core::{Device, Result, Tensor, bail};
use trimwick_kernels::{self as kernels, Rng};

use super::cpu::{Elem, by_dtype, fused, with_slices, zeros};
use crate::grad::{Backward, Inputs, record};

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
        let x = x.contiguous()?;
        return by_dtype!(x.dtype(), T => {
            let mut y = zeros::<T>(x.elem_count());
            with_slices::<T, _, 1>([&x], |[x]| {
                kernels::dropout(x, p, &rng, &mut y);
                Ok(())
            })?;
            record(y, x.shape(), &[&x], Dropout { p, rng })
        });
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

impl<T: Elem> Backward<T> for Dropout {
    fn backward(&self, g: &[T], to: &mut Inputs<'_, T>) -> Result<()> {
        to.overwrite(0, g.len(), |dx| kernels::dropout(g, self.p, &self.rng, dx))
    }
}
