//! Attention against its definition, against central differences, and at its edges.

use trimwick_kernels::{AttentionDims, attention, attention_backward};

use crate::support::{assert_close, bits, check_gradient, dot, normal, unwritten};

/// (b, tq, tk, h, hkv, d, window).
type Case = (usize, usize, usize, usize, usize, usize, Option<usize>);

/// Blocks are of 64 queries: 63, 64, 65 and 130 are around their edges.
const CASES: &[Case] = &[
    (1, 1, 1, 1, 1, 1, None),
    (2, 7, 7, 3, 3, 4, None),
    (1, 5, 5, 6, 2, 3, None),
    (2, 9, 9, 4, 1, 8, None),
    (1, 63, 63, 2, 1, 4, None),
    (1, 64, 64, 2, 2, 5, None),
    (1, 65, 65, 3, 1, 4, None),
    (2, 130, 130, 2, 1, 3, None),
    (2, 1, 17, 4, 2, 8, None),
    (1, 3, 70, 2, 2, 4, None),
    (1, 70, 200, 2, 1, 4, None),
    (1, 9, 9, 2, 1, 4, Some(1)),
    (2, 9, 9, 2, 1, 4, Some(3)),
    (1, 130, 130, 2, 2, 4, Some(10)),
    (1, 70, 150, 2, 1, 4, Some(65)),
    (1, 1, 17, 2, 1, 4, Some(5)),
    (1, 9, 9, 2, 1, 4, Some(1000)),
];

fn dims(case: &Case) -> AttentionDims {
    let &(b, tq, tk, h, hkv, d, window) = case;
    AttentionDims { b, tq, tk, h, hkv, d, scale: 1.3 / (d as f64).sqrt(), window }
}

/// The definition, one output element after the other.
fn naive(q: &[f64], k: &[f64], v: &[f64], dims: &AttentionDims) -> Vec<f64> {
    let AttentionDims { b, tq, tk, h, hkv, d, scale, window } = *dims;
    let mut out = Vec::with_capacity(q.len());
    for batch in 0..b {
        for i in 0..tq {
            for head in 0..h {
                let query = &q[((batch * tq + i) * h + head) * d..][..d];
                let kv_row = |j: usize| ((batch * tk + j) * hkv + head * hkv / h) * d;
                let position = tk - tq + i;
                let sees = |j: &usize| *j <= position && window.is_none_or(|w| position - j < w);
                let keys: Vec<usize> = (0..tk).filter(sees).collect();
                let weights: Vec<f64> =
                    keys.iter().map(|&j| (scale * dot(query, &k[kv_row(j)..][..d])).exp()).collect();
                let total: f64 = weights.iter().sum();
                for c in 0..d {
                    let sum: f64 = keys.iter().zip(&weights).map(|(&j, w)| w * v[kv_row(j) + c]).sum();
                    out.push(sum / total);
                }
            }
        }
    }
    out
}

#[test]
fn agrees_with_the_definition_in_both_types() {
    for case in CASES {
        let dims = dims(case);
        let (q, k, v) = (normal("q", dims.q_len()), normal("k", dims.kv_len()), normal("v", dims.kv_len()));
        let want = naive(&q, &k, &v, &dims);
        let mut out = unwritten(want.len());
        attention(&q, &k, &v, &dims, &mut out);
        assert_close(&format!("f64 {dims:?}"), &out, &want, 1e-13);

        let narrow = |x: &[f64]| x.iter().map(|&v| v as f32).collect::<Vec<f32>>();
        let mut out = unwritten(want.len());
        attention(&narrow(&q), &narrow(&k), &narrow(&v), &dims, &mut out);
        assert_close(&format!("f32 {dims:?}"), &out, &want, 4e-6);
    }
}

#[test]
fn gradients_agree_with_central_differences() {
    for case in CASES.iter().filter(|case| case.0 * case.1 * case.3 * case.5 <= 400 && case.2 > 1) {
        let dims = dims(case);
        let (q, k, v) = (normal("q", dims.q_len()), normal("k", dims.kv_len()), normal("v", dims.kv_len()));
        let g = normal("g", q.len());
        let (mut dq, mut dk, mut dv) = (unwritten(q.len()), unwritten(k.len()), unwritten(v.len()));
        attention_backward(&q, &k, &v, &g, &dims, &mut dq, &mut dk, &mut dv);
        let loss = |q: &[f64], k: &[f64], v: &[f64]| {
            let mut out = vec![0.0; q.len()];
            attention(q, k, v, &dims, &mut out);
            dot(&out, &g)
        };
        // A query that sees one key has a constant output: with a window of 1, q and k have no gradient.
        if dims.window == Some(1) {
            assert!(dq.iter().chain(&dk).all(|g| g.abs() < 1e-15), "{dims:?}");
        } else {
            check_gradient(&format!("dq {dims:?}"), &q, &dq, |q| loss(q, &k, &v));
            check_gradient(&format!("dk {dims:?}"), &k, &dk, |k| loss(&q, k, &v));
        }
        check_gradient(&format!("dv {dims:?}"), &v, &dv, |v| loss(&q, &k, v));
    }
}

