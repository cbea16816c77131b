//! RMSNorm (Zhang and Sennrich, arXiv 1910.07467) and LayerNorm (Ba et al., arXiv 1607.06450) over rows.

use rayon::prelude::*;

use crate::add::add_parts;
use crate::cpu::wide;
use crate::math::{sum_map, sum_map2, sum_map3};
use crate::real::Real;

/// Rows of width `d` that one task works on: a function of the shape alone, since it decides the order in which
/// weight gradients are added.
fn rows_per_task(d: usize) -> usize {
    (16 * 1024 / d).max(1)
}

fn check_rows(op: &str, len: usize, d: usize) {
    assert!(d > 0 && len.is_multiple_of(d), "{op}: {len} elements are not a whole number of rows of {d}");
}

/// The length of a parameter or of an output against what its input says it must be.
fn check_len(op: &str, name: &str, len: usize, expected: usize) {
    assert!(len == expected, "{op}: {name} has {len} elements, expected {expected}");
}

/// 1 / √(mean(x²) + eps).
#[inline(always)]
fn inverse_rms<T: Real>(x: &[T], eps: T) -> T {
    let mean = sum_map(x, |v| v * v) / T::from_f64(x.len() as f64);
    T::ONE / (mean + eps).sqrt()
}

/// y = x / √(mean(x²) + eps) ⊙ weight, for each row.
///
/// `x` and `y` are `[rows, d]`, `weight` is `[d]`.
///
/// # Panics
/// When `d` is 0 or a slice does not have the length of its shape.
pub fn rms_norm<T: Real>(x: &[T], weight: &[T], eps: f64, y: &mut [T], d: usize) {
    const OP: &str = "rms_norm";
    check_rows(OP, x.len(), d);
    check_len(OP, "weight", weight.len(), d);
    check_len(OP, "y", y.len(), x.len());
    let (eps, chunk) = (T::from_f64(eps), rows_per_task(d) * d);
    (y.par_chunks_mut(chunk), x.par_chunks(chunk)).into_par_iter().for_each(|(y, x)| {
        rms_norm_rows(x, weight, eps, y);
    });
}

wide! {
    fn rms_norm_rows<T: Real>(x: &[T], weight: &[T], eps: T, y: &mut [T]) {
        let d = weight.len();
        for (y, x) in y.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
            let r = inverse_rms(x, eps);
            for ((y, &x), &w) in y.iter_mut().zip(x).zip(weight) {
                *y = x * r * w;
            }
        }
    }
}

/// Gradients of [`rms_norm`] for the upstream gradient `g`.
///
/// With r = 1/√(mean(x²) + eps) and u = g ⊙ weight: dx = r·u − x·r³·⟨u, x⟩/d for each row, and dw = Σ over rows of
/// g ⊙ x·r. `x`, `g`, `dx` are `[rows, d]`; `weight`, `dw` are `[d]`.
///
/// # Panics
/// As [`rms_norm`].
pub fn rms_norm_backward<T: Real>(
    x: &[T],
    weight: &[T],
    g: &[T],
    eps: f64,
    dx: &mut [T],
    dw: &mut [T],
    d: usize,
) {
    const OP: &str = "rms_norm_backward";
    check_rows(OP, x.len(), d);
    check_len(OP, "weight", weight.len(), d);
    check_len(OP, "g", g.len(), x.len());
    check_len(OP, "dx", dx.len(), x.len());
    check_len(OP, "dw", dw.len(), d);
    let (eps, chunk) = (T::from_f64(eps), rows_per_task(d) * d);
    let mut parts = vec![T::ZERO; x.len().div_ceil(chunk) * d];
    (dx.par_chunks_mut(chunk), parts.par_chunks_mut(d), x.par_chunks(chunk), g.par_chunks(chunk))
        .into_par_iter()
        .for_each(|(dx, dw, x, g)| rms_norm_rows_backward(x, weight, g, eps, dx, dw));
    add_parts(&parts, dw);
}

wide! {
    fn rms_norm_rows_backward<T: Real>(x: &[T], weight: &[T], g: &[T], eps: T, dx: &mut [T], dw: &mut [T]) {
        let d = weight.len();
        let per_d = T::ONE / T::from_f64(d as f64);
        let rows = dx.chunks_exact_mut(d).zip(x.chunks_exact(d)).zip(g.chunks_exact(d));
        for ((dx, x), g) in rows {
            let r = inverse_rms(x, eps);
            let c = sum_map3(g, weight, x, |g, w, x| g * w * x) * r * r * per_d;
            for ((((dx, dw), &x), &g), &w) in dx.iter_mut().zip(&mut *dw).zip(x).zip(g).zip(weight) {
                *dx = r * (g * w - x * c);
                *dw += g * x * r;
            }
        }
    }
}

