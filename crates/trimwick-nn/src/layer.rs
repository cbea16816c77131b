//! The layer registry: every layer a model built, by its dotted path.
//!
//! Algorithms act on a built model without `&mut`: a registered layer has interior mutability for its chain of
//! [`Reparam`]s, its input quantizer and its capture hook.

use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use candle_core::{Result as CandleResult, Tensor};
use globset::GlobBuilder;

use crate::param::Param;
use crate::place::Place;
use crate::reparam::{Chain, Reparam, Slot};
use crate::store::ParamStore;
use crate::{Error, Result};

/// What a layer computes, as far as pruning and quantization care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerKind {
    /// `y = x·Wᵀ + b`, weight `[out, in]`.
    Linear,
    /// Rows of a table, weight `[vocabulary, hidden]`.
    Embedding,
    /// Two-dimensional convolution, weight `[out, in/groups, kh, kw]`.
    Conv2d,
}

/// Sees the inputs of a layer while a model runs on calibration data.
pub trait Capture: Send + Sync {
    /// Called with the layer's input before it is quantized and used: `[.., in]` for a linear layer, detached. Not called
    /// when the model computes again what it has computed before ([`Clock::recomputing`](crate::Clock::recomputing)).
    ///
    /// # Errors
    /// An error ends the forward pass.
    fn input(&self, layer: &Layer, x: &Tensor) -> CandleResult<()>;
}

/// What a layer adds to its output beside the product with its weight: `y = x·Wᵀ + branch(x) + b`.
pub trait Branch: std::any::Any + Send + Sync {
    /// Of the input `[.., in]`, unquantized, the addend `[.., out]`, connected to the branch's parameters in the
    /// autograd graph.
    ///
    /// # Errors
    /// Tensor operations.
    fn forward(&self, x: &Tensor) -> CandleResult<Tensor>;

    /// Short name for summaries, such as `"svd"`.
    fn name(&self) -> &'static str;
}

struct Inner {
    // Holds the store weakly: the store owns its layers.
    place: Place,
    kind: LayerKind,
    weight: Param,
    bias: OnceLock<Param>,
    chain: RwLock<Chain>,
    input_scale: RwLock<Option<Arc<dyn Reparam>>>,
    branch: RwLock<Option<Arc<dyn Branch>>>,
    activation: RwLock<Option<Arc<dyn Reparam>>>,
    capture: RwLock<Option<Arc<dyn Capture>>>,
}

/// A handle to a registered layer. Clones share all state.
#[derive(Clone)]
pub struct Layer(Arc<Inner>);

impl Layer {
    pub(crate) fn new(
        store: &ParamStore,
        path: String,
        kind: LayerKind,
        weight: Param,
        bias: Option<Param>,
    ) -> Self {
        Self(Arc::new(Inner {
            place: Place::new(store, path),
            kind,
            weight,
            bias: bias.map_or_else(OnceLock::new, OnceLock::from),
            chain: RwLock::default(),
            input_scale: RwLock::default(),
            branch: RwLock::default(),
            activation: RwLock::default(),
            capture: RwLock::default(),
        }))
    }

    /// Dotted path, such as `model.layers.0.mlp.up_proj`.
    pub fn path(&self) -> &str {
        self.0.place.path()
    }

    /// The layer's path and store, for what is attached to the layer and must not keep it alive.
    pub fn place(&self) -> &Place {
        &self.0.place
    }

    /// What the layer computes.
    pub fn kind(&self) -> LayerKind {
        self.0.kind
    }

    /// The trained weight, before the chain.
    pub fn weight(&self) -> &Param {
        &self.0.weight
    }

    /// The bias.
    pub fn bias(&self) -> Option<&Param> {
        self.0.bias.get()
    }

    /// Gives a layer without a bias one of `values`, `[out]`: the parameter `path.bias`, saved with the model.
    ///
    /// # Errors
    /// [`Error::Duplicate`] when the layer has a bias, a store that no longer exists.
    pub fn add_bias(&self, values: &Tensor) -> Result<Param> {
        let param = self.add_param("bias", values)?;
        match self.0.bias.set(param.clone()) {
            Ok(()) => Ok(param),
            Err(_) => Err(Error::Duplicate { name: self.0.place.name_of("bias") }),
        }
    }

