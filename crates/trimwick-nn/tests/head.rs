//! The loss of a head in pieces: against composed operations, central differences, and the kernels of whole logits.

use candle_core::{DType, Device, Tensor, Var};
use trimwick_nn::GradientSink;
use trimwick_nn::ops::{self, Logits, Teacher, head_loss};
use trimwick_testkit::{assert_gradients, random, values};

const IGNORE: u32 = 77;
const CASES: [(f64, f64); 4] = [(0., 1.), (0.3, 1.), (0.6, 2.5), (1., 2.)];

fn product(hidden: &Tensor, weight: &Tensor) -> Logits {
    Logits::Product { hidden: hidden.clone(), weight: weight.clone() }
}

/// What the loss is by definition.
fn composed(logits: &Tensor, targets: &[u32], theirs: &Tensor, w: f64, t: f64) -> Tensor {
    let ce = ops::cross_entropy(logits, targets, IGNORE).unwrap();
    let counted: Vec<u32> = (0..).zip(targets).filter(|(_, t)| **t != IGNORE).map(|(i, _)| i).collect();
    let rows = Tensor::new(counted, &Device::Cpu).unwrap();
    let [ours, theirs] = [logits, theirs].map(|x| x.index_select(&rows, 0).unwrap());
    let kl = ops::kl_divergence(&ours, &theirs, t).unwrap();
    ((ce * (1. - w)).unwrap() + (kl * (w * t * t)).unwrap()).unwrap()
}

#[test]
fn gradients_agree_with_central_differences() {
    let targets = [2, IGNORE, 0, 4, 4];
    let (theirs, their_weight) = (random(&[5, 4], 3), random(&[6, 4], 4));
    for (weight, temperature) in CASES {
        let teacher = product(&theirs, &their_weight);
        let teacher = (weight > 0.).then_some(Teacher { logits: &teacher, weight, temperature });
        let loss = |logits: &Logits| Ok(head_loss(logits, &targets, IGNORE, teacher)?.total);
        assert_gradients(&[random(&[5, 3], 1), random(&[6, 3], 2)], |t| loss(&product(&t[0], &t[1])));
        assert_gradients(&[random(&[5, 3], 1)], |t| loss(&product(&t[0], &random(&[6, 3], 2))));
        assert_gradients(&[random(&[1, 5, 6], 1)], |t| loss(&Logits::Whole(t[0].clone())));
        // The gradient of a loss that is part of another.
        assert_gradients(&[random(&[5, 3], 1), random(&[6, 3], 2)], |t| {
            (loss(&product(&t[0], &t[1]))? * -1.7)? + t[0].sqr()?.sum_all()?
        });
    }
}

#[test]
fn pieces_equal_the_whole() {
    // A vocabulary of which few tokens fit in a piece: pieces of 16 tokens, and a rest.
    let (v, k) = (790_000, 3);
    for (n, dtype, tolerance) in [(1, DType::F64, 1e-12), (16, DType::F32, 1e-6), (37, DType::F32, 1e-6)] {
        let cast = |t: Tensor| t.to_dtype(dtype).unwrap();
        let hidden = Var::from_tensor(&cast(random(&[n, k], 1))).unwrap();
        let weight = Var::from_tensor(&cast(random(&[v, k], 2))).unwrap();
        let theirs = product(&cast(random(&[n, 2], 3)), &cast(random(&[v, 2], 4)));
        let targets: Vec<u32> = (0..n as u32).map(|i| if i % 5 == 3 { IGNORE } else { i * 20_011 }).collect();
        let (w, t) = (0.4, 2.);
        let student = product(hidden.as_tensor(), weight.as_tensor());
        let teacher = Teacher { logits: &theirs, weight: w, temperature: t };
        let got = head_loss(&student, &targets, IGNORE, Some(teacher)).unwrap();
        let logits = student.whole().unwrap();
        let want = composed(&logits, &targets, &theirs.whole().unwrap(), w, t);
        let close = |got: f64, want: f64| (got - want).abs() <= tolerance * want.abs().max(1e-3);
        assert!(close(got.value, values(&want)[0]), "{n}: {} and {want}", got.value);
        assert!(close(got.value, values(&got.total)[0]));
        assert!(close(got.value, 0.6 * got.cross_entropy + 0.4 * 4. * got.divergence.unwrap()));
        let (got, want) = (got.total.backward().unwrap(), want.backward().unwrap());
        for var in [&hidden, &weight] {
            let (got, want) = (values(got.get(var).unwrap()), values(want.get(var).unwrap()));
            let scale = want.iter().fold(0f64, |m, v| m.max(v.abs()));
            let worst = got.iter().zip(&want).fold(0f64, |m, (g, w)| m.max((g - w).abs()));
            assert!(worst <= 3. * tolerance * scale, "{n}: gradients differ by {worst:e} of {scale:e}");
        }
        // Without a graph: the same numbers.
        let free = head_loss(&student.detach(), &targets, IGNORE, Some(teacher)).unwrap();
        let tracked = head_loss(&student, &targets, IGNORE, Some(teacher)).unwrap();
        assert!(!free.total.track_op());
        assert_eq!((free.value, free.divergence), (tracked.value, tracked.divergence));
    }
}

