//! Gradients through a quantizer: straight through its rounding, cut where it clips, and with respect to its scale.

use rayon::prelude::*;

use super::blocks::{Block, Blocks, LANES, PIECE, Segments, check_len, per_piece, piece_len};
use super::code::{Family, Round};
use super::grid::Grid;
use super::simd::{Level, Loop};

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
    let len = piece_len(blocks.block);
    (dx.par_chunks_mut(len), x.par_chunks(len), g.par_chunks(len))
        .into_par_iter()
        .enumerate()
        .for_each(|(piece, (dx, x, g))| level.run(Clipped { blocks, start: piece * len, x, g, dx }));
}

/// The gradients of a quantizer with a learned scale (LSQ, arXiv 1902.08153).
///
/// dx as [`fake_quant_backward`]; with v = x / s, dscales = Σ g·(round(v) − v) over the elements inside plus g·min or
/// g·max for those outside, times 1 / √(block · max). Sums are in f64.
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
    let part = |index: usize, x: &[f32], g: &[f32], dx: &mut [f32]| {
        let block = blocks.get(index);
        match blocks.code.family() {
            Family::Integer(round) => level.run(Learned { block, x, g, dx, round }),
            Family::Float(round) => level.run(Learned { block, x, g, dx, round }),
        }
    };
    if block > PIECE {
        for (index, ds) in dscales.iter_mut().enumerate() {
            let range = index * block..(index + 1) * block;
            let (x, g, dx) = (&x[range.clone()], &g[range.clone()], &mut dx[range]);
            let parts: Vec<f64> = (dx.par_chunks_mut(PIECE), x.par_chunks(PIECE), g.par_chunks(PIECE))
                .into_par_iter()
                .map(|(dx, x, g)| part(index, x, g, dx))
                .collect();
            *ds = (parts.iter().sum::<f64>() * factor) as f32;
        }
        return;
    }
    let per = per_piece(block);
    let len = per * block;
    (dscales.par_chunks_mut(per), dx.par_chunks_mut(len), x.par_chunks(len), g.par_chunks(len))
        .into_par_iter()
        .enumerate()
        .for_each(|(piece, (ds, dx, x, g))| {
            let pieces = dx.chunks_exact_mut(block).zip(x.chunks_exact(block)).zip(g.chunks_exact(block));
            for (i, (ds, ((dx, x), g))) in ds.iter_mut().zip(pieces).enumerate() {
                *ds = (part(piece * per + i, x, g, dx) * factor) as f32;
            }
        });
}

/// A piece whose gradient is cut where it clips.
struct Clipped<'a> {
    blocks: Blocks<'a>,
    start: usize,
    x: &'a [f32],
    g: &'a [f32],
    dx: &'a mut [f32],
}

impl Loop for Clipped<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (index, range) in Segments::new(self.start, self.x.len(), self.blocks.block) {
            let block = self.blocks.get(index);
            let (x, g, dx) = (&self.x[range.clone()], &self.g[range.clone()], &mut self.dx[range]);
            let ((xs, x_rest), (gs, g_rest)) = (x.as_chunks::<LANES>(), g.as_chunks::<LANES>());
            let (dxs, dx_rest) = dx.as_chunks_mut::<LANES>();
            for ((x, g), dx) in xs.iter().zip(gs).zip(dxs) {
                for ((&x, &g), dx) in x.iter().zip(g).zip(dx) {
                    *dx = keep(g, block.inside(block.quotient(x)));
                }
            }
            for ((&x, &g), dx) in x_rest.iter().zip(g_rest).zip(dx_rest) {
                *dx = keep(g, block.inside(block.quotient(x)));
            }
        }
    }
}

/// A block, or a part of one, with a learned scale. The sum of dy/ds · g.
struct Learned<'a, R> {
    block: Block,
    x: &'a [f32],
    g: &'a [f32],
    dx: &'a mut [f32],
    round: R,
}

impl<R: Round> Loop for Learned<'_, R> {
    type Output = f64;

    #[inline(always)]
    fn run(self) -> f64 {
        let (block, round) = (self.block, self.round);
        let mut sums = [0.0f64; LANES];
        let ((xs, x_rest), (gs, g_rest)) = (self.x.as_chunks::<LANES>(), self.g.as_chunks::<LANES>());
        let (dxs, dx_rest) = self.dx.as_chunks_mut::<LANES>();
        for ((x, g), dx) in xs.iter().zip(gs).zip(dxs) {
            for (((&x, &g), dx), sum) in x.iter().zip(g).zip(dx).zip(&mut sums) {
                let slope = learned(x, g, dx, block, round);
                *sum += f64::from(g) * f64::from(slope);
            }
        }
        for (((&x, &g), dx), sum) in x_rest.iter().zip(g_rest).zip(dx_rest).zip(&mut sums) {
            let slope = learned(x, g, dx, block, round);
            *sum += f64::from(g) * f64::from(slope);
        }
        sums.iter().sum()
    }
}

/// Writes the gradient of an element and returns dy/ds.
#[inline(always)]
fn learned<R: Round>(x: f32, g: f32, dx: &mut f32, block: Block, round: R) -> f32 {
    let quotient = block.quotient(x);
    let inside = block.inside(quotient);
    *dx = keep(g, inside);
    let rounded = round.round(block.clamp(quotient));
    rounded - keep(quotient, inside)
}

/// The value, or +0.0, without a branch.
#[inline(always)]
fn keep(x: f32, inside: bool) -> f32 {
    f32::from_bits(x.to_bits() & u32::from(inside).wrapping_neg())
}
