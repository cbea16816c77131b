//! In-place access to tensors that lie on the CPU.

use std::cell::RefCell;
use std::marker::PhantomData;

use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Result, Tensor, WithDType, bail};

/// Whether the fused f32 loops of `trimwick-kernels` can work on the tensor.
pub(crate) fn fused(tensor: &Tensor) -> bool {
    tensor.device().is_cpu() && tensor.dtype() == DType::F32
}

/// An element type that is updated in place.
pub(crate) trait Elem: WithDType {
    /// The elements, when they are of this type.
    fn of(storage: &mut CpuStorage) -> Option<&mut [Self]>;
}

impl Elem for f32 {
    fn of(storage: &mut CpuStorage) -> Option<&mut [Self]> {
        if let CpuStorage::F32(values) = storage { Some(values) } else { None }
    }
}

impl Elem for u8 {
    fn of(storage: &mut CpuStorage) -> Option<&mut [Self]> {
        if let CpuStorage::U8(values) = storage { Some(values) } else { None }
    }
}

/// Runs `f` on the elements of a contiguous tensor of `T` on the CPU, in place.
///
/// Candle keeps no version of a tensor's values: nothing that still has to run backward may hold the tensor.
/// Calls nest, for loops over several tensors at once, as long as no two of them share storage.
pub(crate) fn update<T: Elem, R>(tensor: &Tensor, f: impl FnOnce(&mut [T]) -> Result<R>) -> Result<R> {
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

struct Update<T, F, R>(RefCell<State<F, R>>, PhantomData<fn(&mut T)>);

impl<T: Elem, R, F: FnOnce(&mut [T]) -> Result<R>> InplaceOp1 for Update<T, F, R> {
    fn name(&self) -> &'static str {
        "update"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (Some(values), Some((from, to))) = (T::of(storage), layout.contiguous_offsets()) else {
            bail!("update: expected a contiguous {:?} tensor, found strides {:?}", T::DTYPE, layout.stride());
        };
        if let State::Ready(f) = self.0.replace(State::Taken) {
            let result = f(&mut values[from..to])?;
            self.0.replace(State::Done(result));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn updates_nest_over_several_tensors() -> Result<()> {
        let a = Tensor::new(&[1f32, 2.], &Device::Cpu)?;
        let b = Tensor::new(&[10f32, 20.], &Device::Cpu)?;
        let sum = update(&a, |a: &mut [f32]| {
            update(&b, |b: &mut [f32]| {
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
    fn a_strided_view_is_refused() -> Result<()> {
        let t = Tensor::zeros((2, 3), DType::F32, &Device::Cpu)?.t()?;
        assert!(update(&t, |_: &mut [f32]| Ok(())).is_err());
        assert!(update(&t.contiguous()?, |_: &mut [u8]| Ok(())).is_err());
        Ok(())
    }
}
