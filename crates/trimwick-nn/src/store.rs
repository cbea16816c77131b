//! The parameters of a model, ordered by name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use candle_core::{DType, Device, Tensor, Var};

use crate::builder::{StoreBackend, VarBuilder};
use crate::clock::Clock;
use crate::kv::KvSlot;
use crate::layer::{Layer, Layers};
use crate::param::{Param, Role};
use crate::source::{FolderSource, TensorSource};
use crate::{Error, Result};

pub(crate) struct Inner {
    pub(crate) dtype: DType,
    pub(crate) device: Device,
    pub(crate) clock: Clock,
    pub(crate) source: Option<Arc<dyn TensorSource>>,
    params: RwLock<BTreeMap<String, Param>>,
    layers: RwLock<Vec<Layer>>,
    kv_slots: RwLock<Vec<KvSlot>>,
    read: RwLock<BTreeSet<String>>,
}

/// The parameters of a model, ordered by name, each [`Role::Trainable`], [`Role::Frozen`] or [`Role::Buffer`];
/// and the layers that the model registered while it was built. Clones share everything.
///
/// Candle's `VarMap` is a hash map: its order differs from process to process, which no exactly resumable
/// optimizer can stand on.
#[derive(Clone)]
pub struct ParamStore(pub(crate) Arc<Inner>);

impl ParamStore {
    /// An empty store with seed 0: parameters are initialized as the layers ask.
    pub fn new(dtype: DType, device: &Device) -> Self {
        Self::build(dtype, device, 0, None)
    }

    /// An empty store whose initial values and dropout are keyed by `seed`.
    pub fn with_seed(dtype: DType, device: &Device, seed: u64) -> Self {
        Self::build(dtype, device, seed, None)
    }

    /// A store whose parameters come from `source`, converted to `dtype`. A parameter that the source lacks, or
    /// holds in another shape, is an error when the model asks for it.
    pub fn from_source(source: Arc<dyn TensorSource>, dtype: DType, device: &Device, seed: u64) -> Self {
        Self::build(dtype, device, seed, Some(source))
    }

    /// A store over a safetensors file or a folder of them (see [`ParamStore::from_source`]).
    ///
    /// # Errors
    /// [`Error::Format`] when the file cannot be read or is malformed.
    pub fn load(path: impl AsRef<Path>, dtype: DType, device: &Device) -> Result<Self> {
        let source = FolderSource::open(path.as_ref())?;
        Ok(Self::from_source(Arc::new(source), dtype, device, 0))
    }

    fn build(dtype: DType, device: &Device, seed: u64, source: Option<Arc<dyn TensorSource>>) -> Self {
        Self(Arc::new(Inner {
            dtype,
            device: device.clone(),
            clock: Clock::new(seed),
            source,
            params: RwLock::default(),
            layers: RwLock::default(),
            kv_slots: RwLock::default(),
            read: RwLock::default(),
        }))
    }

