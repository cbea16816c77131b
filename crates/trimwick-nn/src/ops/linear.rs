//! `y = x·Wᵀ`: candle's backward of a matmul with a transposed weight makes strided copies; this one computes
//! `g·W` and `gᵀ·x` directly.

use candle_core::{Result, Tensor, bail};
use trimwick_kernels as kernels;

use super::cpu::{Elem, by_dtype, fused, with_slices, zeros};
use crate::grad::{Backward, Inputs, record};

/// `x·Wᵀ` for x `[.., in]` and W `[out, in]`, giving `[.., out]`.
///
/// # Errors
/// Shapes that do not fit.
pub fn linear(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    linear_with_bias(x, w, None)
}

/// `x·Wᵀ + b` for x `[.., in]`, W `[out, in]` and b `[out]`, giving `[.., out]`.
///
/// # Errors
/// Shapes that do not fit.
pub fn linear_with_bias(x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (out, inner) = w.dims2()?;
    let mut dims = x.dims().to_vec();
    match dims.last_mut() {
        Some(last) if *last == inner => *last = out,
        _ => bail!(
            "linear: expected an input of {inner} features (weight [{out}, {inner}]), found {:?}",
            x.dims()
        ),
    }
    if let Some(bias) = bias
        && bias.dims() != [out]
    {
        bail!("linear: expected a bias of [{out}] (weight [{out}, {inner}]), found {:?}", bias.dims());
    }
    if fused(&[x, w, bias.unwrap_or(w)]) {
        let (x, w, bias) = (x.contiguous()?, w.contiguous()?, bias.map(Tensor::contiguous).transpose()?);
        return by_dtype!(x.dtype(), T => forward::<T>(&x, &w, bias.as_ref(), dims));
    }
    let rows = x.elem_count() / inner.max(1);
    let y = x.reshape((rows, inner))?.matmul(&w.t()?)?.reshape(dims)?;
    bias.map_or(Ok(y.clone()), |bias| y.broadcast_add(bias))
}

fn forward<T: Elem>(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, dims: Vec<usize>) -> Result<Tensor> {
    let (n, k) = w.dims2()?;
    let m = x.elem_count() / k.max(1);
    let mut y = zeros::<T>(m * n);
    with_slices::<T, _, 2>([x, w], |[x, w]| {
        kernels::matmul_nt(x, w, &mut y, m, k, n, false);
        Ok(())
    })?;
    let op = Linear { x: w.track_op().then(|| x.detach()), w: x.track_op().then(|| w.detach()), m, n, k };
    let Some(bias) = bias else { return record(y, dims, &[x, w], op) };
    with_slices::<T, _, 1>([bias], |[bias]| {
        kernels::add_row(&mut y, bias);
        Ok(())
    })?;
    record(y, dims, &[x, w, bias], op)
}

/// What the two products of the backward need, if anybody wants them: x `[m, k]` and W `[n, k]`.
struct Linear {
    x: Option<Tensor>,
    w: Option<Tensor>,
    m: usize,
    n: usize,
    k: usize,
}

impl<T: Elem> Backward<T> for Linear {
    fn backward(&self, g: &[T], to: &mut Inputs<'_, T>) -> Result<()> {
        let &Self { m, n, k, .. } = self;
        if let Some(w) = &self.w {
            with_slices::<T, _, 1>([w], |[w]| {
                to.write(0, m * k, |dx, accumulate| kernels::matmul_nn(g, w, dx, m, n, k, accumulate))
            })?;
        }
        if let Some(x) = &self.x {
            with_slices::<T, _, 1>([x], |[x]| {
                to.write(1, n * k, |dw, accumulate| kernels::matmul_tn(g, x, dw, m, n, k, accumulate))
            })?;
        }
        if to.wants(2) {
            to.overwrite(2, n, |db| kernels::sum_rows(g, db))?;
        }
        Ok(())
    }
}
