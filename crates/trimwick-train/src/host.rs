//! Which tensors the fused loops take.

use candle_core::{DType, Tensor};

/// Whether the fused f32 loops of `trimwick-kernels` can work on the tensor.
pub(crate) fn fused(tensor: &Tensor) -> bool {
    tensor.device().is_cpu() && tensor.dtype() == DType::F32
}
