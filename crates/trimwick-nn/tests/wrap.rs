//! Layers of candle_nn that become layers of the registry.

use candle_core::{DType, Device, Tensor};
use candle_nn::{VarBuilder as CandleBuilder, VarMap};
use trimwick_nn::{Conv2dConfig, Module, ParamStore, wrap};
use trimwick_testkit::{assert_bits_equal, assert_close, assert_every_gradient, random};

fn store() -> ParamStore {
    ParamStore::with_seed(DType::F32, &Device::Cpu, 1)
}

fn input(dims: &[usize]) -> Tensor {
    random(dims, 4).to_dtype(DType::F32).unwrap()
}

#[test]
fn wrapped_layers_compute_what_the_layers_did_and_train() {
    let map = VarMap::new();
    let vb = CandleBuilder::from_varmap(&map, DType::F32, &Device::Cpu);
    let fc = candle_nn::linear(6, 4, vb.pp("fc")).unwrap();
    let config = Conv2dConfig { padding: 1, stride: 2, ..Default::default() };
    let conv = candle_nn::conv2d(2, 3, 3, config, vb.pp("conv")).unwrap();
    let table = candle_nn::embedding(5, 6, vb.pp("table")).unwrap();

    let store = store();
    let ours = store.var_builder();
    let (our_fc, our_conv) = (wrap(&fc, ours.pp("fc")).unwrap(), wrap(&conv, ours.pp("conv")).unwrap());
    let our_table = wrap(&table, ours.pp("table")).unwrap();
    assert_eq!(our_conv.config().stride, 2);
    let (x, image) = (input(&[3, 6]), input(&[2, 2, 5, 5]));
    let ids = Tensor::new(&[[1u32, 4]], &Device::Cpu).unwrap();
    // Products of two libraries: sums in another order.
    assert_close(&our_fc.forward(&x).unwrap(), &fc.forward(&x).unwrap(), 1e-5, 1e-6);
    assert_bits_equal(&our_conv.forward(&image).unwrap(), &conv.forward(&image).unwrap());
    assert_bits_equal(&our_table.forward(&ids).unwrap(), &table.forward(&ids).unwrap());

    let sum = |t: Tensor| t.sqr().unwrap().sum_all().unwrap();
    let loss = (sum(our_fc.forward(&our_table.forward(&ids).unwrap()).unwrap())
        + sum(our_conv.forward(&image).unwrap()))
    .unwrap();
    assert_every_gradient(&store, &loss);
    let names: Vec<_> = store.params().iter().map(|p| p.name().to_string()).collect();
    assert_eq!(names, ["conv.bias", "conv.weight", "fc.bias", "fc.weight", "table.weight"]);
    assert_eq!(store.layers().select("*").unwrap().len(), 3);

    // The variable of the map is the parameter: an update of either is one of both.
    store.get("fc.weight").unwrap().set(&Tensor::zeros((4, 6), DType::F32, &Device::Cpu).unwrap()).unwrap();
    assert_close(&our_fc.forward(&x).unwrap(), &fc.forward(&x).unwrap(), 1e-5, 1e-6);
}

#[test]
fn a_plain_tensor_is_copied_and_keeps_its_dtype() {
    let weight = input(&[4, 6]).to_dtype(DType::F64).unwrap();
    let fc = candle_nn::Linear::new(weight.clone(), None);
    let store = store();
    let ours = wrap(&fc, store.var_builder().pp("fc")).unwrap();
    assert_eq!(ours.layer().weight().dtype(), DType::F64);
    ours.layer().weight().set(&weight.zeros_like().unwrap()).unwrap();
    assert_bits_equal(fc.weight(), &weight);
}

#[test]
fn a_layer_built_over_the_store_is_wrapped_in_place_and_a_stranger_is_refused() {
    let store = store();
    let vb = store.var_builder();
    let fc = candle_nn::linear(6, 4, vb.inner().pp("fc")).unwrap();
    let ours = wrap(&fc, vb.pp("fc")).unwrap();
    assert_eq!(store.params().len(), 2);
    let x = input(&[3, 6]);
    assert_close(&ours.forward(&x).unwrap(), &fc.forward(&x).unwrap(), 1e-5, 1e-6);
    let e = wrap(&fc, vb.pp("fc")).unwrap_err().to_string();
    assert!(e.contains("fc") && e.contains("twice"), "{e}");
    let other = candle_nn::Linear::new(input(&[4, 6]), None);
    candle_nn::linear(6, 4, vb.inner().pp("known")).unwrap();
    assert!(wrap(&other, vb.pp("known")).unwrap_err().to_string().contains("known.weight"));
    let vector = candle_nn::Linear::new(input(&[6]), None);
    assert!(wrap(&vector, vb.pp("vector")).is_err());
}
