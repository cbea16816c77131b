//! What passes through a slot for keys and values, in one pass and token by token; parameters added to a built model.

use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Result, Tensor};
use trimwick_nn::{
    AttentionConfig, CausalAttention, Init, KvCache, Module, ParamStore, Reparam, Role, Rotary,
    linear_no_bias,
};
use trimwick_testkit::{assert_close, assert_every_gradient, random, values};

/// Multiplies by a factor, and keeps the shapes it saw.
struct Times(f64, Mutex<Vec<Vec<usize>>>);

impl Reparam for Times {
    fn apply(&self, base: &Tensor) -> Result<Tensor> {
        self.1.lock().unwrap().push(base.dims().to_vec());
        base * self.0
    }

    fn name(&self) -> &'static str {
        "times"
    }
}

fn attention(store: &ParamStore) -> CausalAttention {
    let config = AttentionConfig {
        hidden: 16,
        heads: 4,
        kv_heads: 2,
        head_dim: 4,
        qkv_bias: false,
        out_bias: false,
        qk_norm_eps: None,
        window: None,
        init: Init::Randn { mean: 0., stdev: 0.3 },
    };
    let rotary = Rotary::new(4, 32, 1e4, None, DType::F32, &Device::Cpu).unwrap();
    CausalAttention::new(config, Arc::new(rotary), store.var_builder().pp("layers.0.attn")).unwrap()
}

#[test]
fn a_slot_acts_on_whole_sequences_and_on_caches_alike_and_lets_gradients_through() {
    let store = ParamStore::with_seed(DType::F32, &Device::Cpu, 1);
    let attn = attention(&store);
    let x = random(&[1, 6, 16], 2).to_dtype(DType::F32).unwrap();
    let plain = attn.forward(&x).unwrap();
    let slots = store.kv_slots();
    assert_eq!((slots.len(), slots[0].path()), (1, "layers.0.attn"));
    let (k, v) = (Arc::new(Times(0.5, Mutex::default())), Arc::new(Times(3., Mutex::default())));
    slots[0].set(Some(k.clone()), Some(v.clone()));
    let whole = attn.forward(&x).unwrap();
    assert_eq!(*k.1.lock().unwrap(), [[1, 6, 2, 4]]);
    assert_eq!(*v.1.lock().unwrap(), [[1, 6, 2, 4]]);
    assert!(values(&(&whole - &plain).unwrap()).iter().any(|d| d.abs() > 1e-3));
    // The first token attends to itself alone: its output is that of its value, times 3.
    let first = |t: &Tensor| t.narrow(1, 0, 1).unwrap();
    assert_close(&first(&whole), &(first(&plain) * 3.).unwrap(), 1e-5, 1e-6);
    assert_every_gradient(&store, &whole.sqr().unwrap().sum_all().unwrap());

    let mut cache = KvCache::default();
    let steps: Vec<Tensor> =
        (0..6).map(|i| attn.forward_cached(&x.narrow(1, i, 1).unwrap(), &mut cache).unwrap()).collect();
    assert_close(&Tensor::cat(&steps, 1).unwrap(), &whole, 1e-5, 1e-6);
    assert_eq!(k.1.lock().unwrap().last().unwrap(), &[1, 1, 2, 4], "a cached token is not quantized again");

    attn.kv_slot().set(None, None);
    assert_eq!(values(&attn.forward(&x).unwrap()), values(&plain));
}

#[test]
fn what_is_added_to_a_layer_is_trained_saved_and_removed() {
    let store = ParamStore::with_seed(DType::F32, &Device::Cpu, 1);
    let fc = linear_no_bias(4, 2, store.var_builder().pp("fc")).unwrap();
    let ones = Tensor::ones(2, DType::F32, &Device::Cpu).unwrap();
    let scale = fc.layer().add_param("weight_log2_scale", &ones).unwrap();
    assert_eq!((scale.name(), scale.role()), ("fc.weight_log2_scale", Role::Trainable));
    assert_eq!(store.trainable().len(), 2);
    scale.set(&(&ones * 2.).unwrap()).unwrap();
    assert_eq!(values(&ones), [1., 1.], "the values were copied");
    assert!(fc.layer().add_param("weight_log2_scale", &ones).is_err());
    assert!(fc.layer().add_param("weight", &ones).is_err());
    fc.layer().remove_buffer("weight_log2_scale");
    assert_eq!(store.trainable().len(), 2, "a parameter is no buffer");
    fc.layer().remove_param("weight_log2_scale");
    assert!(store.get("fc.weight_log2_scale").is_none());
    fc.layer().set_buffer("state", &ones).unwrap();
    fc.layer().remove_param("state");
    assert!(store.get("fc.state").is_some(), "a buffer is no parameter");
}
