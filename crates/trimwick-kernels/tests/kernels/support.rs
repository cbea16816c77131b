//! What the tests share.

use trimwick_kernels::{Real, Rng};

/// Standard normal values, the same for the same name.
pub fn normal<T: Real>(name: &str, n: usize) -> Vec<T> {
    let mut x = vec![T::ZERO; n];
    Rng::new(7, "test", 0, name).fill_normal(0.0, 1.0, &mut x);
    x
}

/// sin(0.7·i + phase): the inputs of `reference.py`.
pub fn wave(n: usize, phase: f64) -> Vec<f64> {
    (0..n).map(|i| (0.7 * i as f64 + phase).sin()).collect()
}

/// A buffer an output is written to: NaN, so that what is left unwritten shows.
pub fn unwritten<T: Real>(n: usize) -> Vec<T> {
    vec![T::from_f64(f64::NAN); n]
}

pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Fails unless every |got − want| is at most `tolerance`·max(|want|, 1).
pub fn assert_close<T: Real>(case: &str, got: &[T], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{case}: length");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let error = (g.to_f64() - w).abs() / w.abs().max(1.0);
        assert!(error <= tolerance, "{case}: element {i} is {g}, expected {w} (error {error:e})");
    }
}

/// Fails unless `analytic` is the gradient of `f` at `x` to a relative error of 1e-6.
///
/// The central difference of fourth order, (8(f₁ − f₋₁) − (f₂ − f₋₂)) / 12h, whose error is far below the bound. An
/// element far smaller than the largest one is measured against a thousandth of that.
pub fn check_gradient(case: &str, x: &[f64], analytic: &[f64], f: impl Fn(&[f64]) -> f64) {
    const H: f64 = 1e-3;
    assert_eq!(x.len(), analytic.len(), "{case}: length of the gradient");
    let largest = analytic.iter().fold(0.0f64, |m, g| m.max(g.abs()));
    assert!(largest > 0.0 && largest.is_finite(), "{case}: the gradient is zero or not finite");
    let mut probe = x.to_vec();
    for i in 0..x.len() {
        let mut at = |delta: f64| {
            probe[i] = x[i] + delta;
            f(&probe)
        };
        let numeric = (8.0 * (at(H) - at(-H)) - (at(2.0 * H) - at(-2.0 * H))) / (12.0 * H);
        probe[i] = x[i];
        let size = numeric.abs().max(analytic[i].abs()).max(1e-3 * largest);
        let error = (numeric - analytic[i]).abs() / size;
        assert!(
            error <= 1e-6,
            "{case}: d/dx[{i}] is {}, central difference {numeric} (error {error:e})",
            analytic[i]
        );
    }
}

/// The bits of a vector, for comparisons that tell −0 from 0 and NaN from NaN.
pub fn bits<T: Real>(x: &[T]) -> Vec<u64> {
    x.iter().map(|v| v.to_f64().to_bits()).collect()
}

#[test]
fn a_correct_gradient_passes() {
    let x = [0.3, -1.2, 2.0];
    check_gradient("sum of cubes", &x, &x.map(|v| 3.0 * v * v), |x| x.iter().map(|v| v.powi(3)).sum());
}

#[test]
#[should_panic(expected = "d/dx[1]")]
fn a_gradient_wrong_by_two_millionths_fails() {
    let x = [0.3, -1.2, 2.0];
    let mut g = x.map(|v| 3.0 * v * v);
    g[1] *= 1.0 + 2e-6;
    check_gradient("sum of cubes", &x, &g, |x| x.iter().map(|v| v.powi(3)).sum());
}
