//! Losses: central differences, large vocabularies, ignored tokens and extreme logits.

use trimwick_kernels::{
    LossMix, cross_entropy, cross_entropy_backward, kl_divergence, kl_divergence_backward, token_losses,
    token_losses_gradient,
};

use crate::support::{assert_close, check_gradient, dot, normal, unwritten};

const IGNORE: u32 = u32::MAX;

fn logits(name: &str, n: usize, spread: f64) -> Vec<f64> {
    normal::<f64>(name, n).iter().map(|v| v * spread).collect()
}

#[test]
fn cross_entropy_gradient() {
    for (n, v) in [(1, 2), (3, 5), (4, 17), (2, 100)] {
        let x = logits("x", n * v, 2.0);
        let targets: Vec<u32> =
            (0..n).map(|i| if n > 1 && i == 1 { IGNORE } else { (i * 7 % v) as u32 }).collect();
        let g = normal("g", n);
        let mut dx = unwritten(n * v);
        cross_entropy_backward(&x, &targets, IGNORE, &g, &mut dx);
        check_gradient(&format!("dlogits {n}×{v}"), &x, &dx, |x| {
            let mut loss = unwritten(n);
            cross_entropy(x, &targets, IGNORE, &mut loss);
            dot(&loss, &g)
        });
    }
}

#[test]
fn kl_divergence_gradient_at_several_temperatures() {
    for (n, v, temperature) in [(1, 2, 1.0), (3, 5, 2.0), (4, 17, 0.5), (2, 60, 3.0)] {
        let (student, teacher, g) = (logits("s", n * v, 2.0), logits("t", n * v, 2.0), normal("g", n));
        let mut ds = unwritten(n * v);
        kl_divergence_backward(&student, &teacher, temperature, &g, &mut ds);
        check_gradient(&format!("dstudent {n}×{v} T {temperature}"), &student, &ds, |s| {
            let mut loss = unwritten(n);
            kl_divergence(s, &teacher, temperature, &mut loss);
            dot(&loss, &g)
        });
    }
}

#[test]
fn a_large_vocabulary_in_f32_agrees_with_f64() {
    let (n, v) = (3, 50_001);
    let (s, t) = (logits("s", n * v, 4.0), logits("t", n * v, 4.0));
    let narrow = |x: &[f64]| x.iter().map(|&v| v as f32).collect::<Vec<f32>>();
    let (targets, g) = ([0, 50_000, 777], [1.0, -2.0, 0.5]);
    let (mut want, mut got) = (unwritten::<f64>(n), unwritten::<f32>(n));
    cross_entropy(&s, &targets, IGNORE, &mut want);
    cross_entropy(&narrow(&s), &targets, IGNORE, &mut got);
    assert_close("cross_entropy", &got, &want, 1e-6);
    kl_divergence(&s, &t, 2.0, &mut want);
    kl_divergence(&narrow(&s), &narrow(&t), 2.0, &mut got);
    assert_close("kl_divergence", &got, &want, 3e-6);

    let (mut want, mut got) = (unwritten::<f64>(n * v), unwritten::<f32>(n * v));
    cross_entropy_backward(&s, &targets, IGNORE, &g, &mut want);
    cross_entropy_backward(&narrow(&s), &targets, IGNORE, &narrow(&g), &mut got);
    assert_close("cross_entropy_backward", &got, &want, 1e-6);
    kl_divergence_backward(&s, &t, 2.0, &g, &mut want);
    kl_divergence_backward(&narrow(&s), &narrow(&t), 2.0, &narrow(&g), &mut got);
    assert_close("kl_divergence_backward", &got, &want, 1e-6);
}

