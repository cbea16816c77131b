//! Fake-quantization: values, clip masks, and gradients against central differences with the rounding held still.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use trimwick_kernels::quant::{Code, Grid, ScaleFormat};
use trimwick_nn::ops::{self, Scales};
use trimwick_testkit::{assert_bits_equal, assert_close, assert_gradients, random, values};

const CODES: [Code; 6] =
    [Code::Int { bits: 8 }, Code::Int { bits: 4 }, Code::Ternary, Code::E2M1, Code::E4M3, Code::E3M2];

fn grid(code: Code) -> Grid {
    Grid { code, scale: ScaleFormat::F32 }
}

/// Numbers that an f32 holds exactly, in f64: what an f32 quantizer is given is what the f64 check sees.
fn exact(dims: &[usize], seed: u64) -> Tensor {
    random(dims, seed).to_dtype(DType::F32).unwrap().to_dtype(DType::F64).unwrap()
}

/// A scale for each row of x: one that clips some of it.
fn log2_scales(code: Code, rows: usize) -> Tensor {
    let base = (1.3 / f64::from(code.max())).log2();
    let logs: Vec<f32> = (0..rows).map(|r| (base + 0.21 * r as f64) as f32).collect();
    Tensor::from_vec(logs, rows, &Device::Cpu).unwrap()
}

/// s · (clip(x/s) + r), s = 2^θ, with r what rounding adds at `x0`, `theta0`: the function whose derivative a
/// straight-through gradient is.
fn surrogate(code: Code, x0: &Tensor, theta0: &Tensor) -> impl Fn(&Tensor, &Tensor) -> Tensor + use<> {
    let (min, max) = (f64::from(code.min()), f64::from(code.max()));
    let clipped = move |x: &Tensor, theta: &Tensor| {
        let s = (theta * std::f64::consts::LN_2).unwrap().exp().unwrap().unsqueeze(1).unwrap();
        (x.broadcast_div(&s).unwrap().clamp(min, max).unwrap(), s)
    };
    let quotients = clipped(x0, theta0).0;
    let rounded: Vec<f64> = values(&quotients).iter().map(|q| f64::from(code.round(*q as f32)) - q).collect();
    let r = Tensor::from_vec(rounded, x0.shape(), &Device::Cpu).unwrap();
    move |x, theta| {
        let (q, s) = clipped(x, theta);
        (q + &r).unwrap().broadcast_mul(&s).unwrap()
    }
}

fn gradients(y: &Tensor, of: &[&Var]) -> Vec<Tensor> {
    let g = random(y.dims(), 0x33).to_dtype(y.dtype()).unwrap();
    let grads = (y * g).unwrap().sum_all().unwrap().backward().unwrap();
    of.iter().map(|v| grads.get(v.as_tensor()).expect("a gradient").clone()).collect()
}

#[test]
fn learned_and_static_gradients_are_the_derivatives_with_rounding_held_still() {
    for code in CODES {
        let (x0, logs) = (exact(&[3, 16], 5), log2_scales(code, 3));
        let theta0 = logs.to_dtype(DType::F64).unwrap();
        let f = surrogate(code, &x0, &theta0);
        // The surrogate against central differences, then the operation against the surrogate.
        assert_gradients(&[x0.clone(), theta0.clone()], |t| Ok(f(&t[0], &t[1])));
        let (x, theta) = (Var::from_tensor(&x0).unwrap(), Var::from_tensor(&theta0).unwrap());
        let want = gradients(&f(&x, &theta), &[&x, &theta]);

        let logs = Var::from_tensor(&logs).unwrap();
        let y = ops::fake_quant_learned(&x, &logs, grid(code), 16, 1.).unwrap();
        assert_close(&y, &f(&x, &theta), 1e-6, 1e-6);
        let got = gradients(&y, &[&x, &logs]);
        assert_close(&got[0], &want[0], 0., 1e-6);
        let factor = 1. / (16. * f64::from(code.max())).sqrt();
        let scaled = (&want[1] * factor).unwrap().to_dtype(DType::F32).unwrap();
        assert_close(&got[1], &scaled, 1e-4, 1e-5);

        let scales = ops::learned_scales(&logs.to_vec1::<f32>().unwrap(), grid(code), 1.).unwrap();
        let scales = Arc::new(Scales { scales, zeros: None });
        let fixed = ops::fake_quant(&x, grid(code), 16, &scales).unwrap();
        assert_bits_equal(&fixed, &y);
        assert_bits_equal(&gradients(&fixed, &[&x])[0], &got[0]);
    }
}

#[test]
fn dynamic_gradients_are_those_of_the_identity() {
    for code in CODES {
        let x = Var::from_tensor(&random(&[3, 16], 5).to_dtype(DType::F32).unwrap()).unwrap();
        let y = ops::fake_quant_dynamic(&x, grid(code), 8, None).unwrap();
        assert_bits_equal(&gradients(&y, &[&x])[0], &gradients(x.as_tensor(), &[&x])[0]);
    }
}

