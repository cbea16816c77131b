//! Fake quantization: what a tensor is after it was quantized and read back.

use rayon::prelude::*;

use super::blocks::{Blocks, Bounds, Lanes, check_len, count, per_piece};
use super::code::{Code, Family, Round};
use super::grid::{Grid, ScaleFormat};
use super::range::{extent, first_non_finite, magnitude};
use super::scaler::{Scaler, fill, fill_affine};
use super::scales::scales_at;
use super::simd::{Level, Loop, Simd};
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
    match blocks.zeros {
        Some(_) => static_pieces::<true>(level, blocks, x, y),
        None => static_pieces::<false>(level, blocks, x, y),
    }
}

fn static_pieces<const AFFINE: bool>(level: Level, blocks: Blocks<'_>, x: &[f32], y: &mut [f32]) {
    blocks.for_each_piece(y, |blocks, start, y| {
        let x = &x[start..start + y.len()];
        match blocks.code.family() {
            Family::Integer(round) => level.run(Static::<AFFINE, _> { blocks, x, y, round }),
            Family::Float(round) => level.run(Static::<AFFINE, _> { blocks, x, y, round }),
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
    let whole = if needs_global { None } else { per_piece(block) };
    let Some(per) = whole else {
        // Scales cannot be known before more than a piece was read.
        let mut scales = vec![0.0; x.len() / block];
        let mut zeros = asymmetric.then(|| scales.clone());
        scales_at(level, grid, x, block, global, &mut scales, zeros.as_deref_mut())?;
        let blocks = Blocks::new("fake_quant_dynamic", grid.code, x.len(), block, &scales, zeros.as_deref());
        static_at(level, blocks, x, y);
        return Ok(());
    };
    let scaler = grid.scaler(if asymmetric { 1.0 } else { global.unwrap_or(1.0) });
    let bounds = Bounds::new(grid.code);
    let len = per * block;
    let run = |(y, x): (&mut [f32], &[f32])| match grid.code.family() {
        Family::Integer(round) if asymmetric => {
            level.run(Dynamic { block, bounds, x, y, rule: Affine(scaler), round })
        }
        Family::Integer(round) => level.run(Dynamic { block, bounds, x, y, rule: Symmetric(scaler), round }),
        Family::Float(round) => level.run(Dynamic { block, bounds, x, y, rule: Symmetric(scaler), round }),
    };
    let finite = if x.len() <= len {
        run((y, x))
    } else {
        (y.par_chunks_mut(len), x.par_chunks(len)).into_par_iter().map(run).reduce(|| true, |a, b| a & b)
    };
    if finite { Ok(()) } else { Err(first_non_finite(x, 0)) }
}

/// A piece with given scales.
struct Static<'a, const AFFINE: bool, R> {
    blocks: Blocks<'a>,
    x: &'a [f32],
    y: &'a mut [f32],
    round: R,
}

impl<const AFFINE: bool, R: Round> Loop for Static<'_, AFFINE, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let hold = self.blocks.bounds.hold(self.blocks.scales);
        // Short blocks, whose length the compiler then knows, need no loop of their own.
        match self.blocks.block {
            16 if hold => self.blocks_of::<16, S>(simd),
            32 if hold => self.blocks_of::<32, S>(simd),
            _ => self.blocks_of::<0, S>(simd),
        }
    }
}

impl<const AFFINE: bool, R: Round> Static<'_, AFFINE, R> {
    /// Blocks of B elements whose bounds hold, or any blocks where B is 0.
    #[inline(always)]
    fn blocks_of<const B: usize, S: Simd>(self, simd: S) {
        let Blocks { block, scales, zeros, bounds, .. } = self.blocks;
        // A piece of a large block is shorter than it.
        let len = if B > 0 { B } else { block.min(self.x.len()) };
        let blocks = self.x.chunks_exact(len).zip(self.y.chunks_exact_mut(len)).zip(scales);
        for (index, ((x, y), &scale)) in blocks.enumerate() {
            let zero = zeros.map_or(0.0, |zeros| zeros[index]);
            line(simd, x, y, bounds.block(scale, zero, B > 0).splat::<AFFINE, S>(simd), self.round);
        }
    }
}

/// Blocks whose scales are worked out together.
const BATCH: usize = 64;
/// Elements of such blocks, about: few enough that they are still in the first-level cache when they are rounded.
const BATCH_LEN: usize = 2048;

