//! Candle's `VarBuilder`, which also knows the store and its layer registry.
//!
//! Candle has no module tree to walk, so a layer registers itself under `vb.prefix()` when it is built. The
//! builder is a thin newtype: `pp`, `get`, `get_with_hints` and the rest mean what they mean in candle_nn, and
//! [`VarBuilder::inner`] is a plain candle builder over the same store for layers that are not ours.

use candle_core::{DType, Device, Shape, Tensor, Var};
use candle_nn::Init;
use candle_nn::init::NormalOrUniform;
use candle_nn::var_builder::SimpleBackend;
use trimwick_kernels::Rng;

use crate::layer::Layer;
use crate::param::Param;
use crate::store::ParamStore;
use crate::{Error, Result};

/// A path into a [`ParamStore`] from which layers take their parameters.
#[derive(Clone)]
pub struct VarBuilder<'a> {
    inner: candle_nn::VarBuilder<'a>,
    store: ParamStore,
}

impl<'a> VarBuilder<'a> {
    pub(crate) fn new(inner: candle_nn::VarBuilder<'a>, store: ParamStore) -> Self {
        Self { inner, store }
    }

    /// The builder one path segment down.
    pub fn pp<S: ToString>(&self, s: S) -> Self {
        Self { inner: self.inner.pp(s), store: self.store.clone() }
    }

    /// The same as [`VarBuilder::pp`].
    pub fn push_prefix<S: ToString>(&self, s: S) -> Self {
        self.pp(s)
    }

    /// The builder at another path.
    pub fn set_prefix(&self, prefix: impl ToString) -> Self {
        Self { inner: self.inner.set_prefix(prefix), store: self.store.clone() }
    }

    /// The builder at the root.
    pub fn root(&self) -> Self {
        Self { inner: self.inner.root(), store: self.store.clone() }
    }

    /// A builder whose parameters have another dtype.
    pub fn to_dtype(&self, dtype: DType) -> Self {
        Self { inner: self.inner.to_dtype(dtype), store: self.store.clone() }
    }

    /// The dotted path.
    pub fn prefix(&self) -> String {
        self.inner.prefix()
    }

    /// Device of the parameters.
    pub fn device(&self) -> &Device {
        self.inner.device()
    }

    /// Dtype of the parameters.
    pub fn dtype(&self) -> DType {
        self.inner.dtype()
    }

    /// Whether the store, or the source behind it, has a tensor of that name below this path.
    pub fn contains_tensor(&self, name: &str) -> bool {
        self.inner.contains_tensor(name)
    }

    /// A parameter, initialized to zero when the store has no source.
    ///
    /// # Errors
    /// Missing from the source, or there in another shape.
    pub fn get<S: Into<Shape>>(&self, shape: S, name: &str) -> candle_core::Result<Tensor> {
        self.inner.get(shape, name)
    }

    /// A parameter, initialized by `init` when the store has no source.
    ///
    /// # Errors
    /// Missing from the source, or there in another shape.
    pub fn get_with_hints<S: Into<Shape>>(
        &self,
        shape: S,
        name: &str,
        init: Init,
    ) -> candle_core::Result<Tensor> {
        self.inner.get_with_hints(shape, name, init)
    }

    /// The same parameter as a handle with a role, as layers of this crate keep it.
    ///
    /// # Errors
    /// Missing from the source, or there in another shape.
    pub fn param<S: Into<Shape>>(&self, shape: S, name: &str, init: Init) -> Result<Param> {
        self.inner.get_with_hints(shape, name, init)?;
        let path = self.path_of(name);
        self.store.get(&path).ok_or(Error::UnknownParam { name: path })
    }

    /// The full dotted name of `name` below this path.
    pub fn path_of(&self, name: &str) -> String {
        let prefix = self.prefix();
        if prefix.is_empty() { name.to_string() } else { format!("{prefix}.{name}") }
    }

    /// The store behind the builder.
    pub fn store(&self) -> &ParamStore {
        &self.store
    }