#[test]
fn the_clip_mask_holds_the_ends_of_the_range() {
    let code = Code::Int { bits: 4 };
    let x = [-9.0f32, -8.5, -8.0, -7.9, 0., 6.9, 7.0, 7.1, 7.5, 9.];
    let inside = [0., 0., 1., 1., 1., 1., 1., 0., 0., 0.];
    for s in [0.5f32, 1., 4.] {
        let scaled: Vec<f32> = x.iter().map(|v| v * s).collect();
        let x = Var::from_vec(scaled, 10, &Device::Cpu).unwrap();
        let scales = Arc::new(Scales { scales: vec![s], zeros: None });
        let y = ops::fake_quant(&x, grid(code), 10, &scales).unwrap();
        let grads = y.sum_all().unwrap().backward().unwrap();
        assert_eq!(values(grads.get(x.as_tensor()).unwrap()), inside, "scale {s}");
        let want = [-8., -8., -8., -8., 0., 7., 7., 7., 7., 7.].map(|v| v * f64::from(s));
        assert_eq!(values(&y), want);
    }
}

#[test]
fn other_dtypes_are_cast_and_back() {
    let x = random(&[4, 32], 1);
    let wide = x.to_dtype(DType::F32).unwrap();
    let want = ops::fake_quant_dynamic(&wide, grid(Code::Int { bits: 4 }), 32, None).unwrap();
    let f64s =
        ops::fake_quant_dynamic(&wide.to_dtype(DType::F64).unwrap(), grid(Code::Int { bits: 4 }), 32, None)
            .unwrap();
    assert_eq!(f64s.dtype(), DType::F64);
    assert_bits_equal(&f64s.to_dtype(DType::F32).unwrap(), &want);
    let half = Var::from_tensor(&x.to_dtype(DType::BF16).unwrap()).unwrap();
    let y = ops::fake_quant_dynamic(&half, grid(Code::Int { bits: 4 }), 32, None).unwrap();
    assert_eq!(y.dtype(), DType::BF16);
    let grads = y.sum_all().unwrap().backward().unwrap();
    assert!(values(grads.get(half.as_tensor()).unwrap()).iter().all(|g| *g == 1.));
}

#[test]
fn views_are_quantized_as_what_they_show() {
    let x = Var::from_tensor(&random(&[8, 16], 1).to_dtype(DType::F32).unwrap()).unwrap();
    let code = grid(Code::Int { bits: 8 });
    for view in [x.narrow(0, 3, 2).unwrap(), x.t().unwrap(), x.narrow(1, 8, 8).unwrap()] {
        let dense = view.force_contiguous().unwrap();
        for f in [
            |x: &Tensor, g| ops::fake_quant_dynamic(x, g, 8, None).unwrap(),
            |x: &Tensor, g| {
                let scales = Scales { scales: vec![0.01; x.elem_count() / 8], zeros: None };
                ops::fake_quant(x, g, 8, &Arc::new(scales)).unwrap()
            },
        ] {
            assert_bits_equal(&f(&view, code), &f(&dense, code));
            assert_bits_equal(&gradients(&f(&view, code), &[&x])[0], &gradients(&f(&dense, code), &[&x])[0]);
        }
    }
}

#[test]
fn what_nobody_wants_gets_no_gradient_and_what_is_no_leaf_does_not_panic() {
    let code = grid(Code::Int { bits: 8 });
    let logs = Var::new(&[-4f32, -5.], &Device::Cpu).unwrap();
    let x = Var::from_tensor(&random(&[2, 8], 1).to_dtype(DType::F32).unwrap()).unwrap();
    // A frozen scale and a trained input that is the result of an operation, and the other way round.
    let y = ops::fake_quant_learned(&(x.as_tensor() * 2.).unwrap(), &logs.detach(), code, 8, 1.).unwrap();
    let grads = y.sum_all().unwrap().backward().unwrap();
    assert!(grads.get(x.as_tensor()).is_some() && grads.get(logs.as_tensor()).is_none());
    let y = ops::fake_quant_learned(&x.detach(), &(logs.as_tensor() + 0.5).unwrap(), code, 8, 1.).unwrap();
    let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
    assert!(grads.get(x.as_tensor()).is_none());
    assert!(values(grads.get(logs.as_tensor()).unwrap()).iter().all(|g| *g != 0.));
}

#[test]
fn what_does_not_fit_is_refused() {
    let code = grid(Code::Int { bits: 8 });
    let x = random(&[2, 6], 1).to_dtype(DType::F32).unwrap();
    let e = ops::fake_quant_dynamic(&x, code, 4, None);
    assert!(e.is_ok(), "12 values are three blocks of 4, whatever the rows");
    for block in [0, 5, 24] {
        let e = ops::fake_quant_dynamic(&x, code, block, None).unwrap_err().to_string();
        assert!(e.contains(&block.to_string()) && e.contains("[2, 6]"), "{e}");
    }
    let scales = Arc::new(Scales { scales: vec![1.; 3], zeros: None });
    let e = ops::fake_quant(&x, code, 6, &scales).unwrap_err().to_string();
    assert!(e.contains("3 scales") && e.contains("2 blocks"), "{e}");
    let nan = Tensor::new(&[f32::NAN, 0.], &Device::Cpu).unwrap();
    assert!(ops::fake_quant_learned(&x, &nan, code, 6, 1.).unwrap_err().to_string().contains("NaN"));
    let wide = nan.to_dtype(DType::F64).unwrap();
    assert!(ops::fake_quant_learned(&x, &wide, code, 6, 1.).unwrap_err().to_string().contains("f32"));
    let uint = grid(Code::Uint { bits: 8 });
    let logs = Tensor::new(&[0f32, 0.], &Device::Cpu).unwrap();
    assert!(ops::fake_quant_learned(&x, &logs, uint, 6, 1.).is_err());
}