/// How the scales and the zero points of blocks follow from their elements.
trait Rule: Copy + Sync {
    /// Whether there are zero points.
    const AFFINE: bool;
    /// Writes both for each block of `x`. Whether all elements were finite.
    fn scales<S: Simd>(self, simd: S, x: &[f32], block: usize, scales: &mut [f32], zeros: &mut [f32])
    -> bool;
}

#[derive(Clone, Copy)]
struct Symmetric(Scaler);

impl Rule for Symmetric {
    const AFFINE: bool = false;

    #[inline(always)]
    fn scales<S: Simd>(self, simd: S, x: &[f32], block: usize, scales: &mut [f32], _: &mut [f32]) -> bool {
        let mut finite = true;
        for (amax, x) in scales.iter_mut().zip(x.chunks_exact(block)) {
            *amax = magnitude(simd, x);
            finite &= *amax <= f32::MAX;
        }
        fill(simd, &self.0, scales);
        finite
    }
}

#[derive(Clone, Copy)]
struct Affine(Scaler);

impl Rule for Affine {
    const AFFINE: bool = true;

    #[inline(always)]
    fn scales<S: Simd>(
        self,
        simd: S,
        x: &[f32],
        block: usize,
        scales: &mut [f32],
        zeros: &mut [f32],
    ) -> bool {
        let mut finite = true;
        for ((lo, hi), x) in scales.iter_mut().zip(zeros.iter_mut()).zip(x.chunks_exact(block)) {
            (*lo, *hi) = extent(simd, x);
            finite &= *hi <= f32::MAX;
        }
        fill_affine(simd, &self.0, scales, zeros);
        finite
    }
}

/// A piece of whole blocks whose scales follow from them. Whether all of it was finite.
struct Dynamic<'a, A, R> {
    block: usize,
    bounds: Bounds,
    x: &'a [f32],
    y: &'a mut [f32],
    rule: A,
    round: R,
}

impl<A: Rule, R: Round> Loop for Dynamic<'_, A, R> {
    type Output = bool;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> bool {
        match self.block {
            16 => self.blocks_of::<16, S>(simd),
            32 => self.blocks_of::<32, S>(simd),
            _ => self.blocks_of::<0, S>(simd),
        }
    }
}

impl<A: Rule, R: Round> Dynamic<'_, A, R> {
    /// Blocks of B elements, or of any number where B is 0.
    #[inline(always)]
    fn blocks_of<const B: usize, S: Simd>(self, simd: S) -> bool {
        let block = if B > 0 { B } else { self.block };
        let batch = (BATCH_LEN / block).clamp(1, BATCH) * block;
        let (mut scales, mut zeros) = ([0.0; BATCH], [0.0; BATCH]);
        let mut finite = true;
        for (x, y) in self.x.chunks(batch).zip(self.y.chunks_mut(batch)) {
            let (scales, zeros) = (&mut scales[..x.len() / block], &mut zeros[..x.len() / block]);
            finite &= self.rule.scales(simd, x, block, scales, zeros);
            let hold = B > 0 && self.bounds.hold(scales);
            let blocks = x.chunks_exact(block).zip(y.chunks_exact_mut(block));
            for ((x, y), (&mut scale, &mut zero)) in blocks.zip(scales.iter_mut().zip(zeros)) {
                let block = self.bounds.block(scale, zero, hold);
                match A::AFFINE {
                    true => line(simd, x, y, block.splat::<true, S>(simd), self.round),
                    false => line(simd, x, y, block.splat::<false, S>(simd), self.round),
                }
            }
        }
        finite
    }
}

/// Elements of one block.
#[inline(always)]
fn line<const AFFINE: bool, S: Simd, R: Round>(
    simd: S,
    x: &[f32],
    y: &mut [f32],
    block: Lanes<AFFINE, S>,
    round: R,
) {
    let (xs, mut ys) = (x.chunks_exact(S::LANES), y.chunks_exact_mut(S::LANES));
    let x = xs.remainder();
    for (y, x) in ys.by_ref().zip(xs) {
        simd.store(block.value(block.round(block.quotient(simd.load(x)), round)), y);
    }
    if !x.is_empty() {
        let value = block.value(block.round(block.quotient(simd.load_part(x)), round));
        simd.store_part(value, ys.into_remainder());
    }
}
