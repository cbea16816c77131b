//! What pruning says of each layer.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use trimwick_kernels::Rng;
use trimwick_nn::{Module, ParamStore, decibels, linear_no_bias};
use trimwick_sparse::{Collection, Magnitude, Needs, Pattern, SparseGpt, Wanda, prune, prune_with};

fn normal(name: &str, rows: usize, cols: usize) -> Tensor {
    let mut x = vec![0f32; rows * cols];
    Rng::new(3, "reports", 0, name).fill_normal(0., 1., &mut x);
    // Channels of different sizes, one of them silent: methods then differ, and one input is dead.
    for row in x.chunks_exact_mut(cols) {
        row.iter_mut().enumerate().for_each(|(c, v)| *v *= (c % 5) as f32);
    }
    Tensor::from_vec(x, (rows, cols), &Device::Cpu).unwrap()
}

fn floats(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn ratios_are_those_of_the_outputs() {
    let x = normal("x", 64, 20);
    for method in [&Wanda as &dyn trimwick_sparse::Method, &SparseGpt::default()] {
        let output = |by_magnitude: bool| {
            let store = ParamStore::with_seed(DType::F32, &Device::Cpu, 1);
            let layer = linear_no_bias(20, 6, store.var_builder().pp("fc")).unwrap();
            let dense = layer.forward(&x).unwrap();
            let reports = match by_magnitude {
                true => prune(&store.layers(), Pattern::TWO_FOUR, &Magnitude).unwrap(),
                false => {
                    let run = || layer.forward(&x).map(drop);
                    prune_with(&store.layers(), Pattern::TWO_FOUR, method, run).unwrap()
                }
            };
            (decibels(&floats(&dense), &floats(&layer.forward(&x).unwrap())), reports)
        };
        let ((before, _), (after, reports)) = (output(true), output(false));
        assert!((reports[0].before_db - before).abs() < 1e-3, "{reports:?}: {before}");
        assert!((reports[0].after_db - after).abs() < 1e-3, "{reports:?}: {after}");
        assert!(after > before, "{}: {after} dB is no better than magnitude's {before}", method.name());
        assert_eq!((reports[0].layer.as_str(), reports[0].pass.as_str()), ("fc", method.name()));
        assert_eq!(reports[0].dead, 4);
    }
}

/// Without inputs the ratio is that of the weights, and magnitude is what it is compared with.
#[test]
fn magnitude_is_measured_on_its_weights() {
    let store = ParamStore::with_seed(DType::F32, &Device::Cpu, 1);
    linear_no_bias(20, 6, store.var_builder().pp("fc")).unwrap();
    let dense = floats(&store.get("fc.weight").unwrap().tensor());
    let report = prune(&store.layers(), Pattern::TWO_FOUR, &Magnitude).unwrap().remove(0);
    let expected = decibels(&dense, &floats(&store.get("fc.weight").unwrap().tensor()));
    assert_eq!((report.before_db, report.after_db), (expected, expected));
}

/// A Hessian that two inputs make singular is damped until it has a factor, and the report says so.
#[test]
fn raised_damping_is_told() {
    let store = ParamStore::with_seed(DType::F32, &Device::Cpu, 1);
    let layer = linear_no_bias(8, 4, store.var_builder().pp("fc")).unwrap();
    let one = normal("x", 1, 8);
    let undamped = SparseGpt { damping: 0., ..SparseGpt::default() };
    let run = || layer.forward(&one).map(drop);
    let report = prune_with(&store.layers(), Pattern::TWO_FOUR, &undamped, run).unwrap().remove(0);
    assert!(report.retries > 0 && report.damping > Some(0.), "{report:?}");
}

/// Layers that read one tensor share its statistics and the factor of its Hessian.
#[test]
fn statistics_are_shared_and_so_is_the_factor() {
    let store = ParamStore::with_seed(DType::F32, &Device::Cpu, 1);
    let vb = store.var_builder();
    let layers: Vec<_> =
        ["q", "k", "o"].iter().map(|name| linear_no_bias(8, 8, vb.pp(name)).unwrap()).collect();
    let collection = Collection::start(&store.layers(), Needs::Gram, "sparsegpt").unwrap();
    let x = normal("x", 16, 8);
    let y = layers[0].forward(&x).unwrap();
    layers[1].forward(&x).unwrap();
    layers[2].forward(&y).unwrap();
    let found = collection.finish("sparsegpt").unwrap();
    let stats: Vec<_> = found.iter().map(|(_, stats)| stats).collect();
    assert!(Arc::ptr_eq(stats[0], stats[1]) && !Arc::ptr_eq(stats[0], stats[2]));
    let factor = stats[0].factor(8, 0.01).unwrap();
    assert!(Arc::ptr_eq(&factor, &stats[1].factor(8, 0.01).unwrap()));
    assert!(!Arc::ptr_eq(&factor, &stats[1].factor(8, 0.02).unwrap()), "another damping has another factor");
}
