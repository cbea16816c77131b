//! How scales move, what gets a gradient, and what a checkpoint brings back.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use trimwick_nn::{Compact, Module, ParamStore, Role, Slot};
use trimwick_quant::{
    LEARNED_SCALES, Options, Range, ScalePolicy, Scheme, attach, attach_with, calibrate, detach,
    input_quantizer, off_grid, quantized, refresh, restore, share_global, weight_quantizer,
};
use trimwick_testkit::{assert_bits_equal, values};

use crate::support::{Llama, Mlp, Model, POLICIES, descend, load, options, saved, schemes, store, tensor};

fn weights_of(policy: ScalePolicy, range: Range) -> Options {
    Options { scales: policy, range, ..Options::default() }
}

fn mlp(scheme: &str, options: &Options) -> (ParamStore, Mlp) {
    let store = store();
    let model = Mlp::build(&store);
    attach_with(&store.layers(), &scheme.parse().unwrap(), options).unwrap();
    (store, model)
}

/// The gradient of `Σ g·w_eff` at the stored weight of `fc1`, and g.
fn weight_gradient(model: &Mlp) -> (Vec<f64>, Vec<f64>) {
    let layer = model.fc1.layer();
    let g = tensor(&[128, 128], 21);
    let loss = (layer.effective_weight().unwrap() * &g).unwrap().sum_all().unwrap();
    let grads = loss.backward().unwrap();
    (values(grads.get(layer.weight().var().as_tensor()).unwrap()), values(&g))
}

#[test]
fn dynamic_scales_follow_the_weight_and_clip_nothing() {
    for scheme in ["int4-g32", "mxfp4-weight", "nvfp4-weight", "fp8-weight", "ternary"] {
        let (store, model) = mlp(scheme, &Options::default());
        let before = model.fc1.layer().effective_weight().unwrap().detach();
        let grown = (model.fc1.layer().weight().tensor().detach() * 4.).unwrap();
        model.fc1.layer().weight().set(&grown).unwrap();
        let after = model.fc1.layer().effective_weight().unwrap().detach();
        assert_bits_equal(&after, &(before * 4.).unwrap());
        let (dw, g) = weight_gradient(&model);
        assert_eq!(dw, g, "{scheme}");
        assert_eq!(store.params().len(), 4, "{scheme}: nothing is saved, nothing to restore");
    }
}

#[test]
fn frozen_scales_stay_and_cut_the_gradient_of_what_outgrows_them() {
    let (store, model) = mlp("int4-g32", &weights_of(ScalePolicy::Frozen, Range::Max));
    let layer = model.fc1.layer();
    let scales = values(&store.get("fc1.weight_scale").unwrap().tensor());
    assert_eq!(store.get("fc1.weight_scale").unwrap().shape().dims(), [128, 4]);
    assert_eq!(store.get("fc1.weight_scale").unwrap().role(), Role::Buffer);
    let (dw, g) = weight_gradient(&model);
    // bf16 rounds some scales down: an amax may lie a hair outside.
    assert!(dw.iter().zip(&g).filter(|(d, g)| d != g).count() < 128 * 4);
    let grown = (layer.weight().tensor().detach() * 3.).unwrap();
    layer.weight().set(&grown).unwrap();
    assert_eq!(values(&store.get("fc1.weight_scale").unwrap().tensor()), scales);
    let (dw, g) = weight_gradient(&model);
    let mut cut = 0;
    for (i, ((d, g), w)) in dw.iter().zip(&g).zip(values(&grown)).enumerate() {
        // In f32, as the quantizer divides.
        let q = w as f32 / scales[i / 32] as f32;
        let inside = (-8. ..=7.).contains(&q);
        assert_eq!(*d, if inside { *g } else { 0. }, "element {i}: {q}");
        cut += usize::from(!inside);
    }
    assert!(cut > 100, "{cut}");
    assert_eq!(off_grid(&store.layers()).unwrap(), 0);
}

#[test]
fn ema_scales_move_by_their_share_at_each_refresh() {
    for scheme in ["int8-weight", "weight uint8 channel"] {
        let (store, model) = mlp(scheme, &weights_of(ScalePolicy::Ema(0.75), Range::Max));
        let layer = model.fc1.layer();
        let scales = || values(&store.get("fc1.weight_scale").unwrap().tensor());
        let before = scales();
        layer.weight().set(&(layer.weight().tensor().detach() * 3.).unwrap()).unwrap();
        assert_eq!(scales(), before, "a forward pass moves nothing");
        refresh(&store.layers()).unwrap();
        for (a, b) in scales().iter().zip(&before) {
            // .75 · 1 + .25 · 3
            assert!((a / b - 1.5).abs() < 1e-5, "{scheme}: {a} {b}");
        }
        let (dw, g) = weight_gradient(&model);
        assert!(
            dw.iter().zip(&g).any(|(d, g)| *d == 0. && *g != 0.),
            "{scheme}: outgrown weights are clipped"
        );
        for _ in 0..60 {
            refresh(&store.layers()).unwrap();
        }
        for (a, b) in scales().iter().zip(&before) {
            assert!((a / b - 3.).abs() < 1e-5, "{scheme}: {a} {b}");
        }
        assert_eq!(off_grid(&store.layers()).unwrap(), 0);
    }
}

