//! GPTQ against an independent reference in numpy (tests/golden/make_gptq_golden.py), and what it promises.

use candle_core::{Device, Tensor};
use trimwick_nn::{Linear, Module, ParamStore, Slot, linear_no_bias};
use trimwick_quant::{
    ColumnOrder, Gptq, GroupScales, Joint, LayerReport, Options, Pass, Range, ScalePolicy, Scheme, Select,
    attach_with, calibrate, off_grid, quantized, restore, run_pass,
};
use trimwick_testkit::{Golden, assert_bits_equal, assert_close, values};

use crate::support::{load, saved, store, tensor};

fn frozen() -> Options {
    Options { scales: ScalePolicy::Frozen, ..Options::default() }
}

fn layer(store: &ParamStore, weight: &Tensor) -> Linear {
    let (out, inputs) = weight.dims2().unwrap();
    let fc = linear_no_bias(inputs, out, store.var_builder().pp("fc")).unwrap();
    fc.layer().weight().set(weight).unwrap();
    fc
}

fn run(store: &ParamStore, fc: &Linear, x: &Tensor, gptq: &Gptq<'_>) -> LayerReport {
    let reports = run_pass(&store.layers(), &[], gptq, || {
        // In two pieces, as calibration windows come.
        let half = x.dim(0)? / 2;
        fc.forward(&x.narrow(0, 0, half)?)?;
        fc.forward(&x.narrow(0, half, x.dim(0)? - half)?).map(drop)
    });
    reports.unwrap().pop().unwrap()
}

fn bits(mask: &Tensor) -> Vec<u8> {
    let mask = values(mask);
    mask.chunks(8).map(|c| c.iter().enumerate().fold(0, |b, (i, k)| b | u8::from(*k == 1.) << i)).collect()
}

#[test]
fn as_published() {
    let golden = Golden::open(format!("{}/tests/golden/gptq.safetensors", env!("CARGO_MANIFEST_DIR")));
    let fix = |layer: &trimwick_nn::Layer, bits: &[u8]| Ok(trimwick_sparse::fix(layer, bits)?);
    for (case, scheme) in [
        ("int4", "weight int4 g32 bf16"),
        ("int4_order", "weight int4 g32 bf16"),
        ("int3_channel", "weight int3 channel f32"),
        ("nvfp4", "weight e2m1 g16 e4m3"),
        ("int4_masked", "weight int4 g32 bf16"),
        ("joint", "weight int4 g32 bf16"),
    ] {
        let store = store();
        let fc = layer(&store, &golden.tensor("weight"));
        if case == "int4_masked" {
            trimwick_sparse::fix(fc.layer(), &bits(&golden.tensor("int4_masked.mask"))).unwrap();
        }
        attach_with(&store.layers(), &scheme.parse().unwrap(), &frozen()).unwrap();
        let mut gptq = Gptq::default();
        if case == "int4_order" {
            gptq.order = ColumnOrder::Activation;
        }
        if case == "joint" {
            gptq.joint = Some(Joint { select: Select::Nm { n: 2, m: 4 }, fix: &fix });
        }
        let report = run(&store, &fc, &golden.tensor("x"), &gptq);
        let found = fc.layer().weight().tensor();
        assert_close(&found, &golden.tensor(&format!("{case}.weight")), 1e-4, 1e-4);
        let scales = quantized(fc.layer()).unwrap().unwrap().scales;
        let want = golden.tensor(&format!("{case}.scale"));
        assert_close(&Tensor::from_vec(scales, want.dims(), &Device::Cpu).unwrap(), &want, 1e-6, 0.);
        if case == "joint" {
            let mask = trimwick_sparse::bits(fc.layer()).unwrap().unwrap();
            assert_eq!(mask, bits(&golden.tensor("joint.mask")), "mask");
        }
        // On the grid that the layer computes with, and there to stay.
        assert_eq!(off_grid(&store.layers()).unwrap(), 0, "{case}");
        assert_bits_equal(&fc.layer().effective_weight().unwrap(), &found);
        // Jointly pruned weights are compared with unpruned ones.
        assert!(report.after_db > report.before_db || case == "joint", "{case}: {report:?}");
        assert_eq!((report.dead, report.retries, report.damping), (2, 0, Some(0.01)));
    }
}

