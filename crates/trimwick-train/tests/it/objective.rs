//! Distillation and evaluation.

use candle_core::{DType, Device};
use trimwick_nn::CausalLm;
use trimwick_train::lora::BaseFormat;
use trimwick_train::{
    Batch, DistillConfig, Distillation, Error, EvaluateOptions, Evaluation, Windows, compact_weights,
    evaluate, infer, loss,
};

use crate::common::{TinyLm, VOCAB, store, windows};

fn quiet(_: usize, _: usize, _: f64) {}

#[test]
fn the_distillation_gradient_agrees_with_central_differences() {
    let (mine, theirs) = (store(DType::F64, 1), store(DType::F64, 2));
    let student = TinyLm::new(&mine, 0.).unwrap();
    let teacher = TinyLm::new(&theirs, 0.).unwrap();
    let data = windows(24, 12);
    let batch = Batch::new(&[data.window(0).unwrap(), data.window(1).unwrap()], &Device::Cpu).unwrap();
    for (weight, temperature, features) in [(0.3, 1., 0.), (0.7, 2.5, 0.), (1., 2., 0.), (0.3, 1., 2.)] {
        let config = DistillConfig { weight, temperature, features };
        let distill = Distillation::new(&teacher, config).unwrap();
        let at = || loss(&student, &batch, Some(&distill)).unwrap();
        let here = at();
        let kl = here.divergence.unwrap();
        assert_eq!(here.features.is_some(), features > 0.);
        let error = here.features.unwrap_or_default();
        let want =
            (1. - weight) * here.cross_entropy + weight * temperature * temperature * kl + features * error;
        assert!((here.value - want).abs() < 1e-12, "{weight} {temperature}: {} is not {want}", here.value);
        assert!(kl > 1e-3 && (features == 0. || error > 1e-2), "the models agree: nothing is tested");
        let grads = here.total.backward().unwrap();
        for p in mine.trainable() {
            let values = p.var().flatten_all().unwrap().to_vec1::<f64>().unwrap();
            let grad = grads.get(&p.var()).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
            let set = |values: Vec<f64>| {
                p.set(&candle_core::Tensor::from_vec(values, p.shape(), &Device::Cpu).unwrap()).unwrap();
            };
            let scale = grad.iter().fold(1e-3, |m: f64, g| m.max(g.abs()));
            for i in (0..values.len()).step_by(7) {
                let h = 1e-5;
                let moved = |by: f64| {
                    let mut moved = values.clone();
                    moved[i] += by;
                    set(moved);
                    at().value
                };
                let numeric = (moved(h) - moved(-h)) / (2. * h);
                let error = (grad[i] - numeric).abs() / scale;
                assert!(error < 1e-6, "{} {i}: {} and {numeric} ({config:?})", p.name(), grad[i]);
            }
            set(values);
        }
        assert!(
            theirs.trainable().iter().all(|p| grads.get(&p.var()).is_none()),
            "the teacher got a gradient"
        );
    }
}

#[test]
fn a_teacher_that_agrees_adds_nothing() {
    let (mine, theirs) = (store(DType::F64, 1), store(DType::F64, 1));
    let student = TinyLm::new(&mine, 0.).unwrap();
    let teacher = TinyLm::new(&theirs, 0.).unwrap();
    let data = windows(12, 12);
    let batch = Batch::new(&[data.window(0).unwrap()], &Device::Cpu).unwrap();
    let config = DistillConfig { weight: 0.5, temperature: 2., features: 1. };
    let distill = Distillation::new(&teacher, config).unwrap();
    let got = loss(&student, &batch, Some(&distill)).unwrap();
    assert!(got.divergence.unwrap().abs() < 1e-15);
    assert_eq!(got.features, Some(0.));
    assert!((got.value - 0.5 * got.cross_entropy).abs() < 1e-15);
    let alone = loss(&student, &batch, None).unwrap();
    assert_eq!((alone.value, alone.divergence), (got.cross_entropy, None));
}

#[test]
fn a_teacher_in_bf16_says_what_its_rounded_twin_says() {
    let (mine, theirs, rounded) = (store(DType::F32, 1), store(DType::F32, 2), store(DType::F32, 2));
    let student = TinyLm::new(&mine, 0.).unwrap();
    let (teacher, twin) = (TinyLm::new(&theirs, 0.).unwrap(), TinyLm::new(&rounded, 0.).unwrap());
    compact_weights(&theirs.layers(), BaseFormat::Bf16).unwrap();
    for layer in &rounded.layers() {
        let value = layer.weight().var().as_detached_tensor();
        let narrow = value.to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap();
        assert!(layer.weight().set(&narrow).is_ok());
    }
    for layer in &theirs.layers() {
        assert!(layer.weight().compacted().is_some() && layer.weight().var().elem_count() == 0);
    }
    let data = windows(24, 12);
    let batch = Batch::new(&[data.window(0).unwrap()], &Device::Cpu).unwrap();
    let config = DistillConfig { weight: 0.5, temperature: 2., features: 1. };
    let said = |teacher: &TinyLm| {
        let distill = Distillation::new(teacher, config).unwrap();
        let got = loss(&student, &batch, Some(&distill)).unwrap();
        (got.value, got.divergence, got.features)
    };
    assert_eq!(said(&teacher), said(&twin));
    let exact = store(DType::F32, 2);
    assert_ne!(said(&twin), said(&TinyLm::new(&exact, 0.).unwrap()), "nothing was rounded");
}

