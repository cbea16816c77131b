//! SVDQuant's branch and bias correction.

use candle_core::{Device, Tensor};
use trimwick_nn::{Feed, Module, linear, linear_no_bias};
use trimwick_quant::{
    AwqScale, BiasCorrection, SmoothQuant, SvdQuant, absorb, attach, branch_bits, off_grid, restore,
    run_pass, take_apart, weight_quantizer, whole_weight,
};
use trimwick_testkit::{assert_bits_equal, assert_close, values};

use crate::support::{load, saved, store, tensor};

/// A weight with a strong part of rank 3.
fn weight(rows: usize, cols: usize) -> Tensor {
    let strong = tensor(&[rows, 3], 1).matmul(&tensor(&[3, cols], 2)).unwrap();
    ((strong * 4.).unwrap() + tensor(&[rows, cols], 3)).unwrap()
}

#[test]
fn a_branch_takes_the_strong_part_and_comes_back() {
    for scheme in ["int4-g32", "mxfp4", "w4a8-g32"] {
        let store = store();
        let fc = linear(64, 24, store.var_builder().pp("fc")).unwrap();
        fc.layer().weight().set(&weight(24, 64)).unwrap();
        let x = tensor(&[40, 64], 4);
        let full = fc.forward(&x).unwrap();
        attach(&store.layers(), &scheme.parse().unwrap()).unwrap();
        let pass = SvdQuant { rank: 3, ..SvdQuant::default() };
        let reports = run_pass(&store.layers(), &[], &pass, || fc.forward(&x).map(drop)).unwrap();
        assert!(reports[0].after_db > reports[0].before_db, "{scheme}: {reports:?}");
        assert_eq!(off_grid(&store.layers()).unwrap(), 0);
        // Residual and branch are the weight.
        trimwick_quant::set_enabled(&store.layers(), false);
        assert_close(&fc.forward(&x).unwrap(), &full, 1e-5, 1e-4);
        trimwick_quant::set_enabled(&store.layers(), true);
        let out = fc.forward(&x).unwrap();
        let y = values(&full);
        let noise: f64 = values(&out).iter().zip(&y).map(|(a, b)| (a - b).powi(2)).sum();
        let bias = values(&fc.layer().bias().unwrap().tensor());
        let signal: f64 = y.iter().enumerate().map(|(i, v)| (v - bias[i % 24]).powi(2)).sum();
        assert!(
            (10. * (signal / noise).log10() - reports[0].after_db).abs() < 0.1,
            "the report is what is computed"
        );

        let kept = saved(&store);
        fc.layer().set_branch(None);
        load(&store, &kept);
        restore(&store.layers()).unwrap();
        assert_bits_equal(&fc.forward(&x).unwrap(), &out);
        trimwick_testkit::assert_every_gradient(
            &store,
            &fc.forward(&x).unwrap().sqr().unwrap().mean_all().unwrap(),
        );
        let error = run_pass(&store.layers(), &[], &pass, || fc.forward(&x).map(drop)).unwrap_err();
        assert!(error.to_string().contains("branch already"), "{error}");
    }
}

#[test]
fn the_mean_of_the_output_is_put_right() {
    // Inputs with a mean, which rounding shifts.
    let x = (tensor(&[200, 64], 4) + 2.).unwrap();
    for create in [false, true] {
        let store = store();
        let vb = store.var_builder();
        let fc = match create {
            true => linear_no_bias(64, 12, vb.pp("fc")).unwrap(),
            false => linear(64, 12, vb.pp("fc")).unwrap(),
        };
        let full = fc.forward(&x).unwrap();
        attach(&store.layers(), &"int2-g32".parse().unwrap()).unwrap();
        assert!(weight_quantizer(fc.layer()).is_some());
        let pass = BiasCorrection { create, ..BiasCorrection::default() };
        let reports = run_pass(&store.layers(), &[], &pass, || fc.forward(&x).map(drop)).unwrap();
        assert!(reports[0].after_db > reports[0].before_db + 3., "{reports:?}");
        let mean = |t: &Tensor| t.mean(0).unwrap();
        assert_close(&mean(&fc.forward(&x).unwrap()), &mean(&full), 1e-4, 1e-4);
        assert!(store.get("fc.bias").is_some());
    }
    let store = store();
    let fc = linear_no_bias(64, 12, store.var_builder().pp("fc")).unwrap();
    attach(&store.layers(), &"int8".parse().unwrap()).unwrap();
    let forward = || fc.forward(&x).map(drop);
    let error = run_pass(&store.layers(), &[], &BiasCorrection::default(), forward).unwrap_err();
    assert!(error.to_string().contains("fc: bias-correction: it has no bias"), "{error}");
    let again = Tensor::zeros(12, candle_core::DType::F32, &Device::Cpu).unwrap();
    fc.layer().add_bias(&again).unwrap();
    assert!(fc.layer().add_bias(&again).is_err(), "a layer has one bias");
    let smooth = SmoothQuant::default();
    run_pass(&store.layers(), &[], &smooth, forward).unwrap();
}

/// Branch and input scale as part of a plain weight, and back.
#[test]
fn a_plain_weight_holds_what_stands_beside_it() {
    let store = store();
    let fc = linear(64, 24, store.var_builder().pp("fc")).unwrap();
    fc.layer().weight().set(&weight(24, 64)).unwrap();
    let x = tensor(&[40, 64], 4);
    let alone = fc.layer().effective_weight().unwrap();
    assert_bits_equal(&whole_weight(fc.layer()).unwrap(), &alone);
    assert_eq!(branch_bits(fc.layer()), 0);

    let scale: Vec<f32> = (0..64).map(|i| 0.5 + i as f32 / 64.).collect();
    let feed = Feed { source: None, layers: store.layers() };
    absorb(&feed, &scale).unwrap();
    attach(&store.layers(), &"int4-g32".parse().unwrap()).unwrap();
    let pass = SvdQuant { rank: 3, ..SvdQuant::default() };
    run_pass(&store.layers(), &[], &pass, || fc.forward(&x).map(drop)).unwrap();
    assert_eq!(branch_bits(fc.layer()), 16 * 3 * (24 + 64));
    let out = fc.forward(&x).unwrap();
    let whole = whole_weight(fc.layer()).unwrap();
    let bias = fc.layer().bias().unwrap().tensor();
    let plain = x.matmul(&whole.t().unwrap()).unwrap().broadcast_add(&bias).unwrap();
    assert_close(&plain, &out, 1e-4, 1e-4);

    let on_grid = fc.layer().effective_weight().unwrap();
    fc.layer().weight().set(&whole).unwrap();
    take_apart(fc.layer()).unwrap();
    assert_bits_equal(&fc.layer().weight().value().unwrap(), &on_grid);

    // The branch reads the scaled input: a second scale would have to change its factors too.
    let error =
        run_pass(&store.layers(), &[], &AwqScale::default(), || fc.forward(&x).map(drop)).unwrap_err();
    assert!(error.to_string().contains("fc: input scale: it has a branch"), "{error}");
}
