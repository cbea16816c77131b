//! The range of each block, and the error for what has none.
//!
//! Magnitudes are compared as integers: the bits of floats without their sign are ordered as the floats are, with
//! infinities and NaN at the top. One integer maximum is the largest magnitude and the proof that all are finite, in
//! any order of evaluation.

use rayon::prelude::*;

use super::blocks::{LANES, PIECE, check_len, count, per_piece};
use super::simd::{Level, Loop};
use crate::error::{Error, Result};

/// Bits of +∞: no finite magnitude has as large bits.
const INFINITY: u32 = 0x7f80_0000;

/// The largest magnitude of each block of `block` consecutive elements; an all-zero block has 0.
///
/// # Errors
/// [`Error::NonFinite`] with the first NaN or infinity; `amax` is then unspecified.
///
/// # Panics
/// When `block` does not divide the elements or `amax` does not have one element for each block.
pub fn block_amax(x: &[f32], block: usize, amax: &mut [f32]) -> Result<()> {
    check_len("block_amax", "amax", amax.len(), count("block_amax", x.len(), block));
    amax_at(Level::detect(), x, block, amax)
}

pub(super) fn amax_at(level: Level, x: &[f32], block: usize, amax: &mut [f32]) -> Result<()> {
    per_block(x, block, amax, |x| level.run(Magnitude(x)), u32::max, |_, bits| f32::from_bits(bits));
    refuse_non_finite(x, block, |i| !amax[i].is_finite(), amax.len())
}

/// The smallest and the largest value of each block of `block` consecutive elements. −0.0 is below +0.0.
///
/// # Errors
/// [`Error::NonFinite`] with the first NaN or infinity; `min` and `max` are then unspecified.
///
/// # Panics
/// When `block` does not divide the elements, or `min` or `max` does not have one element for each block.
pub fn block_range(x: &[f32], block: usize, min: &mut [f32], max: &mut [f32]) -> Result<()> {
    let blocks = count("block_range", x.len(), block);
    check_len("block_range", "min", min.len(), blocks);
    check_len("block_range", "max", max.len(), blocks);
    range_at(Level::detect(), x, block, min, max)
}

pub(super) fn range_at(
    level: Level,
    x: &[f32],
    block: usize,
    min: &mut [f32],
    max: &mut [f32],
) -> Result<()> {
    let mut ranges = vec![(0.0, 0.0); min.len()];
    let wider = |a: (i32, i32), b: (i32, i32)| (a.0.min(b.0), a.1.max(b.1));
    per_block(x, block, &mut ranges, |x| level.run(Extent(x)), wider, |_, (lo, hi)| (unkey(lo), unkey(hi)));
    for ((min, max), range) in min.iter_mut().zip(max.iter_mut()).zip(&ranges) {
        (*min, *max) = *range;
    }
    refuse_non_finite(x, block, |i| !(ranges[i].0.is_finite() && ranges[i].1.is_finite()), ranges.len())
}

/// Writes `finish` of what `reduce` finds in each block; parts of a large block are joined in any order.
fn per_block<T: Send, R: Send>(
    x: &[f32],
    block: usize,
    out: &mut [T],
    reduce: impl Fn(&[f32]) -> R + Sync,
    join: impl Fn(R, R) -> R + Sync,
    finish: impl Fn(usize, R) -> T + Sync,
) {
    if x.is_empty() {
        return;
    }
    if block > PIECE {
        for (i, (out, x)) in out.iter_mut().zip(x.chunks_exact(block)).enumerate() {
            if let Some(found) = x.par_chunks(PIECE).map(&reduce).reduce_with(&join) {
                *out = finish(i, found);
            }
        }
        return;
    }
    let per = per_piece(block);
    out.par_chunks_mut(per).zip(x.par_chunks(per * block)).enumerate().for_each(|(piece, (out, x))| {
        for (i, (out, x)) in out.iter_mut().zip(x.chunks_exact(block)).enumerate() {
            *out = finish(piece * per + i, reduce(x));
        }
    });
}

fn refuse_non_finite(x: &[f32], block: usize, bad: impl Fn(usize) -> bool, blocks: usize) -> Result<()> {
    match (0..blocks).find(|&i| bad(i)) {
        Some(i) => Err(first_non_finite(x, i * block)),
        None => Ok(()),
    }
}

/// The error for the first value from element `start` on that is not finite.
#[cold]
pub(super) fn first_non_finite(x: &[f32], start: usize) -> Error {
    let before = x[start..].iter().take_while(|v| v.is_finite()).count();
    Error::NonFinite { index: start + before }
}

/// The largest magnitude, as bits.
pub(super) struct Magnitude<'a>(pub &'a [f32]);

impl Loop for Magnitude<'_> {
    type Output = u32;

    #[inline(always)]
    fn run(self) -> u32 {
        magnitude(self.0)
    }
}

#[inline(always)]
pub(super) fn magnitude(x: &[f32]) -> u32 {
    let mut largest = [0u32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (m, v) in largest.iter_mut().zip(chunk) {
            *m = (*m).max(v.to_bits() & !(1 << 31));
        }
    }
    for (m, v) in largest.iter_mut().zip(rest) {
        *m = (*m).max(v.to_bits() & !(1 << 31));
    }
    largest.iter().fold(0, |a, &b| a.max(b))
}

/// Whether bits of a magnitude are those of a finite number.
#[inline(always)]
pub(super) fn finite(magnitude: u32) -> bool {
    magnitude < INFINITY
}

/// The smallest and the largest value, as keys.
pub(super) struct Extent<'a>(pub &'a [f32]);

impl Loop for Extent<'_> {
    type Output = (i32, i32);

    #[inline(always)]
    fn run(self) -> (i32, i32) {
        extent(self.0)
    }
}

#[inline(always)]
pub(super) fn extent(x: &[f32]) -> (i32, i32) {
    let (mut lo, mut hi) = ([i32::MAX; LANES], [i32::MIN; LANES]);
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for ((lo, hi), v) in lo.iter_mut().zip(&mut hi).zip(chunk) {
            *lo = (*lo).min(key(*v));
            *hi = (*hi).max(key(*v));
        }
    }
    for ((lo, hi), v) in lo.iter_mut().zip(&mut hi).zip(rest) {
        *lo = (*lo).min(key(*v));
        *hi = (*hi).max(key(*v));
    }
    (lo.iter().fold(i32::MAX, |a, &b| a.min(b)), hi.iter().fold(i32::MIN, |a, &b| a.max(b)))
}

/// An integer ordered as the float is; negative floats are ordered against their bits.
#[inline(always)]
fn key(x: f32) -> i32 {
    let bits = x.to_bits() as i32;
    bits ^ ((bits >> 31) & i32::MAX)
}

/// The float of a key.
#[inline(always)]
pub(super) fn unkey(key: i32) -> f32 {
    f32::from_bits((key ^ ((key >> 31) & i32::MAX)) as u32)
}