/// Mean, and 1 / √(variance + eps) with the variance of the population, in two passes.
#[inline(always)]
fn moments<T: Real>(x: &[T], eps: T) -> (T, T) {
    let d = T::from_f64(x.len() as f64);
    let mean = sum_map(x, |v| v) / d;
    let variance = sum_map(x, |v| (v - mean) * (v - mean)) / d;
    (mean, T::ONE / (variance + eps).sqrt())
}

/// y = (x − mean(x)) / √(var(x) + eps) ⊙ weight + bias, for each row.
///
/// `x` and `y` are `[rows, d]`; `weight` and `bias` are `[d]`.
///
/// # Panics
/// When `d` is 0 or a slice does not have the length of its shape.
pub fn layer_norm<T: Real>(x: &[T], weight: &[T], bias: Option<&[T]>, eps: f64, y: &mut [T], d: usize) {
    const OP: &str = "layer_norm";
    check_rows(OP, x.len(), d);
    check_len(OP, "weight", weight.len(), d);
    check_len(OP, "bias", bias.map_or(d, <[T]>::len), d);
    check_len(OP, "y", y.len(), x.len());
    let (eps, chunk) = (T::from_f64(eps), rows_per_task(d) * d);
    (y.par_chunks_mut(chunk), x.par_chunks(chunk)).into_par_iter().for_each(|(y, x)| {
        layer_norm_rows(x, weight, bias, eps, y);
    });
}

wide! {
    fn layer_norm_rows<T: Real>(x: &[T], weight: &[T], bias: Option<&[T]>, eps: T, y: &mut [T]) {
        let d = weight.len();
        for (y, x) in y.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
            let (mean, r) = moments(x, eps);
            for ((y, &x), &w) in y.iter_mut().zip(x).zip(weight) {
                *y = (x - mean) * r * w;
            }
            if let Some(bias) = bias {
                for (y, &b) in y.iter_mut().zip(bias) {
                    *y += b;
                }
            }
        }
    }
}

/// Gradients of [`layer_norm`] for the upstream gradient `g`.
///
/// With n = (x − mean)·r, r = 1/√(var + eps) and u = g ⊙ weight:
/// dx = r·(u − mean(u) − n·mean(u ⊙ n)) for each row, dw = Σ over rows of g ⊙ n, db = Σ over rows of g. `db` is
/// written even where the layer has no bias. `x`, `g`, `dx` are `[rows, d]`; `weight`, `dw`, `db` are `[d]`.
///
/// # Panics
/// As [`layer_norm`].
pub fn layer_norm_backward<T: Real>(
    x: &[T],
    weight: &[T],
    g: &[T],
    eps: f64,
    dx: &mut [T],
    dw: &mut [T],
    db: &mut [T],
    d: usize,
) {
    const OP: &str = "layer_norm_backward";
    check_rows(OP, x.len(), d);
    check_len(OP, "weight", weight.len(), d);
    check_len(OP, "g", g.len(), x.len());
    check_len(OP, "dx", dx.len(), x.len());
    check_len(OP, "dw", dw.len(), d);
    check_len(OP, "db", db.len(), d);
    let (eps, chunk) = (T::from_f64(eps), rows_per_task(d) * d);
    let parts_len = x.len().div_ceil(chunk) * d;
    let (mut w_parts, mut b_parts) = (vec![T::ZERO; parts_len], vec![T::ZERO; parts_len]);
    (
        dx.par_chunks_mut(chunk),
        w_parts.par_chunks_mut(d),
        b_parts.par_chunks_mut(d),
        x.par_chunks(chunk),
        g.par_chunks(chunk),
    )
        .into_par_iter()
        .for_each(|(dx, dw, db, x, g)| layer_norm_rows_backward(x, weight, g, eps, dx, dw, db));
    add_parts(&w_parts, dw);
    add_parts(&b_parts, db);
}

wide! {
    fn layer_norm_rows_backward<T: Real>(
        x: &[T],
        weight: &[T],
        g: &[T],
        eps: T,
        dx: &mut [T],
        dw: &mut [T],
        db: &mut [T],
    ) {
        let d = weight.len();
        let per_d = T::ONE / T::from_f64(d as f64);
        let rows = dx.chunks_exact_mut(d).zip(x.chunks_exact(d)).zip(g.chunks_exact(d));
        for ((dx, x), g) in rows {
            let (mean, r) = moments(x, eps);
            let mean_u = sum_map2(g, weight, |g, w| g * w) * per_d;
            let mean_un = sum_map3(g, weight, x, |g, w, x| g * w * ((x - mean) * r)) * per_d;
            for ((((dx, dw), &x), &g), &w) in dx.iter_mut().zip(&mut *dw).zip(x).zip(g).zip(weight) {
                let n = (x - mean) * r;
                *dx = r * (g * w - mean_u - n * mean_un);
                *dw += g * n;
            }
            for (db, &g) in db.iter_mut().zip(g) {
                *db += g;
            }
        }
    }
}
