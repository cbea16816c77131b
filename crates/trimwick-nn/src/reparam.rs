//! Reparametrization: a layer computes with `chain(w)` and trains `w`.
//!
//! A mask, a fake-quantizer and a low-rank adapter are one idea: a differentiable function from the stored
//! weight to the weight that the layer computes with. A layer holds at most one of each, applied in the order
//! of [`Slot`], so that what is trained is what is exported: `FQ(M ⊙ (W + BA))`.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{Result, Tensor};

/// A differentiable function of a weight (or, on a layer's input side, of an activation).
///
/// [`Any`] lets the crate that set a reparametrization find its own again on a built model.
pub trait Reparam: Any + Send + Sync {
    /// The value to compute with, of `base`'s shape and dtype. The result must be connected to `base` in the
    /// autograd graph: a function that cuts the graph leaves the weight without a gradient, silently.
    fn apply(&self, base: &Tensor) -> Result<Tensor>;

    /// Short name for summaries, such as `"mask"`.
    fn name(&self) -> &'static str;
}

/// Position of a [`Reparam`] in a layer's chain; the chain runs in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    /// Low-rank adapter: `W + BA`.
    Adapter,
    /// Pruning mask: `M ⊙ W`.
    Mask,
    /// Fake-quantizer: `FQ(W)`.
    FakeQuant,
}

/// The ordered reparametrizations of one weight.
#[derive(Clone, Default)]
pub struct Chain(BTreeMap<Slot, Arc<dyn Reparam>>);

impl Chain {
    /// Applies every slot in order; the base tensor itself when there is none.
    pub fn apply(&self, base: &Tensor) -> Result<Tensor> {
        self.0.values().try_fold(base.clone(), |w, r| r.apply(&w))
    }

    /// Applies the slots before `slot`, in order.
    pub fn apply_before(&self, slot: Slot, base: &Tensor) -> Result<Tensor> {
        self.0.range(..slot).try_fold(base.clone(), |w, (_, r)| r.apply(&w))
    }

    /// Puts `reparam` into `slot` and returns what was there.
    pub fn set(&mut self, slot: Slot, reparam: Arc<dyn Reparam>) -> Option<Arc<dyn Reparam>> {
        self.0.insert(slot, reparam)
    }

    /// Empties `slot` and returns what was there.
    pub fn clear(&mut self, slot: Slot) -> Option<Arc<dyn Reparam>> {
        self.0.remove(&slot)
    }

    /// The reparametrization in `slot`.
    pub fn get(&self, slot: Slot) -> Option<&Arc<dyn Reparam>> {
        self.0.get(&slot)
    }

    /// Whether no slot is filled.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names of the filled slots, in order.
    pub fn names(&self) -> Vec<&'static str> {
        self.0.values().map(|r| r.name()).collect()
    }
}