#[test]
fn distillation_settings_are_checked() {
    let store = store(DType::F32, 1);
    let teacher = TinyLm::new(&store, 0.).unwrap();
    for (weight, temperature, features, key) in [
        (0., 1., 0., "distill.weight"),
        (1.1, 1., 0., "distill.weight"),
        (f64::NAN, 1., 0., "distill.weight"),
        (0.5, 0., 0., "distill.temperature"),
        (0.5, f64::INFINITY, 0., "distill.temperature"),
        (0.5, 1., -0.5, "distill.features"),
        (0.5, 1., f64::NAN, "distill.features"),
    ] {
        match Distillation::new(&teacher, DistillConfig { weight, temperature, features }) {
            Err(Error::Setting { key: found, .. }) => assert_eq!(found, key),
            other => panic!("{weight} {temperature} {features}: {other:?}"),
        }
    }
}

#[test]
fn inference_gives_the_forwards_logits_without_a_graph() {
    let store = store(DType::F32, 1);
    let model = TinyLm::new(&store, 0.).unwrap();
    let data = windows(12, 12);
    let batch = Batch::new(&[data.window(0).unwrap()], &Device::Cpu).unwrap();
    let (plain, free) = (model.forward(&batch.inputs).unwrap(), infer(&model, &batch.inputs).unwrap());
    assert_eq!(plain.dims(), free.dims());
    let bits = |t: &candle_core::Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(bits(&plain), bits(&free));
    assert!(plain.track_op() && !free.track_op());
}

#[test]
fn a_model_that_knows_nothing_scores_the_log_of_the_vocabulary() {
    let store = store(DType::F32, 1);
    let model = TinyLm::new(&store, 0.).unwrap();
    for name in ["head.weight", "head.bias"] {
        let p = store.get(name).unwrap();
        p.set(&p.var().zeros_like().unwrap()).unwrap();
    }
    let ln = (VOCAB as f64).ln();
    let all = windows(50, 16); // three windows and two tokens
    // (limit, partial, windows, tokens, scored)
    let cases = [
        (None, false, 3, 48, 45),
        (None, true, 4, 50, 46),
        (Some(49), true, 3, 48, 45),
        (Some(32), false, 2, 32, 30),
        (Some(40), true, 3, 40, 37),
        (Some(7), true, 1, 7, 6),
    ];
    for (limit, partial, count, tokens, scored) in cases {
        let mut told = vec![];
        let options = EvaluateOptions { limit, partial };
        let mut progress = |done, of, loss: f64| told.push((done, of, loss));
        let got = evaluate(&model, &Device::Cpu, &all, options, &mut progress).unwrap();
        let Evaluation { loss, perplexity, context, tokens: t, scored: s, window_losses } = got;
        assert_eq!((window_losses.len(), context, t, s), (count, 16, tokens, scored), "{options:?}");
        assert!((loss - ln).abs() < 1e-6 && (perplexity - VOCAB as f64).abs() < 1e-4, "{loss} {perplexity}");
        assert_eq!(
            told.iter().map(|t| (t.0, t.1)).collect::<Vec<_>>(),
            (1..=count).map(|i| (i, count)).collect::<Vec<_>>()
        );
        assert_eq!(told[count - 1].2, loss);
    }
}

#[test]
fn the_loss_is_the_mean_over_tokens_and_not_over_windows() {
    let store = store(DType::F64, 1);
    let model = TinyLm::new(&store, 0.).unwrap();
    let data = windows(22, 16);
    let options = EvaluateOptions { limit: None, partial: true };
    let got = evaluate(&model, &Device::Cpu, &data, options, &mut quiet).unwrap();
    let direct = [data.window(0).unwrap(), data.rest()].map(|window| {
        let batch = Batch::new(&[window], &Device::Cpu).unwrap();
        loss(&model, &batch, None).unwrap().cross_entropy
    });
    let want = (direct[0] * 15. + direct[1] * 5.) / 20.;
    assert!((got.loss - want).abs() < 1e-12);
    // Windows count by their tokens, 10 on average: the mean of what they give is the loss.
    let parts = &got.window_losses;
    for (part, expected) in parts.iter().zip([direct[0] * 1.5, direct[1] * 0.5]) {
        assert!((part - expected).abs() < 1e-12, "{part} {expected}");
    }
    assert!((parts.iter().sum::<f64>() / 2. - got.loss).abs() < 1e-12);
}

#[test]
fn evaluation_faults() {
    let store = store(DType::F32, 1);
    let model = TinyLm::new(&store, 0.).unwrap();
    let run = |windows: &Windows| {
        evaluate(&model, &Device::Cpu, windows, EvaluateOptions::default(), &mut quiet).map(drop)
    };
    assert!(matches!(run(&windows(10, 16)), Err(Error::TooShort { expected: 16, found: 10 })));
    assert!(matches!(run(&windows(200, 66)), Err(Error::Setting { key: "context", .. })));
    assert!(run(&windows(200, 65)).is_ok(), "the last token is a target only");
    let head = store.get("head.bias").unwrap();
    head.set(&(head.var().as_detached_tensor() * f64::NAN).unwrap()).unwrap();
    match run(&windows(40, 16)) {
        Err(Error::Broken { window, .. }) => assert_eq!(window, 0),
        other => panic!("{other:?}"),
    }
}