#[test]
fn known_losses() {
    // Equal logits: ln v. A certain, right answer: 0. A certain, wrong one: the distance of the logits.
    let logits = [1.0, 1.0, 1.0, 1.0, 800.0, 0.0, 0.0, 0.0, 0.0, 800.0, 0.0, 0.0, 9.0, 9.0, 9.0, 9.0];
    let mut loss = unwritten(4);
    cross_entropy(&logits, &[2, 0, 3, IGNORE], IGNORE, &mut loss);
    assert_close("f64", &loss, &[4f64.ln(), 0.0, 800.0, 0.0], 1e-15);
    let mut loss = unwritten(4);
    cross_entropy(&logits.map(|v| v as f32), &[2, 0, 3, IGNORE], IGNORE, &mut loss);
    assert_close("f32", &loss, &[4f64.ln(), 0.0, 800.0, 0.0], 1e-7);
}

#[test]
fn ignored_rows_have_neither_loss_nor_gradient_even_of_nan() {
    let x = [f32::NAN, 1.0, 2.0, 0.5, 1.0, f32::INFINITY];
    let (mut loss, mut dx) = ([f32::NAN; 2], [f32::NAN; 6]);
    // The ignore index may itself be an id of the vocabulary.
    cross_entropy(&x, &[1, 1], 1, &mut loss);
    cross_entropy_backward(&x, &[1, 1], 1, &[1.0, 1.0], &mut dx);
    assert_eq!((loss, dx), ([0.0; 2], [0.0; 6]));
}

#[test]
fn forbidden_tokens_have_no_probability_and_no_gradient() {
    let x = [0.5f32, f32::NEG_INFINITY, 1.5, f32::NEG_INFINITY];
    let (mut loss, mut dx) = ([f32::NAN], [f32::NAN; 4]);
    cross_entropy(&x, &[2], IGNORE, &mut loss);
    assert_close("cross_entropy", &loss, &[(1.0 + (-1f64).exp()).ln()], 1e-6);
    cross_entropy_backward(&x, &[2], IGNORE, &[1.0], &mut dx);
    assert_eq!((dx[1], dx[3]), (0.0, 0.0));

    kl_divergence(&[0.5, 0.1, 1.5, f32::NEG_INFINITY], &x, 1.0, &mut loss);
    assert!(loss[0].is_finite() && loss[0] > 0.0, "{loss:?}");
    kl_divergence(&x, &x, 1.0, &mut loss);
    assert_eq!(loss, [0.0]);
    // The teacher asks for what the student forbids.
    kl_divergence(&x, &[0.5, 0.1, 1.5, 0.0], 1.0, &mut loss);
    assert_eq!(loss, [f32::INFINITY]);
}

#[test]
fn a_nan_logit_shows_in_the_loss() {
    for at in [0, 20, 39] {
        let mut x = [0.25f32; 40];
        x[at] = f32::NAN;
        let mut loss = [0.0];
        cross_entropy(&x, &[3], IGNORE, &mut loss);
        assert!(loss[0].is_nan(), "cross_entropy, NaN at {at}");
        kl_divergence(&[0.25; 40], &x, 1.0, &mut loss);
        assert!(loss[0].is_nan(), "kl_divergence, teacher NaN at {at}");
        kl_divergence(&x, &[0.25; 40], 1.0, &mut loss);
        assert!(loss[0].is_nan(), "kl_divergence, student NaN at {at}");
    }
}

#[test]
fn the_divergence_of_equal_logits_is_zero_and_of_others_positive() {
    let (s, t) = (logits("s", 200, 3.0), logits("t", 200, 3.0));
    let mut loss = unwritten(5);
    kl_divergence(&s, &s, 1.7, &mut loss);
    assert_eq!(loss, [0.0; 5]);
    kl_divergence(&s, &t, 1.7, &mut loss);
    assert!(loss.iter().all(|&l| l > 0.0), "{loss:?}");
}

#[test]
#[should_panic(expected = "target 4 in a vocabulary of 4")]
fn a_target_outside_of_the_vocabulary_is_refused() {
    cross_entropy(&[0.0f32; 8], &[0, 4], IGNORE, &mut [0.0; 2]);
}

