//! SmoothQuant and AWQ: the scales of ModelOpt, and what moving them changes and does not change.

use candle_core::{DType, Device, Tensor};
use trimwick_nn::{Feed, FeedSource, Layers, Linear, Module, ParamStore, linear, linear_no_bias};
use trimwick_quant::{
    Alpha, AwqClip, AwqScale, Gptq, InputScale, LayerReport, Options, Pass, ScalePolicy, Scheme, SmoothQuant,
    absorb, attach, attach_with, calibrate, off_grid, quantized, restore, run_pass,
};
use trimwick_testkit::{Golden, assert_bits_equal, assert_close, values};

use crate::support::{Llama, Model, load, saved, store, tensor};

fn frozen() -> Options {
    Options { scales: ScalePolicy::Frozen, ..Options::default() }
}

fn golden() -> Golden {
    Golden::open(format!("{}/tests/golden/modelopt.safetensors", env!("CARGO_MANIFEST_DIR")))
}

fn single(golden: &Golden, scheme: &str) -> (ParamStore, Linear) {
    let store = store();
    let fc = linear_no_bias(96, 24, store.var_builder().pp("fc")).unwrap();
    fc.layer().weight().set(&golden.tensor("weight")).unwrap();
    attach_with(&store.layers(), &scheme.parse().unwrap(), &frozen()).unwrap();
    (store, fc)
}

fn run(store: &ParamStore, fc: &Linear, x: &Tensor, pass: &dyn Pass) -> LayerReport {
    run_pass(&store.layers(), &[], pass, || fc.forward(x).map(drop)).unwrap().pop().unwrap()
}

fn input_scale(fc: &Linear) -> Tensor {
    let any: std::sync::Arc<dyn std::any::Any + Send + Sync> =
        fc.layer().input_scale().expect("an input scale");
    any.downcast::<InputScale>().unwrap().scale().clone()
}

#[test]
fn smoothquant_is_that_of_modelopt() {
    let golden = golden();
    for alpha in ["0.0", "0.5", "0.8", "1.0"] {
        let (store, fc) = single(&golden, "int8-static");
        let pass = SmoothQuant { alpha: Alpha::Fixed(alpha.parse().unwrap()), samples: 32 };
        run(&store, &fc, &golden.tensor("x"), &pass);
        assert_close(&input_scale(&fc), &golden.tensor(&format!("smooth_{alpha}.scale")), 1e-5, 0.);
        let scales = quantized(fc.layer()).unwrap().unwrap().scales;
        let amax = (Tensor::from_vec(scales, 24, &Device::Cpu).unwrap() * 127.).unwrap();
        assert_close(&amax, &golden.tensor(&format!("smooth_{alpha}.weight_amax")), 1e-5, 0.);
        calibrate(&store.layers(), || fc.forward(&golden.tensor("x")).map(drop)).unwrap();
        let scale = trimwick_quant::input_quantizer(fc.layer()).unwrap().scale().unwrap().unwrap();
        let want = values(&golden.tensor(&format!("smooth_{alpha}.input_amax")))[0];
        assert!((f64::from(scale) * 127. / want - 1.).abs() < 1e-5, "{scale} · 127, expected {want}");
    }
}

#[test]
fn awq_is_that_of_modelopt() {
    let golden = golden();
    for (case, scheme) in
        [("awq", "weight int4 g32 f32"), ("awq_w4a8", "weight int4 g32 f32, input int8 tensor f32 static")]
    {
        let (store, fc) = single(&golden, scheme);
        let report = run(&store, &fc, &golden.tensor("x"), &AwqScale::default());
        assert_close(&input_scale(&fc), &golden.tensor(&format!("{case}.scale")), 1e-5, 0.);
        assert!(report.after_db > report.before_db && report.alpha.is_some(), "{report:?}");
    }
    let (store, fc) = single(&golden, "weight int4 g32 f32");
    let report = run(&store, &fc, &golden.tensor("x"), &AwqClip::default());
    let scales = quantized(fc.layer()).unwrap().unwrap().scales;
    let amax = (Tensor::from_vec(scales, (24, 3), &Device::Cpu).unwrap() * 7.).unwrap();
    assert_close(&amax, &golden.tensor("clip.amax"), 1e-5, 0.);
    assert!(report.after_db > report.before_db, "{report:?}");
    assert_eq!(off_grid(&store.layers()).unwrap(), 0);
}

/// The feeds of the small Llama, as a model would name them.
fn feeds(model: &Llama) -> Vec<Feed> {
    vec![
        model.norms[0].feed(model.attn.inputs()),
        model.attn.inner_feed(),
        model.norms[1].feed(model.mlp.inputs()),
        model.mlp.inner_feed(),
        model.norms[2].feed([model.head.layer().clone()].into_iter().collect()),
    ]
}