    /// A plain candle builder over the same store and path, for layers that are not of this crate. Their
    /// parameters are stored, trained and saved like all others, but carry no masks or quantizers.
    pub fn inner(&self) -> candle_nn::VarBuilder<'a> {
        self.inner.clone()
    }

    /// Makes a tensor that exists a parameter below this path; a candle variable stays the variable it is.
    pub(crate) fn adopt(&self, name: &str, values: &Tensor) -> Result<Param> {
        let path = self.path_of(name);
        if let Some(known) = self.store.get(&path) {
            // Built over this very store, through `inner()`: the parameter is there already.
            return match known.var().id() == values.id() {
                true => Ok(known),
                false => Err(Error::Duplicate { name: path }),
            };
        }
        let same_device = values.device().same_device(self.device());
        let var = match values.is_variable() && same_device {
            true => Var::from_tensor(values)?,
            false => Var::from_tensor(&values.detach().to_device(self.device())?.copy()?)?,
        };
        self.store.mark_read(&path);
        Ok(self.store.insert(&path, var))
    }

    pub(crate) fn register(&self, layer: Layer) -> Result<Layer> {
        self.store.register(layer.clone())?;
        Ok(layer)
    }
}

/// Gives candle's builder the tensors of a store.
pub(crate) struct StoreBackend {
    pub(crate) store: ParamStore,
}

impl StoreBackend {
    fn create(&self, shape: Shape, name: &str, init: Init, dtype: DType, dev: &Device) -> Result<Tensor> {
        if let Some(known) = self.store.get(name) {
            // Asked for twice: a tied weight. It must be the same tensor in every respect.
            if known.shape() != &shape || known.dtype() != dtype {
                return Err(Error::Duplicate { name: name.into() });
            }
            return Ok(known.tensor());
        }
        let tensor = match &self.store.0.source {
            None => initial(&init, &shape, self.store.clock().seed(), name, dtype, dev)?,
            Some(source) => {
                let origin = source.origin();
                let expected = shape.dims().to_vec();
                match source.shape(name) {
                    None => return Err(Error::MissingTensor { name: name.into(), origin, expected }),
                    Some(found) if found != expected => {
                        return Err(Error::Shape { name: name.into(), origin, expected, found });
                    }
                    Some(_) => self.store.mark_read(name),
                }
                source.load(name, dtype, dev)?
            }
        };
        Ok(self.store.insert(name, Var::from_tensor(&tensor)?).tensor())
    }
}

impl SimpleBackend for StoreBackend {
    fn get(&self, s: Shape, name: &str, h: Init, dtype: DType, dev: &Device) -> candle_core::Result<Tensor> {
        Ok(self.create(s, name, h, dtype, dev)?)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, dev: &Device) -> candle_core::Result<Tensor> {
        let shape = match (self.store.get(name), &self.store.0.source) {
            (Some(p), _) => p.shape().clone(),
            (None, Some(source)) => match source.shape(name) {
                Some(dims) => Shape::from(dims),
                None => Err(Error::UnknownParam { name: name.into() })?,
            },
            (None, None) => Err(Error::UnknownParam { name: name.into() })?,
        };
        self.get(shape, name, Init::Const(0.), dtype, dev)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        let sourced = self.store.0.source.as_ref().is_some_and(|s| s.shape(name).is_some());
        sourced || self.store.get(name).is_some()
    }
}

/// Initial values: a function of the seed and the parameter's name alone, whatever the order of construction.
fn initial(
    init: &Init,
    shape: &Shape,
    seed: u64,
    name: &str,
    dtype: DType,
    dev: &Device,
) -> candle_core::Result<Tensor> {
    let mut values = vec![0f32; shape.elem_count()];
    let rng = Rng::new(seed, "init", 0, name);
    match *init {
        Init::Const(c) => values.fill(c as f32),
        Init::Randn { mean, stdev } => rng.fill_normal(mean, stdev, &mut values),
        Init::Uniform { lo, up } => rng.fill_uniform(lo, up, &mut values),
        Init::Kaiming { dist, fan, non_linearity } => {
            let std = non_linearity.gain() / (fan.for_shape(shape) as f64).sqrt();
            match dist {
                NormalOrUniform::Normal => rng.fill_normal(0., std, &mut values),
                NormalOrUniform::Uniform => {
                    let bound = 3f64.sqrt() * std;
                    rng.fill_uniform(-bound, bound, &mut values);
                }
            }
        }
    }
    Tensor::from_vec(values, shape.clone(), &Device::Cpu)?.to_device(dev)?.to_dtype(dtype)
}
