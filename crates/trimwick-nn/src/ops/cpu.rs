//! From candle tensors to the slices that kernels take, and back.

use candle_core::{CpuStorage, DType, Layout, Result, Storage, Tensor, WithDType, bail};
use trimwick_kernels::Real;

/// An element type that the fused CPU kernels take.
pub trait Elem: WithDType + Real {}
impl Elem for f32 {}
impl Elem for f64 {}

/// Whether every tensor lies on the CPU in one dtype that the fused kernels take.
pub(crate) fn fused(tensors: &[&Tensor]) -> bool {
    let dtype = tensors[0].dtype();
    matches!(dtype, DType::F32 | DType::F64)
        && tensors.iter().all(|t| t.device().is_cpu() && t.dtype() == dtype)
}

/// The elements of a contiguous CPU storage.
///
/// # Errors
/// A non-contiguous layout or another dtype than `T`.
pub fn cpu_slice<'a, T: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((from, to)) => Ok(&storage.as_slice::<T>()?[from..to]),
        None => bail!("expected a contiguous tensor, found strides {:?}", layout.stride()),
    }
}

/// Runs `f` on the elements of CPU tensors, made contiguous where they are not.
///
/// # Errors
/// Another device or dtype than the CPU's `T`, or whatever `f` reports.
pub fn with_slices<T: WithDType, R, const N: usize>(
    tensors: [&Tensor; N],
    f: impl FnOnce([&[T]; N]) -> Result<R>,
) -> Result<R> {
    let dense = tensors.iter().map(|t| t.contiguous()).collect::<Result<Vec<_>>>()?;
    let guards: Vec<_> = dense.iter().map(Tensor::storage_and_layout).collect();
    let mut slices: [&[T]; N] = [&[]; N];
    for (slot, (storage, layout)) in slices.iter_mut().zip(&guards) {
        *slot = match &**storage {
            Storage::Cpu(cpu) => cpu_slice(cpu, layout)?,
            _ => bail!("expected a tensor on the CPU"),
        };
    }
    f(slices)
}

/// A tensor of `like`'s shape and device from the elements of a kernel.
pub(crate) fn tensor_like<T: WithDType>(values: Vec<T>, like: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(values, like.shape(), like.device())
}

/// A kernel's output as a storage.
pub(crate) fn owned<T: Elem>(values: Vec<T>) -> CpuStorage {
    T::to_cpu_storage_owned(values)
}

/// A zeroed buffer.
pub(crate) fn zeros<T: Elem>(len: usize) -> Vec<T> {
    vec![T::zero(); len]
}

/// Dtype of a storage: candle's own accessor is behind a trait that few files need.
pub(crate) fn dtype_of(storage: &CpuStorage) -> DType {
    use candle_core::backend::BackendStorage;
    storage.dtype()
}

/// Runs `$body` with `$T` bound to the element type of `$dtype`.
macro_rules! by_dtype {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            candle_core::DType::F32 => {
                type $T = f32;
                $body
            }
            candle_core::DType::F64 => {
                type $T = f64;
                $body
            }
            other => Err(candle_core::Error::UnsupportedDTypeForOp(other, "fused kernel").bt()),
        }
    };
}
pub(crate) use by_dtype;
