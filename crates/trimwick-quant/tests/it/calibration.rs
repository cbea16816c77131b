//! Observers: what they see, keep and refuse.

use candle_core::{Device, Tensor};
use trimwick_nn::{Linear, Module, ParamStore};
use trimwick_quant::{
    Options, Range, ScalePolicy, Scheme, attach, attach_with, calibrate, detach, input_quantizer, refresh,
    restore, set_enabled,
};
use trimwick_testkit::{assert_bits_equal, values};

use crate::support::{Mlp, Model, load, saved, store, tensor};

fn input_range(range: Range) -> Options {
    Options { input_range: range, ..Options::default() }
}

/// One layer of 64 inputs under a scheme.
fn layer(scheme: &str, options: &Options) -> (ParamStore, Linear) {
    let store = store();
    let fc = trimwick_nn::linear(64, 8, store.var_builder().pp("fc")).unwrap();
    attach_with(&store.layers(), &scheme.parse().unwrap(), options).unwrap();
    (store, fc)
}

fn scale(fc: &Linear) -> f32 {
    input_quantizer(fc.layer()).unwrap().scale().unwrap().unwrap()
}

fn largest(t: &Tensor) -> f32 {
    values(t).iter().fold(0f64, |a, v| a.max(v.abs())) as f32
}

#[test]
fn a_static_scale_is_that_of_everything_seen() {
    let data: Vec<Tensor> = (0..5).map(|i| (tensor(&[10, 64], i) * (1. + i as f64)).unwrap()).collect();
    let whole = Tensor::cat(&data, 0).unwrap();
    for (scheme, code) in [("int8-static", 127.), ("fp8", 448.), ("fp8-e5m2", 57344.)] {
        let (store, fc) = layer(scheme, &Options::default());
        calibrate(&store.layers(), || data.iter().try_for_each(|x| fc.forward(x).map(drop))).unwrap();
        assert_eq!(scale(&fc), largest(&whole) / code, "{scheme}");
        assert_eq!(store.get("fc.input_scale").unwrap().shape().dims(), [1]);
        let seen = values(&store.get("fc.input_range").unwrap().tensor());
        assert_eq!(seen[0].abs().max(seen[1].abs()) as f32, largest(&whole));
    }
    let (store, fc) = layer("nvfp4", &Options::default());
    calibrate(&store.layers(), || fc.forward(&whole).map(drop)).unwrap();
    assert_eq!(scale(&fc), largest(&whole) / (6. * 448.));
    assert!(store.get("fc.input_global_scale").is_some());
    let (store, fc) = layer("weight int8 channel, input uint8 tensor static", &Options::default());
    let positive = whole.abs().unwrap();
    calibrate(&store.layers(), || fc.forward(&positive).map(drop)).unwrap();
    assert_eq!(scale(&fc), largest(&whole) / 255.);
    assert_eq!(values(&store.get("fc.input_zero_point").unwrap().tensor()), [0.]);
}

#[test]
fn calibration_sees_the_model_in_full_precision() {
    let (plain, quant) = (store(), store());
    let (reference, model) = (Mlp::build(&plain), Mlp::build(&quant));
    attach(&quant.layers(), &"weight int2 channel, input int8 tensor static".parse().unwrap()).unwrap();
    let mut out = None;
    calibrate(&quant.layers(), || {
        out = Some(model.forward()?);
        Ok(())
    })
    .unwrap();
    assert_bits_equal(&out.unwrap(), &reference.forward().unwrap());
    let hidden = reference.fc1.forward(&reference.x).unwrap().gelu().unwrap();
    let scale = input_quantizer(model.fc2.layer()).unwrap().scale().unwrap().unwrap();
    assert_eq!(scale, largest(&hidden) / 127.);
    // And afterwards every quantizer acts again.
    assert_ne!(values(&model.forward().unwrap()), values(&reference.forward().unwrap()));
}

