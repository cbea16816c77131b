//! Closeness of tensors.

use candle_core::{DType, Device, Tensor};

/// Elements of a tensor of any float dtype, row-major, as f64.
///
/// # Panics
/// When the tensor cannot be read.
pub fn values(t: &Tensor) -> Vec<f64> {
    let flat =
        t.detach().to_device(&Device::Cpu).and_then(|t| t.to_dtype(DType::F64)?.flatten_all()?.to_vec1());
    flat.unwrap_or_else(|e| panic!("reading a tensor: {e}"))
}

/// Asserts `|a − b| ≤ abs + rel·|b|` everywhere.
///
/// # Panics
/// With the worst element, when shapes or values differ.
pub fn assert_close(a: &Tensor, b: &Tensor, rel: f64, abs: f64) {
    assert_eq!(a.dims(), b.dims(), "shapes differ");
    let (a, b) = (values(a), values(b));
    let excess = |(x, y): (&f64, &f64)| {
        let e = (x - y).abs() - (abs + rel * y.abs());
        if e.is_nan() { f64::INFINITY } else { e }
    };
    let worst = a.iter().zip(&b).map(excess).enumerate().max_by(|p, q| p.1.total_cmp(&q.1));
    if let Some((i, excess)) = worst {
        assert!(excess <= 0., "element {i}: {} is not close to {} (rel {rel}, abs {abs})", a[i], b[i]);
    }
}

/// Asserts equal bits, telling −0.0 from +0.0.
///
/// # Panics
/// With the first element that differs.
pub fn assert_bits_equal(a: &Tensor, b: &Tensor) {
    assert_eq!(a.dims(), b.dims(), "shapes differ");
    assert_eq!(a.dtype(), b.dtype(), "dtypes differ");
    let (a, b) = (values(a), values(b));
    if let Some(i) = a.iter().zip(&b).position(|(x, y)| x.to_bits() != y.to_bits()) {
        panic!("element {i}: {:?} and {:?} differ in their bits", a[i], b[i]);
    }
}
