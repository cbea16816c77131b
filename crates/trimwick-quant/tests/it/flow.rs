//! The keystone: in every combination of mask, scheme and policy, each trainable parameter gets a gradient.

use trimwick_nn::ParamStore;
use trimwick_quant::{QuantSchedule, ScalePolicy, attach_with, calibrate, detach, off_grid};
use trimwick_sparse::{Magnitude, Pattern, lift, prune, violations};
use trimwick_testkit::{assert_bits_equal, gradient_faults};

use crate::support::{ConvNet, Llama, Mlp, Model, POLICIES, options, schemes};

/// Runs every combination on one model, and returns how many there were and how many its layers or the policy refuse.
fn every_combination<M: Model>(store: &ParamStore) -> (usize, usize) {
    let model = M::build(store);
    let layers = store.layers();
    let plain = model.forward().unwrap();
    let (mut ran, mut refused) = (0, 0);
    for masked in [false, true] {
        if masked {
            prune(&layers, Pattern::TWO_FOUR, &Magnitude).unwrap();
        }
        for scheme in schemes() {
            for policy in POLICIES {
                let what = format!("{scheme}; {policy:?}; masked: {masked}");
                let options = options(policy, &scheme);
                let fits = layers
                    .iter()
                    .all(|l| scheme.check(l.path(), l.kind(), l.weight().shape().dims()).is_ok());
                if options.check(&scheme).is_err() || !fits {
                    assert!(attach_with(&layers, &scheme, &options).is_err(), "{what}");
                    refused += 1;
                    continue;
                }
                attach_with(&layers, &scheme, &options).unwrap_or_else(|e| panic!("{what}: {e}"));
                calibrate(&layers, || model.forward().map(drop)).unwrap_or_else(|e| panic!("{what}: {e}"));
                let learned = store.trainable().iter().filter(|p| p.name().ends_with("log2_scale")).count();
                assert_eq!(learned > 0, policy == ScalePolicy::Learned, "{what}");
                store.clock().set_training(true);
                let faults = gradient_faults(store, &model.loss());
                store.clock().set_training(false);
                assert!(faults.is_empty(), "{what}: {}", faults.join("; "));
                assert_eq!(off_grid(&layers).unwrap(), 0, "{what}");
                if masked {
                    assert_eq!(violations(&layers, Pattern::TWO_FOUR).unwrap(), 0, "{what}");
                }
                ran += 1;
            }
        }
    }
    detach(&layers);
    layers.iter().for_each(|l| lift(l).unwrap());
    assert!(store.params().iter().all(|p| p.name().ends_with("weight") || p.name().ends_with("bias")));
    // Pruning zeroed weights for good; the quantizers changed none.
    assert_eq!(plain.dims(), model.forward().unwrap().dims());
    (ran, refused)
}

#[test]
fn every_parameter_of_an_mlp() {
    // Refused are learned zero points: two schemes, with and without a mask.
    assert_eq!(every_combination::<Mlp>(&crate::support::store()), (316, 4));
}

#[test]
fn every_parameter_of_a_convolutional_net() {
    // Besides, inputs in groups: nvfp4 and five of the MX formats.
    assert_eq!(every_combination::<ConvNet>(&crate::support::store()), (268, 52));
}

#[test]
fn every_parameter_of_a_llama() {
    assert_eq!(every_combination::<Llama>(&crate::support::store()), (316, 4));
}

#[test]
fn switched_off_is_the_plain_model_forward_and_backward() {
    fn check<M: Model>() {
        let (plain, other) = (crate::support::store(), crate::support::store());
        let (reference, model) = (M::build(&plain), M::build(&other));
        let layers = other.layers();
        for scheme in schemes() {
            for policy in POLICIES {
                let options = options(policy, &scheme);
                if attach_with(&layers, &scheme, &options).is_err() {
                    continue;
                }
                // Not even calibrated: what is off asks for nothing.
                trimwick_quant::set_enabled(&layers, false);
                let (want, got) = (reference.loss(), model.loss());
                assert_bits_equal(&got, &want);
                let (want, got) = (want.backward().unwrap(), got.backward().unwrap());
                assert_eq!(plain.trainable().len(), other.trainable().len(), "learned scales are frozen");
                for (a, b) in plain.trainable().iter().zip(other.trainable()) {
                    let (a, b) = (want.get(a.var().as_tensor()), got.get(b.var().as_tensor()));
                    assert_bits_equal(b.unwrap(), a.unwrap());
                }
                if policy == ScalePolicy::Learned {
                    let before = other.trainable().len();
                    trimwick_quant::set_enabled(&layers, true);
                    assert!(other.trainable().len() > before, "{scheme}");
                }
            }
        }
    }
    check::<Mlp>();
    check::<ConvNet>();
    check::<Llama>();
}

#[test]
fn a_schedule_does_not_stand_in_the_way_of_gradients() {
    let store = crate::support::store();
    let model = Mlp::build(&store);
    let scheme = "int8-static".parse().unwrap();
    let policy = options(ScalePolicy::Learned, &scheme);
    attach_with(&store.layers(), &scheme, &policy).unwrap();
    calibrate(&store.layers(), || model.forward().map(drop)).unwrap();
    let all = store.trainable().len();
    let mut schedule = QuantSchedule::new(store.layers(), 2, Some(4)).unwrap();
    let mut trained = Vec::new();
    for step in 0..6 {
        schedule.before_step(step).unwrap();
        assert!(gradient_faults(&store, &model.loss()).is_empty(), "step {step}");
        trained.push(store.trainable().len());
    }
    assert_eq!(trained, [4, 4, all, all, 4, 4]);
}
