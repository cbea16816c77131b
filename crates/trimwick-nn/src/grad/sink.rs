//! Buffers that the gradients of parameters are written to and summed in.

use std::cell::RefCell;
use std::collections::HashMap;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Result, Tensor, TensorId, Var};
use trimwick_kernels as kernels;

use super::cell::Reuse;
use crate::ops::{Elem, by_dtype, update, with_slices, zeros};
use crate::param::Param;

type Slots = HashMap<TensorId, Slot>;

/// Sums of the gradients of parameters, each in one buffer of its own.
///
/// [`GradientSink::backward`] takes the place of candle's `backward`. A layer's backward then writes a gradient to where
/// it belongs, and adds later ones (of other micro-batches, of another use of a tied weight) in the same pass. With
/// candle's `GradStore` each is cleared, copied and added in memory that was never used before.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use trimwick_nn::{GradientSink, Module, ParamStore, linear};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = ParamStore::new(DType::F32, &Device::Cpu);
/// let fc = linear(3, 2, store.var_builder().pp("fc"))?;
/// let mut sink = GradientSink::new(&store.trainable());
/// for _ in 0..2 {
///     let loss = fc.forward(&Tensor::ones((4, 3), DType::F32, &Device::Cpu)?)?.sum_all()?;
///     sink.backward(&loss)?;
/// }
/// let bias = fc.layer().bias().ok_or("no bias")?;
/// assert_eq!(sink.get(bias).ok_or("no gradient")?.to_vec1::<f32>()?, [8., 8.]);
/// # Ok(())
/// # }
/// ```
#[derive(Default)]
pub struct GradientSink {
    slots: Slots,
}

impl GradientSink {
    /// A sink for the gradients of `params`, all of them empty.
    pub fn new(params: &[Param]) -> Self {
        let mut sink = Self::default();
        sink.reset(params);
        sink
    }

    /// Empties every sum. The memory stays for the next ones of those that are in `params`; of others it is given back.
    pub fn reset(&mut self, params: &[Param]) {
        let mut old = mem::take(&mut self.slots);
        for param in params {
            let var = param.var();
            let slot = old.remove(&var.id()).map(Slot::cleared);
            self.slots.insert(var.id(), slot.unwrap_or_else(|| Slot::new(var)));
        }
    }

    /// Runs the backward of `root` and adds the gradients of the sink's parameters. Those of other variables are returned.
    ///
    /// What the graph of `root` keeps may be used up: run its backward once.
    ///
    /// # Errors
    /// Those of candle's backward; the sums are of no use then.
    pub fn backward(&mut self, root: &Tensor) -> Result<GradStore> {
        self.slots.values_mut().for_each(|slot| slot.reached = false);
        let shared = Arc::new(Mutex::new(mem::take(&mut self.slots)));
        let grads = {
            let (_reuse, _active) = (Reuse::begin(), Active::begin(shared.clone()));
            root.backward()
        };
        self.slots = mem::take(&mut *shared.lock().unwrap_or_else(PoisonError::into_inner));
        let mut grads = grads?;
        self.take_from(&mut grads)?;
        Ok(grads)
    }

    /// Adds gradients that candle's own `backward` has made.
    ///
    /// # Errors
    /// A gradient that does not have its parameter's shape.
    pub fn absorb(&mut self, mut grads: GradStore) -> Result<()> {
        self.slots.values_mut().for_each(|slot| slot.reached = false);
        self.take_from(&mut grads)
    }

    fn take_from(&mut self, grads: &mut GradStore) -> Result<()> {
        for slot in self.slots.values_mut() {
            if let Some(grad) = grads.remove(&slot.var) {
                slot.add(grad)?;
            }
        }
        Ok(())
    }

    /// Whether the last backward had a gradient of this parameter.
    pub fn reached(&self, param: &Param) -> bool {
        self.slots.get(&param.var().id()).is_some_and(|slot| slot.reached)
    }

    /// The sum of a parameter's gradients. It shares its memory with the sink: the next backward changes it.
    pub fn get(&self, param: &Param) -> Option<&Tensor> {
        self.slots.get(&param.var().id())?.sum()
    }

    /// Empties the sum of one parameter. Its memory is for the next sum of the first one in `to` that has its shape and
    /// dtype, and no memory; it is given back when there is none.
    pub fn pass_on<'a>(&mut self, from: &Param, to: impl IntoIterator<Item = &'a Param>) {
        let Some(slot) = self.slots.get_mut(&from.var().id()) else { return };
        let Some(memory) = slot.empty() else { return };
        for param in to {
            if let Some(slot) = self.slots.get_mut(&param.var().id())
                && slot.sum().is_none()
                && slot.spare.is_none()
                && slot.var.shape() == memory.shape()
                && slot.var.dtype() == memory.dtype()
            {
                slot.spare = Some(memory);
                return;
            }
        }
    }

    /// Takes the sum of a parameter's gradients out, and its memory.
    pub fn take(&mut self, param: &Param) -> Option<Tensor> {
        let slot = self.slots.get_mut(&param.var().id())?;
        match mem::replace(&mut slot.value, Value::None) {
            Value::None => None,
            Value::Shared(sum) | Value::Own(sum) => Some(sum),
        }
    }
}

