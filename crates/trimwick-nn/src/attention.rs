//! Causal self-attention with grouped queries, rotary positions, optional biases, per-head query and key norms
//! (Qwen 3) and a sliding window (Mistral).

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};
use candle_nn::{Init, Module};

use crate::builder::VarBuilder;
use crate::feed::{Feed, FeedSource};
use crate::kv::KvSlot;
use crate::layer::Layers;
use crate::linear::{Linear, linear_init};
use crate::norm::{RmsNorm, rms_norm};
use crate::ops;
use crate::rotary::Rotary;

/// What an attention layer needs to know.
#[derive(Debug, Clone)]
pub struct AttentionConfig {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Features of a head; even.
    pub head_dim: usize,
    /// Biases on the q, k and v projections.
    pub qkv_bias: bool,
    /// A bias on the output projection.
    pub out_bias: bool,
    /// Epsilon of RMS norms on each head's queries and keys, before the rotation; `None` for no such norms.
    pub qk_norm_eps: Option<f64>,
    /// A query sees at most this many positions, its own included.
    pub window: Option<usize>,
    /// Initialization of the projections.
    pub init: Init,
}

/// Attention over `[b, tokens, hidden]`, with parameters `q_proj`, `k_proj`, `v_proj`, `o_proj` and, with
/// query and key norms, `q_norm` and `k_norm`.
#[derive(Clone, Debug)]
pub struct CausalAttention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    q_norm: Option<RmsNorm>,
    k_norm: Option<RmsNorm>,
    rotary: Arc<Rotary>,
    kv: KvSlot,
    config: AttentionConfig,
}

impl CausalAttention {
    /// Builds the layer below `vb`; `rotary` is shared between the layers of a model.
    ///
    /// # Errors
    /// Heads that do not divide, missing or misshapen tensors.
    pub fn new(config: AttentionConfig, rotary: Arc<Rotary>, vb: VarBuilder) -> Result<Self> {
        let AttentionConfig { hidden, heads, kv_heads, head_dim, .. } = config;
        if kv_heads == 0 || heads % kv_heads != 0 {
            bail!("{}: {kv_heads} key heads do not divide {heads} query heads", vb.prefix());
        }
        let proj = |name: &str, rows, cols, bias| linear_init(cols, rows, bias, config.init, vb.pp(name));
        let norm = |name: &str| match config.qk_norm_eps {
            Some(eps) => rms_norm(head_dim, eps, vb.pp(name)).map(Some),
            None => Ok(None),
        };
        let kv = KvSlot::new(vb.store(), vb.prefix());
        let layer = Self {
            q_proj: proj("q_proj", heads * head_dim, hidden, config.qkv_bias)?,
            k_proj: proj("k_proj", kv_heads * head_dim, hidden, config.qkv_bias)?,
            v_proj: proj("v_proj", kv_heads * head_dim, hidden, config.qkv_bias)?,
            o_proj: proj("o_proj", hidden, heads * head_dim, config.out_bias)?,
            q_norm: norm("q_norm")?,
            k_norm: norm("k_norm")?,
            rotary,
            kv: kv.clone(),
            config,
        };
        vb.store().register_kv(kv);
        Ok(layer)
    }

    /// Where keys and values pass on their way to attention and into a cache.
    pub fn kv_slot(&self) -> &KvSlot {
        &self.kv
    }

    /// The layers that read the input: q, k and v.
    pub fn inputs(&self) -> Layers {
        [&self.q_proj, &self.k_proj, &self.v_proj].into_iter().map(|l| l.layer().clone()).collect()
    }

    /// What feeds the output projection: it is linear in the rows of v, of which groups of query heads share a head.
    pub fn inner_feed(&self) -> Feed {
        let AttentionConfig { heads, kv_heads, head_dim, .. } = self.config;
        let row = |c: usize| c / head_dim / (heads / kv_heads) * head_dim + c % head_dim;
        let source = FeedSource::Rows {
            layer: self.v_proj.layer().clone(),
            rows: (0..heads * head_dim).map(row).collect(),
        };
        Feed { source: Some(source), layers: [self.o_proj.layer().clone()].into_iter().collect() }
    }

    /// Attention of x `[b, tokens, hidden]` over the cached positions and itself; the cache grows by `tokens`.
    ///
    /// # Errors
    /// Positions beyond the rotary tables, another batch size than the cache's.
    pub fn forward_cached(&self, x: &Tensor, cache: &mut KvCache) -> Result<Tensor> {
        let (q, k, v) = self.project(x, cache.len())?;
        let (k, v) = cache.extend(&k, &v)?;
        self.attend(&q, &k, &v)
    }

    fn project(&self, x: &Tensor, offset: usize) -> Result<(Tensor, Tensor, Tensor)> {
        let (b, t, _) = x.dims3()?;
        let AttentionConfig { heads, kv_heads, head_dim, .. } = self.config;
        let mut q = ops::reshape(&self.q_proj.forward(x)?, (b, t, heads, head_dim))?;
        let mut k = ops::reshape(&self.k_proj.forward(x)?, (b, t, kv_heads, head_dim))?;
        let v = ops::reshape(&self.v_proj.forward(x)?, (b, t, kv_heads, head_dim))?;
        if let (Some(qn), Some(kn)) = (&self.q_norm, &self.k_norm) {
            (q, k) = (qn.forward(&q)?, kn.forward(&k)?);
        }
        let (k, v) = self.kv.apply(self.rotary.apply(&k, offset)?, v)?;
        Ok((self.rotary.apply(&q, offset)?, k, v))
    }

    fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let (b, t, h, d) = q.dims4()?;
        let out = ops::attention(q, k, v, 1. / (d as f64).sqrt(), self.config.window)?;
        self.o_proj.forward(&ops::reshape(&out, (b, t, h * d))?)
    }
}

impl Module for CausalAttention {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (q, k, v) = self.project(x, 0)?;
        self.attend(&q, &k, &v)
    }
}

/// Keys and values of the positions a layer has seen, `[b, positions, kv_heads, head_dim]`.
///
/// The buffers double when they are full, so that a generated token costs a copy of itself, not of all before.
#[derive(Debug, Default)]
pub struct KvCache {
    buffers: Option<(Tensor, Tensor)>,
    len: usize,
}

impl KvCache {
    /// Positions held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets every position.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    fn extend(&mut self, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        let (b, t, h, d) = k.dims4()?;
        let need = self.len + t;
        let (keys, values) = match self.buffers.take() {
            Some((keys, values)) if keys.dim(1)? >= need => (keys, values),
            old => {
                let room = need.next_power_of_two().max(64);
                let grow = |old: Option<&Tensor>| -> Result<Tensor> {
                    let new = Tensor::zeros((b, room, h, d), k.dtype(), k.device())?;
                    if let Some(old) = old {
                        new.slice_set(&old.narrow(1, 0, self.len)?.contiguous()?, 1, 0)?;
                    }
                    Ok(new)
                };
                (grow(old.as_ref().map(|o| &o.0))?, grow(old.as_ref().map(|o| &o.1))?)
            }
        };
        keys.slice_set(&k.contiguous()?, 1, self.len)?;
        values.slice_set(&v.contiguous()?, 1, self.len)?;
        self.len = need;
        let held = (keys.narrow(1, 0, need)?.contiguous()?, values.narrow(1, 0, need)?.contiguous()?);
        self.buffers = Some((keys, values));
        Ok(held)
    }
}
