//! Causal grouped-query attention (arXiv 1706.03762, 2305.13245). Candle's `sdpa` has no backward on any device.

use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor, bail};
use trimwick_kernels::{self as kernels, AttentionDims};

use super::cpu::{by_dtype, cpu_slice, dtype_of, fused, owned, tensor_like, with_slices, zeros};

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
        return q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, Attention(dims));
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

struct Attention(AttentionDims);

type Grads = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        by_dtype!(dtype_of(s1), T => {
            let (q, k, v) = (cpu_slice::<T>(s1, l1)?, cpu_slice::<T>(s2, l2)?, cpu_slice::<T>(s3, l3)?);
            let mut out = zeros::<T>(q.len());
            kernels::attention(q, k, v, &self.0, &mut out);
            Ok((owned(out), l1.shape().clone()))
        })
    }

    fn bwd(&self, q: &Tensor, k: &Tensor, v: &Tensor, _out: &Tensor, g: &Tensor) -> Result<Grads> {
        by_dtype!(q.dtype(), T => with_slices::<T, _, 4>([q, k, v, g], |[qs, ks, vs, gs]| {
            let (mut dq, mut dk, mut dv) = (zeros::<T>(qs.len()), zeros::<T>(ks.len()), zeros::<T>(vs.len()));
            kernels::attention_backward(qs, ks, vs, gs, &self.0, &mut dq, &mut dk, &mut dv);
            Ok((Some(tensor_like(dq, q)?), Some(tensor_like(dk, k)?), Some(tensor_like(dv, v)?)))
        }))
    }
}
