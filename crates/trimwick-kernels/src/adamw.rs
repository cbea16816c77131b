//! AdamW, in place.

use rayon::prelude::*;

use crate::cpu::wide;
use crate::mask::{CHUNK, check_bits, mask_chunk_inplace};

/// The numbers of one AdamW step (Loshchilov and Hutter, arXiv 1711.05101).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay: the weight shrinks by `lr · weight_decay` before the update.
    pub weight_decay: f64,
    /// Number of this step, from 1: what the bias corrections are raised to.
    pub step: u64,
    /// Factor on every gradient before it is used: clipping, or one over the number of accumulated batches.
    pub grad_scale: f32,
}

impl Default for AdamW {
    /// PyTorch's defaults at step 1.
    fn default() -> Self {
        AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 1e-2, step: 1, grad_scale: 1.0 }
    }
}

/// One step of AdamW on the weight `w` with gradient `g` and moments `m` and `v`, all of one length.
///
/// With ĝ = grad_scale·g, PyTorch's formula:
///
/// - w ← w·(1 − lr·weight_decay)
/// - m ← β₁·m + (1 − β₁)·ĝ
/// - v ← β₂·v + (1 − β₂)·ĝ²
/// - w ← w − lr/(1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + eps)
///
/// # Panics
/// When the slices differ in length or `h.step` is 0.
pub fn adamw(w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], h: &AdamW) {
    let factors = Factors::new("adamw", [w.len(), g.len(), m.len(), v.len()], h);
    (w.par_chunks_mut(CHUNK), g.par_chunks(CHUNK), m.par_chunks_mut(CHUNK), v.par_chunks_mut(CHUNK))
        .into_par_iter()
        .for_each(|(w, g, m, v)| update(w, g, m, v, &factors));
}

/// [`adamw`], after which the weights and moments that the mask `keep` drops are +0.0: one pass over memory.
///
/// # Panics
/// As [`adamw`], and when `keep` does not have [`crate::bits_len`] bytes.
pub fn adamw_masked(w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], h: &AdamW, keep: &[u8]) {
    const OP: &str = "adamw_masked";
    check_bits(OP, w.len(), keep.len());
    let factors = Factors::new(OP, [w.len(), g.len(), m.len(), v.len()], h);
    (
        w.par_chunks_mut(CHUNK),
        g.par_chunks(CHUNK),
        m.par_chunks_mut(CHUNK),
        v.par_chunks_mut(CHUNK),
        keep.par_chunks(CHUNK / 8),
    )
        .into_par_iter()
        .for_each(|(w, g, m, v, keep)| {
            update(w, g, m, v, &factors);
            // Still in the first caches.
            for x in [w, m, v] {
                mask_chunk_inplace(x, keep);
            }
        });
}

/// What the loop multiplies with. Made in f64 and rounded once; 1 − β in f32 would lose bits of β₂.
pub(crate) struct Factors {
    decay: f32,
    beta1: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    rate: f32,
    root: f32,
    eps: f32,
    grad_scale: f32,
}

impl Factors {
    pub(crate) fn new(op: &str, [n, g, m, v]: [usize; 4], h: &AdamW) -> Self {
        assert!(g == n && m == n && v == n, "{op}: w, g, m and v differ in length");
        assert!(h.step > 0, "{op}: steps are counted from 1");
        let t = h.step as f64;
        Self {
            decay: (1.0 - h.lr * h.weight_decay) as f32,
            beta1: h.beta1 as f32,
            rest1: (1.0 - h.beta1) as f32,
            beta2: h.beta2 as f32,
            rest2: (1.0 - h.beta2) as f32,
            rate: (h.lr / (1.0 - h.beta1.powf(t))) as f32,
            root: (1.0 / (1.0 - h.beta2.powf(t)).sqrt()) as f32,
            eps: h.eps as f32,
            grad_scale: h.grad_scale,
        }
    }

    /// The step of one element.
    #[inline(always)]
    pub(crate) fn update(&self, w: &mut f32, g: f32, m: &mut f32, v: &mut f32) {
        let g = g * self.grad_scale;
        *m = self.beta1 * *m + self.rest1 * g;
        *v = self.beta2 * *v + self.rest2 * g * g;
        *w = *w * self.decay - self.rate * *m / (v.sqrt() * self.root + self.eps);
    }
}

wide! {
    fn update(w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], h: &Factors) {
        for (((w, &g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
            h.update(w, g, m, v);
        }
    }
}
