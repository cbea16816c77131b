//! AdamW against its formula in f64, and the reductions of the training loop.

use trimwick_kernels::{AdamW, adamw, adamw_masked, all_finite, apply_mask_inplace, bits_len, sum_squares};

use crate::support::{assert_close, bits, normal};

#[test]
fn adamw_follows_the_formula_in_f64() {
    let n = 50_000;
    let h =
        AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.99, eps: 1e-6, weight_decay: 0.05, step: 0, grad_scale: 0.25 };
    let mut w = normal::<f32>("w", n);
    let (mut m, mut v) = (vec![0.0f32; n], vec![0.0f32; n]);
    let mut want: Vec<[f64; 3]> = w.iter().map(|&w| [f64::from(w), 0.0, 0.0]).collect();
    for step in 1..=20u64 {
        let g = normal::<f32>(&format!("g{step}"), n);
        adamw(&mut w, &g, &mut m, &mut v, &AdamW { step, ..h });
        for ([w, m, v], g) in want.iter_mut().zip(&g) {
            let g = f64::from(*g) * 0.25;
            *m = h.beta1 * *m + (1.0 - h.beta1) * g;
            *v = h.beta2 * *v + (1.0 - h.beta2) * g * g;
            let m_hat = *m / (1.0 - h.beta1.powi(step as i32));
            let v_hat = *v / (1.0 - h.beta2.powi(step as i32));
            *w -= h.lr * (m_hat / (v_hat.sqrt() + h.eps) + h.weight_decay * *w);
        }
    }
    for (column, (name, got)) in [("w", &w), ("m", &m), ("v", &v)].into_iter().enumerate() {
        let want: Vec<f64> = want.iter().map(|row| row[column]).collect();
        assert_close(name, got, &want, 2e-6);
    }
}

#[test]
fn without_a_gradient_only_decay_moves_a_weight() {
    let (mut w, mut m, mut v) = ([2.0f32, -0.0, 0.0], [0.0f32; 3], [0.0f32; 3]);
    let h = AdamW { lr: 0.1, weight_decay: 0.5, ..AdamW::default() };
    adamw(&mut w, &[0.0; 3], &mut m, &mut v, &h);
    assert_eq!((w[0], m, v), (1.9, [0.0; 3], [0.0; 3]));
    assert_eq!(w[2].to_bits(), 0, "a pruned weight stays +0.0");
}

#[test]
fn a_masked_step_is_a_step_and_then_the_mask() {
    for n in [3, 16_384, 40_003] {
        let (w, g) = (normal::<f32>("w", n), normal::<f32>("g", n));
        let keep: Vec<u8> = (0..bits_len(n)).map(|i| (i * 91 + 13) as u8).collect();
        let h = AdamW { step: 2, ..AdamW::default() };
        let mut want = [w.clone(), g.clone(), g.iter().map(|g| g * g).collect()];
        let mut got = want.clone();
        let [w, m, v] = &mut want;
        adamw(w, &g, m, v, &h);
        for x in [&mut *w, m, v] {
            apply_mask_inplace(x, &keep);
        }
        let [w, m, v] = &mut got;
        adamw_masked(w, &g, m, v, &h, &keep);
        assert_eq!(got.map(|x| bits(&x)), want.map(|x| bits(&x)), "{n} elements");
    }
}

#[test]
#[should_panic(expected = "steps are counted from 1")]
fn step_zero_is_refused() {
    adamw(&mut [1.0], &[1.0], &mut [0.0], &mut [0.0], &AdamW { step: 0, ..AdamW::default() });
}

#[test]
fn sum_of_squares() {
    for n in [0, 1, 7, 8, 9, 65_536, 65_537, 200_003] {
        let x = normal::<f32>("x", n);
        let want: f64 = x.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
        assert_close(&format!("{n} elements"), &[sum_squares(&x)], &[want], 1e-12);
    }
    assert_eq!(sum_squares(&[f32::MAX; 4]), 4.0 * f64::from(f32::MAX).powi(2), "no overflow");
    assert!(sum_squares(&[1.0, f32::NAN]).is_nan());
}

#[test]
fn one_value_that_is_not_finite_is_found_wherever_it_is() {
    let n = 200_003;
    let x = normal::<f32>("x", n);
    assert!(all_finite(&x));
    assert!(all_finite(&[]));
    assert!(all_finite(&[f32::MAX, f32::MIN, f32::MIN_POSITIVE, 1e-45, -0.0]));
    for at in [0, 65_535, 65_536, 131_072, n - 1] {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = x.clone();
            x[at] = bad;
            assert!(!all_finite(&x), "{bad} at {at}");
        }
    }
}
