//! AdamW against PyTorch's formula, groups, masks, errors, state.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Tensor};
use trimwick_kernels::Rng;
use trimwick_nn::{Init, ParamStore, Role};
use trimwick_train::{AdamW, AdamWConfig, Error, Gradients, ParamGroup};

use crate::common::{backward, bits, gradients_of, store};

/// Three parameters: a matrix, a bias, a norm weight.
fn params(dtype: DType) -> ParamStore {
    let store = store(dtype, 1);
    let vb = store.var_builder();
    let init = Init::Randn { mean: 0., stdev: 1. };
    vb.get_with_hints((3, 5), "a.weight", init).unwrap();
    vb.get_with_hints(7, "b.bias", init).unwrap();
    vb.get_with_hints(4, "norm.weight", init).unwrap();
    store
}

fn group(pattern: &str, lr_scale: f64, weight_decay: Option<f64>) -> ParamGroup {
    ParamGroup { pattern: pattern.into(), lr_scale, weight_decay }
}

fn gradient(step: u64, name: &str, n: usize) -> Vec<f64> {
    let mut g = vec![0f32; n]; // in f32, so that both dtypes see the same numbers
    Rng::new(9, "test", step, name).fill_normal(0.1, 2., &mut g);
    g.into_iter().map(f64::from).collect()
}

fn values(store: &ParamStore, name: &str) -> Vec<f64> {
    tensor_values(&store.get(name).unwrap().var())
}

