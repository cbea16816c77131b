//! Gradients through a quantizer: straight through its rounding, cut where it clips, and with respect to its scale.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::blocks::{Blocks, Lanes, PIECE, check_len, per_piece};
use super::code::{Family, Round};
use super::grid::Grid;
use super::simd::{Level, Loop, Simd};

/// The clipped straight-through gradient of [`fake_quant`](super::fake_quant): dx = g where min ≤ x / s + z ≤ max,
/// +0.0 elsewhere.
///
/// Both bounds are inside: an element at the largest magnitude of its block keeps its gradient.
///
/// # Panics
/// When `block` does not divide the elements, g or dx has another length, or scales or zeros do not have one element
/// for each block.
pub fn fake_quant_backward(
    grid: Grid,
    x: &[f32],
    block: usize,
    scales: &[f32],
    zeros: Option<&[f32]>,
    g: &[f32],
    dx: &mut [f32],
) {
    const OP: &str = "fake_quant_backward";
    let blocks = Blocks::new(OP, grid.code, x.len(), block, scales, zeros);
    check_len(OP, "g", g.len(), x.len());
    check_len(OP, "dx", dx.len(), x.len());
    clipped_at(Level::detect(), blocks, x, g, dx);
}

pub(super) fn clipped_at(level: Level, blocks: Blocks<'_>, x: &[f32], g: &[f32], dx: &mut [f32]) {
    blocks.for_each_piece(dx, |blocks, start, dx| {
        let range = start..start + dx.len();
        level.run(Clipped { blocks, x: &x[range.clone()], g: &g[range], dx });
    });
}

/// The gradients of a quantizer with a learned scale (LSQ, arXiv 1902.08153).
///
/// dx as [`fake_quant_backward`]; with v = x / s, dscales = Σ g·(round(v) − v) over the elements inside plus g·min or
/// g·max for those outside, times 1 / √(block · max). Sums of 512 elements are in `f32`, over 16 lanes, and the sums of
/// these in `f64`.
///
/// # Panics
/// When `block` does not divide the elements, g or dx has another length, or scales or dscales do not have one
/// element for each block.
pub fn lsq_backward(
    grid: Grid,
    x: &[f32],
    block: usize,
    scales: &[f32],
    g: &[f32],
    dx: &mut [f32],
    dscales: &mut [f32],
) {
    const OP: &str = "lsq_backward";
    let blocks = Blocks::new(OP, grid.code, x.len(), block, scales, None);
    check_len(OP, "g", g.len(), x.len());
    check_len(OP, "dx", dx.len(), x.len());
    check_len(OP, "dscales", dscales.len(), scales.len());
    lsq_at(Level::detect(), blocks, x, g, dx, dscales);
}

pub(super) fn lsq_at(
    level: Level,
    blocks: Blocks<'_>,
    x: &[f32],
    g: &[f32],
    dx: &mut [f32],
    dscales: &mut [f32],
) {
    if x.is_empty() {
        return;
    }
    let block = blocks.block;
    let factor = 1.0 / (block as f64 * f64::from(blocks.code.max())).sqrt();
    // A sum for each block of a piece, or for the part of a block that a piece is.
    let parts = if per_piece(block).is_some() { 1 } else { block.div_ceil(PIECE) };
    let sums: Vec<AtomicU64> =
        std::iter::repeat_with(AtomicU64::default).take(dscales.len() * parts).collect();
    blocks.for_each_piece(dx, |blocks, start, dx| {
        let range = start..start + dx.len();
        let (x, g) = (&x[range.clone()], &g[range]);
        let sums = &sums[start / block * parts + start % block / PIECE..];
        match blocks.code.family() {
            Family::Integer(round) => level.run(Learned { blocks, x, g, dx, sums, round }),
            Family::Float(round) => level.run(Learned { blocks, x, g, dx, sums, round }),
        }
    });
    for (ds, sums) in dscales.iter_mut().zip(sums.chunks_exact(parts)) {
        let sum: f64 = sums.iter().map(|sum| f64::from_bits(sum.load(Relaxed))).sum();
        *ds = (sum * factor) as f32;
    }
}

/// A piece whose gradient is cut where it clips.
struct Clipped<'a> {
    blocks: Blocks<'a>,
    x: &'a [f32],
    g: &'a [f32],
    dx: &'a mut [f32],
}

