//! One named parameter of a model.

use std::sync::{Arc, PoisonError, RwLock};

use candle_core::{DType, Device, Result as CandleResult, Shape, Tensor, Var};

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

/// A frozen weight in fewer bytes than its values take: what stands behind a parameter after [`Param::compact`].
pub trait Compact: Send + Sync {
    /// The values, of the parameter's shape and dtype, outside of any autograd graph.
    ///
    /// # Errors
    /// Tensor operations.
    fn expand(&self) -> CandleResult<Tensor>;
}

struct Inner {
    name: String,
    shape: Shape,
    dtype: DType,
    device: Device,
    var: RwLock<Var>,
    compact: RwLock<Option<Arc<dyn Compact>>>,
    role: RwLock<Role>,
    keep: RwLock<Option<Arc<[u8]>>>,
}

/// A handle to a named parameter. Clones share the values, the role and the kept set.
#[derive(Clone)]
pub struct Param(Arc<Inner>);

impl Param {
    pub(crate) fn new(name: &str, var: Var, role: Role) -> Self {
        Self(Arc::new(Inner {
            name: name.into(),
            shape: var.shape().clone(),
            dtype: var.dtype(),
            device: var.device().clone(),
            var: RwLock::new(var),
            compact: RwLock::new(None),
            role: RwLock::new(role),
            keep: RwLock::new(None),
        }))
    }

    /// Full dotted name, such as `model.layers.0.mlp.up_proj.weight`.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The variable behind the parameter; its identity is the key of its gradient in a `GradStore`. Of a
    /// [compact](Param::compact) parameter it is empty.
    pub fn var(&self) -> Var {
        self.0.var.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Shape of the values.
    pub fn shape(&self) -> &Shape {
        &self.0.shape
    }

    /// Number of values.
    pub fn elem_count(&self) -> usize {
        self.0.shape.elem_count()
    }

    /// Dtype of the values.
    pub fn dtype(&self) -> DType {
        self.0.dtype
    }

    /// Where the values are.
    pub fn device(&self) -> &Device {
        &self.0.device
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
    /// is computed or kept for a frozen weight. Of a [compact](Param::compact) parameter it is empty: ask for its
    /// [value](Param::value).
    pub fn tensor(&self) -> Tensor {
        let var = self.var();
        match self.role() {
            Role::Trainable => var.as_tensor().clone(),
            Role::Frozen | Role::Buffer => var.as_detached_tensor(),
        }
    }

    /// [`Param::tensor`], or what a compact parameter expands to.
    ///
    /// # Errors
    /// Those of expanding.
    pub fn value(&self) -> CandleResult<Tensor> {
        match self.compacted() {
            Some(compact) => Ok(compact.expand()?.detach()),
            None => Ok(self.tensor()),
        }
    }

    /// Freezes the parameter and gives its memory back: from here on its values are what `compact` expands to,
    /// computed anew for each use. Until [`Param::expand`] they cannot be set.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when `compact` expands to another shape or dtype.
    pub fn compact(&self, compact: Arc<dyn Compact>) -> Result<()> {
        self.matches("compact values", &compact.expand()?)?;
        let empty = Var::zeros(0, self.0.dtype, &self.0.device)?;
        self.set_role(Role::Frozen);
        *self.0.compact.write().unwrap_or_else(PoisonError::into_inner) = Some(compact);
        *self.0.var.write().unwrap_or_else(PoisonError::into_inner) = empty;
        Ok(())
    }

    /// Makes a compact parameter a plain frozen one of the values it expands to; does nothing to any other.
    ///
    /// # Errors
    /// Those of expanding.
    pub fn expand(&self) -> Result<()> {
        let Some(compact) = self.compacted() else { return Ok(()) };
        let var = Var::from_tensor(&compact.expand()?)?;
        *self.0.var.write().unwrap_or_else(PoisonError::into_inner) = var;
        *self.0.compact.write().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(())
    }

    /// What stands behind a compact parameter.
    pub fn compacted(&self) -> Option<Arc<dyn Compact>> {
        self.0.compact.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Copies `values` into the parameter.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when shape or dtype differ.
    pub fn set(&self, values: &Tensor) -> Result<()> {
        self.matches("new values", values)?;
        if self.compacted().is_some() {
            return Err(Error::Mismatch {
                layer: self.0.name.clone(),
                what: "new values",
                expected: "none while the parameter is compact".into(),
                found: format!("{:?} {:?}", values.dims(), values.dtype()),
            });
        }
        Ok(self.var().set(&values.detach())?)
    }

    fn matches(&self, what: &'static str, values: &Tensor) -> Result<()> {
        if values.shape() == self.shape() && values.dtype() == self.dtype() {
            return Ok(());
        }
        Err(Error::Mismatch {
            layer: self.0.name.clone(),
            what,
            expected: format!("{:?} {:?}", self.shape().dims(), self.dtype()),
            found: format!("{:?} {:?}", values.dims(), values.dtype()),
        })
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