#[test]
fn gradients_across_blocks_agree_with_central_differences_along_a_direction() {
    // Too many elements to probe one by one: the derivative along a random direction covers them all.
    for case in CASES.iter().filter(|case| case.1 > 60) {
        let dims = dims(case);
        let (q, k, v) = (normal("q", dims.q_len()), normal("k", dims.kv_len()), normal("v", dims.kv_len()));
        let g: Vec<f64> = normal("g", q.len());
        let (mut dq, mut dk, mut dv) = (unwritten(q.len()), unwritten(k.len()), unwritten(v.len()));
        attention_backward(&q, &k, &v, &g, &dims, &mut dq, &mut dk, &mut dv);
        let (uq, uk, uv) = (normal("uq", q.len()), normal("uk", k.len()), normal("uv", v.len()));
        let step =
            |x: &[f64], u: &[f64], s: f64| x.iter().zip(u).map(|(x, u)| x + s * u).collect::<Vec<f64>>();
        for (name, sq, sk, sv, slope) in [
            ("q", 1.0, 0.0, 0.0, dot(&dq, &uq)),
            ("k", 0.0, 1.0, 0.0, dot(&dk, &uk)),
            ("v", 0.0, 0.0, 1.0, dot(&dv, &uv)),
        ] {
            check_gradient(&format!("d{name} {dims:?}"), &[0.0], &[slope], |s| {
                let mut out = vec![0.0; q.len()];
                let (q, k, v) =
                    (step(&q, &uq, sq * s[0]), step(&k, &uk, sk * s[0]), step(&v, &uv, sv * s[0]));
                attention(&q, &k, &v, &dims, &mut out);
                dot(&out, &g)
            });
        }
    }
}

#[test]
fn a_key_of_the_future_changes_nothing_before_it() {
    let dims = AttentionDims { b: 1, tq: 6, tk: 6, h: 2, hkv: 1, d: 4, scale: 0.5, window: None };
    let (q, mut k, mut v) = (
        normal::<f32>("q", dims.q_len()),
        normal::<f32>("k", dims.kv_len()),
        normal::<f32>("v", dims.kv_len()),
    );
    let mut before = unwritten(q.len());
    attention(&q, &k, &v, &dims, &mut before);
    k[5 * 4..].fill(50.0);
    v[5 * 4..].fill(-7.0);
    let mut after = unwritten(q.len());
    attention(&q, &k, &v, &dims, &mut after);
    let last = 5 * dims.h * dims.d;
    assert_eq!(bits(&before[..last]), bits(&after[..last]));
    assert_ne!(bits(&before[last..]), bits(&after[last..]));
}

#[test]
fn scores_far_beyond_the_range_of_exp_stay_finite() {
    let dims = AttentionDims { b: 1, tq: 8, tk: 8, h: 1, hkv: 1, d: 4, scale: 1.0, window: None };
    let q: Vec<f32> = normal::<f32>("q", dims.q_len()).iter().map(|v| v * 1e6).collect();
    let v = normal("v", dims.kv_len());
    let mut out = unwritten(q.len());
    attention(&q, &q, &v, &dims, &mut out);
    assert!(out.iter().all(|v| v.is_finite()), "{out:?}");
    let (mut dq, mut dk, mut dv) = (unwritten(q.len()), unwritten(q.len()), unwritten(q.len()));
    attention_backward(&q, &q, &v, &v, &dims, &mut dq, &mut dk, &mut dv);
    assert!(dq.iter().chain(&dk).chain(&dv).all(|v| v.is_finite()));
}

#[test]
fn nothing_in_nothing_out() {
    for (b, tq, tk) in [(0, 3, 3), (2, 0, 0), (2, 0, 3)] {
        let dims = AttentionDims { b, tq, tk, h: 2, hkv: 1, d: 4, scale: 1.0, window: None };
        let k = normal::<f64>("k", dims.kv_len());
        let (mut dk, mut dv) = (unwritten(k.len()), unwritten(k.len()));
        attention(&[], &k, &k, &dims, &mut []);
        attention_backward(&[], &k, &k, &[], &dims, &mut [], &mut dk, &mut dv);
        assert!(dk.iter().chain(&dv).all(|&g| g == 0.0));
    }
}

#[test]
#[should_panic(expected = "3 queries for 2 keys")]
fn more_queries_than_keys_are_refused() {
    let dims = AttentionDims { b: 1, tq: 3, tk: 2, h: 1, hkv: 1, d: 1, scale: 1.0, window: None };
    attention(&[0.0f32; 3], &[0.0; 2], &[0.0; 2], &dims, &mut [0.0; 3]);
}
