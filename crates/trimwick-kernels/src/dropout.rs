//! Inverted dropout on the counter-based generator.

use rayon::prelude::*;

use crate::real::Real;
use crate::rng::Rng;

/// Elements one task works on; a multiple of the four words of a block.
const CHUNK: usize = 16 * 1024;

/// y = x / (1 − p) where an element is kept, +0.0 where it is dropped; each is dropped with probability `p`.
///
/// Element `i` is decided by word `i` of `rng` alone. The same call on the upstream gradient is therefore the
/// backward: no mask is stored.
///
/// # Panics
/// When `p` is not in [0, 1] or the slices differ in length.
pub fn dropout<T: Real>(x: &[T], p: f64, rng: &Rng, y: &mut [T]) {
    assert!((0.0..=1.0).contains(&p), "dropout: probability {p} is outside of [0, 1]");
    assert!(x.len() == y.len(), "dropout: x and y differ in length");
    // In 0..=2³²: p = 1 drops every word, p = 0 none.
    let threshold = (p * 4_294_967_296.0).round() as u64;
    let scale = T::from_f64(if p < 1.0 { 1.0 / (1.0 - p) } else { 0.0 });
    (y.par_chunks_mut(CHUNK), x.par_chunks(CHUNK)).into_par_iter().enumerate().for_each(|(chunk, (y, x))| {
        let blocks = rng.blocks((chunk * CHUNK / 4) as u64);
        for ((y, x), words) in y.chunks_mut(4).zip(x.chunks(4)).zip(blocks) {
            for ((y, &x), word) in y.iter_mut().zip(x).zip(words) {
                *y = if u64::from(word) >= threshold { x * scale } else { T::ZERO };
            }
        }
    });
}
