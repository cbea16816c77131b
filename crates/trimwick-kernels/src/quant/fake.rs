//! Fake quantization: what a tensor is after it was quantized and read back.

use rayon::prelude::*;

use super::blocks::{Block, Blocks, LANES, PIECE, Segments, check_len, count, per_piece, piece_len};
use super::code::{Code, Family, Round};
use super::grid::{Grid, ScaleFormat};
use super::range::{extent, finite, first_non_finite, magnitude, unkey};
use super::scales::scales_at;
use super::simd::{Level, Loop};
use crate::error::Result;

/// y = (round(clamp(x / s + z)) − z) · s for each block of `block` consecutive elements.
///
/// A true division, then the clamp to the code's bounds, then rounding half to even. A zero in y is +0.0. Where a
/// value of the code times a huge scale would overflow, the block's bounds are the values that do not, so a finite x
/// gives a finite y. An infinite x saturates and a NaN stays one.
///
/// `scales` are effective ones (with the global scale in them), finite and positive; `zeros` are integers of the
/// code, 0 when absent.
///
/// # Panics
/// When `block` does not divide the elements, y has another length, or scales or zeros do not have one element for
/// each block.
pub fn fake_quant(grid: Grid, x: &[f32], block: usize, scales: &[f32], zeros: Option<&[f32]>, y: &mut [f32]) {
    let blocks = Blocks::new("fake_quant", grid.code, x.len(), block, scales, zeros);
    check_len("fake_quant", "y", y.len(), x.len());
    static_at(Level::detect(), blocks, x, y);
}

pub(super) fn static_at(level: Level, blocks: Blocks<'_>, x: &[f32], y: &mut [f32]) {
    let len = piece_len(blocks.block);
    (y.par_chunks_mut(len), x.par_chunks(len)).into_par_iter().enumerate().for_each(|(piece, (y, x))| {
        let start = piece * len;
        match blocks.code.family() {
            Family::Integer(round) => level.run(Static { blocks, start, x, y, round }),
            Family::Float(round) => level.run(Static { blocks, start, x, y, round }),
        }
    });
}

/// [`fake_quant`] with the scales that [`scales`](super::scales) gives, in one pass over each block.
///
/// # Errors
/// [`Error::NonFinite`](crate::Error::NonFinite) with the first NaN or infinity; y is then unspecified.
///
/// # Panics
/// When `block` does not divide the elements or y has another length.
pub fn fake_quant_dynamic(
    grid: Grid,
    x: &[f32],
    block: usize,
    global: Option<f32>,
    y: &mut [f32],
) -> Result<()> {
    const OP: &str = "fake_quant_dynamic";
    grid.code.check(OP);
    count(OP, x.len(), block);
    check_len(OP, "y", y.len(), x.len());
    dynamic_at(Level::detect(), grid, x, block, global, y)
}

pub(super) fn dynamic_at(
    level: Level,
    grid: Grid,
    x: &[f32],
    block: usize,
    global: Option<f32>,
    y: &mut [f32],
) -> Result<()> {
    if x.is_empty() {
        return Ok(());
    }
    let asymmetric = matches!(grid.code, Code::Uint { .. });
    let needs_global = grid.scale == ScaleFormat::E4M3 && global.is_none() && !asymmetric;
    if block > PIECE || needs_global {
        // Scales cannot be known before more than a piece was read.
        let mut scales = vec![0.0; x.len() / block];
        let mut zeros = asymmetric.then(|| scales.clone());
        scales_at(level, grid, x, block, global, &mut scales, zeros.as_deref_mut())?;
        let blocks = Blocks::new("fake_quant_dynamic", grid.code, x.len(), block, &scales, zeros.as_deref());
        static_at(level, blocks, x, y);
        return Ok(());
    }
    let global = global.unwrap_or(1.0);
    let len = per_piece(block) * block;
    let run = |(y, x): (&mut [f32], &[f32])| match grid.code.family() {
        Family::Integer(round) => level.run(Dynamic { grid, block, global, x, y, round }),
        Family::Float(round) => level.run(Dynamic { grid, block, global, x, y, round }),
    };
    let finite =
        (y.par_chunks_mut(len), x.par_chunks(len)).into_par_iter().map(run).reduce(|| true, |a, b| a & b);
    if finite { Ok(()) } else { Err(first_non_finite(x, 0)) }
}

/// A piece with given scales.
struct Static<'a, R> {
    blocks: Blocks<'a>,
    start: usize,
    x: &'a [f32],
    y: &'a mut [f32],
    round: R,
}

impl<R: Round> Loop for Static<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (index, range) in Segments::new(self.start, self.x.len(), self.blocks.block) {
            line(&self.x[range.clone()], &mut self.y[range], self.blocks.get(index), self.round);
        }
    }
}

/// A piece of whole blocks whose scales follow from their ranges. Whether all of it was finite.
struct Dynamic<'a, R> {
    grid: Grid,
    block: usize,
    global: f32,
    x: &'a [f32],
    y: &'a mut [f32],
    round: R,
}

/// Blocks whose scales are kept on the stack between the two passes, and about the elements they have.
const BATCH: usize = 64;
const BATCH_LEN: usize = 2048;

impl<R: Round> Loop for Dynamic<'_, R> {
    type Output = bool;

    #[inline(always)]
    fn run(self) -> bool {
        let asymmetric = matches!(self.grid.code, Code::Uint { .. });
        let (mut scales, mut zeros) = ([0.0; BATCH], [0.0; BATCH]);
        let batch = (BATCH_LEN / self.block).clamp(1, BATCH);
        let mut all_finite = true;
        for (x, y) in self.x.chunks(batch * self.block).zip(self.y.chunks_mut(batch * self.block)) {
            let n = x.len() / self.block;
            for (i, x) in x.chunks_exact(self.block).enumerate() {
                if asymmetric {
                    let (lo, hi) = extent(x);
                    let (lo, hi) = (unkey(lo), unkey(hi));
                    all_finite &= lo.is_finite() & hi.is_finite();
                    (scales[i], zeros[i]) = self.grid.affine(lo, hi);
                } else {
                    let amax = magnitude(x);
                    all_finite &= finite(amax);
                    scales[i] = self.grid.scale(f32::from_bits(amax), self.global);
                }
            }
            let blocks = Blocks::new(
                "fake_quant_dynamic",
                self.grid.code,
                x.len(),
                self.block,
                &scales[..n],
                asymmetric.then_some(&zeros[..n]),
            );
            for (i, (x, y)) in x.chunks_exact(self.block).zip(y.chunks_exact_mut(self.block)).enumerate() {
                line(x, y, blocks.get(i), self.round);
            }
        }
        all_finite
    }
}

/// Elements of one block.
#[inline(always)]
fn line<R: Round>(x: &[f32], y: &mut [f32], block: Block, round: R) {
    let (xs, x_rest) = x.as_chunks::<LANES>();
    let (ys, y_rest) = y.as_chunks_mut::<LANES>();
    for (x, y) in xs.iter().zip(ys) {
        lanes(x, y, block, round);
    }
    if !x_rest.is_empty() {
        let (mut from, mut to) = ([0.0; LANES], [0.0; LANES]);
        from[..x_rest.len()].copy_from_slice(x_rest);
        lanes(&from, &mut to, block, round);
        y_rest.copy_from_slice(&to[..y_rest.len()]);
    }
}

#[inline(always)]
fn lanes<R: Round>(x: &[f32; LANES], y: &mut [f32; LANES], block: Block, round: R) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = block.value(round.round(block.clamp(block.quotient(x))));
    }
}
