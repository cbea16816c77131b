//! Gradients on their way from the consumers of a tensor to the operation that made it.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, ThreadId};

use candle_core::{CpuStorage, Result};
use trimwick_kernels as kernels;

use crate::ops::{Elem, owned, zeros};

/// The values of a gradient. What is shared is not written to.
pub(super) type Grad = Arc<CpuStorage>;

/// The gradient of one tensor, for each thread that runs a backward: two may go through one graph at a time.
#[derive(Default)]
pub(super) struct Cell(Mutex<Vec<(ThreadId, Grad)>>);

impl Cell {
    /// What the consumers have left on this thread.
    pub fn take(&self) -> Option<Grad> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = waiting.iter().position(|(id, _)| *id == thread::current().id())?;
        Some(waiting.swap_remove(mine).1)
    }

    /// Replaces what is there by what `f` makes of it.
    pub fn update(&self, f: impl FnOnce(Option<Grad>) -> Result<Grad>) -> Result<()> {
        let new = f(self.take())?;
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push((thread::current().id(), new));
        Ok(())
    }
}

/// `old` and what `f` writes. `f` is told whether to add to what it is given, which otherwise holds anything.
pub(super) fn write<T: Elem>(old: Option<Grad>, len: usize, f: impl FnOnce(&mut [T], bool)) -> Result<Grad> {
    let sum = match old.map(Arc::try_unwrap) {
        None => {
            let mut new = buffer::<T>(len);
            f(&mut new, false);
            new
        }
        Some(Ok(own)) => {
            let mut sum = T::cpu_storage_data(own)?;
            f(&mut sum, true);
            sum
        }
        Some(Err(shared)) => {
            let mut new = buffer::<T>(len);
            f(&mut new, false);
            kernels::add_assign(&mut new, T::cpu_storage_as_slice(&shared)?);
            new
        }
    };
    Ok(Arc::new(owned(sum)))
}

/// `old` and `values`.
pub(super) fn give<T: Elem>(old: Option<Grad>, mut values: Vec<T>) -> Result<Grad> {
    if let Some(old) = old {
        kernels::add_assign(&mut values, T::cpu_storage_as_slice(&old)?);
        recycle(old);
    }
    Ok(Arc::new(owned(values)))
}

/// `old` and `more`, which is not copied when it is the first.
pub(super) fn share<T: Elem>(old: Option<Grad>, more: &Grad) -> Result<Grad> {
    match old.map(Arc::try_unwrap) {
        None => Ok(more.clone()),
        Some(Ok(own)) => {
            let mut sum = T::cpu_storage_data(own)?;
            kernels::add_assign(&mut sum, T::cpu_storage_as_slice(more)?);
            Ok(Arc::new(owned(sum)))
        }
        Some(Err(shared)) => {
            let (a, b) = (T::cpu_storage_as_slice(&shared)?, T::cpu_storage_as_slice(more)?);
            let mut sum = buffer::<T>(a.len());
            kernels::add(a, b, &mut sum);
            Ok(Arc::new(owned(sum)))
        }
    }
}

/// Bytes of spent gradients that a thread keeps for the next ones.
const SPARE_BYTES: usize = 64 << 20;

thread_local! {
    static SPARE: RefCell<Option<Vec<CpuStorage>>> = const { RefCell::new(None) };
}

/// While this lives, the memory of spent gradients is used again by the next ones of this thread: it is in the caches
/// already, and need not be cleared.
pub(super) struct Reuse(Option<Vec<CpuStorage>>);

impl Reuse {
    pub fn begin() -> Self {
        Self(SPARE.with_borrow_mut(|spare| spare.replace(Vec::new())))
    }
}

impl Drop for Reuse {
    fn drop(&mut self) {
        // At the end of a thread there may be nothing left to put back to.
        let _ = SPARE.try_with(|spare| spare.replace(self.0.take()));
    }
}

/// Memory for a gradient, which holds anything.
pub(crate) fn buffer<T: Elem>(len: usize) -> Vec<T> {
    let found = SPARE.with_borrow_mut(|spare| {
        let spare = spare.as_mut()?;
        let fits = |s: &CpuStorage| T::cpu_storage_as_slice(s).is_ok_and(|s| s.len() == len);
        let index = spare.iter().rposition(fits)?;
        T::cpu_storage_data(spare.remove(index)).ok()
    });
    found.unwrap_or_else(|| zeros(len))
}

/// Gives the memory of a gradient back, unless somebody still has it.
pub(super) fn recycle(grad: Grad) {
    let Ok(storage) = Arc::try_unwrap(grad) else { return };
    SPARE.with_borrow_mut(|spare| {
        let Some(spare) = spare else { return };
        let mut kept = bytes(&storage);
        spare.push(storage);
        // The oldest go first.
        let fits = spare.iter().rev().skip(1).take_while(|s| {
            kept += bytes(s);
            kept <= SPARE_BYTES
        });
        let fits = fits.count() + 1;
        spare.drain(..spare.len() - fits);
    });
}

fn bytes(storage: &CpuStorage) -> usize {
    match storage {
        CpuStorage::F32(v) => size_of_val(v.as_slice()),
        CpuStorage::F64(v) => size_of_val(v.as_slice()),
        _ => 0,
    }
}
