//! `M ⊙ W` for a bitset M: dropped elements are +0.0 exactly, and so is their gradient.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor, bail};
use trimwick_kernels as kernels;

use super::cpu::{by_dtype, cpu_slice, dtype_of, fused, owned, tensor_like, with_slices, zeros};

/// Keeps the elements of `w` whose bit is set: bit `i % 8` of byte `i / 8` for element `i` in row-major order.
///
/// With `decay` the gradient is that of SR-STE (arXiv 2102.04010), `g + decay·(1−M)⊙W`: dropped elements go on
/// learning and shrink, so that a mask chosen anew later can take them back. Without, it is `g ⊙ M`.
///
/// # Errors
/// A bitset of another length than the weight's.
pub fn mask(w: &Tensor, bits: &Arc<[u8]>, decay: Option<f64>) -> Result<Tensor> {
    if bits.len() != w.elem_count().div_ceil(8) {
        bail!(
            "mask: {} bytes for {} elements; expected {}",
            bits.len(),
            w.elem_count(),
            w.elem_count().div_ceil(8)
        );
    }
    if fused(&[w]) {
        return w.contiguous()?.apply_op1(Mask { bits: bits.clone(), decay });
    }
    let ones = vec![1f32; w.elem_count()];
    let mut kept = vec![0f32; w.elem_count()];
    kernels::apply_mask(&ones, bits, &mut kept);
    let kept = Tensor::from_vec(kept, w.shape(), &Device::Cpu)?.to_dtype(w.dtype())?.to_device(w.device())?;
    let masked = (w * &kept)?;
    match decay {
        None => Ok(masked),
        // The value of `masked` with the gradient of w·1 + decay·(1−M)⊙W.
        Some(decay) => {
            let dropped = (kept.affine(-1., 1.)? * w)?;
            let pull = ((dropped.sqr()? - dropped.sqr()?.detach())? * (decay / 2.))?;
            (masked.detach() + (w - w.detach())?)? + pull
        }
    }
}

struct Mask {
    bits: Arc<[u8]>,
    decay: Option<f64>,
}

impl CustomOp1 for Mask {
    fn name(&self) -> &'static str {
        "mask"
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        by_dtype!(dtype_of(s), T => {
            let w = cpu_slice::<T>(s, l)?;
            let mut y = zeros::<T>(w.len());
            kernels::apply_mask(w, &self.bits, &mut y);
            Ok((owned(y), l.shape().clone()))
        })
    }

    fn bwd(&self, w: &Tensor, y: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        by_dtype!(w.dtype(), T => with_slices::<T, _, 1>([g], |[gs]| {
            let Some(decay) = self.decay else {
                let mut dw = zeros::<T>(gs.len());
                kernels::apply_mask(gs, &self.bits, &mut dw);
                return Ok(Some(tensor_like(dw, w)?));
            };
            let dropped = (w.detach() - y.detach())?;
            Ok(Some((g.detach() + (dropped * decay)?)?))
        }))
    }
}
