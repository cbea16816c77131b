//! The same bits in pools of 1, 2 and 4 threads, at sizes that every kernel splits.

use trimwick_kernels::*;

use crate::support::{bits, normal, unwritten};

fn same_in_every_pool<R: PartialEq + Send>(case: &str, f: impl Fn() -> R + Send + Sync) {
    let results = [1, 2, 4].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(&f)
    });
    assert!(results[0] == results[1], "{case}: 1 and 2 threads differ");
    assert!(results[0] == results[2], "{case}: 1 and 4 threads differ");
}

/// Runs `f` on outputs of the given lengths and returns their bits.
fn outputs<const N: usize>(lengths: [usize; N], f: impl FnOnce([&mut [f32]; N])) -> Vec<Vec<u64>> {
    let mut out = lengths.map(unwritten::<f32>);
    f(out.each_mut().map(|v| v.as_mut_slice()));
    out.iter().map(|v| bits(v)).collect()
}

#[test]
fn random_numbers() {
    let rng = Rng::new(1, "threads", 2, "w");
    same_in_every_pool("fill", || {
        outputs([50_001, 50_001], |[u, z]| {
            rng.fill_uniform(-1.0, 1.0, u);
            rng.fill_normal(0.0, 1.0, z);
        })
    });
    let x = normal::<f32>("x", 50_001);
    same_in_every_pool("dropout", || outputs([x.len()], |[y]| dropout(&x, 0.3, &rng, y)));
}

#[test]
fn products() {
    for (m, k, n) in [(200, 300, 100), (7, 2000, 300), (512, 64, 576), (1, 700, 1500), (300, 1100, 65)] {
        let (x, w, g) = (normal::<f32>("x", m * k), normal::<f32>("w", n * k), normal::<f32>("g", m * n));
        same_in_every_pool(&format!("products {m} {k} {n}"), || {
            outputs([m * n, m * k, n * k], |[y, dx, dw]| {
                matmul_nt(&x, &w, y, m, k, n, false);
                matmul_nn(&g, &w, dx, m, n, k, false);
                matmul_tn(&g, &x, dw, m, n, k, false);
                matmul_tn(&g, &x, dw, m, n, k, true);
            })
        });
    }
}

#[test]
fn norms() {
    let (rows, d) = (700, 96);
    let (x, w, g) = (normal::<f32>("x", rows * d), normal::<f32>("w", d), normal::<f32>("g", rows * d));
    same_in_every_pool("norms", || {
        outputs([rows * d, rows * d, d, rows * d, rows * d, d, d], |[y, dx, dw, ly, ldx, ldw, ldb]| {
            rms_norm(&x, &w, 1e-5, y, d);
            rms_norm_backward(&x, &w, &g, 1e-5, dx, dw, d);
            layer_norm(&x, &w, Some(&w), 1e-5, ly, d);
            layer_norm_backward(&x, &w, &g, 1e-5, ldx, ldw, ldb, d);
        })
    });
}

#[test]
fn attention_and_rope() {
    for window in [None, Some(50)] {
        let dims = AttentionDims { b: 2, tq: 200, tk: 230, h: 6, hkv: 2, d: 16, scale: 0.25, window };
        let (nq, nkv) = (dims.q_len(), dims.kv_len());
        let (q, k, v, g) = (
            normal::<f32>("q", nq),
            normal::<f32>("k", nkv),
            normal::<f32>("v", nkv),
            normal::<f32>("g", nq),
        );
        same_in_every_pool("attention", || {
            outputs([nq, nq, nkv, nkv], |[out, dq, dk, dv]| {
                attention(&q, &k, &v, &dims, out);
                attention_backward(&q, &k, &v, &g, &dims, dq, dk, dv);
            })
        });
        let angles = normal::<f32>("angles", 200 * 8);
        same_in_every_pool("rope", || {
            outputs([nq], |[y]| rope(&q, &angles, &angles, y, 2, 200, 6, 16, false))
        });
    }
}