#[test]
fn every_grid_stays_on_itself_and_beats_rounding() {
    let (w, x) = (tensor(&[16, 128], 1), correlated(96, 128));
    for scheme in [
        "int8-weight",
        "int4-g32",
        "int2-g32",
        "ternary",
        "q4_0",
        "mxfp4-weight",
        "mxfp6-e2m3-weight",
        "fp8-weight",
        "weight int4 tensor f32",
        "weight uint4 g32",
        "weight uint3 channel",
        "w4a8-g64",
    ] {
        let parsed: Scheme = scheme.parse().unwrap();
        for (policy, range) in [
            (ScalePolicy::Frozen, Range::Max),
            (ScalePolicy::Frozen, Range::Mse),
            (ScalePolicy::Learned, Range::Max),
        ] {
            let asymmetric = parsed.weight.unwrap().asymmetric();
            if asymmetric && (policy == ScalePolicy::Learned || range == Range::Mse) {
                continue;
            }
            let store = store();
            let fc = layer(&store, &w);
            let options = Options { scales: policy, range, ..Options::default() };
            attach_with(&store.layers(), &parsed, &options).unwrap();
            let report = run(&store, &fc, &x, &Gptq::default());
            assert!(report.after_db > report.before_db, "{scheme} {policy:?} {range:?}: {report:?}");
            assert_eq!(off_grid(&store.layers()).unwrap(), 0, "{scheme}");
            let weight = fc.layer().weight().tensor();
            assert_bits_equal(&fc.layer().effective_weight().unwrap(), &weight);

            // Calibration, and a checkpoint, keep the scales that the weights were rounded with.
            calibrate(&store.layers(), || fc.forward(&x).map(drop)).unwrap();
            assert_bits_equal(&fc.layer().effective_weight().unwrap(), &weight);
            let kept = saved(&store);
            load(&store, &kept);
            restore(&store.layers()).unwrap();
            assert_bits_equal(&fc.layer().effective_weight().unwrap(), &weight);
            calibrate(&store.layers(), || fc.forward(&x).map(drop)).unwrap();
            assert_bits_equal(&fc.layer().effective_weight().unwrap(), &weight);
        }
    }
}

/// Inputs of which 12 directions explain most.
fn correlated(tokens: usize, width: usize) -> Tensor {
    let x = tensor(&[tokens, 12], 5).matmul(&tensor(&[12, width], 6)).unwrap();
    (x + (tensor(&[tokens, width], 7) * 0.3).unwrap()).unwrap()
}

#[test]
fn a_mask_survives_and_scales_leave_dropped_weights_out() {
    let store = store();
    let mut w = values(&tensor(&[8, 64], 2));
    // The largest weight of each group is dropped.
    (0..w.len()).step_by(32).for_each(|i| w[i] = 50.);
    let w: Vec<f32> = w.iter().map(|v| *v as f32).collect();
    let fc = layer(&store, &Tensor::from_vec(w, (8, 64), &Device::Cpu).unwrap());
    trimwick_sparse::fix(fc.layer(), &[0b1010_1010; 64]).unwrap();
    attach_with(&store.layers(), &Scheme::preset("int4-g32").unwrap(), &frozen()).unwrap();
    run(&store, &fc, &correlated(80, 64), &Gptq::default());
    let found = fc.layer().effective_weight().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert!(found.iter().step_by(2).all(|v| v.to_bits() == 0), "dropped is +0.0");
    assert!(quantized(fc.layer()).unwrap().unwrap().scales.iter().all(|s| *s < 1.));
}