#[test]
fn learned_scales_start_where_calibration_put_them() {
    for scheme in ["int3-g32", "int2-g64", "ternary", "mxfp4-weight", "nvfp4-weight", "fp8-weight"] {
        let (frozen, _) = mlp(scheme, &weights_of(ScalePolicy::Frozen, Range::Mse));
        let (store, _) = mlp(scheme, &weights_of(ScalePolicy::Learned, Range::Mse));
        let of = |store: &ParamStore| quantized(store.layers().get("fc1").unwrap()).unwrap().unwrap().scales;
        for (a, b) in of(&store).iter().zip(of(&frozen)) {
            assert!((a / b - 1.).abs() < 1e-5, "{scheme}: {a} {b}");
        }
        let log2 = store.get("fc1.weight_log2_scale").unwrap();
        assert_eq!(
            (log2.shape().rank(), log2.role()),
            (1, Role::Trainable),
            "one dimension: no weight decay"
        );
    }
}

#[test]
fn learned_scales_learn() {
    // From the maximum, which is far too wide for few codes, toward the full-precision weight.
    for (scheme, share) in
        [("int3-g32", 0.95), ("int2-g64", 0.8), ("ternary", 0.8), ("weight e2m1 channel", 0.995)]
    {
        let (store, model) = mlp(scheme, &weights_of(ScalePolicy::Learned, Range::Max));
        let layer = model.fc1.layer();
        let target = layer.weight().tensor().detach();
        let learned = store.get("fc1.weight_log2_scale").unwrap();
        store.trainable().iter().for_each(|p| p.set_role(Role::Frozen));
        learned.set_role(Role::Trainable);
        let error =
            || (layer.effective_weight().unwrap() - &target).unwrap().sqr().unwrap().sum_all().unwrap();
        let before = values(&error())[0];
        for _ in 0..40 {
            descend(&store, &error(), 4.);
        }
        let after = values(&error())[0];
        assert!(after < share * before, "{scheme}: {before} → {after}");
    }
}

#[test]
fn ranges_find_less_error_and_never_more_than_the_maximum_does() {
    let mut heavy = values(&tensor(&[128, 128], 5));
    heavy.iter_mut().for_each(|v| *v = v.powi(3));
    let heavy =
        Tensor::from_vec(heavy.iter().map(|v| *v as f32).collect(), (128, 128), &Device::Cpu).unwrap();
    for scheme in [
        "int4-g32",
        "int2-g64",
        "ternary",
        "int8-weight",
        "mxfp4-weight",
        "nvfp4-weight",
        "weight int4 tensor",
    ] {
        let error = |range| {
            let store = store();
            let model = Mlp::build(&store);
            let layer = model.fc1.layer();
            layer.weight().set(&heavy).unwrap();
            attach_with(&store.layers(), &scheme.parse().unwrap(), &weights_of(ScalePolicy::Frozen, range))
                .unwrap();
            let wrong = (layer.effective_weight().unwrap() - &heavy).unwrap();
            // Of each block: no block may do worse.
            let block = weight_quantizer(layer).unwrap().block();
            let squares = values(&wrong.sqr().unwrap());
            squares.chunks(block).map(|b| b.iter().sum::<f64>()).collect::<Vec<_>>()
        };
        let (max, mse) = (error(Range::Max), error(Range::Mse));
        assert!(mse.iter().zip(&max).all(|(a, b)| a <= b), "{scheme}");
        let total = |e: &[f64]| e.iter().sum::<f64>();
        let coarse = scheme.starts_with("int2") || scheme == "ternary" || scheme.ends_with("tensor");
        assert!(total(&mse) < if coarse { 0.8 } else { 1. } * total(&max), "{scheme}");
        assert!(total(&error(Range::Percentile(100.))) == total(&max), "{scheme}");
        assert!(total(&error(Range::Percentile(60.))) != total(&max), "{scheme}");
    }
    let entropy = |range| {
        let (store, _) = mlp("weight int8 tensor", &weights_of(ScalePolicy::Frozen, range));
        values(&store.get("fc1.weight_scale").unwrap().tensor())[0]
    };
    assert!(entropy(Range::Entropy) <= entropy(Range::Max));
}