#[test]
fn no_tokens_no_loss() {
    cross_entropy::<f32>(&[], &[], IGNORE, &mut []);
    cross_entropy_backward::<f32>(&[], &[], IGNORE, &[], &mut []);
    kl_divergence::<f32>(&[], &[], 1.0, &mut []);
    kl_divergence_backward::<f32>(&[], &[], 1.0, &[], &mut []);
}

#[test]
fn both_losses_at_once_are_those_of_each_and_their_gradient_is_in_place() {
    for (n, v, temperature, w) in [(1, 2, 1.0, 0.5), (3, 5, 2.0, 0.3), (4, 17, 0.5, 1.0), (2, 5000, 1.0, 0.7)]
    {
        let (x, teacher) = (logits("s", n * v, 2.0), logits("t", n * v, 2.0));
        let targets: Vec<u32> = (0..n).map(|i| if i == 1 { IGNORE } else { (i * 7 % v) as u32 }).collect();
        let mix = LossMix { cross_entropy: 1.0 - w, divergence: 3.0 * w, temperature, ignore: IGNORE };
        for teacher in [None, Some(&teacher[..])] {
            let case = format!("{n}×{v} T {temperature}, teacher: {}", teacher.is_some());
            let (mut ce, mut kl) = (unwritten::<f64>(n), unwritten::<f64>(n));
            token_losses(&x, teacher, &targets, &mix, &mut ce, &mut kl);
            let mut want = unwritten(n);
            cross_entropy(&x, &targets, IGNORE, &mut want);
            assert_close(&case, &ce, &want, 1e-13);
            match teacher {
                Some(teacher) => kl_divergence(&x, teacher, temperature, &mut want),
                None => want.fill(0.0),
            }
            // A token that is ignored has no divergence either.
            want.iter_mut().zip(&targets).filter(|(_, t)| **t == IGNORE).for_each(|(kl, _)| *kl = 0.0);
            assert_close(&case, &kl, &want, 1e-13);

            let (mut grad, mut ce2, mut kl2) = (x.clone(), unwritten::<f64>(n), unwritten::<f64>(n));
            token_losses_gradient(&mut grad, teacher, &targets, &mix, &mut ce2, &mut kl2);
            assert_eq!((&ce2, &kl2), (&ce, &kl), "{case}");
            if v > 1000 || (w == 1.0 && teacher.is_none()) {
                continue;
            }
            check_gradient(&case, &x, &grad, |x| {
                let (mut ce, mut kl) = (unwritten::<f64>(n), unwritten::<f64>(n));
                token_losses(x, teacher, &targets, &mix, &mut ce, &mut kl);
                ce.iter().zip(&kl).map(|(ce, kl)| mix.cross_entropy * ce + mix.divergence * kl).sum()
            });
        }
    }
}

#[test]
fn forbidden_tokens_and_a_token_that_is_ignored() {
    let mix = LossMix { cross_entropy: 1.0, divergence: 1.0, temperature: 2.0, ignore: IGNORE };
    let inf = f64::NEG_INFINITY;
    let (mut x, t) = ([1.0, inf, 0.5, 0.0, 1.0, 2.0], [0.5, inf, 0.5, 0.0, inf, 2.0]);
    let (mut ce, mut kl) = ([0.0; 2], [0.0; 2]);
    token_losses_gradient(&mut x, Some(&t), &[0, IGNORE], &mix, &mut ce, &mut kl);
    assert!(x.iter().all(|d| d.is_finite()) && x[1] == 0.0, "{x:?}");
    assert!(ce[0] > 0.0 && kl[0] > 0.0, "{ce:?} {kl:?}");
    assert_eq!((ce[1], kl[1], &x[3..]), (0.0, 0.0, &[0.0; 3][..]));
    token_losses_gradient::<f64>(&mut [], None, &[], &mix, &mut [], &mut []);
}
