//! Masks as bitsets, applied and counted.

use rayon::prelude::*;

use crate::cpu::wide;
use crate::real::Real;

/// Elements one task works on; a multiple of 8, so that no byte of a mask is shared.
pub(crate) const CHUNK: usize = 16 * 1024;

/// Bytes that a mask of `n` elements takes.
pub fn bits_len(n: usize) -> usize {
    n.div_ceil(8)
}

pub(crate) fn check_bits(op: &str, n: usize, bits: usize) {
    assert!(bits == bits_len(n), "{op}: mask of {bits} bytes for {n} elements, expected {}", bits_len(n));
}

/// Whether element `j` of the eight that a byte holds is kept.
#[inline(always)]
fn kept(byte: u8, j: usize) -> bool {
    byte & (1 << j) != 0
}

/// The eight elements that one byte of a mask decides on.
#[inline(always)]
fn mask_eight<T: Real>(x: [T; 8], byte: u8) -> [T; 8] {
    std::array::from_fn(|j| x[j].keep_if(kept(byte, j)))
}

/// y = x where the mask keeps, +0.0 where it drops (whatever x holds there, NaN included).
///
/// Bits after the last element are ignored.
///
/// # Panics
/// When `x` and `y` differ in length or `bits` does not have [`bits_len`] bytes.
pub fn apply_mask<T: Real>(x: &[T], bits: &[u8], y: &mut [T]) {
    check_bits("apply_mask", x.len(), bits.len());
    assert!(x.len() == y.len(), "apply_mask: x and y differ in length");
    (y.par_chunks_mut(CHUNK), x.par_chunks(CHUNK), bits.par_chunks(CHUNK / 8))
        .into_par_iter()
        .for_each(|(y, x, bits)| mask_chunk(x, bits, y));
}

wide! {
    fn mask_chunk<T: Real>(x: &[T], bits: &[u8], y: &mut [T]) {
        let (ys, y_rest) = y.as_chunks_mut::<8>();
        let (xs, x_rest) = x.as_chunks::<8>();
        for ((y, x), &byte) in ys.iter_mut().zip(xs).zip(bits) {
            *y = mask_eight(*x, byte);
        }
        if let Some(&byte) = bits.get(xs.len()) {
            for (j, (y, &x)) in y_rest.iter_mut().zip(x_rest).enumerate() {
                *y = x.keep_if(kept(byte, j));
            }
        }
    }
}

/// The gradient of a mask whose dropped weights go on learning (SR-STE, arXiv 2102.04010): dw = g + decay·w where the
/// mask drops, g where it keeps.
///
/// # Panics
/// When the slices differ in length or `bits` does not have [`bits_len`] bytes.
pub fn mask_backward_decayed<T: Real>(w: &[T], g: &[T], bits: &[u8], decay: T, dw: &mut [T]) {
    const OP: &str = "mask_backward_decayed";
    check_bits(OP, w.len(), bits.len());
    assert!(w.len() == g.len() && w.len() == dw.len(), "{OP}: w, g and dw differ in length");
    (dw.par_chunks_mut(CHUNK), w.par_chunks(CHUNK), g.par_chunks(CHUNK), bits.par_chunks(CHUNK / 8))
        .into_par_iter()
        .for_each(|(dw, w, g, bits)| decay_chunk(w, g, bits, decay, dw));
}

wide! {
    fn decay_chunk<T: Real>(w: &[T], g: &[T], bits: &[u8], decay: T, dw: &mut [T]) {
        let eights = dw.chunks_mut(8).zip(w.chunks(8)).zip(g.chunks(8)).zip(bits);
        for (((dw, w), g), &byte) in eights {
            for (j, ((dw, &w), &g)) in dw.iter_mut().zip(w).zip(g).enumerate() {
                *dw = g + w.keep_if(!kept(byte, j)) * decay;
            }
        }
    }
}

/// Sets x to +0.0 where the mask drops.
///
/// # Panics
/// When `bits` does not have [`bits_len`] bytes.
pub fn apply_mask_inplace<T: Real>(x: &mut [T], bits: &[u8]) {
    check_bits("apply_mask_inplace", x.len(), bits.len());
    (x.par_chunks_mut(CHUNK), bits.par_chunks(CHUNK / 8))
        .into_par_iter()
        .for_each(|(x, bits)| mask_chunk_inplace(x, bits));
}

wide! {
    pub(crate) fn mask_chunk_inplace<T: Real>(x: &mut [T], bits: &[u8]) {
        let (xs, rest) = x.as_chunks_mut::<8>();
        for (x, &byte) in xs.iter_mut().zip(bits) {
            *x = mask_eight(*x, byte);
        }
        if let Some(&byte) = bits.get(xs.len()) {
            for (j, x) in rest.iter_mut().enumerate() {
                *x = x.keep_if(kept(byte, j));
            }
        }
    }
}

/// How many of the first `n` elements a mask keeps. Bits after the last element are ignored.
///
/// # Panics
/// When `bits` does not have [`bits_len`] bytes.
pub fn count_kept(bits: &[u8], n: usize) -> usize {
    check_bits("count_kept", n, bits.len());
    let whole = n / 8;
    let ones: usize = bits[..whole]
        .par_chunks(CHUNK)
        .map(|b| b.iter().map(|b| b.count_ones() as usize).sum::<usize>())
        .sum();
    let rest = bits.get(whole).map_or(0, |b| (b & ((1u8 << (n % 8)) - 1)).count_ones() as usize);
    ones + rest
}

/// The number of groups of `m` consecutive values along `cols` in which more than `n` are not +0.0, bit for bit.
///
/// `values` is `[rows, cols]`. −0.0 counts as an entry: an exported file is proved by its bytes.
///
/// # Panics
/// When `m` is 0, `cols` is not a multiple of `m`, or `values` is not a whole number of rows.
pub fn violations_nm(values: &[f32], cols: usize, n: usize, m: usize) -> usize {
    crate::select::check_groups("violations_nm", values.len(), cols, n, m);
    let broken = |group: &&[f32]| group.iter().filter(|v| !v.is_positive_zero()).count() > n;
    values.par_chunks(m * (CHUNK / m).max(1)).map(|chunk| chunk.chunks_exact(m).filter(broken).count()).sum()
}
