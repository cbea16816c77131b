//! Accumulation, norm and clipping.

use candle_core::{DType, Device};
use trimwick_nn::Init;
use trimwick_train::{Batch, Error, Gradients, loss};

use crate::common::{TinyLm, backward, store, windows};

#[test]
fn four_micro_batches_of_one_equal_a_batch_of_four() {
    let store = store(DType::F32, 3);
    let model = TinyLm::new(&store, 0.).unwrap();
    let data = windows(4 * 16, 16);
    let picked: Vec<&[u32]> = (0..4).map(|i| data.window(i).unwrap()).collect();
    let accumulate = |batches: &[&[&[u32]]]| {
        let mut gradients = Gradients::new(&store.trainable());
        for batch in batches {
            let batch = Batch::new(batch, &Device::Cpu).unwrap();
            gradients.accumulate(loss(&model, &batch, None).unwrap().total.backward().unwrap()).unwrap();
        }
        gradients
    };
    let whole = accumulate(&[&picked]);
    let parts = accumulate(&[&picked[..1], &picked[1..2], &picked[2..3], &picked[3..]]);
    assert_eq!((whole.batches(), parts.batches()), (1, 4));
    for p in store.trainable() {
        let mean = |g: &Gradients| {
            let sum = g.get(p.name()).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            sum.into_iter().map(|v| f64::from(v) * g.scale()).collect::<Vec<_>>()
        };
        for (a, b) in mean(&whole).into_iter().zip(mean(&parts)) {
            assert!((a - b).abs() < 1e-6, "{}: {a} and {b}", p.name());
        }
    }
    let (a, b) = (whole.norm().unwrap(), parts.norm().unwrap());
    assert!((a - b).abs() < 1e-6 && a > 0.01, "norms {a} and {b}");
}

#[test]
fn the_norm_runs_over_all_parameters_and_clips_like_pytorch() {
    for dtype in [DType::F32, DType::F64] {
        let store = store(dtype, 0);
        let vb = store.var_builder();
        vb.get_with_hints(2, "a", Init::Const(1.)).unwrap();
        vb.get_with_hints((1, 1), "b", Init::Const(1.)).unwrap();
        let of = |name: &str| if name == "a" { vec![2., -4.] } else { vec![4.] };
        let mut gradients = Gradients::new(&store.trainable());
        for _ in 0..3 {
            gradients.accumulate(backward(&store, |name| of(name).iter().map(|g| g * 2.).collect())).unwrap();
            assert_eq!(gradients.norm().unwrap(), 12., "{dtype:?}");
        }
        gradients.clip(1.).unwrap();
        // Zeros pull the mean down; neither an old norm nor an old clipping lives on.
        for _ in 0..3 {
            gradients.accumulate(backward(&store, |name| vec![0.; of(name).len()])).unwrap();
        }
        // The mean gradient is (2, −4, 4), of norm 6.
        assert_eq!(gradients.norm().unwrap(), 6., "{dtype:?}");
        assert_eq!(gradients.scale(), 1. / 6.);
        assert_eq!(gradients.clip(1.5).unwrap(), 6.);
        assert!((gradients.scale() - 1.5 / (6. + 1e-6) / 6.).abs() < 1e-15);
        assert_eq!(gradients.clip(10.).unwrap(), 6.);
        assert_eq!(gradients.scale(), 1. / 6., "{dtype:?}: a small gradient is not scaled up");
    }
}

#[test]
fn a_gradient_that_candle_made_is_never_written_to() {
    let store = store(DType::F32, 0);
    store.var_builder().get_with_hints(2, "a", Init::Const(1.)).unwrap();
    let grads = backward(&store, |_| vec![1., 2.]);
    let held = grads.get(&store.get("a").unwrap().var()).unwrap().clone();
    let mut gradients = Gradients::new(&store.trainable());
    gradients.accumulate(grads).unwrap();
    for _ in 0..3 {
        gradients.accumulate(backward(&store, |_| vec![10., 20.])).unwrap();
    }
    assert_eq!(held.to_vec1::<f32>().unwrap(), [1., 2.]);
    assert_eq!(gradients.get("a").unwrap().to_vec1::<f32>().unwrap(), [31., 62.]);
}

#[test]
fn a_backward_into_the_sums_is_that_of_candle() {
    for dtype in [DType::F32, DType::F64] {
        let store = store(dtype, 3);
        let model = TinyLm::new(&store, 0.).unwrap();
        let data = windows(4 * 16, 16);
        let (mut ours, mut candles) = (Gradients::new(&store.trainable()), Gradients::new(&[]));
        // The second time around in memory that was used before.
        for round in 0..2 {
            ours.reset(&store.trainable());
            candles.reset(&store.trainable());
            for i in 2 * round..2 * round + 2 {
                let batch = Batch::new(&[data.window(i).unwrap()], &Device::Cpu).unwrap();
                let total = || loss(&model, &batch, None).unwrap().total;
                ours.backward(&total()).unwrap();
                candles.accumulate(total().backward().unwrap()).unwrap();
            }
            assert_eq!((ours.batches(), ours.scale()), (2, 0.5));
            for p in store.trainable() {
                let sum = |g: &Gradients| {
                    let sum = g.get(p.name()).unwrap().flatten_all().unwrap();
                    sum.to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap()
                };
                for (a, b) in sum(&ours).into_iter().zip(sum(&candles)) {
                    assert!((a - b).abs() <= 1e-6 * b.abs().max(1e-2), "{} {round}: {a} and {b}", p.name());
                }
            }
        }
        ours.clip(0.01).unwrap();
        ours.reset(&store.trainable()[..1]);
        assert_eq!((ours.batches(), ours.scale(), ours.norm().unwrap()), (0, 1., 0.));
        assert!(store.trainable().iter().all(|p| ours.get(p.name()).is_none()));
    }
}

#[test]
fn a_parameter_without_a_gradient_and_a_broken_one_are_named() {
    let store = store(DType::F32, 3);
    let model = TinyLm::new(&store, 0.).unwrap();
    store.var_builder().get_with_hints(2, "lonely", Init::Const(1.)).unwrap();
    let batch = Batch::new(&[windows(16, 16).window(0).unwrap()], &Device::Cpu).unwrap();
    let mut gradients = Gradients::new(&store.trainable());
    match gradients.backward(&loss(&model, &batch, None).unwrap().total) {
        Err(Error::MissingGradient { names }) => assert_eq!(names, ["lonely"]),
        other => panic!("{other:?}"),
    }
    store.remove_param("lonely");
    gradients.reset(&store.trainable());
    let name = "blocks.1.norm.weight";
    let broken = (store.get(name).unwrap().var().as_detached_tensor() * f64::NAN).unwrap();
    store.get(name).unwrap().set(&broken).unwrap();
    gradients.backward(&loss(&model, &batch, None).unwrap().total).unwrap();
    assert!(matches!(gradients.norm(), Err(Error::NonFinite { what, .. }) if what.contains("gradient of")));
}