#[test]
fn statistics_go_on_from_a_checkpoint_as_if_there_had_been_none() {
    let data: Vec<Tensor> =
        (0..4).map(|i| (tensor(&[100, 64], i) * 3f64.powi((i as i32 * 7) % 4)).unwrap()).collect();
    for range in [Range::Max, Range::Percentile(99.), Range::Entropy, Range::Mse] {
        let feed = |store: &ParamStore, fc: &Linear, data: &[Tensor]| {
            calibrate(&store.layers(), || data.iter().try_for_each(|x| fc.forward(x).map(drop))).unwrap();
        };
        let (at_once, one) = layer("int8-static", &input_range(range));
        feed(&at_once, &one, &data);
        let (first, half) = layer("int8-static", &input_range(range));
        feed(&first, &half, &data[..2]);
        let (second, rest) = layer("int8-static", &input_range(range));
        load(&second, &saved(&first));
        restore(&second.layers()).unwrap();
        assert_eq!(scale(&rest), scale(&half));
        feed(&second, &rest, &data[2..]);
        assert_eq!(scale(&rest), scale(&one), "{range:?}");
        // Another order of the same data.
        let (backwards, reversed) = layer("int8-static", &input_range(range));
        let other: Vec<_> = data.iter().rev().cloned().collect();
        feed(&backwards, &reversed, &other);
        assert_eq!(scale(&reversed), scale(&one), "{range:?}");
        assert_eq!(at_once.get("fc.input_histogram").is_some(), range != Range::Max);
        if range != Range::Max {
            assert!(scale(&one) < largest(&Tensor::cat(&data, 0).unwrap()) / 127., "{range:?}");
        }
    }
}

#[test]
fn a_static_input_without_data_is_refused_by_name() {
    let (store, fc) = layer("int8-static", &Options::default());
    let x = tensor(&[3, 64], 1);
    let e = fc.forward(&x).unwrap_err().to_string();
    assert!(e.contains("fc") && e.contains("calibrate"), "{e}");
    let e = calibrate(&store.layers(), || Ok(())).unwrap_err().to_string();
    assert!(e.contains("fc") && e.contains("no input seen"), "{e}");
    let e = calibrate(&store.layers(), || candle_core::bail!("the data ran out")).unwrap_err().to_string();
    assert!(e.contains("the data ran out"), "{e}");
    // A failed calibration leaves nothing switched off or observing.
    assert!(fc.forward(&x).unwrap_err().to_string().contains("calibrate"));
    calibrate(&store.layers(), || fc.forward(&x).map(drop)).unwrap();
    fc.forward(&x).unwrap();
    // What needs no data does not run the model.
    let (store, _) = layer("int8", &Options::default());
    calibrate(&store.layers(), || candle_core::bail!("not asked for")).unwrap();
}

#[test]
fn nan_and_infinity_are_errors_that_name_the_layer() {
    let broken = |bad: f32| {
        let mut v = vec![0.5f32; 3 * 64];
        v[70] = bad;
        Tensor::from_vec(v, (3, 64), &Device::Cpu).unwrap()
    };
    let policies = [ScalePolicy::Dynamic, ScalePolicy::Frozen, ScalePolicy::Ema(0.5), ScalePolicy::Learned];
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let check = |e: String, what: &str| {
            assert!(e.contains("fc") && e.contains(what) && e.contains("element 70"), "{bad}: {e}");
            assert!(!e.contains('\n'), "{e}");
        };
        for scheme in
            ["int8", "int8-static", "nvfp4", "mxfp8", "weight uint8 channel, input uint8 tensor static"]
        {
            for policy in policies {
                let scheme: Scheme = scheme.parse().unwrap();
                let options = crate::support::options(policy, &scheme);
                if options.check(&scheme).is_err() {
                    continue;
                }
                let store = store();
                let fc = trimwick_nn::linear(64, 8, store.var_builder().pp("fc")).unwrap();
                attach_with(&store.layers(), &scheme, &options).unwrap();
                // In calibration, and in the forward pass.
                if scheme.input.is_some_and(|i| !i.dynamic) {
                    let e = calibrate(&store.layers(), || fc.forward(&broken(bad)).map(drop));
                    check(e.unwrap_err().to_string(), "input");
                }
                calibrate(&store.layers(), || fc.forward(&broken(1.)).map(drop)).unwrap();
                check(fc.forward(&broken(bad)).unwrap_err().to_string(), "input");
                // In the weight: forward, calibration, attaching.
                let mut w = vec![0.5f32; 8 * 64];
                w[70] = bad;
                fc.layer().weight().set(&Tensor::from_vec(w, (8, 64), &Device::Cpu).unwrap()).unwrap();
                check(fc.forward(&broken(1.)).unwrap_err().to_string(), "weight");
                check(calibrate(&store.layers(), || Ok(())).unwrap_err().to_string(), "weight");
                if matches!(policy, ScalePolicy::Ema(_)) {
                    check(refresh(&store.layers()).unwrap_err().to_string(), "weight");
                }
                detach(&store.layers());
                check(attach_with(&store.layers(), &scheme, &options).unwrap_err().to_string(), "weight");
            }
        }
    }
}

