//! From candle tensors to the slices that kernels take, and back.

use std::cell::RefCell;
use std::marker::PhantomData;

use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Result, Storage, Tensor, WithDType, bail};
use trimwick_kernels::{self as kernels, Real};

/// An element type of which [`update`] changes tensors.
pub trait InPlace: WithDType {
    /// The elements of a storage of this type.
    fn elements_mut(storage: &mut CpuStorage) -> Option<&mut [Self]>;
}

macro_rules! in_place {
    ($($T:ty: $variant:ident),*) => {
        $(impl InPlace for $T {
            fn elements_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
                if let CpuStorage::$variant(values) = storage { Some(values) } else { None }
            }
        })*
    };
}
in_place!(f32: F32, f64: F64, u8: U8);

/// An element type that the fused CPU kernels take.
pub trait Elem: InPlace + Real {}

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

/// Runs `f` on the elements of a contiguous tensor on the CPU, in place.
///
/// Candle keeps no version of a tensor's values: nothing that still has to run backward may hold the tensor.
/// Calls nest, for loops over several tensors at once, as long as no two of them share storage.
///
/// # Errors
/// A strided tensor, another device or dtype than the CPU's `T`, or whatever `f` reports.
pub fn update<T: InPlace, R>(tensor: &Tensor, f: impl FnOnce(&mut [T]) -> Result<R>) -> Result<R> {
    let op = Update(RefCell::new(State::Ready(f)), PhantomData);
    tensor.inplace_op1(&op)?;
    match op.0.into_inner() {
        State::Done(result) => Ok(result),
        State::Ready(_) | State::Taken => bail!("update: candle did not run the operation"),
    }
}

/// Where an in-place operation is: candle hands out the storage inside of a `Fn(&self)`.
enum State<F, R> {
    Ready(F),
    Taken,
    Done(R),
}

struct Update<T, F, R>(RefCell<State<F, R>>, PhantomData<T>);

impl<T: InPlace, R, F: FnOnce(&mut [T]) -> Result<R>> InplaceOp1 for Update<T, F, R> {
    fn name(&self) -> &'static str {
        "update"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (Some(values), Some((from, to))) = (T::elements_mut(storage), layout.contiguous_offsets()) else {
            bail!("update: expected a contiguous {:?} tensor, found strides {:?}", T::DTYPE, layout.stride());
        };
        if let State::Ready(f) = self.0.replace(State::Taken) {
            let result = f(&mut values[from..to])?;
            self.0.replace(State::Done(result));
        }
        Ok(())
    }
}

/// A kernel's output as a storage.
pub(crate) fn owned<T: Elem>(values: Vec<T>) -> CpuStorage {
    T::to_cpu_storage_owned(values)
}

/// A zeroed buffer.
pub(crate) fn zeros<T: Elem>(len: usize) -> Vec<T> {
    kernels::zeros(len)
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

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn updates_nest_over_several_tensors() -> Result<()> {
        let a = Tensor::new(&[1f32, 2.], &Device::Cpu)?;
        let b = Tensor::new(&[10f32, 20.], &Device::Cpu)?;
        let sum = update::<f32, _>(&a, |a| {
            update::<f32, _>(&b, |b| {
                a.iter_mut().zip(b.iter_mut()).for_each(|(a, b)| std::mem::swap(a, b));
                Ok(a.iter().sum::<f32>())
            })
        })?;
        assert_eq!(sum, 30.);
        assert_eq!(a.to_vec1::<f32>()?, [10., 20.]);
        assert_eq!(b.to_vec1::<f32>()?, [1., 2.]);
        Ok(())
    }

    #[test]
    fn a_strided_view_and_another_dtype_are_refused() -> Result<()> {
        let t = Tensor::zeros((2, 3), DType::F32, &Device::Cpu)?;
        assert!(update::<f32, _>(&t.t()?, |_| Ok(())).is_err());
        assert!(update::<f64, _>(&t, |_| Ok(())).is_err());
        assert!(update::<u8, _>(&t, |_| Ok(())).is_err());
        Ok(())
    }
}