impl Loop for Clipped<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (none, len) = (simd.splat(0.0), self.blocks.block);
        let pieces = self.dx.chunks_mut(len).zip(self.x.chunks(len)).zip(self.g.chunks(len));
        for (index, ((dx, x), g)) in pieces.enumerate() {
            let block = self.blocks.get(index).splat::<true, S>(simd);
            let (xs, gs) = (x.chunks_exact(S::LANES), g.chunks_exact(S::LANES));
            let (x, g) = (xs.remainder(), gs.remainder());
            let mut dxs = dx.chunks_exact_mut(S::LANES);
            for ((dx, x), g) in dxs.by_ref().zip(xs).zip(gs) {
                let inside = block.inside(block.quotient(simd.load(x)));
                simd.store(simd.select(inside, simd.load(g), none), dx);
            }
            if !x.is_empty() {
                let inside = block.inside(block.quotient(simd.load_part(x)));
                simd.store_part(simd.select(inside, simd.load_part(g), none), dxs.into_remainder());
            }
        }
    }
}

/// Elements whose terms are summed in `f32`; sums of these are added in `f64`.
const TERMS: usize = 512;
/// Lanes of a sum: fixed, so that it does not depend on the width of registers.
const SUMS: usize = 16;

/// A piece with learned scales. Writes the sum of g · dy/ds for each block in it, as bits.
struct Learned<'a, R> {
    blocks: Blocks<'a>,
    x: &'a [f32],
    g: &'a [f32],
    dx: &'a mut [f32],
    sums: &'a [AtomicU64],
    round: R,
}

impl<R: Round> Loop for Learned<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let len = self.blocks.block;
        let pieces = self.dx.chunks_mut(len).zip(self.x.chunks(len)).zip(self.g.chunks(len));
        for (index, ((dx, x), g)) in pieces.enumerate() {
            let block = self.blocks.get(index).splat::<false, S>(simd);
            let mut sum = 0.0;
            for ((dx, x), g) in dx.chunks_mut(TERMS).zip(x.chunks(TERMS)).zip(g.chunks(TERMS)) {
                sum += learn(simd, block, x, g, dx, self.round);
            }
            self.sums[index].store(sum.to_bits(), Relaxed);
        }
    }
}

/// Some elements of one block. The sum of g · dy/ds.
#[inline(always)]
fn learn<S: Simd, R: Round>(
    simd: S,
    block: Lanes<false, S>,
    x: &[f32],
    g: &[f32],
    dx: &mut [f32],
    round: R,
) -> f64 {
    // SUMS sums in as many registers as that takes.
    let mut sums = [simd.splat(0.0); SUMS];
    let ((xs, x), (gs, g)) = (x.as_chunks::<SUMS>(), g.as_chunks::<SUMS>());
    let (dxs, dx) = dx.as_chunks_mut::<SUMS>();
    for ((dx, x), g) in dxs.iter_mut().zip(xs).zip(gs) {
        learn_few(simd, block, x, g, dx, &mut sums, round);
    }
    if !x.is_empty() {
        // An element that is not there has no gradient and adds nothing.
        let (mut last_x, mut last_g, mut last_dx) = ([0.0; SUMS], [0.0; SUMS], [0.0; SUMS]);
        last_x[..x.len()].copy_from_slice(x);
        last_g[..g.len()].copy_from_slice(g);
        learn_few(simd, block, &last_x, &last_g, &mut last_dx, &mut sums, round);
        dx.copy_from_slice(&last_dx[..dx.len()]);
    }
    let mut terms = [0.0; SUMS];
    for (terms, &sums) in terms.chunks_exact_mut(S::LANES).zip(&sums) {
        simd.store(sums, terms);
    }
    // As a tree: one after the other they would wait for each other.
    let mut terms = terms.map(f64::from);
    let mut half = SUMS / 2;
    while half > 0 {
        for i in 0..half {
            terms[i] += terms[i + half];
        }
        half /= 2;
    }
    terms[0]
}

#[inline(always)]
fn learn_few<S: Simd, R: Round>(
    simd: S,
    block: Lanes<false, S>,
    x: &[f32; SUMS],
    g: &[f32; SUMS],
    dx: &mut [f32; SUMS],
    sums: &mut [S::F; SUMS],
    round: R,
) {
    let none = simd.splat(0.0);
    let registers = x.chunks_exact(S::LANES).zip(g.chunks_exact(S::LANES)).zip(dx.chunks_exact_mut(S::LANES));
    for (((x, g), dx), sum) in registers.zip(sums) {
        let (quotient, g) = (block.quotient(simd.load(x)), simd.load(g));
        let inside = block.inside(quotient);
        let slope = simd.sub(block.round(quotient, round), simd.select(inside, quotient, none));
        *sum = simd.add(*sum, simd.mul(g, slope));
        simd.store(simd.select(inside, g, none), dx);
    }
}
