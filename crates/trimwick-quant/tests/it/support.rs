//! Three small models, and what is done to them over and over.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use trimwick_nn::{
    AttentionConfig, CausalAttention, Conv2d, Conv2dConfig, Embedding, Init, Linear, Module, ParamStore,
    RmsNorm, Rotary, SwiGluMlp, SwiGluMlpConfig, conv2d, embedding, linear, linear_no_bias, rms_norm,
};
use trimwick_quant::{Options, Range, ScalePolicy, Scheme};
use trimwick_testkit::random;

pub const POLICIES: [ScalePolicy; 4] =
    [ScalePolicy::Dynamic, ScalePolicy::Frozen, ScalePolicy::Ema(0.9), ScalePolicy::Learned];

/// Schemes that no preset has.
pub const COMPOSED: [&str; 4] = [
    "weight uint4 g32, input uint8 token dynamic",
    "weight uint8 channel, input uint8 tensor static",
    "weight int5 tensor f16, input e5m2 tensor dynamic",
    "weight e3m2 g16 e4m3",
];

pub fn schemes() -> impl Iterator<Item = Scheme> {
    Scheme::PRESETS.iter().chain(&COMPOSED).map(|name| name.parse().unwrap())
}

pub fn store() -> ParamStore {
    ParamStore::with_seed(DType::F32, &Device::Cpu, 3)
}

pub fn tensor(dims: &[usize], seed: u64) -> Tensor {
    random(dims, seed).to_dtype(DType::F32).unwrap()
}

/// One policy for weights and, where that makes sense, for static inputs.
pub fn options(policy: ScalePolicy, scheme: &Scheme) -> Options {
    let global = scheme.input.is_some_and(|i| i.spec.has_global());
    let input_scales = match policy {
        ScalePolicy::Dynamic => ScalePolicy::Frozen,
        ScalePolicy::Learned if global => ScalePolicy::Frozen,
        other => other,
    };
    Options { scales: policy, range: Range::Max, input_scales, input_range: Range::Max }
}

/// A model that a loss can be asked of.
pub trait Model {
    fn build(store: &ParamStore) -> Self;
    fn forward(&self) -> Result<Tensor>;

    fn loss(&self) -> Tensor {
        self.forward().unwrap().sqr().unwrap().mean_all().unwrap()
    }
}

/// Two linear layers, `fc1` `[128, 128]` and `fc2` `[8, 128]`.
pub struct Mlp {
    pub fc1: Linear,
    pub fc2: Linear,
    pub x: Tensor,
}

impl Model for Mlp {
    fn build(store: &ParamStore) -> Self {
        let vb = store.var_builder();
        Self {
            fc1: linear(128, 128, vb.pp("fc1")).unwrap(),
            fc2: linear(128, 8, vb.pp("fc2")).unwrap(),
            x: tensor(&[6, 128], 7),
        }
    }

    fn forward(&self) -> Result<Tensor> {
        self.fc2.forward(&self.fc1.forward(&self.x)?.gelu()?)
    }
}

/// Two convolutions, whose rows are of 128 and 256 weights, and a linear layer.
pub struct ConvNet {
    conv1: Conv2d,
    conv2: Conv2d,
    head: Linear,
    x: Tensor,
}

impl Model for ConvNet {
    fn build(store: &ParamStore) -> Self {
        let vb = store.var_builder();
        let config = Conv2dConfig { stride: 2, padding: 1, ..Default::default() };
        Self {
            conv1: conv2d(8, 16, 4, config, vb.pp("conv1")).unwrap(),
            conv2: conv2d(16, 32, 4, config, vb.pp("conv2")).unwrap(),
            head: linear(128, 4, vb.pp("head")).unwrap(),
            x: tensor(&[2, 8, 8, 8], 8),
        }
    }

    fn forward(&self) -> Result<Tensor> {
        let x = self.conv2.forward(&self.conv1.forward(&self.x)?.gelu()?)?.gelu()?;
        self.head.forward(&x.flatten_from(1)?)
    }
}

/// A Llama of one block, with its embedding and head.
pub struct Llama {
    pub embed: Embedding,
    pub norms: [RmsNorm; 3],
    pub attn: CausalAttention,
    pub mlp: SwiGluMlp,
    pub head: Linear,
    pub ids: Tensor,
}

impl Model for Llama {
    fn build(store: &ParamStore) -> Self {
        let vb = store.var_builder();
        let init = Init::Randn { mean: 0., stdev: 0.08 };
        let config = AttentionConfig {
            hidden: 128,
            heads: 4,
            kv_heads: 2,
            head_dim: 32,
            qkv_bias: false,
            out_bias: false,
            qk_norm_eps: None,
            window: None,
            init,
        };
        let rotary = Arc::new(Rotary::new(32, 16, 1e4, None, DType::F32, &Device::Cpu).unwrap());
        let mlp = SwiGluMlpConfig { hidden: 128, intermediate: 128, bias: false, init };
        let block = vb.pp("model.layers.0");
        let norm = |name: &str| rms_norm(128, 1e-5, vb.pp(name)).unwrap();
        Self {
            embed: embedding(9, 128, vb.pp("model.embed_tokens")).unwrap(),
            norms: ["n1", "n2", "n3"].map(norm),
            attn: CausalAttention::new(config, rotary, block.pp("self_attn")).unwrap(),
            mlp: SwiGluMlp::new(&mlp, block.pp("mlp")).unwrap(),
            head: linear_no_bias(128, 9, vb.pp("lm_head")).unwrap(),
            ids: Tensor::new(&[[1u32, 4, 2, 8, 0, 7], [3, 3, 5, 6, 1, 2]], &Device::Cpu).unwrap(),
        }
    }

    fn forward(&self) -> Result<Tensor> {
        let x = self.embed.forward(&self.ids)?;
        let x = (&x + self.attn.forward(&self.norms[0].forward(&x)?)?)?;
        let x = (&x + self.mlp.forward(&self.norms[1].forward(&x)?)?)?;
        self.head.forward(&self.norms[2].forward(&x)?)
    }
}

/// A step of plain gradient descent on every trainable parameter.
pub fn descend(store: &ParamStore, loss: &Tensor, rate: f64) {
    let grads = loss.backward().unwrap();
    for param in store.trainable() {
        let g = grads.get(param.var().as_tensor()).unwrap_or_else(|| panic!("{}: no gradient", param.name()));
        let moved = (param.tensor().detach() - (g * rate).unwrap()).unwrap();
        param.set(&moved).unwrap();
    }
}

/// Everything in a store, by name, apart from it.
pub fn saved(store: &ParamStore) -> Vec<(String, bool, Tensor)> {
    let copy = |p: &trimwick_nn::Param| {
        let buffer = p.role() == trimwick_nn::Role::Buffer;
        (p.name().to_string(), buffer, p.tensor().detach().copy().unwrap())
    };
    store.params().iter().map(copy).collect()
}

/// Puts everything back as a checkpoint does: all buffers away, then each value in its place.
pub fn load(store: &ParamStore, saved: &[(String, bool, Tensor)]) {
    for param in store.params() {
        store.remove_buffer(param.name());
    }
    for (name, buffer, values) in saved {
        match store.get(name) {
            Some(param) => param.set(values).unwrap(),
            None => {
                assert!(buffer, "{name}: a parameter that the model does not have");
                store.set_buffer(name, values).unwrap();
            }
        }
    }
}