/// Positive scales, equal where one row makes several channels.
fn some_scale(feed: &Feed, seed: u64) -> Vec<f32> {
    let cols = feed.layers.iter().next().unwrap().weight().shape().dims()[1];
    let free: Vec<f32> = values(&tensor(&[cols], seed)).iter().map(|v| (v * 1.5).exp() as f32).collect();
    match &feed.source {
        Some(FeedSource::Rows { rows, .. }) => rows.iter().map(|r| free[*r]).collect(),
        _ => free,
    }
}

#[test]
fn a_scale_moves_without_changing_the_function() {
    for which in 0..6 {
        let store = store();
        let model = Llama::build(&store);
        let before = model.forward().unwrap();
        let mut feed = feeds(&model).swap_remove(which.min(4));
        if which == 5 {
            feed.source = None;
        }
        let untouched = feed.layers.iter().next().unwrap().weight().tensor().copy().unwrap();
        absorb(&feed, &some_scale(&feed, 40 + which as u64)).unwrap();
        assert_close(&model.forward().unwrap(), &before, 1e-5, 1e-5);
        let changed = feed.layers.iter().next().unwrap().weight().tensor();
        assert_ne!(values(&changed), values(&untouched), "{which}");
        assert_eq!(feed.layers.iter().any(|l| l.input_scale().is_some()), which == 5, "{which}");
        if which == 5 {
            // Twice is once with the product; and the scale comes back from a checkpoint.
            absorb(&feed, &some_scale(&feed, 50)).unwrap();
            assert_close(&model.forward().unwrap(), &before, 1e-5, 1e-5);
            let (kept, out) = (saved(&store), model.forward().unwrap());
            model.head.layer().set_input_scale(None);
            load(&store, &kept);
            restore(&store.layers()).unwrap();
            assert_bits_equal(&model.forward().unwrap(), &out);
            trimwick_testkit::assert_every_gradient(&store, &model.loss());
        }
    }
}

#[test]
fn a_layer_norm_and_a_bias_take_their_part() {
    let store = store();
    let vb = store.var_builder();
    let norm = trimwick_nn::layer_norm(16, 1e-5, vb.pp("norm")).unwrap();
    norm.bias().set(&tensor(&[16], 1)).unwrap();
    let (a, b) = (linear(16, 12, vb.pp("a")).unwrap(), linear(12, 4, vb.pp("b")).unwrap());
    let x = tensor(&[5, 16], 2);
    let forward = || b.forward(&a.forward(&norm.forward(&x).unwrap()).unwrap()).unwrap();
    let before = forward();
    let of = |l: &Linear| -> Layers { [l.layer().clone()].into_iter().collect() };
    let feed = norm.feed(of(&a));
    absorb(&feed, &some_scale(&feed, 3)).unwrap();
    let rows = FeedSource::Rows { layer: a.layer().clone(), rows: (0..12).collect() };
    let feed = Feed { source: Some(rows), layers: of(&b) };
    absorb(&feed, &some_scale(&feed, 4)).unwrap();
    assert_close(&forward(), &before, 1e-5, 1e-5);
}

#[test]
fn groups_share_a_scale_and_the_search_is_no_worse_than_any_exponent() {
    let noise = |pass: &dyn Pass, scheme: &str| {
        let store = store();
        let model = Llama::build(&store);
        // A few loud channels, as in real models.
        let loud: Vec<f32> = (0..128).map(|i| if i % 31 == 0 { 40. } else { 1. }).collect();
        let loud = Tensor::from_vec(loud, 128, &Device::Cpu).unwrap();
        model.norms.iter().for_each(|n| n.weight().set(&loud).unwrap());
        let layers = store.layers().select("*_proj").unwrap();
        attach_with(&layers, &scheme.parse().unwrap(), &frozen()).unwrap();
        let reports = run_pass(&layers, &feeds(&model), pass, || model.forward().map(drop)).unwrap();
        assert_eq!(reports.len(), 7);
        let of = |name: &str| reports.iter().find(|r| r.layer.ends_with(name)).unwrap();
        assert_eq!(of("q_proj").alpha, of("v_proj").alpha);
        assert_eq!(of("gate_proj").alpha, of("up_proj").alpha);
        assert!(layers.iter().all(|l| l.input_scale().is_none()), "everything was folded");
        let total = |names: &[&str], pick: fn(&LayerReport) -> f64| -> f64 {
            names.iter().map(|n| 10f64.powf(-pick(of(n)) / 10.)).sum()
        };
        let group = ["q_proj", "k_proj", "v_proj"];
        (total(&group, |r| r.before_db), total(&group, |r| r.after_db))
    };
    let (plain, searched) = noise(&SmoothQuant::default(), "int8-static");
    assert!(searched < plain, "{searched} of {plain}");
    for alpha in [0., 0.25, 0.5, 0.75, 1.] {
        let (_, fixed) = noise(&SmoothQuant { alpha: Alpha::Fixed(alpha), samples: 512 }, "int8-static");
        assert!(searched <= fixed * 1.0001, "{alpha}: {searched} of {fixed}");
    }
    for scheme in ["int4-g32", "w4a8-g64", "nvfp4-weight", "int4-channel"] {
        let (plain, scaled) = noise(&AwqScale::default(), scheme);
        assert!(scaled < plain, "{scheme}: {scaled} of {plain}");
    }
}

