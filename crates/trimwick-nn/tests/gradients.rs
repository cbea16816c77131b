//! Every operation against central differences in f64, and its fused form against the composed one.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use trimwick_kernels::Rng;
use trimwick_nn::{Conv2dConfig, Init, Module, ParamStore, conv2d, ops};
use trimwick_testkit::{assert_close, assert_gradients, random, values};

#[test]
fn linear() {
    for dims in [vec![5, 7], vec![2, 3, 7]] {
        assert_gradients(&[random(&dims, 1), random(&[4, 7], 2)], |t| ops::linear(&t[0], &t[1]));
    }
}

#[test]
fn linear_on_a_transposed_view() {
    let x = random(&[7, 5], 1);
    assert_gradients(&[x, random(&[4, 7], 2)], |t| ops::linear(&t[0].t()?, &t[1]));
}

#[test]
fn norms() {
    let (x, w, b) = (random(&[3, 2, 6], 1), random(&[6], 2), random(&[6], 3));
    assert_gradients(&[x.clone(), w.clone()], |t| ops::rms_norm(&t[0], &t[1], 1e-5));
    assert_gradients(&[x, w, b], |t| ops::layer_norm(&t[0], &t[1], &t[2], 1e-5));
}

#[test]
fn rope() {
    let (cos, sin) = (random(&[3, 4], 5).cos().unwrap(), random(&[3, 4], 5).sin().unwrap());
    assert_gradients(&[random(&[2, 3, 2, 8], 1)], |t| ops::rope(&t[0], &cos, &sin));
}

#[test]
fn swiglu() {
    assert_gradients(&[random(&[3, 5], 1), random(&[3, 5], 2)], |t| ops::swiglu(&t[0], &t[1]));
}

#[test]
fn attention_grouped_windowed_and_cached() {
    for (tq, tk, h, hkv, window) in
        [(5, 5, 4, 2, None), (5, 5, 3, 3, Some(2)), (2, 6, 4, 1, None), (1, 4, 2, 2, Some(3))]
    {
        let inputs = [random(&[2, tq, h, 4], 1), random(&[2, tk, hkv, 4], 2), random(&[2, tk, hkv, 4], 3)];
        assert_gradients(&inputs, |t| ops::attention(&t[0], &t[1], &t[2], 0.5, window));
    }
}

#[test]
fn losses() {
    let targets = [2, 9, 0, 4];
    assert_gradients(&[random(&[4, 6], 1)], |t| ops::cross_entropy(&t[0], &targets, 9));
    let teacher = random(&[4, 6], 2);
    assert_gradients(&[random(&[4, 6], 1)], |t| ops::kl_divergence(&t[0], &teacher, 1.7));
}

#[test]
fn embedding_with_repeated_ids() {
    let ids = Tensor::new(&[[1u32, 3, 1], [0, 3, 3]], &Device::Cpu).unwrap();
    assert_gradients(&[random(&[5, 4], 1)], |t| ops::embedding(&t[0], &ids));
}

#[test]
fn dropout() {
    assert_gradients(&[random(&[6, 7], 1)], |t| ops::dropout(&t[0], 0.4, Rng::new(3, "dropout", 1, "x")));
}

#[test]
fn mask() {
    let bits: Arc<[u8]> = vec![0b1010_0110, 0b01].into();
    assert_gradients(&[random(&[2, 5], 1)], |t| ops::mask(&t[0], &bits, None));
}

#[test]
fn sr_ste_gradient_is_the_upstream_one_plus_the_pull() {
    let bits: Arc<[u8]> = vec![0b0011_0101].into();
    let w = candle_core::Var::from_tensor(&random(&[2, 4], 1)).unwrap();
    let g = random(&[2, 4], 2);
    let y = ops::mask(w.as_tensor(), &bits, Some(0.25)).unwrap();
    let grads = (y * &g).unwrap().sum_all().unwrap().backward().unwrap();
    let got = values(grads.get(w.as_tensor()).unwrap());
    for (i, (got, (w, g))) in got.iter().zip(values(w.as_tensor()).iter().zip(values(&g))).enumerate() {
        let dropped = bits[0] >> i & 1 == 0;
        let want = g + if dropped { 0.25 * w } else { 0. };
        assert!((got - want).abs() < 1e-12, "{i}: {got} {want}");
    }
}

