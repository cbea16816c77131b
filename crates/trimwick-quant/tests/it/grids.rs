//! What is trained is what is exported: values on the grid, codes that stand for them, masks that stay.

use candle_core::{Device, Tensor};
use trimwick_nn::Module;
use trimwick_quant::{
    Options, Range, ScalePolicy, Scheme, attach, attach_with, off_grid, on_grid, quantized, set_enabled,
};
use trimwick_sparse::{Magnitude, MaskSchedule, Pattern, Plan, prune, violations};
use trimwick_testkit::values;

use crate::support::{COMPOSED, ConvNet, Mlp, Model, POLICIES, descend, options, schemes, store, tensor};

#[test]
fn codes_stand_for_the_weight_that_the_layer_computes_with() {
    for scheme in schemes() {
        for policy in POLICIES {
            let options = options(policy, &scheme);
            let store = store();
            let model = Mlp::build(&store);
            if attach_with(&store.layers(), &scheme, &options).is_err() {
                continue;
            }
            for layer in &store.layers() {
                let q = quantized(layer).unwrap().unwrap();
                let want = values(&layer.effective_weight().unwrap());
                let found = q.dequantize();
                for (a, b) in found.iter().zip(&want) {
                    assert_eq!(f64::from(*a).to_bits(), b.to_bits(), "{scheme} {policy:?}");
                }
                assert!(on_grid(layer).unwrap());
                assert_eq!(q.scales.len() * q.block, q.codes.len());
                assert_eq!(q.zeros.is_some(), scheme.weight.unwrap().asymmetric());
                // The same grid for a plain slice, where scales are those of the maximum.
                if matches!(policy, ScalePolicy::Dynamic) {
                    let w: Vec<f32> = values(&layer.weight().tensor()).iter().map(|v| *v as f32).collect();
                    assert_eq!(q.spec.quantize("w", &w, layer.weight().shape().dims()).unwrap(), q);
                }
            }
            assert_eq!(off_grid(&store.layers()).unwrap(), 0);
            set_enabled(&store.layers(), false);
            assert!(off_grid(&store.layers()).unwrap() > 1000, "{scheme}: a plain weight is not on a grid");
            assert!(!on_grid(model.fc1.layer()).unwrap());
        }
    }
}

#[test]
fn sparse_and_quantized_keeps_both_at_every_step() {
    for scheme in schemes() {
        for policy in POLICIES {
            let options = options(policy, &scheme);
            if options.check(&scheme).is_err() || scheme.input.is_some_and(|i| !i.dynamic) {
                continue;
            }
            let what = format!("{scheme} {policy:?}");
            let store = store();
            let model = Mlp::build(&store);
            prune(&store.layers(), Pattern::TWO_FOUR, &Magnitude).unwrap();
            attach_with(&store.layers(), &scheme, &options).unwrap();
            for _ in 0..2 {
                descend(&store, &model.loss(), 0.5);
                trimwick_quant::refresh(&store.layers()).unwrap();
                assert_eq!(violations(&store.layers(), Pattern::TWO_FOUR).unwrap(), 0, "{what}");
                assert_eq!(off_grid(&store.layers()).unwrap(), 0, "{what}");
                for layer in &store.layers() {
                    let mask = trimwick_sparse::bits(layer).unwrap().unwrap();
                    let w = values(&layer.effective_weight().unwrap());
                    let dropped = (0..w.len()).filter(|i| mask[i / 8] >> (i % 8) & 1 == 0);
                    assert!(dropped.clone().count() == w.len() / 2);
                    assert!(dropped.into_iter().all(|i| w[i].to_bits() == 0), "{what}: dropped is +0.0");
                }
            }
        }
    }
}

#[test]
fn a_refreshed_mask_and_a_convolution_stay_on_the_grid() {
    let store = store();
    let model = ConvNet::build(&store);
    attach(&store.layers(), &Scheme::preset("int4-g32").unwrap()).unwrap();
    let plan = Plan::Refreshed { every: 1, end: 3, decay: 0.01 };
    let mut masks = MaskSchedule::new(store.layers(), Pattern::TWO_FOUR, plan).unwrap();
    for step in 0..5 {
        masks.before_step(step).unwrap();
        descend(&store, &model.loss(), 0.05);
        assert_eq!(violations(&store.layers(), Pattern::TWO_FOUR).unwrap(), 0);
        assert_eq!(off_grid(&store.layers()).unwrap(), 0);
    }
}

