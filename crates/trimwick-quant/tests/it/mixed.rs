//! Mixed precision: the exact choice, and scores that say which layers can take less.

use candle_core::Tensor;
use trimwick_nn::{Layers, Module, linear};
use trimwick_quant::mixed::{
    Assignment, Budget, Cost, Group, Sensitivities, assign, by_divergence, by_gradient, groups,
};
use trimwick_quant::{Scheme, attach, detach, weight_quantizer};

use crate::support::{Llama, Mlp, Model, store, tensor};

const SCHEMES: [&str; 3] = ["int2-g32", "int4-g32", "int8-weight"];

fn random(n: usize, candidates: usize, seed: u64) -> Sensitivities {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as f64 / (1u64 << 31) as f64
    };
    let group = |i: usize, next: &mut dyn FnMut() -> f64| {
        let weights = 1000 + (next() * 9000.) as u64;
        let heat = (4. * next()).exp();
        let cost = |k: usize, next: &mut dyn FnMut() -> f64| Cost {
            score: heat * 4f64.powi(-(k as i32)) * (0.5 + next()),
            bits: weights as f64 * (2.5 + 2. * k as f64),
        };
        let costs = (0..candidates).map(|k| cost(k, next)).collect();
        Group { layers: vec![format!("l{i}")], weights, costs }
    };
    let schemes = ["int2-g32", "int4-g32", "int8-weight", "mxfp6-e2m3-weight"][..candidates].iter();
    Sensitivities {
        method: "gradient".into(),
        schemes: schemes.map(|s| s.to_string()).collect(),
        groups: (0..n).map(|i| group(i, &mut next)).collect(),
    }
}

/// The least score of all choices that fit.
fn exhaustive(s: &Sensitivities, limit: f64) -> f64 {
    let (n, k) = (s.groups.len(), s.schemes.len());
    let mut best = f64::INFINITY;
    for code in 0..k.pow(n as u32) {
        let (mut rest, mut score, mut bits) = (code, 0., 0.);
        for group in &s.groups {
            let cost = group.costs[rest % k];
            (rest, score, bits) = (rest / k, score + cost.score, bits + cost.bits);
        }
        if bits <= limit && score < best {
            best = score;
        }
    }
    best
}

#[test]
fn the_choice_is_the_best_that_fits() {
    for seed in 0..20 {
        let s = random(7, 3, seed);
        let weights: f64 = s.groups.iter().map(|g| g.weights as f64).sum();
        for bits in [2.5, 3., 4.1, 5.5, 7.] {
            let Assignment { bits: used, score, exact, schemes } = assign(&s, Budget::Bits(bits)).unwrap();
            let best = exhaustive(&s, bits * weights);
            assert!(exact && used <= bits && schemes.len() == 7);
            assert!((score - best).abs() <= 1e-9 * best, "seed {seed}, {bits} bits: {score}, best {best}");
        }
        let bytes = (4. * weights / 8.) as u64;
        let found = assign(&s, Budget::Bytes(bytes)).unwrap();
        assert!(found.bits * weights <= bytes as f64 * 8.);
    }
}

#[test]
fn a_model_of_real_size_is_solved() {
    let s = random(120, 4, 5);
    let found = assign(&s, Budget::Bits(4.5)).unwrap();
    assert!(found.exact && found.bits <= 4.5 && found.bits > 4.45, "{} {}", found.exact, found.bits);
}

#[test]
fn what_does_not_fit_is_refused() {
    let s = random(4, 3, 1);
    let error = assign(&s, Budget::Bits(2.)).unwrap_err().to_string();
    assert!(error.contains("2.000 bits") && error.contains("2.500"), "{error}");
    assert!(assign(&s, Budget::Bits(f64::NAN)).is_err());
    let mut broken = s.clone();
    broken.groups[2].costs[1].score = f64::NAN;
    assert!(assign(&broken, Budget::Bits(8.)).is_err());
    broken.groups[2].costs.clear();
    assert!(assign(&broken, Budget::Bits(8.)).is_err());
}

#[test]
fn sensitivities_survive_a_file() {
    let s = random(3, 3, 2);
    let text = serde_json::to_string(&s).unwrap();
    assert_eq!(serde_json::from_str::<Sensitivities>(&text).unwrap(), s);
}