#[test]
fn every_policy_comes_back_from_a_checkpoint_bit_for_bit() {
    for scheme in schemes() {
        for policy in POLICIES {
            let options = options(policy, &scheme);
            let what = format!("{scheme} {policy:?}");
            if options.check(&scheme).is_err() {
                continue;
            }
            let build = || {
                let store = store();
                let model = Mlp::build(&store);
                attach_with(&store.layers(), &scheme, &options).unwrap();
                (store, model)
            };
            let train = |store: &ParamStore, model: &Mlp| {
                store.clock().set_training(true);
                descend(store, &model.loss(), 0.05);
                store.clock().set_training(false);
            };
            let (first, model) = build();
            calibrate(&first.layers(), || model.forward().map(drop)).unwrap();
            train(&first, &model);
            refresh(&first.layers()).unwrap();
            train(&first, &model);
            // What the last pass saw is saved too: both refresh after it.
            let state = saved(&first);
            let (second, again) = build();
            load(&second, &state);
            restore(&second.layers()).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_bits_equal(&again.forward().unwrap(), &model.forward().unwrap());
            for (store, model) in [(&first, &model), (&second, &again)] {
                refresh(&store.layers()).unwrap();
                train(store, model);
            }
            assert_bits_equal(&again.forward().unwrap(), &model.forward().unwrap());
            let (a, b) = (saved(&first), saved(&second));
            assert_eq!(a.len(), b.len(), "{what}");
            for ((name, _, a), (other, _, b)) in a.iter().zip(&b) {
                assert_eq!(name, other, "{what}");
                assert_bits_equal(a, b);
            }
        }
    }
}

#[test]
fn what_a_checkpoint_lacks_or_has_otherwise_is_an_error_that_says_where() {
    let frozen = weights_of(ScalePolicy::Frozen, Range::Max);
    let (store, _) = mlp("int4-g32", &frozen);
    store.remove_buffer("fc2.weight_scale");
    let e = restore(&store.layers()).unwrap_err().to_string();
    assert!(e.contains("fc2") && e.contains("weight"), "{e}");
    let (other, _) = mlp("int4-g64", &frozen);
    let state = saved(&other);
    let (store, _) = mlp("int4-g32", &frozen);
    load(&store, &state);
    let e = restore(&store.layers()).unwrap_err().to_string();
    assert!(e.contains("fc1") && e.contains("weight_scale") && e.contains("512 values"), "{e}");
}

#[test]
fn attaching_again_starts_anew_and_detaching_leaves_nothing() {
    let learned =
        Options { input_scales: ScalePolicy::Learned, ..weights_of(ScalePolicy::Learned, Range::Mse) };
    let (store, model) = mlp("int8-static", &learned);
    calibrate(&store.layers(), || model.forward().map(drop)).unwrap();
    assert!(store.trainable().iter().any(|p| p.name() == "fc1.input_log2_scale"));
    attach(&store.layers(), &Scheme::preset("int4-g32").unwrap()).unwrap();
    assert!(input_quantizer(model.fc1.layer()).is_none());
    assert_eq!(store.params().len(), 4);
    attach_with(&store.layers(), &"fp8".parse().unwrap(), &weights_of(ScalePolicy::Ema(0.5), Range::Max))
        .unwrap();
    calibrate(&store.layers(), || model.forward().map(drop)).unwrap();
    detach(&store.layers());
    assert_eq!(store.params().len(), 4);
    assert!(model.fc1.layer().chain().get(Slot::FakeQuant).is_none());
    let reference = crate::support::store();
    assert_bits_equal(&model.forward().unwrap(), &Mlp::build(&reference).forward().unwrap());
}

