//! Norms: central differences, and what they must do with rows of zeros and of huge values.

use trimwick_kernels::{layer_norm, layer_norm_backward, rms_norm, rms_norm_backward};

use crate::support::{assert_close, check_gradient, dot, normal, unwritten};

const EPS: f64 = 1e-5;
/// (rows, d): below, at and above the lanes of a reduction; a single element is a case of its own.
const SHAPES: &[(usize, usize)] = &[(1, 2), (3, 7), (4, 16), (2, 33), (5, 48)];

#[test]
fn rms_norm_gradients() {
    for &(rows, d) in SHAPES {
        let (x, w, g) = (normal("x", rows * d), normal("w", d), normal("g", rows * d));
        let (mut dx, mut dw) = (unwritten(rows * d), unwritten(d));
        rms_norm_backward(&x, &w, &g, EPS, &mut dx, &mut dw, d);
        let loss = |x: &[f64], w: &[f64]| {
            let mut y = unwritten(x.len());
            rms_norm(x, w, EPS, &mut y, d);
            dot(&y, &g)
        };
        check_gradient(&format!("dx {rows}×{d}"), &x, &dx, |x| loss(x, &w));
        check_gradient(&format!("dw {rows}×{d}"), &w, &dw, |w| loss(&x, w));
    }
}

#[test]
fn layer_norm_gradients() {
    for &(rows, d) in SHAPES {
        let (x, w, b, g) = (normal("x", rows * d), normal("w", d), normal("b", d), normal("g", rows * d));
        let (mut dx, mut dw, mut db) = (unwritten(rows * d), unwritten(d), unwritten(d));
        // Two elements are normalized to ±1 unless eps is felt.
        let eps = if d == 2 { 0.3 } else { EPS };
        layer_norm_backward(&x, &w, &g, eps, &mut dx, &mut dw, &mut db, d);
        let loss = |x: &[f64], w: &[f64], b: &[f64]| {
            let mut y = unwritten(x.len());
            layer_norm(x, w, Some(b), eps, &mut y, d);
            dot(&y, &g)
        };
        check_gradient(&format!("dx {rows}×{d}"), &x, &dx, |x| loss(x, &w, &b));
        check_gradient(&format!("dw {rows}×{d}"), &w, &dw, |w| loss(&x, w, &b));
        check_gradient(&format!("db {rows}×{d}"), &b, &db, |b| loss(&x, &w, b));
    }
}

#[test]
fn many_rows_agree_with_the_definition() {
    // More rows than one task takes, in f32.
    let (rows, d) = (1000, 96);
    let (x, w, b) = (normal::<f32>("x", rows * d), normal::<f32>("w", d), normal::<f32>("b", d));
    let wide = |x: &[f32]| x.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
    let (mut rms, mut layer) = (Vec::new(), Vec::new());
    for row in wide(&x).chunks(d) {
        let mean = row.iter().sum::<f64>() / d as f64;
        let square = dot(row, row) / d as f64;
        for ((x, w), b) in row.iter().zip(wide(&w)).zip(wide(&b)) {
            rms.push(x / (square + EPS).sqrt() * w);
            layer.push((x - mean) / (square - mean * mean + EPS).sqrt() * w + b);
        }
    }
    let mut y = unwritten(x.len());
    rms_norm(&x, &w, EPS, &mut y, d);
    assert_close("rms_norm", &y, &rms, 1e-6);
    let mut y = unwritten(x.len());
    layer_norm(&x, &w, Some(&b), EPS, &mut y, d);
    assert_close("layer_norm", &y, &layer, 2e-6);
}

#[test]
fn layer_norm_without_bias_is_with_a_bias_of_zeros() {
    let (x, w) = (normal::<f32>("x", 30), normal::<f32>("w", 10));
    let (mut without, mut with) = (unwritten(30), unwritten(30));
    layer_norm(&x, &w, None, EPS, &mut without, 10);
    layer_norm(&x, &w, Some(&[0.0; 10]), EPS, &mut with, 10);
    assert_eq!(without, with);
}

#[test]
fn a_row_of_zeros_stays_finite() {
    let (x, w, g) = ([0.0f32; 16], [1.5f32; 16], [2.0f32; 16]);
    let (mut y, mut dx, mut dw, mut db) = ([f32::NAN; 16], [f32::NAN; 16], [f32::NAN; 16], [f32::NAN; 16]);
    rms_norm(&x, &w, EPS, &mut y, 16);
    rms_norm_backward(&x, &w, &g, EPS, &mut dx, &mut dw, 16);
    assert_eq!(y, [0.0; 16]);
    assert_eq!(dw, [0.0; 16]);
    assert!(dx.iter().all(|v| v.is_finite()));
    layer_norm(&x, &w, None, EPS, &mut y, 16);
    layer_norm_backward(&x, &w, &g, EPS, &mut dx, &mut dw, &mut db, 16);
    assert_eq!((y, dw, db), ([0.0; 16], [0.0; 16], [2.0; 16]));
    assert!(dx.iter().all(|v| v.is_finite()));
}

#[test]
#[should_panic(expected = "10 elements are not a whole number of rows of 4")]
fn a_broken_row_is_refused() {
    rms_norm(&[0.0f32; 10], &[0.0; 4], EPS, &mut [0.0; 10], 4);
}
