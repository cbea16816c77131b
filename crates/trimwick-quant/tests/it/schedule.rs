//! Quantizers that start late, scales that stop, and runs that were interrupted at any step.

use trimwick_nn::{ParamStore, Role};
use trimwick_quant::{Options, QuantSchedule, ScalePolicy, Scheme, attach, attach_with, calibrate, kv};
use trimwick_testkit::{assert_bits_equal, values};

use crate::support::{Llama, Mlp, Model, POLICIES, descend, load, options, saved, store};

fn scheme(name: &str) -> Scheme {
    name.parse().unwrap()
}

fn scale(store: &ParamStore, name: &str) -> Vec<f64> {
    values(&store.get(name).unwrap().tensor())
}

#[test]
fn a_late_start_trains_the_plain_model_until_then() {
    let (plain, quant) = (store(), store());
    let (reference, model) = (Mlp::build(&plain), Mlp::build(&quant));
    let options = Options { scales: ScalePolicy::Frozen, ..Options::default() };
    attach_with(&quant.layers(), &scheme("int2-g32"), &options).unwrap();
    let mut schedule = QuantSchedule::new(quant.layers(), 3, None).unwrap();
    let at_attach = scale(&quant, "fc1.weight_scale");
    for step in 0..5 {
        let acted = schedule.before_step(step).unwrap();
        assert_eq!(acted, step == 0 || step == 3, "step {step}");
        let same = values(&model.forward().unwrap()) == values(&reference.forward().unwrap());
        assert_eq!(same, step < 3, "step {step}");
        if step == 3 {
            // The weights have moved: so do the scales, once.
            assert_ne!(scale(&quant, "fc1.weight_scale"), at_attach);
        }
        if step < 3 {
            descend(&plain, &reference.loss(), 1.);
        }
        descend(&quant, &model.loss(), 1.);
    }
}

#[test]
fn scales_stand_still_from_the_freeze_on() {
    let store = store();
    let model = Mlp::build(&store);
    let ema = ScalePolicy::Ema(0.5);
    let options = Options { scales: ema, input_scales: ema, ..Options::default() };
    attach_with(&store.layers(), &scheme("int8-static"), &options).unwrap();
    calibrate(&store.layers(), || model.forward().map(drop)).unwrap();
    let mut schedule = QuantSchedule::new(store.layers(), 0, Some(3)).unwrap();
    store.clock().set_training(true);
    let mut history = Vec::new();
    for step in 0..6 {
        schedule.before_step(step).unwrap();
        history.push((scale(&store, "fc1.weight_scale"), scale(&store, "fc2.input_scale")));
        descend(&store, &model.loss(), 1.);
    }
    for (step, pair) in history.windows(2).enumerate().map(|(i, pair)| (i + 1, pair)) {
        assert_eq!(pair[0].0 != pair[1].0, step < 3, "weights at step {step}");
        assert_eq!(pair[0].1 != pair[1].1, step < 3, "inputs at step {step}");
    }
}

#[test]
fn a_run_resumed_at_any_step_ends_with_the_same_bytes() {
    const STEPS: u64 = 6;
    for policy in POLICIES {
        for (start, freeze) in [(0, None), (2, None), (2, Some(4))] {
            let scheme = scheme("int8-static");
            let options = options(policy, &scheme);
            let begin = || {
                let store = store();
                let model = Llama::build(&store);
                attach_with(&store.layers(), &scheme, &options).unwrap();
                kv::attach(&store.kv_slots(), &"e4m3 tensor".parse().unwrap()).unwrap();
                (store, model)
            };
            let Ok(_) = QuantSchedule::new(begin().0.layers(), start, freeze) else {
                assert!(freeze.is_some() && matches!(policy, ScalePolicy::Dynamic | ScalePolicy::Frozen));
                continue;
            };
            let ready = |store: &ParamStore, model: &Llama| {
                calibrate(&store.layers(), || model.forward().map(drop)).unwrap();
                kv::calibrate(&store.kv_slots(), || model.forward().map(drop)).unwrap();
            };
            let schedule = |store: &ParamStore| {
                QuantSchedule::new(store.layers(), start, freeze).unwrap().with_kv(store.kv_slots())
            };
            let run = |store: &ParamStore,
                       model: &Llama,
                       mut schedule: QuantSchedule,
                       steps: std::ops::Range<u64>| {
                for step in steps {
                    schedule.before_step(step).unwrap();
                    store.clock().set_training(true);
                    descend(store, &model.loss(), 0.01);
                    store.clock().set_training(false);
                }
            };
            let (whole, model) = begin();
            ready(&whole, &model);
            run(&whole, &model, schedule(&whole), 0..STEPS);
            for stop in 1..STEPS {
                let (first, model) = begin();
                ready(&first, &model);
                run(&first, &model, schedule(&first), 0..stop);
                let (second, again) = begin();
                load(&second, &saved(&first));
                let mut resumed = schedule(&second);
                resumed.resume(stop).unwrap();
                run(&second, &again, resumed, stop..STEPS);
                for ((name, _, a), (other, _, b)) in saved(&whole).iter().zip(saved(&second)) {
                    assert_eq!(*name, other, "{policy:?} {start} {freeze:?} {stop}");
                    assert_bits_equal(&b, a);
                }
            }
        }
    }
}

#[test]
fn a_freeze_that_stops_nothing_is_refused() {
    let store = store();
    Mlp::build(&store);
    attach(&store.layers(), &scheme("int8")).unwrap();
    let e = QuantSchedule::new(store.layers(), 0, Some(5)).err().unwrap().to_string();
    assert!(e.contains("freeze") && e.contains("ema or learned"), "{e}");
    let learned = Options { scales: ScalePolicy::Learned, ..Options::default() };
    attach_with(&store.layers(), &scheme("int8"), &learned).unwrap();
    let e = QuantSchedule::new(store.layers(), 5, Some(5)).err().unwrap().to_string();
    assert!(e.contains("freeze") && e.contains("after"), "{e}");
    let mut schedule = QuantSchedule::new(store.layers(), 0, Some(1)).unwrap();
    let role = || store.get("fc1.weight_log2_scale").unwrap().role();
    assert_eq!(role(), Role::Trainable, "an optimizer built now knows them");
    schedule.before_step(0).unwrap();
    assert_eq!(role(), Role::Trainable);
    assert!(schedule.before_step(1).unwrap());
    assert_eq!(role(), Role::Frozen);
}