#[test]
fn fused_layers_share_one_scale_of_the_tensor() {
    let scheme = Scheme::preset("nvfp4-weight").unwrap();
    for policy in POLICIES {
        let options = weights_of(policy, Range::Max);
        let begin = || {
            let store = store();
            let model = Llama::build(&store);
            attach_with(&store.layers(), &scheme, &options).unwrap();
            (store, model)
        };
        let (store, model) = begin();
        let fused = store.layers().select("*.{q,k,v}_proj").unwrap();
        let globals = || fused.iter().map(|l| quantized(l).unwrap().unwrap().global).collect::<Vec<_>>();
        let largest = globals().into_iter().fold(0f32, f32::max);
        assert_ne!(globals()[0], globals()[1]);
        share_global(&fused).unwrap();
        assert_eq!(globals(), [largest; 3]);
        assert_eq!(off_grid(&store.layers()).unwrap(), 0);
        // Fixed: a weight that grows keeps it, and gets it back from a checkpoint.
        let q = fused.get("model.layers.0.self_attn.q_proj").unwrap();
        q.weight().set(&(q.weight().tensor().detach() * 2.).unwrap()).unwrap();
        calibrate(&store.layers(), || Ok(())).unwrap();
        refresh(&store.layers()).unwrap();
        assert_eq!(globals(), [largest; 3], "{policy:?}");
        let (other, again) = begin();
        load(&other, &saved(&store));
        restore(&other.layers()).unwrap();
        assert_bits_equal(&again.forward().unwrap(), &model.forward().unwrap());
        attach(&store.layers(), &Scheme::preset("int4-g32").unwrap()).unwrap();
        let e = share_global(&fused).unwrap_err().to_string();
        assert!(e.contains("q_proj") && e.contains("int4 g32 bf16"), "{e}");
    }
}

#[test]
fn a_tied_head_computes_with_the_embedding_of_the_grid() {
    let store = store();
    let vb = store.var_builder();
    let table = trimwick_nn::embedding(9, 32, vb.pp("table")).unwrap();
    let head = trimwick_nn::Linear::tied(&table);
    attach(&store.layers(), &Scheme::preset("int8").unwrap()).unwrap();
    assert!(input_quantizer(table.layer()).is_none(), "ids are not quantized");
    let ids = Tensor::new(&[[3u32, 1]], &Device::Cpu).unwrap();
    let logits = head.forward(&table.forward(&ids).unwrap()).unwrap();
    let q = quantized(table.layer()).unwrap().unwrap().dequantize();
    let dot = |a: usize, b: usize| {
        (0..32).map(|c| f64::from(q[a * 32 + c]) * f64::from(q[b * 32 + c])).sum::<f64>()
    };
    for (t, id) in [3, 1].into_iter().enumerate() {
        for (v, found) in values(&logits)[t * 9..][..9].iter().enumerate() {
            assert!((found - dot(id, v)).abs() < 1e-4);
        }
    }
    trimwick_testkit::assert_every_gradient(&store, &logits.sqr().unwrap().sum_all().unwrap());
}

/// A weight kept as its sign and one magnitude.
struct Signs(Tensor);

impl Compact for Signs {
    fn expand(&self) -> candle_core::Result<Tensor> {
        self.0.sign()? * 0.1
    }
}

#[test]
fn a_compact_weight_is_quantized_as_what_it_expands_to() {
    let store = store();
    let model = Mlp::build(&store);
    let layer = model.fc1.layer();
    let signs = Arc::new(Signs(layer.weight().tensor().detach()));
    layer.weight().compact(signs.clone()).unwrap();
    for policy in POLICIES {
        attach_with(&store.layers(), &"int4-g32".parse().unwrap(), &weights_of(policy, Range::Max)).unwrap();
        // One magnitude is the end of every group's range: what it is rounded to is the scale times 7.
        let found = values(&layer.effective_weight().unwrap());
        assert!(found.iter().all(|v| (v.abs() - 0.1).abs() < 5e-4), "{policy:?}");
        assert_eq!(off_grid(&store.layers()).unwrap(), 0);
        let grads = model.loss().backward().unwrap();
        let learned = store.get("fc1.weight_log2_scale");
        assert!(learned.is_none_or(|p| grads.get(p.var().as_tensor()).is_some()));
    }
}

#[test]
fn a_learned_scale_that_is_lost_names_its_layer() {
    let (store, model) = mlp("int8-weight", &weights_of(ScalePolicy::Learned, Range::Max));
    let scale = store.get("fc2.weight_log2_scale").unwrap();
    scale.set(&Tensor::full(f32::NAN, 8, &Device::Cpu).unwrap()).unwrap();
    let e = model.forward().unwrap_err().to_string();
    assert!(e.contains("fc2") && e.contains("learned scale is NaN"), "{e}");
    // The ends of what an f32 holds are scales like any other.
    for far in [-1e30f32, 1e30, f32::INFINITY] {
        scale.set(&Tensor::full(far, 8, &Device::Cpu).unwrap()).unwrap();
        assert!(values(&model.forward().unwrap()).iter().all(|v| !v.is_nan()), "{far}");
        assert_eq!(off_grid(&store.layers()).unwrap(), 0, "{far}");
    }
    let named: Vec<_> = store.trainable().iter().map(|p| p.name().to_string()).collect();
    let suffix = LEARNED_SCALES.trim_start_matches('*');
    assert_eq!(named.iter().filter(|n| n.ends_with(suffix)).count(), 2, "{named:?}");
}