#[test]
fn losses() {
    let (n, v) = (50, 9000);
    let (s, t, g) = (normal::<f32>("s", n * v), normal::<f32>("t", n * v), normal::<f32>("g", n));
    let targets: Vec<u32> = (0..n as u32).map(|i| i * 131).collect();
    same_in_every_pool("losses", || {
        outputs([n, n * v, n, n * v], |[ce, dce, kl, dkl]| {
            cross_entropy(&s, &targets, 0, ce);
            cross_entropy_backward(&s, &targets, 0, &g, dce);
            kl_divergence(&s, &t, 2.0, kl);
            kl_divergence_backward(&s, &t, 2.0, &g, dkl);
        })
    });
}

#[test]
fn pointwise_and_tables() {
    let n = 100_001;
    let (x, y, g) = (normal::<f32>("x", n), normal::<f32>("y", n), normal::<f32>("g", n));
    same_in_every_pool("swiglu", || {
        outputs([n, n, n], |[out, dx, dy]| {
            swiglu(&x, &y, out);
            swiglu_backward(&x, &y, &g, dx, dy);
        })
    });
    let (v, d) = (3000, 33);
    let ids: Vec<u32> = (0..3000).map(|i| i * i % 977).collect();
    same_in_every_pool("embedding", || {
        outputs([ids.len() * d, v * d], |[out, dw]| {
            embedding(&x[..v * d], &ids, out, d);
            embedding_backward(&ids, &g[..ids.len() * d], dw, d, false);
        })
    });
    same_in_every_pool("adamw", || {
        let (mut w, mut m, mut v) = (x.clone(), y.clone(), y.iter().map(|v| v * v).collect::<Vec<f32>>());
        adamw(&mut w, &g, &mut m, &mut v, &AdamW { step: 3, ..AdamW::default() });
        [bits(&w), bits(&m), bits(&v)]
    });
    same_in_every_pool("sum_squares", || sum_squares(&x).to_bits());
}

#[test]
fn masks_and_selection() {
    let n = 120_000;
    let x = normal::<f32>("x", n);
    // Rounded, so that there are many ties.
    let scores: Vec<f32> = x.iter().map(|v| (v * 8.0).round().abs()).collect();
    same_in_every_pool("selection", || {
        let (mut nm, mut top) = (vec![0; bits_len(n)], vec![0; bits_len(n)]);
        select_nm(&scores, 1200, 2, 4, &mut nm).unwrap();
        select_top(&scores, 50_000, &mut top).unwrap();
        let masked = outputs([n], |[y]| apply_mask(&x, &nm, y));
        (count_kept(&top, n), violations_nm(&x, 1200, 2, 4), nm, top, masked)
    });
}

/// The factor of a Hessian, and what is made of it, at sizes that the factorization cuts into several blocks.
#[test]
fn factors_and_solutions() {
    for cols in [60, 324, 1000] {
        let (tokens, rows) = (cols / 2, 24);
        let (x, w) = (normal::<f32>("x", tokens * cols), normal::<f32>("w", rows * cols));
        same_in_every_pool(&format!("factor {cols}"), || {
            let mut gram = vec![0f32; cols * cols];
            add_gram(&x, &mut gram, cols);
            mirror(&mut gram, cols);
            let factor = obs::Factor::new(&gram, tokens as u64, cols, 0.01, 0, None).unwrap();
            let mut w: Vec<f64> = w.iter().map(|&w| f64::from(w)).collect();
            let mut kept = vec![vec![true; cols]; rows];
            obs::solve(&mut w, &factor, 128, &obs::Prune(obs::Select::Nm { n: 2, m: 4 }), &mut kept);
            let u: Vec<u64> = (0..cols).flat_map(|i| factor.row(i)).map(|v| v.to_bits()).collect();
            (u, w.iter().map(|v| v.to_bits()).collect::<Vec<_>>(), kept)
        });
    }
}