fn candidates() -> Vec<Scheme> {
    SCHEMES.iter().map(|s| s.parse().unwrap()).collect()
}

#[test]
fn scores_are_the_second_order_of_the_loss() {
    // L = Σ_b y_b·c with one output matters only through c: the score is c²·(y_q − y)².
    let store = store();
    let fc = linear(32, 2, store.var_builder().pp("fc")).unwrap();
    let (x, c) = (tensor(&[3, 32], 1), tensor(&[3, 2], 2));
    let all = store.layers();
    let loss = || (fc.forward(&x)? * &c)?.sum_all();
    let found = by_gradient(&groups(&all, &[]), &candidates(), std::iter::once_with(loss)).unwrap();
    assert!(fc.layer().branch().is_none(), "the probe is gone");
    let y = fc.forward(&x).unwrap();
    for (scheme, cost) in candidates().iter().zip(&found.groups[0].costs) {
        attach(&all, scheme).unwrap();
        let change = ((fc.forward(&x).unwrap() - &y).unwrap() * &c).unwrap();
        detach(&all);
        let want = change.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(
            (cost.score / f64::from(want) - 1.).abs() < 1e-3,
            "{scheme}: {}, expected {want}",
            cost.score
        );
    }
}

#[test]
fn fewer_bits_cost_more_and_shared_inputs_go_together() {
    let store = store();
    let model = Llama::build(&store);
    let layers = store.layers().select("*_proj").unwrap();
    let feeds = [
        model.norms[0].feed(model.attn.inputs()),
        model.attn.inner_feed(),
        model.norms[1].feed(model.mlp.inputs()),
        model.mlp.inner_feed(),
    ];
    let parts: Vec<Layers> = groups(&layers, &feeds);
    assert_eq!(parts.iter().map(Layers::len).collect::<Vec<_>>(), [3, 1, 2, 1]);
    let loss = || model.forward()?.sqr()?.mean_all();
    let by_loss = by_gradient(&parts, &candidates(), (0..2).map(|_| loss())).unwrap();
    let by_output = by_divergence(&parts, &candidates(), 2, |_| model.forward()).unwrap();
    for found in [&by_loss, &by_output] {
        assert_eq!(found.groups.len(), 4);
        for group in &found.groups {
            assert!(
                group.costs.windows(2).all(|c| c[0].score > c[1].score && c[0].bits < c[1].bits),
                "{group:?}"
            );
        }
    }
    assert!(layers.iter().all(|l| weight_quantizer(l).is_none() && l.branch().is_none()));
    let chosen = assign(&by_loss, Budget::Bits(5.)).unwrap();
    assert_eq!(chosen.schemes.len(), 7);
    let of = |name: &str| chosen.schemes.iter().find(|(l, _)| l.ends_with(name)).unwrap().1;
    assert!(of("q_proj") == of("k_proj") && of("k_proj") == of("v_proj") && of("gate_proj") == of("up_proj"));
}

#[test]
fn what_stands_in_the_way_is_named() {
    let store = store();
    let model = Mlp::build(&store);
    let parts = groups(&store.layers(), &[]);
    let loss = || Ok(model.loss());
    let only_first = || model.fc1.forward(&model.x)?.sqr()?.mean_all();
    let error = by_gradient(&parts, &candidates(), std::iter::once_with(only_first)).unwrap_err().to_string();
    assert!(error.starts_with("fc2: no input seen"), "{error}");
    let none: [candle_core::Result<Tensor>; 0] = [];
    assert!(by_gradient(&parts, &candidates(), none).is_err());
    assert!(
        by_gradient(&parts, &[], std::iter::once_with(loss))
            .unwrap_err()
            .to_string()
            .contains("at least one scheme")
    );
    let wide: Scheme = "weight int4 g256".parse().unwrap();
    assert!(
        by_gradient(&parts, &[wide], std::iter::once_with(loss)).unwrap_err().to_string().contains("fc1")
    );
    attach(&store.layers(), &candidates()[1]).unwrap();
    let error = by_divergence(&parts, &candidates(), 1, |_| model.forward()).unwrap_err().to_string();
    assert!(error.contains("fc1") && error.contains("detach"), "{error}");
}