#[test]
fn the_same_bits_on_any_number_of_threads() {
    let found = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let store = store();
            let fc = layer(&store, &tensor(&[40, 320], 3));
            attach_with(&store.layers(), &Scheme::preset("int4-g64").unwrap(), &frozen()).unwrap();
            run(&store, &fc, &correlated(200, 320), &Gptq::default());
            fc.layer().weight().tensor()
        })
    };
    assert_bits_equal(&found(1), &found(3));
}

#[test]
fn a_hessian_that_is_not_positive_definite_is_damped_and_reported() {
    // Equal inputs, no damping and numbers without rounding: every element of H is 4.
    let x: Vec<f32> = (0..40 * 32).map(|i| (i / 32 % 2 * 2) as f32).collect();
    let x = Tensor::from_vec(x, (40, 32), &Device::Cpu).unwrap();
    let store = store();
    let fc = layer(&store, &tensor(&[4, 32], 1));
    attach_with(&store.layers(), &Scheme::preset("int4-g32").unwrap(), &frozen()).unwrap();
    let gptq = Gptq { damping: 0., ..Gptq::default() };
    let report = run(&store, &fc, &x, &gptq);
    assert!(report.retries >= 1 && report.damping > Some(0.), "{report:?}");
    let none = Gptq { damping: 0., retries: 0, ..Gptq::default() };
    let error = run_pass(&store.layers(), &[], &none, || fc.forward(&x).map(drop)).unwrap_err();
    assert!(error.to_string().starts_with("fc: the Hessian is not positive definite"), "{error}");
}

#[test]
fn what_stands_in_the_way_is_named() {
    let x = tensor(&[8, 64], 1);
    let refuse = |prepare: &dyn Fn(&ParamStore, &Linear), gptq: &Gptq<'_>, x: Option<&Tensor>, says: &str| {
        let store = store();
        let fc = layer(&store, &tensor(&[4, 64], 1));
        prepare(&store, &fc);
        let forward = || x.map_or(Ok(()), |x| fc.forward(x).map(drop));
        let before = fc.layer().weight().tensor().copy().unwrap();
        let error = run_pass(&store.layers(), &[], gptq, forward).unwrap_err().to_string();
        assert!(error.contains("fc") && error.contains(says), "{says:?} in {error:?}");
        assert_bits_equal(&fc.layer().weight().tensor(), &before);
    };
    let attach = |store: &ParamStore, options: Options| {
        attach_with(&store.layers(), &Scheme::preset("int4-g32").unwrap(), &options).unwrap();
    };
    let plain = Gptq::default();
    refuse(&|_, _| (), &plain, Some(&x), "attach");
    refuse(&|s, _| attach(s, Options::default()), &plain, Some(&x), "frozen or learned");
    refuse(&|s, _| attach(s, frozen()), &plain, None, "no input seen");
    let nan = (&x * f64::NAN).unwrap();
    refuse(&|s, _| attach(s, frozen()), &plain, Some(&nan), "NaN");
    let fix = |layer: &trimwick_nn::Layer, bits: &[u8]| Ok(trimwick_sparse::fix(layer, bits)?);
    let joint = |n, m, order| Gptq {
        joint: Some(Joint { select: Select::Nm { n, m }, fix: &fix }),
        order,
        scales: GroupScales::Static,
        ..Gptq::default()
    };
    refuse(&|s, _| attach(s, frozen()), &joint(2, 5, ColumnOrder::Natural), Some(&x), "N:M");
    refuse(&|s, _| attach(s, frozen()), &joint(2, 4, ColumnOrder::Activation), Some(&x), "natural order");
    let masked = |s: &ParamStore, fc: &Linear| {
        trimwick_sparse::fix(fc.layer(), &[0xff; 32]).unwrap();
        attach(s, frozen());
        assert!(fc.layer().chain().get(Slot::Mask).is_some());
    };
    refuse(&masked, &joint(2, 4, ColumnOrder::Natural), Some(&x), "mask already");
    assert_eq!(plain.name(), "gptq");
}
