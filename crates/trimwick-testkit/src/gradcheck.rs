//! Central differences in f64.

use candle_core::{DType, Device, Result, Tensor, Var};
use trimwick_kernels::Rng;

use crate::close::values;

/// A reproducible tensor of standard normal values, f64.
///
/// # Panics
/// When it cannot be built.
pub fn random(shape: &[usize], seed: u64) -> Tensor {
    let mut out = vec![0f64; shape.iter().product()];
    Rng::new(seed, "testkit", 0, "random").fill_normal(0., 1., &mut out);
    Tensor::from_vec(out, shape, &Device::Cpu).unwrap_or_else(|e| panic!("{e}"))
}

/// The largest difference between the gradients of `f` and central differences, over every element of every
/// input: `|analytic − numeric| / max(1, |numeric|, largest |numeric| of that input)`.
///
/// The output of any shape is made a scalar by a fixed random projection.
///
/// # Panics
/// When `f` fails, or an input gets no gradient at all.
pub fn worst_gradient_error(inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor>) -> f64 {
    let run = |inputs: &[Tensor]| -> Tensor {
        let out = f(inputs).unwrap_or_else(|e| panic!("forward: {e}"));
        assert_eq!(out.dtype(), DType::F64, "gradient checks run in f64");
        let weights = random(out.dims(), 0x70);
        (out * weights).and_then(|t| t.sum_all()).unwrap_or_else(|e| panic!("projection: {e}"))
    };
    let vars: Vec<Var> =
        inputs.iter().map(|t| Var::from_tensor(t).unwrap_or_else(|e| panic!("{e}"))).collect();
    let tracked: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let grads = run(&tracked).backward().unwrap_or_else(|e| panic!("backward: {e}"));
    let mut worst = 0f64;
    for (k, input) in inputs.iter().enumerate() {
        let analytic = grads.get(&tracked[k]).unwrap_or_else(|| panic!("input {k} got no gradient"));
        let (analytic, base) = (values(analytic), values(input));
        let at = |i: usize, delta: f64| {
            let mut moved = base.clone();
            moved[i] += delta;
            let mut all = inputs.to_vec();
            all[k] = Tensor::from_vec(moved, input.shape(), &Device::Cpu).unwrap_or_else(|e| panic!("{e}"));
            values(&run(&all))[0]
        };
        let numeric: Vec<f64> = (0..base.len())
            .map(|i| {
                let h = 1e-5 * base[i].abs().max(1.);
                (at(i, h) - at(i, -h)) / (2. * h)
            })
            .collect();
        let scale = numeric.iter().fold(1f64, |m, v| m.max(v.abs()));
        for (a, n) in analytic.iter().zip(&numeric) {
            worst = worst.max((a - n).abs() / scale);
        }
    }
    worst
}

/// Asserts [`worst_gradient_error`] ≤ 1e−6.
///
/// # Panics
/// With the error found.
pub fn assert_gradients(inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let worst = worst_gradient_error(inputs, f);
    assert!(worst <= 1e-6, "gradients differ from central differences by {worst:e}");
}
