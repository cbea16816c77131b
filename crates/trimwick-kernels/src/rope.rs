//! Rotary position embedding (Su et al., arXiv 2104.09864) in the rotate-half layout of Hugging Face's Llama.

use rayon::prelude::*;

use crate::cpu::wide;
use crate::real::Real;

/// Rotates each pair (i, i + d/2) of each head by its position's angle.
///
/// `x` and `y` are `[b, t, h, d]`; `cos` and `sin` are `[t, d/2]`, the row of each position (a caller with a KV cache
/// passes the rows of the positions it appends).
///
/// - y\[i\] = x\[i\]·cos − x\[i + d/2\]·sin
/// - y\[i + d/2\] = x\[i + d/2\]·cos + x\[i\]·sin
///
/// With `inverse` the rotation goes the other way, which is both the inverse and the backward: a rotation's transpose.
///
/// # Panics
/// When `d` is odd or a slice does not have the length of its shape.
pub fn rope<T: Real>(
    x: &[T],
    cos: &[T],
    sin: &[T],
    y: &mut [T],
    b: usize,
    t: usize,
    h: usize,
    d: usize,
    inverse: bool,
) {
    assert!(d.is_multiple_of(2), "rope: head dimension {d} is odd");
    let (len, half) = (b * t * h * d, d / 2);
    assert!(x.len() == len && y.len() == len, "rope: x and y must have {b}·{t}·{h}·{d} elements");
    assert!(
        cos.len() == t * half && sin.len() == t * half,
        "rope: cos and sin must have {t}·{half} elements"
    );
    if len == 0 {
        return;
    }
    let sign = if inverse { -T::ONE } else { T::ONE };
    let tokens = (16 * 1024 / (h * d)).max(1);
    (y.par_chunks_mut(tokens * h * d), x.par_chunks(tokens * h * d)).into_par_iter().enumerate().for_each(
        |(chunk, (y, x))| {
            for (i, (y, x)) in y.chunks_exact_mut(h * d).zip(x.chunks_exact(h * d)).enumerate() {
                let position = (chunk * tokens + i) % t;
                let angle = position * half..(position + 1) * half;
                rotate(x, &cos[angle.clone()], &sin[angle], sign, y);
            }
        },
    );
}

wide! {
    /// The heads of one token.
    fn rotate<T: Real>(x: &[T], cos: &[T], sin: &[T], sign: T, y: &mut [T]) {
        let half = cos.len();
        for (y, x) in y.chunks_exact_mut(2 * half).zip(x.chunks_exact(2 * half)) {
            let (x0, x1) = x.split_at(half);
            let (y0, y1) = y.split_at_mut(half);
            for (((((y0, y1), &a), &b), &c), &s) in y0.iter_mut().zip(y1).zip(x0).zip(x1).zip(cos).zip(sin) {
                let s = sign * s;
                *y0 = a * c - b * s;
                *y1 = b * c + a * s;
            }
        }
    }
}