#[test]
fn the_composed_path_agrees() {
    let narrow = |t: &Tensor| t.to_dtype(DType::BF16).unwrap();
    let wide = |t: &Tensor| narrow(t).to_dtype(DType::F32).unwrap();
    let (x, w, t) = (random(&[2, 2, 6], 1), random(&[9, 6], 2), random(&[4, 9], 3));
    let targets = [1, IGNORE, 8, 0];
    for (weight, temperature) in CASES {
        let run = |cast: &dyn Fn(&Tensor) -> Tensor| {
            let logits = Logits::Whole(cast(&t));
            let teacher = (weight > 0.).then_some(Teacher { logits: &logits, weight, temperature });
            head_loss(&product(&cast(&x), &cast(&w)), &targets, IGNORE, teacher).unwrap()
        };
        let (a, b) = (run(&narrow), run(&wide));
        assert!((a.value - b.value).abs() < 0.03 * b.value.abs().max(1.), "{} {}", a.value, b.value);
        assert_eq!(a.divergence.is_some(), b.divergence.is_some());
    }
}

#[test]
fn a_sink_uses_the_gradients_up() {
    let weight = Var::from_tensor(&random(&[6, 3], 2)).unwrap();
    let store = trimwick_nn::ParamStore::new(DType::F64, &Device::Cpu);
    let param = store.var_builder().get((5, 3), "x").map(|_| store.get("x").unwrap()).unwrap();
    let x = param.tensor();
    let loss =
        || head_loss(&product(&x, weight.as_tensor()), &[0, 1, 2, 3, IGNORE], IGNORE, None).unwrap().total;
    let want = values(loss().backward().unwrap().get(&param.var()).unwrap());
    let mut sink = GradientSink::new(std::slice::from_ref(&param));
    let twice = (loss() * 2.).unwrap();
    sink.backward(&twice).unwrap();
    let got = values(sink.get(&param).unwrap());
    assert!(got.iter().zip(&want).all(|(g, w)| (g - 2. * w).abs() < 1e-15));
    let e = sink.backward(&twice).unwrap_err().to_string();
    assert!(e.contains("forward pass again"), "{e}");
}

#[test]
fn faults_are_named() {
    let (x, w) = (random(&[2, 3], 1), random(&[6, 3], 2));
    let student = product(&x, &w);
    let other = product(&x, &random(&[5, 3], 2));
    let teacher = |logits, temperature| Some(Teacher { logits, weight: 0.5, temperature });
    let fault = |student: &Logits, targets: &[u32], teacher: Option<Teacher<'_>>| {
        head_loss(student, targets, IGNORE, teacher).unwrap_err().to_string()
    };
    for (e, says) in [
        (fault(&student, &[0], None), "2 tokens but 1 targets"),
        (fault(&student, &[0, 6], None), "target 6 of token 1"),
        (fault(&student, &[0, 1], teacher(&other, 1.)), "2 × 5"),
        (fault(&student, &[0, 1], teacher(&student, 0.)), "temperature"),
        (fault(&product(&random(&[2, 4], 1), &w), &[0, 1], None), "3 columns"),
    ] {
        assert!(e.contains(says), "{e}");
    }
    let all = head_loss(&student, &[IGNORE, IGNORE], IGNORE, None).unwrap();
    assert_eq!(all.value, 0.);
}
