//! SwiGLU's gate: silu(gate) ⊙ up, with silu(x) = x / (1 + e⁻ˣ) (Shazeer, arXiv 2002.05202).

use rayon::prelude::*;

use crate::cpu::wide;
use crate::math::sigmoid;
use crate::real::Real;

/// Elements one task works on.
const CHUNK: usize = 16 * 1024;

/// y = silu(gate) ⊙ up, element by element.
///
/// # Panics
/// When the slices differ in length.
pub fn swiglu<T: Real>(gate: &[T], up: &[T], y: &mut [T]) {
    assert!(gate.len() == up.len() && gate.len() == y.len(), "swiglu: gate, up and y differ in length");
    (y.par_chunks_mut(CHUNK), gate.par_chunks(CHUNK), up.par_chunks(CHUNK))
        .into_par_iter()
        .for_each(|(y, gate, up)| swiglu_chunk(gate, up, y));
}

wide! {
    fn swiglu_chunk<T: Real>(gate: &[T], up: &[T], y: &mut [T]) {
        for ((y, &x), &u) in y.iter_mut().zip(gate).zip(up) {
            *y = x * sigmoid(x) * u;
        }
    }
}

/// Gradients of [`swiglu`] for the upstream gradient `g`:
/// dgate = g ⊙ up ⊙ σ(gate)·(1 + gate·(1 − σ(gate))), dup = g ⊙ silu(gate).
///
/// # Panics
/// When the slices differ in length.
pub fn swiglu_backward<T: Real>(gate: &[T], up: &[T], g: &[T], dgate: &mut [T], dup: &mut [T]) {
    let n = gate.len();
    assert!(
        up.len() == n && g.len() == n && dgate.len() == n && dup.len() == n,
        "swiglu_backward: the slices differ in length"
    );
    (
        dgate.par_chunks_mut(CHUNK),
        dup.par_chunks_mut(CHUNK),
        gate.par_chunks(CHUNK),
        up.par_chunks(CHUNK),
        g.par_chunks(CHUNK),
    )
        .into_par_iter()
        .for_each(|(dgate, dup, gate, up, g)| swiglu_chunk_backward(gate, up, g, dgate, dup));
}

wide! {
    fn swiglu_chunk_backward<T: Real>(gate: &[T], up: &[T], g: &[T], dgate: &mut [T], dup: &mut [T]) {
        for ((((dgate, dup), &x), &u), &g) in dgate.iter_mut().zip(dup).zip(gate).zip(up).zip(g) {
            let s = sigmoid(x);
            *dgate = g * u * s * (T::ONE + x * (T::ONE - s));
            *dup = g * x * s;
        }
    }
}