    /// A builder at the root of the store; models take it where they took candle's `VarBuilder`.
    pub fn var_builder(&self) -> VarBuilder<'static> {
        let backend = Box::new(StoreBackend { store: self.clone() });
        let inner = candle_nn::VarBuilder::from_backend(backend, self.0.dtype, self.0.device.clone());
        VarBuilder::new(inner, self.clone())
    }

    /// Dtype of parameters unless a builder says otherwise.
    pub fn dtype(&self) -> DType {
        self.0.dtype
    }

    /// Device of every parameter.
    pub fn device(&self) -> &Device {
        &self.0.device
    }

    /// Seed, step and training switch of the model's stochastic layers.
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// The layers registered so far, in the order they were built.
    pub fn layers(&self) -> Layers {
        Layers::new(self.0.layers.read().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Where keys and values pass in each attention layer registered so far, in the order they were built.
    pub fn kv_slots(&self) -> Vec<KvSlot> {
        self.0.kv_slots.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Every parameter and buffer, sorted by name.
    pub fn params(&self) -> Vec<Param> {
        self.lock().values().cloned().collect()
    }

    /// Every trainable parameter, sorted by name.
    pub fn trainable(&self) -> Vec<Param> {
        self.lock().values().filter(|p| p.role() == Role::Trainable).cloned().collect()
    }

    /// The variables of the trainable parameters, sorted by name: what candle's optimizers take, as from a `VarMap`.
    pub fn all_vars(&self) -> Vec<Var> {
        self.trainable().iter().map(Param::var).collect()
    }

    /// One parameter or buffer by its full name.
    pub fn get(&self, name: &str) -> Option<Param> {
        self.lock().get(name).cloned()
    }

    /// Stores `values` as the buffer `name`, replacing the values it had.
    ///
    /// # Errors
    /// [`Error::Duplicate`] when `name` is a parameter, [`Error::Mismatch`] when the buffer exists in another shape.
    pub fn set_buffer(&self, name: &str, values: &Tensor) -> Result<Param> {
        let mut params = self.lock_mut();
        if let Some(old) = params.get(name) {
            if old.role() != Role::Buffer {
                return Err(Error::Duplicate { name: name.into() });
            }
            old.set(&values.to_device(&self.0.device)?)?;
            return Ok(old.clone());
        }
        let var = Var::from_tensor(&values.copy()?.to_device(&self.0.device)?)?;
        let param = Param::new(name, var, Role::Buffer);
        params.insert(name.into(), param.clone());
        Ok(param)
    }

    /// Removes a buffer; does nothing when there is none of that name.
    pub fn remove_buffer(&self, name: &str) {
        let mut params = self.lock_mut();
        if params.get(name).is_some_and(|p| p.role() == Role::Buffer) {
            params.remove(name);
        }
    }

    /// Adds a trainable parameter to those that the model was built with, saved with it like all others. Build the
    /// optimizer afterwards: one that exists does not know it.
    ///
    /// # Errors
    /// [`Error::Duplicate`] when there is a parameter or buffer `name`.
    pub fn add_param(&self, name: &str, values: &Tensor) -> Result<Param> {
        let mut params = self.lock_mut();
        if params.contains_key(name) {
            return Err(Error::Duplicate { name: name.into() });
        }
        let var = Var::from_tensor(&values.copy()?.to_device(&self.0.device)?.detach())?;
        let param = Param::new(name, var, Role::Trainable);
        params.insert(name.into(), param.clone());
        Ok(param)
    }

    /// Removes a parameter that was added; does nothing when there is none of that name, or it is a buffer.
    pub fn remove_param(&self, name: &str) {
        let mut params = self.lock_mut();
        if params.get(name).is_some_and(|p| p.role() != Role::Buffer) {
            params.remove(name);
        }
    }

    /// Names in the weight source that the model has not asked for: an extra layer, a misread configuration.
    pub fn unread(&self) -> Vec<String> {
        let read = self.0.read.read().unwrap_or_else(PoisonError::into_inner);
        let names = self.0.source.as_ref().map(|s| s.names()).unwrap_or_default();
        names.into_iter().filter(|n| !read.contains(n)).collect()
    }

    pub(crate) fn mark_read(&self, name: &str) {
        self.0.read.write().unwrap_or_else(PoisonError::into_inner).insert(name.into());
    }

    pub(crate) fn insert(&self, name: &str, var: Var) -> Param {
        let param = Param::new(name, var, Role::Trainable);
        self.lock_mut().insert(name.into(), param.clone());
        param
    }

    pub(crate) fn register(&self, layer: Layer) -> Result<()> {
        let mut layers = self.0.layers.write().unwrap_or_else(PoisonError::into_inner);
        if layers.iter().any(|l| l.path() == layer.path()) {
            return Err(Error::Duplicate { name: layer.path().into() });
        }
        layers.push(layer);
        Ok(())
    }

    pub(crate) fn register_kv(&self, slot: KvSlot) {
        self.0.kv_slots.write().unwrap_or_else(PoisonError::into_inner).push(slot);
    }

    fn lock(&self) -> RwLockReadGuard<'_, BTreeMap<String, Param>> {
        self.0.params.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_mut(&self) -> RwLockWriteGuard<'_, BTreeMap<String, Param>> {
        self.0.params.write().unwrap_or_else(PoisonError::into_inner)
    }
}