#[test]
fn a_silent_channel_keeps_its_weight() {
    let x = tensor(&[20, 32], 3);
    let silent =
        Tensor::from_vec((0..32).map(|i| f32::from(u8::from(i != 5))).collect(), 32, &Device::Cpu).unwrap();
    let x = x.broadcast_mul(&silent).unwrap();
    for pass in [&SmoothQuant { alpha: Alpha::Fixed(0.5), samples: 20 } as &dyn Pass, &AwqScale::default()] {
        let store = store();
        let fc = linear(32, 6, store.var_builder().pp("fc")).unwrap();
        attach(&store.layers(), &Scheme::preset("w4a8-g32").unwrap()).unwrap();
        let report = run(&store, &fc, &x, pass);
        assert_eq!(report.dead, 1);
        let scale = values(&input_scale(&fc));
        assert_eq!(scale[5], 1., "{}", pass.name());
        assert!(scale.iter().all(|s| s.is_finite() && *s > 0.));
        assert!(scale.iter().filter(|s| **s != 1.).count() > 20);
    }
}

#[test]
fn clipping_goes_with_gptq_and_stays() {
    let golden = golden();
    let (store, fc) = single(&golden, "int4-g32");
    let x = golden.tensor("x");
    run(&store, &fc, &x, &AwqScale::default());
    run(&store, &fc, &x, &AwqClip::default());
    let clipped = quantized(fc.layer()).unwrap().unwrap().scales;
    run(&store, &fc, &x, &Gptq::default());
    assert_eq!(
        quantized(fc.layer()).unwrap().unwrap().scales,
        clipped,
        "gptq rounds to the ranges of the search"
    );
    assert_eq!(off_grid(&store.layers()).unwrap(), 0);
}

#[test]
fn what_stands_in_the_way_is_named() {
    let x = tensor(&[8, 64], 1);
    let refuse = |scheme: Option<&str>, options: Options, pass: &dyn Pass, says: &str| {
        let store = store();
        let fc = linear(64, 4, store.var_builder().pp("fc")).unwrap();
        if let Some(scheme) = scheme {
            attach_with(&store.layers(), &scheme.parse().unwrap(), &options).unwrap();
        }
        let error =
            run_pass(&store.layers(), &[], pass, || fc.forward(&x).map(drop)).unwrap_err().to_string();
        assert!(error.contains(says), "{says:?} in {error:?}");
    };
    let smooth = |alpha| SmoothQuant { alpha, samples: 8 };
    refuse(None, frozen(), &SmoothQuant::default(), "fc");
    refuse(Some("int4-g32"), frozen(), &SmoothQuant::default(), "quantizes the input");
    refuse(Some("int8"), frozen(), &smooth(Alpha::Fixed(1.5)), "found 1.5");
    refuse(Some("int8"), frozen(), &smooth(Alpha::Search(0)), "at least one step");
    refuse(None, frozen(), &AwqScale::default(), "attach");
    refuse(Some("int4-g32"), Options::default(), &AwqClip::default(), "frozen or learned");
    refuse(Some("fp8-weight"), frozen(), &AwqScale { steps: 0, samples: 8 }, "awq steps");

    let store = ParamStore::new(DType::F32, &Device::Cpu);
    let fc = linear(8, 4, store.var_builder().pp("fc")).unwrap();
    let feed = |source| Feed { source, layers: store.layers() };
    let before = fc.layer().weight().tensor().copy().unwrap();
    for (scale, rows, says) in [
        (vec![1.; 7], None, "each input channel"),
        (vec![0.; 8], None, "positive"),
        ((1..9).map(|s| s as f32).collect(), Some(vec![0, 0, 1, 1, 2, 2, 3, 3]), "one scale"),
        (vec![2.; 8], Some(vec![9; 8]), "rows"),
    ] {
        let source = rows.map(|rows| FeedSource::Rows { layer: fc.layer().clone(), rows });
        let error = absorb(&feed(source), &scale).unwrap_err().to_string();
        assert!(error.starts_with("fc") && error.contains(says), "{says:?} in {error:?}");
        assert_bits_equal(&fc.layer().weight().tensor(), &before);
    }
}
