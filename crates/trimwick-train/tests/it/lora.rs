//! Adapters: inside of mask and quantizer, merged bit for bit, over a base in fewer bytes.

use candle_core::{DType, Device, Tensor};
use trimwick_nn::{Layers, ParamStore, Role, Slot};
use trimwick_quant::{self as quant, Scheme};
use trimwick_sparse::{Magnitude, Pattern, prune};
use trimwick_testkit::gradient_faults;
use trimwick_train::lora::{BaseFormat, LoraConfig, adapt, merge};
use trimwick_train::{Batch, Error, Gradients, loss};

use crate::common::{TinyLm, adamw, bits, store, windows};
use crate::training::train;

/// Linear layers of a tiny model whose inputs are 64, and the model.
fn wide(seed: u64) -> (ParamStore, trimwick_nn::Linear, trimwick_nn::Linear) {
    let store = store(DType::F32, seed);
    let vb = store.var_builder();
    let one = trimwick_nn::linear(64, 128, vb.pp("one")).unwrap();
    let two = trimwick_nn::linear_no_bias(128, 32, vb.pp("two")).unwrap();
    (store, one, two)
}

fn x(rows: usize) -> Tensor {
    let mut values = vec![0f32; rows * 64];
    trimwick_kernels::Rng::new(3, "test", 0, "x").fill_normal(0., 1., &mut values);
    Tensor::from_vec(values, (rows, 64), &Device::Cpu).unwrap()
}

fn flat(t: &Tensor) -> Vec<u32> {
    t.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().map(|v| v.to_bits()).collect()
}

/// Gives B values: at zero it hides A from the loss.
fn stir(layers: &Layers) {
    for layer in layers {
        let b = layer.buffer("lora_b").unwrap();
        let mut values = vec![0f32; b.elem_count()];
        trimwick_kernels::Rng::new(9, "test", 0, layer.path()).fill_normal(0., 0.3, &mut values);
        b.set(&Tensor::from_vec(values, b.shape(), &Device::Cpu).unwrap()).unwrap();
    }
}

const BASES: [BaseFormat; 4] = [BaseFormat::Full, BaseFormat::Bf16, BaseFormat::Int8, BaseFormat::Nf4];

#[test]
fn merged_equals_unmerged_bit_for_bit_in_every_wrap() {
    use trimwick_nn::Module;
    for base in BASES {
        for (masked, scheme) in
            [(false, None), (true, None), (false, Some("w4a8-g32")), (true, Some("int4-g32"))]
        {
            let (store, one, two) = wide(1);
            let layers = store.layers();
            if masked {
                prune(&layers, Pattern::TWO_FOUR, &Magnitude).unwrap();
            }
            if let Some(scheme) = scheme {
                quant::attach(&layers, &Scheme::preset(scheme).unwrap()).unwrap();
            }
            adapt(&layers, &LoraConfig { rank: 4, alpha: 8., base }, 7).unwrap();
            stir(&layers);
            let y = || two.forward(&one.forward(&x(5)).unwrap().relu().unwrap()).unwrap();
            let weights = || layers.iter().map(|l| flat(&l.effective_weight().unwrap())).collect::<Vec<_>>();
            let (before, weights_before) = (flat(&y()), weights());
            assert_eq!(merge(&layers).unwrap(), 2);
            let what = format!("{base:?} masked {masked} {scheme:?}");
            assert!(weights() == weights_before, "{what}: weights moved");
            assert!(flat(&y()) == before, "{what}: outputs moved");
            assert!(layers.iter().all(|l| l.chain().get(Slot::Adapter).is_none()));
            assert!(store.params().iter().all(|p| !p.name().contains("lora")), "{what}");
            assert_eq!(merge(&layers).unwrap(), 0);
            if masked {
                assert_eq!(trimwick_sparse::violations(&layers, Pattern::TWO_FOUR).unwrap(), 0, "{what}");
            }
        }
    }
}

#[test]
fn gradients_reach_the_adapters_alone() {
    use trimwick_nn::Module;
    for base in BASES {
        let (store, one, two) = wide(2);
        let layers = store.layers();
        prune(&layers, Pattern::TWO_FOUR, &Magnitude).unwrap();
        quant::attach(&layers, &Scheme::preset("int4-g32").unwrap()).unwrap();
        adapt(&layers, &LoraConfig { rank: 4, alpha: 8., base }, 7).unwrap();
        store.get("one.bias").unwrap().set_role(Role::Frozen);
        stir(&layers);
        let names: Vec<_> = store.trainable().iter().map(|p| p.name().to_string()).collect();
        assert_eq!(names, ["one.lora_a", "one.lora_b", "two.lora_a", "two.lora_b"]);
        let y = two.forward(&one.forward(&x(16)).unwrap().tanh().unwrap()).unwrap();
        let faults = gradient_faults(&store, &y.sqr().unwrap().mean_all().unwrap());
        assert!(faults.is_empty(), "{base:?}: {faults:?}");
    }
}

