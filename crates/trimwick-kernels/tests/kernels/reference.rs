//! Against PyTorch and transformers: `reference.txt`, which `reference.py` writes.

use trimwick_kernels::{self as kernels, AdamW, AttentionDims};

use crate::support::{assert_close, unwritten, wave};

fn reference(name: &str) -> Vec<f64> {
    let line = include_str!("reference.txt")
        .lines()
        .find_map(|line| line.strip_prefix(name).and_then(|rest| rest.strip_prefix(' ')));
    let values = line.unwrap_or_else(|| panic!("reference.txt has no {name}"));
    values.split(' ').map(|v| v.parse().unwrap()).collect()
}

fn check(name: &str, got: &[f64]) {
    assert_close(name, got, &reference(name), 1e-12);
}

#[test]
fn layer_norm() {
    let (x, w, b, g) = (wave(24, 0.1), wave(8, 0.2), wave(8, 0.3), wave(24, 0.4));
    let (mut y, mut dx, mut dw, mut db) = (unwritten(24), unwritten(24), unwritten(8), unwritten(8));
    kernels::layer_norm(&x, &w, Some(&b), 1e-5, &mut y, 8);
    kernels::layer_norm_backward(&x, &w, &g, 1e-5, &mut dx, &mut dw, &mut db, 8);
    check("layer_norm.y", &y);
    check("layer_norm.dx", &dx);
    check("layer_norm.dw", &dw);
    check("layer_norm.db", &db);
}

#[test]
fn rms_norm() {
    let (x, w, g) = (wave(24, 0.1), wave(8, 0.2), wave(24, 0.4));
    let (mut y, mut dx, mut dw) = (unwritten(24), unwritten(24), unwritten(8));
    kernels::rms_norm(&x, &w, 1e-5, &mut y, 8);
    kernels::rms_norm_backward(&x, &w, &g, 1e-5, &mut dx, &mut dw, 8);
    check("rms_norm.y", &y);
    check("rms_norm.dx", &dx);
    check("rms_norm.dw", &dw);
}

#[test]
fn cross_entropy() {
    const IGNORE: u32 = u32::MAX;
    let logits: Vec<f64> = wave(24, 0.1).iter().map(|v| 3.0 * v).collect();
    let targets = [5, 0, IGNORE, 2];
    let (mut loss, mut dlogits) = (unwritten(4), unwritten(24));
    kernels::cross_entropy(&logits, &targets, IGNORE, &mut loss);
    kernels::cross_entropy_backward(&logits, &targets, IGNORE, &wave(4, 0.4), &mut dlogits);
    check("cross_entropy.loss", &loss);
    check("cross_entropy.dlogits", &dlogits);
}

#[test]
fn kl_divergence() {
    let (student, teacher) = (wave(24, 0.1), wave(24, 0.9));
    let (mut loss, mut dstudent) = (unwritten(4), unwritten(24));
    kernels::kl_divergence(&student, &teacher, 2.5, &mut loss);
    kernels::kl_divergence_backward(&student, &teacher, 2.5, &wave(4, 0.4), &mut dstudent);
    check("kl.loss", &loss);
    check("kl.dstudent", &dstudent);
}

#[test]
fn rope() {
    let (b, t, h, d) = (2, 3, 2, 4);
    let angles = wave(t * d / 2, 0.5);
    let cos: Vec<f64> = angles.iter().map(|a| a.cos()).collect();
    let sin: Vec<f64> = angles.iter().map(|a| a.sin()).collect();
    let mut y = unwritten(b * t * h * d);
    kernels::rope(&wave(b * t * h * d, 0.1), &cos, &sin, &mut y, b, t, h, d, false);
    check("rope", &y);
}

#[test]
fn attention_grouped_cached_and_windowed() {
    for (case, window) in [("full", None), ("window", Some(3))] {
        let dims = AttentionDims { b: 2, tq: 3, tk: 5, h: 4, hkv: 2, d: 4, scale: 0.5, window };
        let (nq, nkv) = (dims.q_len(), dims.kv_len());
        let (q, k, v, g) = (wave(nq, 0.1), wave(nkv, 0.2), wave(nkv, 0.3), wave(nq, 0.4));
        let mut out = unwritten(nq);
        kernels::attention(&q, &k, &v, &dims, &mut out);
        let (mut dq, mut dk, mut dv) = (unwritten(nq), unwritten(nkv), unwritten(nkv));
        kernels::attention_backward(&q, &k, &v, &g, &dims, &mut dq, &mut dk, &mut dv);
        for (name, got) in [("out", out), ("dq", dq), ("dk", dk), ("dv", dv)] {
            check(&format!("attention.{case}.{name}"), &got);
        }
    }
}

#[test]
fn adamw_after_five_steps() {
    let narrow = |x: Vec<f64>| x.into_iter().map(|v| v as f32).collect::<Vec<f32>>();
    let mut w = narrow(wave(10, 0.1));
    let (mut m, mut v) = (vec![0.0; 10], vec![0.0; 10]);
    let h = AdamW { lr: 3e-2, beta2: 0.95, weight_decay: 0.1, grad_scale: 0.5, ..AdamW::default() };
    for step in 1..=5 {
        kernels::adamw(&mut w, &narrow(wave(10, step as f64)), &mut m, &mut v, &AdamW { step, ..h });
    }
    for (name, got) in [("w", w), ("m", m), ("v", v)] {
        let name = format!("adamw.{name}");
        assert_close(&name, &got, &reference(&name), 3e-7);
    }
}

#[test]
fn swiglu() {
    let gate: Vec<f64> = wave(12, 0.1).iter().map(|v| 4.0 * v).collect();
    let (up, g) = (wave(12, 0.2), wave(12, 0.4));
    let (mut y, mut dgate, mut dup) = (unwritten(12), unwritten(12), unwritten(12));
    kernels::swiglu(&gate, &up, &mut y);
    kernels::swiglu_backward(&gate, &up, &g, &mut dgate, &mut dup);
    check("swiglu.y", &y);
    check("swiglu.dgate", &dgate);
    check("swiglu.dup", &dup);
}
