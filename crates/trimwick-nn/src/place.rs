//! A dotted path in a store: where a layer, or something attached to one, keeps what is saved with the model.

use std::sync::{Arc, Weak};

use candle_core::Tensor;

use crate::clock::Clock;
use crate::param::Param;
use crate::store::{self, ParamStore};
use crate::{Error, Result};

/// A path and the store it is in, without keeping the store alive. What is attached to a layer may hold one, where
/// holding the layer itself would be a cycle.
#[derive(Clone)]
pub struct Place {
    path: Arc<str>,
    store: Weak<store::Inner>,
}

impl Place {
    pub(crate) fn new(store: &ParamStore, path: String) -> Self {
        Self { path: path.into(), store: Arc::downgrade(&store.0) }
    }

    /// The dotted path, such as `model.layers.0.mlp.up_proj`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The full name of `suffix` here: `path.suffix`.
    pub fn name_of(&self, suffix: &str) -> String {
        match self.path() {
            "" => suffix.to_string(),
            path => format!("{path}.{suffix}"),
        }
    }

    /// Saves `values` with the model as the buffer `path.suffix`: a mask, scales, statistics.
    ///
    /// # Errors
    /// A parameter of that name, a buffer of another shape, a store that no longer exists.
    pub fn set_buffer(&self, suffix: &str, values: &Tensor) -> Result<Param> {
        self.store()?.set_buffer(&self.name_of(suffix), values)
    }

    /// The buffer or parameter `path.suffix`, if there is one.
    pub fn buffer(&self, suffix: &str) -> Option<Param> {
        self.store().ok()?.get(&self.name_of(suffix))
    }

    /// Removes the buffer `path.suffix`.
    pub fn remove_buffer(&self, suffix: &str) {
        if let Ok(store) = self.store() {
            store.remove_buffer(&self.name_of(suffix));
        }
    }

    /// Adds the trainable parameter `path.suffix`, which is saved with the model: a learned scale, a low-rank
    /// factor. An optimizer knows it when it is built afterwards.
    ///
    /// # Errors
    /// A parameter or buffer of that name, a store that no longer exists.
    pub fn add_param(&self, suffix: &str, values: &Tensor) -> Result<Param> {
        self.store()?.add_param(&self.name_of(suffix), values)
    }

    /// Removes the parameter `path.suffix` that was added to what the model was built with.
    pub fn remove_param(&self, suffix: &str) {
        if let Ok(store) = self.store() {
            store.remove_param(&self.name_of(suffix));
        }
    }

    /// The clock of the store, while that exists.
    pub fn clock(&self) -> Option<Clock> {
        self.store().ok().map(|store| store.clock().clone())
    }

    fn store(&self) -> Result<ParamStore> {
        let gone = || Error::UnknownParam { name: self.path().into() };
        self.store.upgrade().map(ParamStore).ok_or_else(gone)
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.path())
    }
}