#[test]
fn convolution_with_groups_stride_and_padding() {
    for (groups, stride) in [(1, 1), (1, 2), (2, 1)] {
        let config = Conv2dConfig { padding: 1, stride, groups, ..Default::default() };
        let store = ParamStore::with_seed(DType::F64, &Device::Cpu, 7);
        let conv = conv2d(4, 6, 3, config, store.var_builder().pp("conv")).unwrap();
        assert_gradients(&[random(&[2, 4, 5, 5], 1)], |t| conv.forward(&t[0]));
        let x = random(&[1, 4, 5, 5], 2);
        assert_gradients(&[random(&[6, 4 / groups, 3, 3], 3)], |t| x.conv2d(&t[0], 1, stride, 1, groups));
    }
}

#[test]
fn composed_operations_equal_the_fused_ones() {
    // bf16 on the CPU takes the composed path: compare with the fused one in f32, to bf16's precision.
    let narrow = |t: &Tensor| t.to_dtype(DType::BF16).unwrap();
    let wide = |t: &Tensor| narrow(t).to_dtype(DType::F32).unwrap();
    let close = |a: Tensor, b: Tensor| assert_close(&a.to_dtype(DType::F32).unwrap(), &b, 0.03, 0.03);
    let (x, w, b) = (random(&[3, 8], 1), random(&[8], 2), random(&[8], 3));
    close(
        ops::rms_norm(&narrow(&x), &narrow(&w), 1e-5).unwrap(),
        ops::rms_norm(&wide(&x), &wide(&w), 1e-5).unwrap(),
    );
    close(
        ops::layer_norm(&narrow(&x), &narrow(&w), &narrow(&b), 1e-5).unwrap(),
        ops::layer_norm(&wide(&x), &wide(&w), &wide(&b), 1e-5).unwrap(),
    );
    let (q, k, v) = (random(&[1, 4, 4, 8], 1), random(&[1, 5, 2, 8], 2), random(&[1, 5, 2, 8], 3));
    close(
        ops::attention(&narrow(&q), &narrow(&k), &narrow(&v), 0.3, Some(3)).unwrap(),
        ops::attention(&wide(&q), &wide(&k), &wide(&v), 0.3, Some(3)).unwrap(),
    );
    let (cos, sin) = (wide(&random(&[4, 4], 5).cos().unwrap()), wide(&random(&[4, 4], 5).sin().unwrap()));
    close(ops::rope(&narrow(&q), &cos, &sin).unwrap(), ops::rope(&wide(&q), &cos, &sin).unwrap());
    close(ops::swiglu(&narrow(&x), &narrow(&x)).unwrap(), ops::swiglu(&wide(&x), &wide(&x)).unwrap());
    close(ops::linear(&narrow(&x), &narrow(&x)).unwrap(), ops::linear(&wide(&x), &wide(&x)).unwrap());
    close(
        ops::cross_entropy(&narrow(&x), &[1, 5, 7], 5).unwrap(),
        ops::cross_entropy(&wide(&x), &[1, 5, 7], 5).unwrap(),
    );
    let t = random(&[3, 8], 9);
    close(
        ops::kl_divergence(&narrow(&x), &narrow(&t), 2.).unwrap(),
        ops::kl_divergence(&wide(&x), &wide(&t), 2.).unwrap(),
    );
    let bits: Arc<[u8]> = vec![0b1100_0101, 0xff, 0].into();
    for decay in [None, Some(0.5)] {
        close(ops::mask(&narrow(&x), &bits, decay).unwrap(), ops::mask(&wide(&x), &bits, decay).unwrap());
    }
    let rng = || Rng::new(3, "dropout", 1, "x");
    close(ops::dropout(&narrow(&x), 0.3, rng()).unwrap(), ops::dropout(&wide(&x), 0.3, rng()).unwrap());
}

#[test]
fn an_id_or_target_outside_the_vocabulary_is_an_error() {
    let ids = Tensor::new(&[5u32], &Device::Cpu).unwrap();
    let e = ops::embedding(&random(&[5, 2], 1), &ids).unwrap_err().to_string();
    assert!(e.contains("token id 5") && e.contains("vocabulary of 5"), "{e}");
    assert!(ops::cross_entropy(&random(&[1, 4], 1), &[4], 9).is_err());
    assert!(ops::cross_entropy(&random(&[2, 4], 1), &[1], 9).is_err());
}

#[test]
fn initialization_depends_on_seed_and_name_alone() {
    let make = |seed, names: &[&str]| {
        let store = ParamStore::with_seed(DType::F32, &Device::Cpu, seed);
        let vb = store.var_builder();
        for name in names {
            vb.get_with_hints((3, 4), name, Init::Randn { mean: 0., stdev: 1. }).unwrap();
        }
        values(&store.get("b").unwrap().tensor())
    };
    assert_eq!(make(1, &["a", "b"]), make(1, &["b"]));
    assert_ne!(make(1, &["b"]), make(2, &["b"]));
}
