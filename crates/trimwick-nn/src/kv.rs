//! Where keys and values pass between their projections and attention.

use std::sync::{Arc, PoisonError, RwLock};

use candle_core::{Result as CandleResult, Tensor};

use crate::place::Place;
use crate::reparam::Reparam;
use crate::store::ParamStore;

#[derive(Default)]
struct Pair {
    k: Option<Arc<dyn Reparam>>,
    v: Option<Arc<dyn Reparam>>,
}

/// The keys (after their rotation) and values of one attention layer, `[b, tokens, kv_heads, head_dim]` each.
///
/// What is set here acts on every forward pass, before a [`KvCache`](crate::KvCache) takes the tokens: what a model
/// is trained with is what its cache holds. Clones share all state.
#[derive(Clone)]
pub struct KvSlot {
    place: Place,
    pair: Arc<RwLock<Pair>>,
}

impl KvSlot {
    pub(crate) fn new(store: &ParamStore, path: String) -> Self {
        Self { place: Place::new(store, path), pair: Arc::default() }
    }

    /// Dotted path of the attention layer, such as `model.layers.0.self_attn`.
    pub fn path(&self) -> &str {
        self.place.path()
    }

    /// Where what is set here keeps its buffers.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Sets or lifts the reparametrizations of keys and values.
    pub fn set(&self, k: Option<Arc<dyn Reparam>>, v: Option<Arc<dyn Reparam>>) {
        *self.pair.write().unwrap_or_else(PoisonError::into_inner) = Pair { k, v };
    }

    /// The reparametrization of the keys.
    pub fn k(&self) -> Option<Arc<dyn Reparam>> {
        self.pair.read().unwrap_or_else(PoisonError::into_inner).k.clone()
    }

    /// The reparametrization of the values.
    pub fn v(&self) -> Option<Arc<dyn Reparam>> {
        self.pair.read().unwrap_or_else(PoisonError::into_inner).v.clone()
    }

    pub(crate) fn apply(&self, k: Tensor, v: Tensor) -> CandleResult<(Tensor, Tensor)> {
        let through = |r: Option<Arc<dyn Reparam>>, x: Tensor| match r {
            Some(r) => r.apply(&x),
            None => Ok(x),
        };
        Ok((through(self.k(), k)?, through(self.v(), v)?))
    }
}

impl std::fmt::Debug for KvSlot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = |r: Option<Arc<dyn Reparam>>| r.map_or("none", |r| r.name());
        write!(f, "{} k: {}, v: {}", self.path(), name(self.k()), name(self.v()))
    }
}