#[test]
fn a_fresh_adapter_changes_nothing_but_the_rounding_of_its_base() {
    let (store, ..) = wide(3);
    let layers = store.layers();
    let before: Vec<Vec<f32>> = layers
        .iter()
        .map(|l| l.effective_weight().unwrap().flatten_all().unwrap().to_vec1().unwrap())
        .collect();
    for (base, worst) in [
        (BaseFormat::Full, 0.),
        (BaseFormat::Bf16, 1. / 256.),
        (BaseFormat::Int8, 0.5 / 127.),
        // Half of the widest gap between two levels.
        (BaseFormat::Nf4, 0.152),
    ] {
        let (store, ..) = wide(3);
        let layers = store.layers();
        adapt(&layers, &LoraConfig { base, ..LoraConfig::default() }, 7).unwrap();
        for (layer, before) in layers.iter().zip(&before) {
            let now: Vec<f32> = layer.effective_weight().unwrap().flatten_all().unwrap().to_vec1().unwrap();
            let amax = before.iter().fold(0f32, |m, v| m.max(v.abs()));
            let error = now.iter().zip(before).map(|(a, b)| (a - b).abs() / amax).fold(0f32, f32::max);
            assert!(error <= worst as f32 * 1.001, "{base:?}: {error}");
            assert_eq!(error > 0., base != BaseFormat::Full, "{base:?}");
        }
    }
}

#[test]
fn adapters_train_and_their_base_stays() {
    for base in [BaseFormat::Full, BaseFormat::Int8] {
        let store = store(DType::F32, 4);
        let model = TinyLm::new(&store, 0.).unwrap();
        store.trainable().iter().for_each(|p| p.set_role(Role::Frozen));
        let layers = store.layers().select("blocks.*").unwrap();
        adapt(&layers, &LoraConfig { rank: 4, alpha: 8., base }, 7).unwrap();
        let weights = || layers.iter().map(|l| flat(&l.weight().value().unwrap())).collect::<Vec<_>>();
        let before = weights();
        let losses = train(&store, &model, &windows(512, 16), 60, None, |_| {}).unwrap();
        assert!(losses[59] < losses[0] - 0.1, "{base:?}: from {} to {}", losses[0], losses[59]);
        assert!(weights() == before, "{base:?}: the base moved");
        assert!(layers.iter().all(|l| l.chain().get(Slot::Adapter).is_some()));
    }
}

#[test]
fn a_compact_base_is_no_part_of_a_checkpoint_and_cannot_be_set() {
    let store = store(DType::F32, 5);
    let _model = TinyLm::new(&store, 0.).unwrap();
    let layers = store.layers().select("blocks.*").unwrap();
    adapt(&layers, &LoraConfig { rank: 2, alpha: 2., base: BaseFormat::Bf16 }, 7).unwrap();
    let weight = layers.iter().next().unwrap().weight().clone();
    assert_eq!((weight.tensor().elem_count(), weight.elem_count()), (0, 96));
    let error = weight.set(&weight.value().unwrap()).unwrap_err().to_string();
    assert!(error.contains("compact"), "{error}");
    let position = trimwick_train::Position::default();
    let state = trimwick_train::TrainState::capture(&store, &adamw(&store), &[], &position, "").unwrap();
    assert!(!state.parameters.contains_key(weight.name()));
    assert!(state.parameters.contains_key("blocks.0.mlp.up_proj.lora_a"));
    weight.expand().unwrap();
    assert_eq!(weight.tensor().elem_count(), 96);
}

#[test]
fn what_cannot_take_an_adapter_is_refused_before_anything_changes() {
    let (store, ..) = wide(6);
    let layers = store.layers();
    let before = bits(&store);
    let config = LoraConfig { rank: 4, alpha: 8., base: BaseFormat::Full };
    let refused = |config: LoraConfig| match adapt(&layers, &config, 7) {
        Err(Error::Adapter { layer, expected, found }) => format!("{layer}: {expected}, {found}"),
        Err(other) => other.to_string(),
        Ok(()) => "nothing".into(),
    };
    assert_eq!(refused(LoraConfig { rank: 0, ..config }), "one: a rank from 1 to 64, 0");
    assert_eq!(refused(LoraConfig { rank: 33, ..config }), "two: a rank from 1 to 32, 33");
    assert_eq!(
        refused(LoraConfig { alpha: f64::NAN, ..config }),
        "lora.alpha: expected a number > 0, found NaN"
    );
    assert_eq!(bits(&store), before);
    adapt(&layers, &config, 7).unwrap();
    assert_eq!(refused(config), "one: a layer without an adapter, one that has it");
}

#[test]
fn the_loss_sees_a_model_with_adapters() {
    let store = store(DType::F32, 8);
    let model = TinyLm::new(&store, 0.).unwrap();
    let layers = store.layers().select("blocks.*").unwrap();
    adapt(&layers, &LoraConfig { rank: 2, alpha: 2., base: BaseFormat::Full }, 7).unwrap();
    stir(&layers);
    let data = windows(64, 16);
    let batch = Batch::new(&[data.window(0).unwrap()], &Device::Cpu).unwrap();
    let grads = loss(&model, &batch, None).unwrap().total.backward().unwrap();
    let mut gradients = Gradients::new(&store.trainable());
    gradients.accumulate(grads).unwrap();
    assert!(gradients.norm().unwrap() > 0.);
}