#[test]
fn ema_of_an_input_moves_by_training_passes_alone_and_once_a_step() {
    let options = Options { input_scales: ScalePolicy::Ema(0.75), ..Options::default() };
    for scheme in ["int8-static", "nvfp4", "weight int8 channel, input uint8 tensor static"] {
        let (store, fc) = layer(scheme, &options);
        let x = tensor(&[4, 64], 1);
        let big = (&x * 3.).unwrap();
        calibrate(&store.layers(), || fc.forward(&x).map(drop)).unwrap();
        let before = scale(&fc);
        fc.forward(&big).unwrap();
        refresh(&store.layers()).unwrap();
        assert_eq!(scale(&fc), before, "{scheme}: evaluation leaves the average alone");
        store.clock().set_training(true);
        // A pass computed again for its gradients is no second sight.
        let first = fc.forward(&big).unwrap();
        assert_bits_equal(&fc.forward(&big).unwrap(), &first);
        refresh(&store.layers()).unwrap();
        assert!((scale(&fc) / before - 1.5).abs() < 1e-6, "{scheme}: {} {before}", scale(&fc));
        refresh(&store.layers()).unwrap();
        assert!((scale(&fc) / before - 1.5).abs() < 1e-6, "{scheme}: nothing new was seen");
    }
}

#[test]
fn zeros_and_single_values_do_not_break_a_scale() {
    for scheme in
        ["int8", "int8-static", "fp8", "nvfp4", "mxfp4", "weight uint4 g32, input uint8 token dynamic"]
    {
        let (store, fc) = layer(scheme, &Options::default());
        let zeros = Tensor::zeros((3, 64), candle_core::DType::F32, &Device::Cpu).unwrap();
        calibrate(&store.layers(), || fc.forward(&zeros).map(drop)).unwrap();
        let bias = values(&fc.layer().bias().unwrap().tensor());
        for row in values(&fc.forward(&zeros).unwrap()).chunks(8) {
            assert_eq!(row, bias, "{scheme}");
        }
        for huge in [f32::MAX, f32::MIN_POSITIVE, 1e-45] {
            fc.layer().weight().set(&Tensor::full(huge, (8, 64), &Device::Cpu).unwrap()).unwrap();
            calibrate(&store.layers(), || fc.forward(&zeros).map(drop)).unwrap();
            let w = values(&fc.layer().effective_weight().unwrap());
            assert!(w.iter().all(|v| v.is_finite()), "{scheme} {huge}: {}", w[0]);
        }
        let empty = Tensor::zeros((0, 64), candle_core::DType::F32, &Device::Cpu).unwrap();
        let inputs = input_quantizer(fc.layer());
        assert!(inputs.is_some());
        set_enabled(&store.layers(), true);
        let through = trimwick_nn::Reparam::apply(&*inputs.unwrap(), &empty).unwrap();
        assert_eq!(through.dims(), [0, 64]);
    }
}

#[test]
fn a_token_of_a_batch_is_quantized_as_it_is_alone() {
    let (_, fc) = layer("int8", &Options::default());
    let x = (tensor(&[2, 5, 64], 1) * 4.).unwrap();
    let whole = fc.forward(&x).unwrap();
    for b in 0..2 {
        for t in 0..5 {
            let one = x.narrow(0, b, 1).unwrap().narrow(1, t, 1).unwrap();
            let want = whole.narrow(0, b, 1).unwrap().narrow(1, t, 1).unwrap();
            trimwick_testkit::assert_close(&fc.forward(&one).unwrap(), &want, 1e-5, 1e-5);
        }
    }
}
