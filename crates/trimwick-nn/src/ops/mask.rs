//! `M ⊙ W` for a bitset M: dropped elements are +0.0 exactly, and so is their gradient.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor, bail};
use trimwick_kernels as kernels;

use super::cpu::{Elem, by_dtype, fused, with_slices, zeros};
use crate::grad::{Backward, Inputs, record};

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
        let w = w.contiguous()?;
        let op = Mask { bits: bits.clone(), decayed: decay.map(|decay| (w.detach(), decay)) };
        return by_dtype!(w.dtype(), T => {
            let mut y = zeros::<T>(w.elem_count());
            with_slices::<T, _, 1>([&w], |[w]| {
                kernels::apply_mask(w, bits, &mut y);
                Ok(())
            })?;
            record(y, w.shape(), &[&w], op)
        });
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
    decayed: Option<(Tensor, f64)>,
}

impl<T: Elem> Backward<T> for Mask {
    fn backward(&self, g: &[T], to: &mut Inputs<'_, T>) -> Result<()> {
        match &self.decayed {
            None => to.overwrite(0, g.len(), |dw| kernels::apply_mask(g, &self.bits, dw)),
            Some((w, decay)) => with_slices::<T, _, 1>([w], |[w]| {
                let decay = <T as kernels::Real>::from_f64(*decay);
                to.overwrite(0, g.len(), |dw| kernels::mask_backward_decayed(w, g, &self.bits, decay, dw))
            }),
        }
    }
}