    /// The weight that the layer computes with: the chain applied to the stored one.
    ///
    /// # Errors
    /// Whatever a reparametrization reports.
    pub fn effective_weight(&self) -> CandleResult<Tensor> {
        let chain = self.chain();
        chain.apply(&self.0.weight.value()?)
    }

    /// The weight as it enters `slot`: the chain applied up to there.
    ///
    /// # Errors
    /// Whatever a reparametrization reports.
    pub fn weight_before(&self, slot: Slot) -> CandleResult<Tensor> {
        self.chain().apply_before(slot, &self.0.weight.value()?)
    }

    /// A snapshot of the chain.
    pub fn chain(&self) -> Chain {
        self.0.chain.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts a reparametrization of the weight into its slot and returns what was there.
    pub fn set(&self, slot: Slot, reparam: Arc<dyn Reparam>) -> Option<Arc<dyn Reparam>> {
        self.0.chain.write().unwrap_or_else(PoisonError::into_inner).set(slot, reparam)
    }

    /// Empties a slot and returns what was there.
    pub fn clear(&self, slot: Slot) -> Option<Arc<dyn Reparam>> {
        self.0.chain.write().unwrap_or_else(PoisonError::into_inner).clear(slot)
    }

    /// Saves `values` with the model as the buffer `path.suffix`: a mask, scales, statistics.
    ///
    /// # Errors
    /// A parameter of that name, a buffer of another shape, a store that no longer exists.
    pub fn set_buffer(&self, suffix: &str, values: &Tensor) -> Result<Param> {
        self.0.place.set_buffer(suffix, values)
    }

    /// The buffer `path.suffix`, if there is one.
    pub fn buffer(&self, suffix: &str) -> Option<Param> {
        self.0.place.buffer(suffix)
    }

    /// Removes the buffer `path.suffix`.
    pub fn remove_buffer(&self, suffix: &str) {
        self.0.place.remove_buffer(suffix);
    }

    /// Adds the trainable parameter `path.suffix`, saved with the model: a learned scale. Build the optimizer after.
    ///
    /// # Errors
    /// A parameter or buffer of that name, a store that no longer exists.
    pub fn add_param(&self, suffix: &str, values: &Tensor) -> Result<Param> {
        self.0.place.add_param(suffix, values)
    }

    /// Removes the parameter `path.suffix` that was added.
    pub fn remove_param(&self, suffix: &str) {
        self.0.place.remove_param(suffix);
    }

    /// The reparametrization of the layer's input, if one is set.
    pub fn activation(&self) -> Option<Arc<dyn Reparam>> {
        self.0.activation.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets or lifts the reparametrization of the layer's input.
    pub fn set_activation(&self, reparam: Option<Arc<dyn Reparam>>) {
        *self.0.activation.write().unwrap_or_else(PoisonError::into_inner) = reparam;
    }

    /// What the layer's input passes before everything else, if anything: a scale for each channel whose inverse is in
    /// the weight.
    pub fn input_scale(&self) -> Option<Arc<dyn Reparam>> {
        self.0.input_scale.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets or lifts what the layer's input passes first.
    pub fn set_input_scale(&self, scale: Option<Arc<dyn Reparam>>) {
        *self.0.input_scale.write().unwrap_or_else(PoisonError::into_inner) = scale;
    }

    /// What a linear layer adds to its output, if anything.
    pub fn branch(&self) -> Option<Arc<dyn Branch>> {
        self.0.branch.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets or lifts what a linear layer adds to its output. Layers of other kinds have no branch.
    pub fn set_branch(&self, branch: Option<Arc<dyn Branch>>) {
        *self.0.branch.write().unwrap_or_else(PoisonError::into_inner) = branch;
    }

    /// Lets `capture` see the layer's inputs until the returned guard is dropped. One capture at a time: a new
    /// one takes the place of the old.
    pub fn capture(&self, capture: Arc<dyn Capture>) -> CaptureGuard {
        *self.0.capture.write().unwrap_or_else(PoisonError::into_inner) = Some(capture);
        CaptureGuard(self.clone())
    }

    /// What every layer does with its input: scale it, show it to the capture hook, reparametrize it.
    pub(crate) fn see(&self, x: &Tensor) -> CandleResult<Tensor> {
        self.activate(&self.arrive(x)?)
    }

    /// The input that the weight is multiplied with but for its quantization, shown to the capture hook.
    pub(crate) fn arrive(&self, x: &Tensor) -> CandleResult<Tensor> {
        let x = match self.input_scale() {
            Some(scale) => scale.apply(x)?,
            None => x.clone(),
        };
        let capture = self.0.capture.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(capture) = capture
            && !self.0.place.clock().is_some_and(|clock| clock.recomputing())
        {
            capture.input(self, &x.detach())?;
        }
        Ok(x)
    }

    /// The reparametrized input.
    pub(crate) fn activate(&self, x: &Tensor) -> CandleResult<Tensor> {
        match self.activation() {
            Some(a) => a.apply(x),
            None => Ok(x.clone()),
        }
    }
}

impl std::fmt::Debug for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let chain = self.chain().names();
        write!(f, "{} {:?} {:?} {chain:?}", self.path(), self.kind(), self.weight().shape().dims())
    }
}

/// Ends a capture when dropped.
#[must_use = "the capture ends when the guard is dropped"]
pub struct CaptureGuard(Layer);

impl Drop for CaptureGuard {
    fn drop(&mut self) {
        *self.0.0.capture.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// A list of layers, in the order they were built.
#[derive(Clone, Debug, Default)]
pub struct Layers(Vec<Layer>);

impl Layers {
    pub(crate) fn new(layers: Vec<Layer>) -> Self {
        Self(layers)
    }

    /// The layers whose path matches `pattern`: a glob in which `*` and `?` match any characters, dots
    /// included, `[..]` a class and `{a,b}` alternatives.
    ///
    /// # Errors
    /// [`Error::Pattern`] when the glob does not parse, [`Error::NoMatch`] when it selects nothing.
    pub fn select(&self, pattern: &str) -> Result<Self> {
        let glob = GlobBuilder::new(pattern)
            .literal_separator(false)
            .build()
            .map_err(|e| Error::Pattern { pattern: pattern.into(), reason: e.kind().to_string() })?
            .compile_matcher();
        let found: Vec<_> = self.0.iter().filter(|l| glob.is_match(l.path())).cloned().collect();
        if found.is_empty() {
            return Err(Error::NoMatch { pattern: pattern.into(), known: self.known() });
        }
        Ok(Self(found))
    }

    /// The layers whose path does not match `pattern` (which may match none).
    ///
    /// # Errors
    /// [`Error::Pattern`] when the glob does not parse.
    pub fn without(&self, pattern: &str) -> Result<Self> {
        match self.select(pattern) {
            Ok(hit) => Ok(self.retain(|l| !hit.iter().any(|h| h.path() == l.path()))),
            Err(Error::NoMatch { .. }) => Ok(self.clone()),
            Err(e) => Err(e),
        }
    }

    /// The layers of one kind (possibly none).
    pub fn of_kind(&self, kind: LayerKind) -> Self {
        self.retain(|l| l.kind() == kind)
    }

    /// The layers for which `f` holds (possibly none).
    pub fn retain(&self, f: impl Fn(&Layer) -> bool) -> Self {
        Self(self.0.iter().filter(|l| f(l)).cloned().collect())
    }

    /// The layer at exactly `path`.
    pub fn get(&self, path: &str) -> Option<&Layer> {
        self.0.iter().find(|l| l.path() == path)
    }

    /// Iterates in the order of construction.
    pub fn iter(&self) -> std::slice::Iter<'_, Layer> {
        self.0.iter()
    }

    /// Number of layers.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the list is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn known(&self) -> String {
        const SHOWN: usize = 4;
        let mut names: Vec<_> = self.0.iter().take(SHOWN).map(|l| l.path().to_string()).collect();
        if self.0.len() > SHOWN {
            names.push(format!("… ({} layers)", self.0.len()));
        }
        if names.is_empty() { "no layers".into() } else { names.join(", ") }
    }
}

impl FromIterator<Layer> for Layers {
    fn from_iter<I: IntoIterator<Item = Layer>>(layers: I) -> Self {
        Self(layers.into_iter().collect())
    }
}

impl<'a> IntoIterator for &'a Layers {
    type Item = &'a Layer;
    type IntoIter = std::slice::Iter<'a, Layer>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}