fn tensor_values(t: &Tensor) -> Vec<f64> {
    t.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

/// PyTorch's AdamW, one parameter, one step, in f64.
struct Reference {
    w: Vec<f64>,
    m: Vec<f64>,
    v: Vec<f64>,
}

impl Reference {
    fn step(&mut self, g: &[f64], t: i32, lr: f64, decay: f64, config: &AdamWConfig) {
        let (b1, b2) = (config.beta1, config.beta2);
        for (i, &g) in g.iter().enumerate() {
            self.w[i] *= 1. - lr * decay;
            self.m[i] += (1. - b1) * (g - self.m[i]);
            self.v[i] = b2 * self.v[i] + (1. - b2) * g * g;
            let denominator = self.v[i].sqrt() / (1. - b2.powi(t)).sqrt() + config.eps;
            self.w[i] -= lr / (1. - b1.powi(t)) * self.m[i] / denominator;
        }
    }
}

#[test]
fn fifty_steps_follow_pytorchs_formula() {
    let config = AdamWConfig { beta1: 0.85, beta2: 0.97, eps: 1e-6, weight_decay: 0.2, ..Default::default() };
    let groups = [group("norm.*", 0.25, Some(0.3))];
    // (factor on the rate, decay): the bias gets no decay by default, the norm its group's.
    let expect =
        BTreeMap::from([("a.weight", (1., 0.2)), ("b.bias", (1., 0.)), ("norm.weight", (0.25, 0.3))]);
    for (dtype, tolerance) in [(DType::F32, 2e-5), (DType::F64, 1e-12)] {
        let store = params(dtype);
        let mut optimizer = AdamW::new(store.trainable(), &config, &groups).unwrap();
        assert_eq!(
            optimizer.settings().collect::<Vec<_>>(),
            expect.iter().map(|(name, (s, d))| (*name, *s, *d)).collect::<Vec<_>>()
        );
        let zeros = |w: &[f64]| vec![0.; w.len()];
        let mut reference: BTreeMap<&str, Reference> = expect
            .keys()
            .map(|name| {
                let w = values(&store, name);
                (*name, Reference { m: zeros(&w), v: zeros(&w), w })
            })
            .collect();
        for step in 1..=50u64 {
            let lr = 0.02 + 0.001 * step as f64;
            let grads = gradients_of(&store, |name| gradient(step, name, reference[name].w.len()));
            optimizer.step(&grads, lr).unwrap();
            for (name, r) in &mut reference {
                let (scale, decay) = expect[name];
                r.step(&gradient(step, name, r.w.len()), step as i32, lr * scale, decay, &config);
            }
        }
        assert_eq!(optimizer.steps(), 50);
        let moments = optimizer.moments();
        for (name, r) in &reference {
            for (what, got, want) in [
                ("value", values(&store, name), &r.w),
                ("m", tensor_values(&moments[&format!("m.{name}")]), &r.m),
                ("v", tensor_values(&moments[&format!("v.{name}")]), &r.v),
            ] {
                for (got, want) in got.iter().zip(want) {
                    let error = (got - want).abs() / want.abs().max(1.);
                    assert!(error < tolerance, "{dtype:?} {name} {what}: {got}, want {want}");
                }
            }
        }
    }
}

#[test]
fn what_a_kept_set_drops_stays_positive_zero_in_value_and_moments() {
    for dtype in [DType::F32, DType::F64] {
        let store = params(dtype);
        let param = store.get("a.weight").unwrap();
        let keep: Arc<[u8]> = Arc::from([0b0101_0101u8, 0b0011_0011]);
        let mut optimizer =
            AdamW::new(store.trainable(), &AdamWConfig { weight_decay: 0.1, ..Default::default() }, &[])
                .unwrap();
        let step = |optimizer: &mut AdamW, t: u64| {
            let grads = gradients_of(&store, |name| gradient(t, name, store.get(name).unwrap().elem_count()));
            optimizer.step(&grads, 0.1).unwrap();
        };
        // Momentum from before the mask must not bring anything back.
        (0..3).for_each(|t| step(&mut optimizer, t));
        param.set_keep(Some(keep.clone())).unwrap();
        for t in 3..6 {
            step(&mut optimizer, t);
            let moments = optimizer.moments();
            for t in [param.var().as_tensor(), &moments["m.a.weight"], &moments["v.a.weight"]] {
                for (i, v) in tensor_values(t).into_iter().enumerate() {
                    let kept = keep[i / 8] >> (i % 8) & 1 == 1;
                    assert_eq!(v.to_bits() != 0, kept, "{dtype:?} element {i}: {v}");
                }
            }
        }
        param.set_keep(None).unwrap();
        step(&mut optimizer, 6);
        assert!(values(&store, "a.weight").iter().all(|&v| v != 0.), "{dtype:?}: the set was lifted");
    }
}

#[test]
fn a_group_must_govern_something_and_the_last_one_does() {
    let store = params(DType::F32);
    let make = |groups: &[ParamGroup]| AdamW::new(store.trainable(), &AdamWConfig::default(), groups);
    let optimizer = make(&[group("*", 0.5, None), group("*.weight", 2., Some(0.1))]).unwrap();
    assert_eq!(
        optimizer.settings().collect::<Vec<_>>(),
        [("a.weight", 2., 0.1), ("b.bias", 0.5, 0.), ("norm.weight", 2., 0.1)]
    );
    let faults = [
        ("matches none", vec![group("layers.*", 1., None)]),
        ("also matches a later group", vec![group("a.*", 1., None), group("*", 1., None)]),
        ("lr_scale", vec![group("*", -1., None)]),
        ("lr_scale", vec![group("*", f64::NAN, None)]),
        ("weight_decay", vec![group("*", 1., Some(f64::INFINITY))]),
        ("unclosed", vec![group("a[", 1., None)]),
    ];
    for (want, groups) in faults {
        match make(&groups) {
            Err(e @ Error::Group { .. }) => assert!(e.to_string().contains(want), "{want}: {e}"),
            Err(e) => panic!("{want}: {e}"),
            Ok(_) => panic!("{want}: accepted"),
        }
    }
}

#[test]
fn settings_out_of_range_name_their_key() {
    let store = params(DType::F32);
    let ok = AdamWConfig::default();
    let cases = [
        ("beta1", AdamWConfig { beta1: 1., ..ok.clone() }),
        ("beta2", AdamWConfig { beta2: -0.1, ..ok.clone() }),
        ("beta2", AdamWConfig { beta2: f64::NAN, ..ok.clone() }),
        ("eps", AdamWConfig { eps: 0., ..ok.clone() }),
        ("weight_decay", AdamWConfig { weight_decay: -1., ..ok }),
    ];
    for (want, config) in cases {
        match AdamW::new(store.trainable(), &config, &[]) {
            Err(Error::Setting { key, .. }) => assert_eq!(key, want),
            Err(e) => panic!("{want}: {e}"),
            Ok(_) => panic!("{want}: accepted"),
        }
    }
}

#[test]
fn a_missing_gradient_is_an_error_and_nothing_changes() {
    let store = params(DType::F32);
    let mut optimizer = AdamW::new(store.trainable(), &AdamWConfig::default(), &[]).unwrap();
    let before = bits(&store);
    // The loss sees two of three parameters.
    let loss = |names: &[&str]| {
        let term = |n: &&str| store.get(n).unwrap().tensor().sum_all().unwrap();
        names.iter().map(term).reduce(|a, b| (a + b).unwrap()).unwrap()
    };
    let seen = loss(&["a.weight", "b.bias"]);
    let mut gradients = Gradients::new(&store.trainable());
    match gradients.accumulate(seen.backward().unwrap()) {
        Err(Error::MissingGradient { names }) => assert_eq!(names, ["norm.weight"]),
        other => panic!("{other:?}"),
    }
    assert_eq!(gradients.batches(), 0);
    // An empty sum has no gradient for any of them.
    match optimizer.step(&gradients, 0.1) {
        Err(Error::MissingGradient { names }) => assert_eq!(names.len(), 3),
        other => panic!("{other:?}"),
    }
    assert_eq!(bits(&store), before);
    assert_eq!(optimizer.steps(), 0);
    // A parameter frozen meanwhile needs none and does not move.
    store.get("norm.weight").unwrap().set_role(Role::Frozen);
    let mut gradients = Gradients::new(&store.trainable());
    gradients.accumulate(seen.backward().unwrap()).unwrap();
    optimizer.step(&gradients, 0.1).unwrap();
    let after = bits(&store);
    assert_eq!(after["norm.weight"], before["norm.weight"]);
    assert_ne!(after["a.weight"], before["a.weight"]);
}

#[test]
fn a_gradient_that_is_not_finite_is_named_and_reaches_no_weight() {
    for (bad, dtype) in [(f64::NAN, DType::F32), (f64::NEG_INFINITY, DType::F32), (f64::INFINITY, DType::F64)]
    {
        let store = params(dtype);
        let mut optimizer = AdamW::new(store.trainable(), &AdamWConfig::default(), &[]).unwrap();
        let before = bits(&store);
        let gradients = gradients_of(&store, |name| {
            let mut g = vec![1.; store.get(name).unwrap().elem_count()];
            if name == "b.bias" {
                g[6] = bad;
            }
            g
        });
        match optimizer.step(&gradients, 0.1) {
            Err(Error::NonFinite { what, .. }) => assert_eq!(what, "the gradient of b.bias"),
            other => panic!("{bad}: {other:?}"),
        }
        assert!(matches!(
            optimizer.step(&gradients_of(&store, |n| gradient(0, n, before[n].len())), f64::NAN),
            Err(Error::NonFinite { .. })
        ));
        assert_eq!(bits(&store), before, "{bad}");
        assert_eq!(optimizer.steps(), 0);
    }
}

#[test]
fn a_restored_optimizer_goes_on_bit_for_bit() {
    let run = |store: &ParamStore, optimizer: &mut AdamW, steps: std::ops::Range<u64>| {
        for t in steps {
            let grads = gradients_of(store, |name| gradient(t, name, store.get(name).unwrap().elem_count()));
            optimizer.step(&grads, 0.05).unwrap();
        }
    };
    let config = AdamWConfig { weight_decay: 0.1, ..Default::default() };
    let (one, two) = (params(DType::F32), params(DType::F32));
    let mut first = AdamW::new(one.trainable(), &config, &[]).unwrap();
    run(&one, &mut first, 0..5);
    let mut second = AdamW::new(two.trainable(), &config, &[]).unwrap();
    second.restore(first.steps(), first.moments()).unwrap();
    for p in two.params() {
        p.set(&one.get(p.name()).unwrap().var().as_tensor().copy().unwrap()).unwrap();
    }
    run(&one, &mut first, 5..9);
    run(&two, &mut second, 5..9);
    assert_eq!(bits(&one), bits(&two));

    let mut missing = first.moments();
    missing.remove("v.b.bias");
    let mut unknown = first.moments();
    unknown.insert("m.c".into(), unknown["m.b.bias"].clone());
    let mut misshapen = first.moments();
    misshapen.insert("m.b.bias".into(), unknown["m.a.weight"].clone());
    for (case, moments) in [("missing", missing), ("unknown", unknown), ("misshapen", misshapen)] {
        assert!(second.restore(1, moments).is_err(), "{case}");
        assert_eq!(second.steps(), 9, "{case}: the state changed");
    }
}

#[test]
fn what_cannot_be_trained_is_refused() {
    let half = params(DType::BF16);
    let made = AdamW::new(half.trainable(), &AdamWConfig::default(), &[]);
    assert!(matches!(made.map(drop), Err(Error::DType { found: DType::BF16, .. })));
    let frozen = params(DType::F32);
    frozen.params().iter().for_each(|p| p.set_role(Role::Frozen));
    let made = AdamW::new(frozen.params(), &AdamWConfig::default(), &[]);
    assert!(matches!(made.map(drop), Err(Error::AllFrozen)));
}

#[test]
fn the_mean_of_the_micro_batches_reaches_the_weights() {
    let (one, many) = (params(DType::F32), params(DType::F32));
    let n = |name: &str| one.get(name).unwrap().elem_count();
    let mut gradients = Gradients::new(&many.trainable());
    for t in 0..4 {
        gradients.accumulate(backward(&many, |name| gradient(t, name, n(name)))).unwrap();
    }
    let mean = gradients_of(&one, |name| {
        let sum = |i: usize| (0..4).map(|t| gradient(t, name, n(name))[i]).sum::<f64>();
        (0..n(name)).map(|i| sum(i) / 4.).collect()
    });
    for (store, gradients) in [(&one, mean), (&many, gradients)] {
        let mut optimizer = AdamW::new(store.trainable(), &AdamWConfig::default(), &[]).unwrap();
        optimizer.step(&gradients, 0.1).unwrap();
    }
    for p in one.params() {
        for (a, b) in values(&one, p.name()).iter().zip(values(&many, p.name())) {
            assert!((a - b).abs() < 1e-6, "{}: {a} and {b}", p.name());
        }
    }
}