/// The sum of one parameter's gradients.
pub(super) struct Slot {
    var: Var,
    value: Value,
    /// Memory of an earlier sum.
    spare: Option<Tensor>,
    reached: bool,
}

enum Value {
    None,
    /// One that candle has made. It may share its storage, so it is never written to.
    Shared(Tensor),
    Own(Tensor),
}

impl Slot {
    fn new(var: Var) -> Self {
        Self { var, value: Value::None, spare: None, reached: false }
    }

    fn cleared(mut self) -> Self {
        let spare = self.empty();
        Self { spare, reached: false, ..self }
    }

    /// Takes the memory out, if there is any of its own.
    fn empty(&mut self) -> Option<Tensor> {
        match mem::replace(&mut self.value, Value::None) {
            Value::Own(sum) => Some(sum),
            Value::None | Value::Shared(_) => self.spare.take(),
        }
    }

    fn sum(&self) -> Option<&Tensor> {
        match &self.value {
            Value::None => None,
            Value::Shared(sum) | Value::Own(sum) => Some(sum),
        }
    }

    /// Adds what `f` writes. `f` is told whether to add to what it is given, which otherwise holds anything.
    pub fn write<T: Elem>(&mut self, f: impl FnOnce(&mut [T], bool)) -> Result<()> {
        let sum = match mem::replace(&mut self.value, Value::None) {
            Value::Own(sum) => {
                update::<T, _>(&sum, |sum| {
                    f(sum, true);
                    Ok(())
                })?;
                sum
            }
            first => {
                let sum = match self.spare.take() {
                    Some(spare) => spare,
                    None => {
                        let shape = self.var.shape();
                        Tensor::from_vec(zeros::<T>(shape.elem_count()), shape, &Device::Cpu)?
                    }
                };
                update::<T, _>(&sum, |sum| {
                    f(sum, false);
                    match &first {
                        Value::Shared(first) => with_slices::<T, _, 1>([first], |[first]| {
                            kernels::add_assign(sum, first);
                            Ok(())
                        }),
                        _ => Ok(()),
                    }
                })?;
                sum
            }
        };
        self.value = Value::Own(sum);
        self.reached = true;
        Ok(())
    }

    /// Adds `values`, which become the sum when they are the first.
    pub fn give<T: Elem>(&mut self, values: Vec<T>) -> Result<()> {
        if let Value::None = self.value {
            self.spare = None;
            self.value = Value::Own(Tensor::from_vec(values, self.var.shape(), &Device::Cpu)?);
            self.reached = true;
            return Ok(());
        }
        self.copy(&values)
    }

    /// Adds `values`.
    pub fn copy<T: Elem>(&mut self, values: &[T]) -> Result<()> {
        self.write::<T>(|sum, accumulate| match accumulate {
            true => kernels::add_assign(sum, values),
            false => sum.copy_from_slice(values),
        })
    }

    /// Adds a gradient that candle has made.
    pub fn add(&mut self, grad: Tensor) -> Result<()> {
        // A gradient that is kept by reference may keep a graph alive.
        let grad = grad.detach();
        self.reached = true;
        let fused = |t: &Tensor| t.device().is_cpu() && matches!(t.dtype(), DType::F32 | DType::F64);
        match mem::replace(&mut self.value, Value::None) {
            Value::None => self.value = Value::Shared(grad),
            Value::Own(sum) if fused(&grad) && grad.dtype() == sum.dtype() => {
                self.value = Value::Own(sum);
                by_dtype!(grad.dtype(), T => with_slices::<T, _, 1>([&grad], |[grad]| self.copy(grad)))?;
            }
            Value::Shared(sum) | Value::Own(sum) => self.value = Value::Own((sum + grad)?),
        }
        Ok(())
    }
}

thread_local! {
    static ACTIVE: RefCell<Option<Arc<Mutex<Slots>>>> = const { RefCell::new(None) };
}

/// The slots that the backward of this thread writes to, until it is dropped.
struct Active(Option<Arc<Mutex<Slots>>>);

impl Active {
    fn begin(slots: Arc<Mutex<Slots>>) -> Self {
        Self(ACTIVE.with(|active| active.replace(Some(slots))))
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        // At the end of a thread there may be nothing left to put back to.
        let _ = ACTIVE.try_with(|active| active.replace(self.0.take()));
    }
}

/// Whether a sink takes the gradients of this thread.
pub(super) fn is_collecting() -> bool {
    ACTIVE.with_borrow(Option::is_some)
}

/// The slot of a variable in the sink that is collecting; `None` for any other tensor.
pub(super) fn slot(var: &Tensor) -> Option<Taken> {
    if !var.is_variable() {
        return None;
    }
    let slots = ACTIVE.with_borrow(Clone::clone)?;
    let slot = slots.lock().unwrap_or_else(PoisonError::into_inner).remove(&var.id())?;
    Some(Taken { slots, slot })
}

/// A slot that was taken out of its sink: threads that help with a kernel may run anything, so no lock is held.
pub(super) struct Taken {
    slots: Arc<Mutex<Slots>>,
    slot: Slot,
}

impl Taken {
    /// Uses the slot and puts it back.
    pub fn with(mut self, f: impl FnOnce(&mut Slot) -> Result<()>) -> Result<()> {
        let done = f(&mut self.slot);
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.insert(self.slot.var.id(), self.slot);
        done
    }
}
