//! The range of each block, and the error for what has none.
//!
//! Finiteness is decided on the bits of magnitudes as integers, where infinities and NaN come after all numbers: one
//! integer maximum tells whether a block has any, in any order of evaluation.

use rayon::prelude::*;

use super::blocks::{PIECE, check_len, count, per_piece};
use super::simd::{Level, Loop, Simd};
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
    let find = |x: &[f32], out: &mut [f32]| level.run(Magnitudes { x, out });
    per_block(x, block, amax, find, f32::max);
    refuse_non_finite(x, block, amax, |amax| amax.is_finite())
}

/// The smallest and the largest value of each block of `block` consecutive elements. A zero is +0.0.
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
    let wider = |a: Extent, b: Extent| (a.0.min(b.0), a.1.max(b.1));
    let find = |x: &[f32], out: &mut [Extent]| level.run(Extents { x, out });
    per_block(x, block, &mut ranges, find, wider);
    for ((min, max), range) in min.iter_mut().zip(max.iter_mut()).zip(&ranges) {
        (*min, *max) = *range;
    }
    refuse_non_finite(x, block, &ranges, |(min, max)| min.is_finite() && max.is_finite())
}

/// Writes what `find` finds in each block; what it finds in parts of a large block is joined, in any order.
fn per_block<T: Copy + Default + Send>(
    x: &[f32],
    block: usize,
    out: &mut [T],
    find: impl Fn(&[f32], &mut [T]) + Sync,
    join: impl Fn(T, T) -> T + Sync,
) {
    if x.is_empty() {
        return;
    }
    if let Some(per) = per_piece(block) {
        if out.len() <= per {
            find(x, out);
        } else {
            out.par_chunks_mut(per).zip(x.par_chunks(per * block)).for_each(|(out, x)| find(x, out));
        }
        return;
    }
    let part = |x: &[f32]| {
        let mut out = [T::default()];
        find(x, &mut out);
        out[0]
    };
    for (out, x) in out.iter_mut().zip(x.chunks_exact(block)) {
        if let Some(found) = x.par_chunks(PIECE).map(part).reduce_with(&join) {
            *out = found;
        }
    }
}

fn refuse_non_finite<T>(x: &[f32], block: usize, found: &[T], finite: impl Fn(&T) -> bool) -> Result<()> {
    match found.iter().position(|found| !finite(found)) {
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

/// The largest magnitude of each of equal parts of `x`.
struct Magnitudes<'a> {
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Loop for Magnitudes<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let len = self.x.len() / self.out.len();
        // A part that is one or two registers needs no loop.
        match len {
            16 => magnitudes::<16, S>(simd, self.x, self.out),
            32 => magnitudes::<32, S>(simd, self.x, self.out),
            _ => {
                for (out, x) in self.out.iter_mut().zip(self.x.chunks_exact(len)) {
                    *out = magnitude(simd, x);
                }
            }
        }
    }
}

#[inline(always)]
fn magnitudes<const B: usize, S: Simd>(simd: S, x: &[f32], out: &mut [f32]) {
    for (out, x) in out.iter_mut().zip(x.chunks_exact(B)) {
        *out = magnitude(simd, x);
    }
}

/// The largest magnitude; infinite if any element is infinite or NaN.
#[inline(always)]
pub(super) fn magnitude<S: Simd>(simd: S, x: &[f32]) -> f32 {
    let parts = x.chunks_exact(S::LANES);
    let mut largest = simd.splat_bits(0);
    if !parts.remainder().is_empty() {
        largest = simd.bits(simd.abs(simd.load_part(parts.remainder())));
    }
    for x in parts {
        largest = simd.max_bits(largest, simd.bits(simd.abs(simd.load(x))));
    }
    reduce_magnitude(simd, largest)
}

/// The largest of magnitudes as bits; infinite if any is infinite or NaN.
#[inline(always)]
fn reduce_magnitude<S: Simd>(simd: S, bits: S::U) -> f32 {
    // Floats from here on, where a NaN would have no order.
    simd.reduce_max(simd.float(simd.min_bits(bits, simd.splat_bits(INFINITY))))
}

/// The smallest and the largest value.
type Extent = (f32, f32);

/// The smallest and the largest value of each of equal parts of `x`.
struct Extents<'a> {
    x: &'a [f32],
    out: &'a mut [Extent],
}

impl Loop for Extents<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let len = self.x.len() / self.out.len();
        for (out, x) in self.out.iter_mut().zip(self.x.chunks_exact(len)) {
            *out = extent(simd, x);
        }
    }
}

/// The smallest and the largest value; (−∞, ∞) if any element is infinite or NaN.
#[inline(always)]
pub(super) fn extent<S: Simd>(simd: S, x: &[f32]) -> Extent {
    let Some(&first) = x.first() else { return (0.0, 0.0) };
    let (mut lo, mut hi, mut bits) = (simd.splat(first), simd.splat(first), simd.splat_bits(0));
    let parts = x.chunks_exact(S::LANES);
    let rest = parts.remainder();
    for x in parts {
        let x = simd.load(x);
        // What these two make of a NaN is not used.
        lo = simd.min(lo, x);
        hi = simd.max(hi, x);
        bits = simd.max_bits(bits, simd.bits(simd.abs(x)));
    }
    let (mut lo, mut hi, mut largest) =
        (simd.reduce_min(lo), simd.reduce_max(hi), reduce_magnitude(simd, bits));
    for &x in rest {
        lo = if x < lo { x } else { lo };
        hi = if x > hi { x } else { hi };
        largest = if x.is_finite() { largest } else { f32::INFINITY };
    }
    // Adding 0 makes a zero positive.
    if largest <= f32::MAX { (lo + 0.0, hi + 0.0) } else { (f32::NEG_INFINITY, f32::INFINITY) }
}
