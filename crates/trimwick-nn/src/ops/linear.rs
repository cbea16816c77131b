//! `y = x·Wᵀ`: candle's backward of a matmul with a transposed weight makes strided copies; this one computes
//! `g·W` and `gᵀ·x` directly.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use trimwick_kernels as kernels;

use super::cpu::{Elem, by_dtype, cpu_slice, dtype_of, fused, owned, tensor_like, with_slices, zeros};

/// `x·Wᵀ` for x `[.., in]` and W `[out, in]`, giving `[.., out]`.
///
/// # Errors
/// Shapes that do not fit.
pub fn linear(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    let (out, inner) = w.dims2()?;
    let mut dims = x.dims().to_vec();
    match dims.last_mut() {
        Some(last) if *last == inner => *last = out,
        _ => bail!(
            "linear: expected an input of {inner} features (weight [{out}, {inner}]), found {:?}",
            x.dims()
        ),
    }
    if fused(&[x, w]) {
        let op = LinearOp { input: x.track_op(), weight: w.track_op() };
        return x.contiguous()?.apply_op2(&w.contiguous()?, op);
    }
    let rows = x.elem_count() / inner.max(1);
    x.reshape((rows, inner))?.matmul(&w.t()?)?.reshape(dims)
}

/// Which of the two gradients somebody wants.
struct LinearOp {
    input: bool,
    weight: bool,
}

fn forward<T: Elem>(s: [&CpuStorage; 2], l: [&Layout; 2]) -> Result<(CpuStorage, Shape)> {
    let (n, k) = l[1].shape().dims2()?;
    let (x, w) = (cpu_slice::<T>(s[0], l[0])?, cpu_slice::<T>(s[1], l[1])?);
    let m = x.len() / k.max(1);
    let mut y = zeros::<T>(m * n);
    kernels::matmul_nt(x, w, &mut y, m, k, n, false);
    let mut dims = l[0].dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = n;
    }
    Ok((owned(y), Shape::from(dims)))
}

impl LinearOp {
    fn backward<T: Elem>(
        &self,
        x: &Tensor,
        w: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (n, k) = w.dims2()?;
        let m = x.elem_count() / k.max(1);
        with_slices::<T, _, 3>([x, w, g], |[xs, ws, gs]| {
            let mut grads = (None, None);
            if self.input {
                let mut dx = zeros::<T>(m * k);
                kernels::matmul_nn(gs, ws, &mut dx, m, n, k, false);
                grads.0 = Some(tensor_like(dx, x)?);
            }
            if self.weight {
                let mut dw = zeros::<T>(n * k);
                kernels::matmul_tn(gs, xs, &mut dw, m, n, k, false);
                grads.1 = Some(tensor_like(dw, w)?);
            }
            Ok(grads)
        })
    }
}

impl CustomOp2 for LinearOp {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        by_dtype!(dtype_of(s1), T => forward::<T>([s1, s2], [l1, l2]))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        by_dtype!(x.dtype(), T => self.backward::<T>(x, w, g))
    }
}
