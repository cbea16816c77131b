//! One named parameter of a model.

use std::sync::{Arc, PoisonError, RwLock};

use candle_core::{DType, Shape, Tensor, Var};

use crate::{Error, Result};

/// What may happen to a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// An optimizer updates it.
    Trainable,
    /// Part of the model, but no gradient is computed for it.
    Frozen,
    /// State that is saved with the model and never touched by an optimizer: masks, scales, statistics.
    Buffer,
}

struct Inner {
    name: String,
    var: Var,
    role: RwLock<Role>,
    keep: RwLock<Option<Arc<[u8]>>>,
}

/// A handle to a named parameter. Clones share the values, the role and the kept set.
#[derive(Clone)]
pub struct Param(Arc<Inner>);

impl Param {
    pub(crate) fn new(name: &str, var: Var, role: Role) -> Self {
        Self(Arc::new(Inner { name: name.into(), var, role: RwLock::new(role), keep: RwLock::new(None) }))
    }

    /// Full dotted name, such as `model.layers.0.mlp.up_proj.weight`.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The variable behind the parameter; its identity is the key of its gradient in a `GradStore`.
    pub fn var(&self) -> &Var {
        &self.0.var
    }

    /// Shape of the values.
    pub fn shape(&self) -> &Shape {
        self.0.var.shape()
    }

    /// Number of values.
    pub fn elem_count(&self) -> usize {
        self.0.var.elem_count()
    }

    /// Dtype of the values.
    pub fn dtype(&self) -> DType {
        self.0.var.dtype()
    }

    /// Current role.
    pub fn role(&self) -> Role {
        *self.0.role.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the role; layers built before follow at their next forward.
    pub fn set_role(&self, role: Role) {
        *self.0.role.write().unwrap_or_else(PoisonError::into_inner) = role;
    }

    /// The tensor to compute with: tracked by autograd when trainable, detached otherwise, so that no gradient
    /// is computed or kept for a frozen weight.
    pub fn tensor(&self) -> Tensor {
        match self.role() {
            Role::Trainable => self.0.var.as_tensor().clone(),
            Role::Frozen | Role::Buffer => self.0.var.as_detached_tensor(),
        }
    }

    /// Copies `values` into the parameter.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when shape or dtype differ.
    pub fn set(&self, values: &Tensor) -> Result<()> {
        if values.shape() != self.shape() || values.dtype() != self.dtype() {
            return Err(Error::Mismatch {
                layer: self.0.name.clone(),
                what: "new values",
                expected: format!("{:?} {:?}", self.shape().dims(), self.dtype()),
                found: format!("{:?} {:?}", values.dims(), values.dtype()),
            });
        }
        Ok(self.0.var.set(&values.detach())?)
    }

    /// The set of elements that may be non-zero, as a bitset (bit `i % 8` of byte `i / 8`, row-major), or
    /// `None` when all may. An optimizer holds the dropped elements of the values and of its own state at +0.0.
    pub fn keep(&self) -> Option<Arc<[u8]>> {
        self.0.keep.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets or lifts the constraint of [`Param::keep`].
    ///
    /// # Errors
    /// [`Error::Mismatch`] when the bitset's length is not that of the parameter.
    pub fn set_keep(&self, keep: Option<Arc<[u8]>>) -> Result<()> {
        let want = self.elem_count().div_ceil(8);
        if let Some(bits) = &keep
            && bits.len() != want
        {
            return Err(Error::Mismatch {
                layer: self.0.name.clone(),
                what: "mask length",
                expected: format!("{want} bytes"),
                found: format!("{} bytes", bits.len()),
            });
        }
        *self.0.keep.write().unwrap_or_else(PoisonError::into_inner) = keep;
        Ok(())
    }
}

impl std::fmt::Debug for Param {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?} {:?} {:?}", self.name(), self.shape().dims(), self.dtype(), self.role())
    }
}
