//! In-place access to tensors that lie on the CPU.

use candle_core::{DType, Result, Tensor};
use trimwick_nn::ops;

/// Whether the fused f32 loops of `trimwick-kernels` can work on the tensor.
pub(crate) fn fused(tensor: &Tensor) -> bool {
    tensor.device().is_cpu() && tensor.dtype() == DType::F32
}

/// [`ops::update`] of an f32 tensor.
pub(crate) fn update<R>(tensor: &Tensor, f: impl FnOnce(&mut [f32]) -> Result<R>) -> Result<R> {
    ops::update(tensor, f)
}