#[test]
fn plain_slices_take_every_grid_and_say_what_they_cannot() {
    let w: Vec<f32> = values(&tensor(&[6, 128], 2)).iter().map(|v| *v as f32).collect();
    for scheme in schemes() {
        let spec = scheme.weight.unwrap();
        let q = spec.quantize("w", &w, &[6, 128]).unwrap();
        let error: f64 = q.dequantize().iter().zip(&w).map(|(a, b)| f64::from((a - b).powi(2))).sum();
        let bound = match q.spec.code.bits() {
            8 => 0.004,
            5 | 6 => 0.02,
            4 => 0.04,
            _ => 1.,
        };
        assert!(error / 768. < bound, "{scheme}: {}", error / 768.);
        let e = spec.quantize("a.weight", &[1., f32::NAN], &[1, 2]);
        if let Err(e) = e {
            let e = e.to_string();
            assert!(e.contains("a.weight") && (e.contains("element 1") || e.contains("groups")), "{e}");
        } else {
            panic!("{scheme}: NaN passed");
        }
    }
    assert!(COMPOSED.len() > 3);
}

#[test]
fn inputs_are_on_their_grid_too() {
    let store = store();
    let fc = trimwick_nn::linear_no_bias(64, 64, store.var_builder().pp("fc")).unwrap();
    // The identity lets the quantized input through.
    let eye = Tensor::eye(64, candle_core::DType::F32, &Device::Cpu).unwrap();
    fc.layer().weight().set(&eye).unwrap();
    let x = tensor(&[5, 64], 3);
    let flat: Vec<f32> = values(&x).iter().map(|v| *v as f32).collect();
    for (scheme, same) in [
        ("input int8 token dynamic", "int8 channel f32"),
        ("input e4m3 token dynamic", "e4m3 channel f32"),
        ("input e2m1 g32 dynamic", "e2m1 g32 e8m0"),
        ("input e2m1 g16 dynamic", "e2m1 g16 e4m3"),
        ("input int8 tensor static", "int8 tensor f32"),
        ("input e2m1 g16 static", "e2m1 g16 e4m3"),
        ("input uint8 token dynamic", "uint8 channel f32"),
    ] {
        attach(&store.layers(), &scheme.parse().unwrap()).unwrap();
        trimwick_quant::calibrate(&store.layers(), || fc.forward(&x).map(drop)).unwrap();
        let spec: trimwick_quant::QuantSpec = same.parse().unwrap();
        let want = spec.quantize("x", &flat, &[5, 64]).unwrap().dequantize();
        let found = values(&fc.forward(&x).unwrap());
        assert!(found.iter().zip(&want).all(|(a, b)| *a == f64::from(*b)), "{scheme}");
    }
    let range = Options { input_range: Range::Percentile(50.), ..Options::default() };
    attach_with(&store.layers(), &"input int8 tensor static".parse().unwrap(), &range).unwrap();
    trimwick_quant::calibrate(&store.layers(), || fc.forward(&x).map(drop)).unwrap();
    let found = values(&fc.forward(&x).unwrap());
    let top = found.iter().fold(0f64, |a, v| a.max(v.abs()));
    assert!((0.6..0.75).contains(&top), "half of a normal lies within .674: {top}");
}

#[test]
fn an_image_of_a_convolution_has_a_scale_of_its_own() {
    let store = store();
    let config = trimwick_nn::Conv2dConfig::default();
    let conv = trimwick_nn::conv2d_no_bias(4, 4, 1, config, store.var_builder().pp("conv")).unwrap();
    let eye = Tensor::eye(4, candle_core::DType::F32, &Device::Cpu).unwrap().reshape((4, 4, 1, 1)).unwrap();
    conv.layer().weight().set(&eye).unwrap();
    let mut x: Vec<f32> = values(&tensor(&[3, 4, 5, 5], 3)).iter().map(|v| *v as f32).collect();
    x[100..200].iter_mut().for_each(|v| *v *= 1000.);
    attach(&store.layers(), &"input int8 token dynamic".parse().unwrap()).unwrap();
    let found = conv.forward(&Tensor::from_slice(&x, (3, 4, 5, 5), &Device::Cpu).unwrap()).unwrap();
    let spec: trimwick_quant::QuantSpec = "int8 channel".parse().unwrap();
    let want = spec.quantize("x", &x, &[3, 100]).unwrap().dequantize();
    assert!(values(&found).iter().zip(&want).all(|(a, b)| *a == f64::from(*b)));
}
