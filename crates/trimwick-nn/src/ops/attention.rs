//! Causal grouped-query attention (arXiv 1706.03762, 2305.13245). Candle's `sdpa` has no backward on any device.

use candle_core::{D, Result, Tensor, bail};
use trimwick_kernels::{self as kernels, AttentionDims};

use super::cpu::{Elem, by_dtype, fused, with_slices, zeros};
use crate::grad::{Backward, Inputs, buffer, record};

/// `softmax(q·kᵀ·scale + causal)·v` for q `[b, tq, h, d]`, k and v `[b, tk, hkv, d]`, giving `[b, tq, h, d]`.
///
/// Query `i` stands at position `tk − tq + i` and sees the keys up to its own; with a `window` only the last
/// `window` of those (Mistral's sliding window). Query heads share key heads in groups of `h / hkv`.
///
/// # Errors
/// Shapes that do not fit, more queries than keys.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64, window: Option<usize>) -> Result<Tensor> {
    let dims = dims_of(q, k, v, scale, window)?;
    if fused(&[q, k, v]) {
        let (q, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
        return by_dtype!(q.dtype(), T => {
            let mut out = zeros::<T>(q.elem_count());
            with_slices::<T, _, 3>([&q, &k, &v], |[q, k, v]| {
                kernels::attention(q, k, v, &dims, &mut out);
                Ok(())
            })?;
            let op = Attention { q: q.detach(), k: k.detach(), v: v.detach(), dims };
            record(out, q.shape(), &[&q, &k, &v], op)
        });
    }
    attention_composed(q, k, v, &dims)
}

fn dims_of(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64, window: Option<usize>) -> Result<AttentionDims> {
    let (b, tq, h, d) = q.dims4()?;
    let (kb, tk, hkv, kd) = k.dims4()?;
    if k.dims() != v.dims() || kb != b || kd != d || hkv == 0 || h % hkv != 0 || tq > tk || window == Some(0)
    {
        bail!(
            "attention: q {:?}, k {:?}, v {:?}, window {window:?} do not fit: expected q [b, tq, h, d], k and v \
             [b, tk, hkv, d] with hkv dividing h and tq ≤ tk",
            q.dims(),
            k.dims(),
            v.dims()
        );
    }
    Ok(AttentionDims { b, tq, tk, h, hkv, d, scale, window })
}

pub(crate) fn attention_composed(q: &Tensor, k: &Tensor, v: &Tensor, dims: &AttentionDims) -> Result<Tensor> {
    let AttentionDims { b, tq, tk, h, hkv, d, scale, window } = *dims;
    let spread = |x: &Tensor| {
        x.transpose(1, 2)?
            .unsqueeze(2)?
            .expand((b, hkv, h / hkv, tk, d))?
            .contiguous()?
            .reshape((b, h, tk, d))
    };
    let (q, k, v) = (q.transpose(1, 2)?.contiguous()?, spread(k)?, spread(v)?);
    let scores = (q.matmul(&k.transpose(2, 3)?.contiguous()?)? * scale)?;
    let hidden: Vec<f32> = (0..tq * tk)
        .map(|i| {
            let (query, key) = (tk - tq + i / tk, i % tk);
            let seen = key <= query && window.is_none_or(|w| key + w > query);
            if seen { 0. } else { f32::NEG_INFINITY }
        })
        .collect();
    let hidden = Tensor::from_vec(hidden, (1, 1, tq, tk), q.device())?.to_dtype(q.dtype())?;
    let probabilities = candle_nn::ops::softmax(&scores.broadcast_add(&hidden)?, D::Minus1)?;
    probabilities.matmul(&v)?.transpose(1, 2)?.contiguous()
}

struct Attention {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dims: AttentionDims,
}

impl<T: Elem> Backward<T> for Attention {
    fn backward(&self, g: &[T], to: &mut Inputs<'_, T>) -> Result<()> {
        with_slices::<T, _, 3>([&self.q, &self.k, &self.v], |[q, k, v]| {
            let (mut dk, mut dv) = (buffer::<T>(k.len()), buffer::<T>(v.len()));
            to.overwrite(0, q.len(), |dq| {
                kernels::attention_backward(q, k, v, g, &self.dims, dq, &mut dk, &mut dv);
            })?;
            to.give(1, dk)?;
            to.give(2, dv)
        })
    }
}
