//! Quantized keys and values: one pass, token by token, gradients, checkpoints.

use candle_core::{Device, Tensor};
use trimwick_nn::{KvCache, Module, ParamStore};
use trimwick_quant::{Code, Granularity, QuantSpec, Range, Scheme, attach, calibrate, calibrate_all, kv};
use trimwick_testkit::{assert_bits_equal, assert_close, assert_every_gradient, values};

use crate::support::{Llama, Model, load, saved, store, tensor};

fn spec(text: &str) -> QuantSpec {
    text.parse().unwrap()
}

fn model() -> (ParamStore, Llama) {
    let store = store();
    let model = Llama::build(&store);
    (store, model)
}

const SPECS: [&str; 6] =
    ["e4m3 tensor", "int8 tensor", "e4m3 token", "int8 token", "uint8 token", "e5m2 tensor"];

#[test]
fn every_parameter_gets_a_gradient_and_a_cache_holds_what_training_saw() {
    let x = tensor(&[1, 7, 128], 5);
    for text in SPECS {
        let (store, model) = model();
        let slots = store.kv_slots();
        let plain = model.attn.forward(&x).unwrap();
        kv::attach(&slots, &spec(text)).unwrap();
        kv::calibrate(&slots, || model.attn.forward(&x).and_then(|_| model.forward()).map(drop)).unwrap();
        assert_every_gradient(&store, &model.loss());
        let whole = model.attn.forward(&x).unwrap();
        assert_ne!(values(&whole), values(&plain), "{text}");
        let mut cache = KvCache::default();
        let parts = [2, 1, 1, 3];
        let mut outputs = Vec::new();
        for (i, len) in parts.iter().enumerate() {
            let start: usize = parts[..i].iter().sum();
            outputs.push(model.attn.forward_cached(&x.narrow(1, start, *len).unwrap(), &mut cache).unwrap());
        }
        // Rounding of sums in another order may flip a code: far less than a code apart.
        assert_close(&Tensor::cat(&outputs, 1).unwrap(), &whole, 1e-3, 1e-3);
        kv::set_enabled(&slots, false);
        assert_bits_equal(&model.attn.forward(&x).unwrap(), &plain);
        kv::detach(&slots);
        assert!(kv::quantizers(&slots[0]).is_empty());
        assert!(store.params().iter().all(|p| !p.name().contains("self_attn.k_s")), "{text}");
    }
}

#[test]
fn static_scales_have_the_names_that_runtimes_look_for_and_come_back() {
    for range in [Range::Max, Range::Percentile(99.), Range::Mse] {
        let (first, model_a) = model();
        kv::attach_with(&first.kv_slots(), &spec("e4m3 tensor"), range).unwrap();
        kv::calibrate(&first.kv_slots(), || model_a.forward().map(drop)).unwrap();
        for name in ["k_scale", "v_scale"] {
            let scale = first.get(&format!("model.layers.0.self_attn.{name}")).unwrap();
            assert_eq!(scale.shape().dims(), [1]);
            assert!(values(&scale.tensor())[0] > 0.);
        }
        let (second, model_b) = model();
        kv::attach_with(&second.kv_slots(), &spec("e4m3 tensor"), range).unwrap();
        load(&second, &saved(&first));
        kv::restore(&second.kv_slots()).unwrap();
        assert_bits_equal(&model_b.forward().unwrap(), &model_a.forward().unwrap());
    }
}

#[test]
fn a_scale_per_token_is_one_per_head() {
    let (store, _) = model();
    let slots = store.kv_slots();
    kv::attach(&slots, &QuantSpec::new(Code::Int { bits: 8 }, Granularity::Token)).unwrap();
    // Two heads of very different size: the small one keeps its precision.
    let mut k = values(&tensor(&[1, 3, 2, 32], 4));
    k.iter_mut().enumerate().filter(|(i, _)| i / 32 % 2 == 1).for_each(|(_, v)| *v *= 1e-4);
    let k: Vec<f32> = k.iter().map(|v| *v as f32).collect();
    let t = Tensor::from_slice(&k, (1, 3, 2, 32), &Device::Cpu).unwrap();
    let out = values(&slots[0].k().unwrap().apply(&t).unwrap());
    let want = spec("int8 channel").quantize("k", &k, &[6, 32]).unwrap().dequantize();
    assert!(out.iter().zip(&want).all(|(a, b)| *a == f64::from(*b)));
}

