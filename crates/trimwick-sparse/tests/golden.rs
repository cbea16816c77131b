//! Masks and updated weights against an independent reference in numpy (tests/golden/make_sparse_golden.py).

use candle_core::{DType, Device, Tensor};
use trimwick_nn::{Linear, Module, ParamStore, linear_no_bias};
use trimwick_sparse::{Magnitude, Method, Pattern, SparseGpt, Wanda, bits, prune_with};
use trimwick_testkit::{Golden, assert_close, values};

const CASES: [&str; 3] = ["two_blocks", "three_blocks", "rank_deficient"];

fn pruned(golden: &Golden, pattern: Pattern, method: &dyn Method) -> (Linear, Vec<u8>) {
    let (w, x) = (golden.tensor("weight"), golden.tensor("x"));
    let (out, inputs) = w.dims2().unwrap();
    let store = ParamStore::new(DType::F32, &Device::Cpu);
    let fc = linear_no_bias(inputs, out, store.var_builder().pp("fc")).unwrap();
    fc.layer().weight().set(&w).unwrap();
    // In two pieces, as calibration windows come.
    let half = x.dim(0).unwrap() / 2;
    let pieces = [x.narrow(0, 0, half).unwrap(), x.narrow(0, half, x.dim(0).unwrap() - half).unwrap()];
    prune_with(&store.layers(), pattern, method, || {
        pieces.iter().try_for_each(|x: &Tensor| fc.forward(x).map(drop))
    })
    .unwrap();
    let packed = bits(fc.layer()).unwrap().unwrap();
    let mask = (0..out * inputs).map(|i| packed[i / 8] >> (i % 8) & 1).collect();
    (fc, mask)
}

fn check(name: &str, pattern: Pattern, method: &dyn Method, updated: bool) {
    for case in CASES {
        let golden = Golden::open(format!("{}/tests/golden/{case}.safetensors", env!("CARGO_MANIFEST_DIR")));
        let (fc, mask) = pruned(&golden, pattern, method);
        let want = values(&golden.tensor(&format!("{name}.mask")));
        let differ = mask.iter().zip(&want).filter(|(a, b)| f64::from(**a) != **b).count();
        assert_eq!(differ, 0, "{case} {name}: {differ} of {} mask bits differ", want.len());
        if updated {
            assert_close(
                &fc.layer().weight().tensor(),
                &golden.tensor(&format!("{name}.weight")),
                1e-4,
                1e-4,
            );
        }
        let zeros = values(&fc.layer().weight().tensor());
        assert!(
            zeros.iter().zip(&want).all(|(w, keep)| *keep == 1. || w.to_bits() == 0),
            "{case}: dropped is +0.0"
        );
    }
}

#[test]
fn magnitude() {
    check("magnitude_2_4", Pattern::TWO_FOUR, &Magnitude, false);
    check("magnitude_half", Pattern::unstructured(0.5).unwrap(), &Magnitude, false);
}

#[test]
fn wanda() {
    check("wanda_2_4", Pattern::TWO_FOUR, &Wanda, false);
    check("wanda_half", Pattern::unstructured(0.5).unwrap(), &Wanda, false);
}

#[test]
fn sparsegpt() {
    check("sparsegpt_2_4", Pattern::TWO_FOUR, &SparseGpt::default(), true);
    check("sparsegpt_half", Pattern::unstructured(0.5).unwrap(), &SparseGpt::default(), true);
}
