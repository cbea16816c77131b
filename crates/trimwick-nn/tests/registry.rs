//! The registry, the chain, the hooks and the roles of a built model.

use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Result, Tensor};
use trimwick_nn::{Capture, Layer, Module, ParamStore, Reparam, Role, Slot, linear, linear_no_bias};
use trimwick_testkit::{assert_every_gradient, gradient_faults, values};

struct Scale(f64);

impl Reparam for Scale {
    fn apply(&self, base: &Tensor) -> Result<Tensor> {
        base * self.0
    }

    fn name(&self) -> &'static str {
        "scale"
    }
}

struct Shift(f64);

impl Reparam for Shift {
    fn apply(&self, base: &Tensor) -> Result<Tensor> {
        base + self.0
    }

    fn name(&self) -> &'static str {
        "shift"
    }
}

fn store() -> ParamStore {
    ParamStore::with_seed(DType::F32, &Device::Cpu, 1)
}

#[test]
fn globs_select_by_dotted_path() {
    let store = store();
    let vb = store.var_builder();
    for name in ["model.layers.0.q_proj", "model.layers.0.up", "model.layers.10.up", "lm_head"] {
        linear_no_bias(4, 4, vb.set_prefix(name)).unwrap();
    }
    let layers = store.layers();
    let count = |p: &str| layers.select(p).map(|l| l.len()).unwrap_or(0);
    assert_eq!(
        (count("*"), count("model.layers.*"), count("*.up"), count("model.layers.?.up")),
        (4, 3, 2, 1)
    );
    assert_eq!(count("{lm_head,*.q_proj}"), 2);
    let e = layers.select("modle.*").unwrap_err().to_string();
    assert!(e.contains("modle.*") && e.contains("model.layers.0.q_proj"), "{e}");
    assert!(layers.select("[").unwrap_err().to_string().contains('['));
    assert_eq!(layers.without("lm_head").unwrap().len(), 3);
    assert_eq!(layers.without("nothing").unwrap().len(), 4);
}

#[test]
fn a_path_cannot_be_used_twice() {
    let store = store();
    linear(4, 4, store.var_builder().pp("fc")).unwrap();
    let e = linear(4, 4, store.var_builder().pp("fc")).unwrap_err().to_string();
    assert!(e.contains("fc") && e.contains("twice"), "{e}");
}

#[test]
fn the_chain_runs_in_slot_order_whatever_the_order_of_setting() {
    let store = store();
    let fc = linear_no_bias(2, 2, store.var_builder().pp("fc")).unwrap();
    let w = values(&fc.layer().effective_weight().unwrap());
    fc.layer().set(Slot::FakeQuant, Arc::new(Scale(3.)));
    fc.layer().set(Slot::Mask, Arc::new(Shift(1.)));
    let chained = values(&fc.layer().effective_weight().unwrap());
    for (w, c) in w.iter().zip(chained) {
        assert!(((w + 1.) * 3. - c).abs() < 1e-5);
    }
    fc.layer().clear(Slot::FakeQuant);
    fc.layer().clear(Slot::Mask);
    assert_eq!(values(&fc.layer().effective_weight().unwrap()), w);
}

struct Sum(Mutex<Vec<f64>>);

impl Capture for Sum {
    fn input(&self, _: &Layer, x: &Tensor) -> Result<()> {
        self.0.lock().unwrap().push(values(x).iter().sum());
        Ok(())
    }
}

#[test]
fn a_capture_sees_inputs_until_its_guard_is_dropped() {
    let store = store();
    let fc = linear(2, 3, store.var_builder().pp("fc")).unwrap();
    let seen = Arc::new(Sum(Mutex::default()));
    let x = Tensor::new(&[[1f32, 2.]], &Device::Cpu).unwrap();
    let guard = fc.layer().capture(seen.clone());
    fc.forward(&x).unwrap();
    drop(guard);
    fc.forward(&x).unwrap();
    assert_eq!(*seen.0.lock().unwrap(), [3.]);
}

#[test]
fn a_frozen_parameter_gets_no_gradient_and_a_trainable_one_does() {
    let store = store();
    let fc = linear(2, 3, store.var_builder().pp("fc")).unwrap();
    let x = Tensor::new(&[[1f32, 2.]], &Device::Cpu).unwrap();
    let loss = || fc.forward(&x).unwrap().sqr().unwrap().sum_all().unwrap();
    assert_every_gradient(&store, &loss());
    store.get("fc.weight").unwrap().set_role(Role::Frozen);
    let grads = loss().backward().unwrap();
    assert!(grads.get(store.get("fc.weight").unwrap().var().as_tensor()).is_none());
    assert!(gradient_faults(&store, &loss()).is_empty());
}

#[test]
fn buffers_are_saved_with_the_layer_and_never_trained() {
    let store = store();
    let fc = linear(2, 3, store.var_builder().pp("fc")).unwrap();
    let bits = Tensor::new(&[5u8, 6], &Device::Cpu).unwrap();
    fc.layer().set_buffer("weight_mask", &bits).unwrap();
    assert_eq!(store.get("fc.weight_mask").unwrap().role(), Role::Buffer);
    assert!(store.trainable().iter().all(|p| p.name() != "fc.weight_mask"));
    let wrong = Tensor::new(&[5u8], &Device::Cpu).unwrap();
    assert!(fc.layer().set_buffer("weight_mask", &wrong).is_err());
    assert!(fc.layer().set_buffer("weight", &bits).is_err());
    fc.layer().remove_buffer("weight_mask");
    assert!(fc.layer().buffer("weight_mask").is_none());
}

#[test]
fn parameters_come_in_the_order_of_their_names() {
    let store = store();
    linear(2, 2, store.var_builder().pp("b")).unwrap();
    linear(2, 2, store.var_builder().pp("a")).unwrap();
    let names: Vec<_> = store.params().iter().map(|p| p.name().to_string()).collect();
    assert_eq!(names, ["a.bias", "a.weight", "b.bias", "b.weight"]);
}