#[test]
fn what_cannot_be_is_refused_with_the_layer_in_it() {
    let (store, model) = model();
    let slots = store.kv_slots();
    for (text, part) in [("int8 g32", "token or tensor"), ("int8 channel", "token or tensor")] {
        let e = kv::attach(&slots, &spec(text)).unwrap_err().to_string();
        assert!(e.contains(text) && e.contains(part), "{e}");
    }
    assert!(kv::attach_with(&slots, &spec("int8 token"), Range::Mse).is_err());
    kv::attach(&slots, &spec("e4m3 tensor")).unwrap();
    let e = model.forward().unwrap_err().to_string();
    assert!(e.contains("model.layers.0.self_attn") && e.contains("keys"), "{e}");
    let e = kv::calibrate(&slots, || Ok(())).unwrap_err().to_string();
    assert!(e.contains("model.layers.0.self_attn") && e.contains("keys"), "{e}");
    let bad = tensor(&[9, 128], 1).affine(f64::NAN, 0.).unwrap();
    store.get("model.embed_tokens.weight").unwrap().set(&bad).unwrap();
    let e = kv::calibrate(&slots, || model.forward().map(drop)).unwrap_err().to_string();
    assert!(e.contains("model.layers.0.self_attn") && e.contains("keys holds NaN"), "{e}");
}

#[test]
fn layers_and_caches_are_calibrated_one_after_the_other_in_either_order() {
    for layers_first in [true, false] {
        let (store, model) = model();
        let (layers, slots) = (store.layers(), store.kv_slots());
        attach(&layers, &Scheme::preset("fp8").unwrap()).unwrap();
        kv::attach(&slots, &spec("int8 tensor")).unwrap();
        let forward = || model.forward().map(drop);
        match layers_first {
            true => calibrate(&layers, forward).and_then(|()| kv::calibrate(&slots, forward)).unwrap(),
            false => kv::calibrate(&slots, forward).and_then(|()| calibrate(&layers, forward)).unwrap(),
        }
        assert_every_gradient(&store, &model.loss());
    }
    // And in one pass, of which nobody sees the other's quantizers.
    let (plain, reference) = model();
    let (store, model_b) = model();
    let (layers, slots) = (store.layers(), store.kv_slots());
    attach(&layers, &Scheme::preset("fp8").unwrap()).unwrap();
    kv::attach(&slots, &spec("int8 tensor")).unwrap();
    let mut seen = None;
    calibrate_all(&layers, &slots, || {
        seen = Some(model_b.forward()?);
        Ok(())
    })
    .unwrap();
    assert_bits_equal(&seen.unwrap(), &reference.forward().unwrap());
    assert_every_gradient(&store, &model_b.loss());
    assert_eq!(plain.params().iter().filter(|p| p.name().ends_with("_scale")).count(), 0);
    kv::attach(&slots, &spec("int8 token")).unwrap();
    attach(&layers, &Scheme::preset("int8").unwrap()).unwrap();
    calibrate_all(&layers, &slots, || candle_core::bail!("nobody asked")).unwrap();
    // Half of it is not enough, and says what is missing.
    let (store, model) = model();
    attach(&store.layers(), &Scheme::preset("fp8").unwrap()).unwrap();
    kv::attach(&store.kv_slots(), &spec("int8 tensor")).unwrap();
    calibrate(&store.layers(), || model.forward().map(drop)).unwrap();
    let e = model.forward().unwrap_err().to_string();
    assert!(e.contains("self_attn") && e.contains("keys"), "{e}");
    assert!(!store.clock().calibrating());
}
