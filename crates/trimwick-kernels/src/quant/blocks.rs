//! Tensors as runs of equal blocks, and blocks as work for threads.
//!
//! Work is cut by the shapes alone: a piece is some whole blocks, or a part of one that is very large.

use rayon::prelude::*;

use super::code::{Code, Round};
use super::simd::Simd;

/// Elements of a piece that holds several blocks, and of a part of a large one.
pub(super) const PIECE: usize = 16 * 1024;

/// Blocks of more elements are cut.
const LARGE: usize = 8 * PIECE;

/// The number of blocks of `n` elements.
///
/// Panics unless blocks divide the elements; no elements are no blocks, whatever their size.
pub(super) fn count(op: &str, n: usize, block: usize) -> usize {
    if n == 0 {
        return 0;
    }
    assert!(block > 0 && n.is_multiple_of(block), "{op}: {n} elements are not whole blocks of {block}");
    n / block
}

/// Panics unless a slice has the length of its shape.
pub(super) fn check_len(op: &str, name: &str, got: usize, want: usize) {
    assert!(got == want, "{op}: {name} has {got} elements, expected {want}");
}

/// Whole blocks of a piece, or `None` where blocks are cut into parts of [`PIECE`] elements.
pub(super) fn per_piece(block: usize) -> Option<usize> {
    (block <= LARGE).then(|| (PIECE / block.max(1)).max(1))
}

/// What the elements of one block have in common.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub scale: f32,
    pub zero: f32,
    pub lo: f32,
    pub hi: f32,
}

impl Block {
    /// The same in every lane.
    #[inline(always)]
    pub fn splat<const AFFINE: bool, S: Simd>(self, simd: S) -> Lanes<AFFINE, S> {
        Lanes {
            simd,
            scale: simd.splat(self.scale),
            zero: simd.splat(self.zero),
            lo: simd.splat(self.lo),
            hi: simd.splat(self.hi),
        }
    }

    /// The number of one value of the code.
    #[inline(always)]
    pub fn value(self, code: f32) -> f32 {
        (code - self.zero) * self.scale
    }
}

/// A block in registers. Without AFFINE its zero point is 0.
#[derive(Clone, Copy)]
pub(super) struct Lanes<const AFFINE: bool, S: Simd> {
    simd: S,
    scale: S::F,
    zero: S::F,
    lo: S::F,
    hi: S::F,
}

impl<const AFFINE: bool, S: Simd> Lanes<AFFINE, S> {
    /// Where x lies between the values of the code: x / s + z.
    #[inline(always)]
    pub fn quotient(&self, x: S::F) -> S::F {
        let quotient = self.simd.div(x, self.scale);
        if AFFINE { self.simd.add(quotient, self.zero) } else { quotient }
    }

    /// Whether a quotient is left as it is by the clamp.
    #[inline(always)]
    pub fn inside(&self, quotient: S::F) -> S::M {
        self.simd.inside(quotient, self.lo, self.hi)
    }

    /// The nearest value of the code to a quotient.
    #[inline(always)]
    pub fn round<R: Round>(&self, quotient: S::F, round: R) -> S::F {
        round.round(self.simd, self.simd.clamp(quotient, self.lo, self.hi))
    }

    /// The numbers of values of the code. Zeros stay +0.0.
    #[inline(always)]
    pub fn value(&self, code: S::F) -> S::F {
        let steps = if AFFINE { self.simd.sub(code, self.zero) } else { code };
        self.simd.mul(steps, self.scale)
    }
}

/// What a code clamps to.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    code: Code,
    lo: f32,
    hi: f32,
    /// With scales up to this one, no value of the code overflows.
    safe: f32,
}

impl Bounds {
    pub fn new(code: Code) -> Self {
        let (lo, hi) = (code.min(), code.max());
        Self { code, lo, hi, safe: f32::MAX / (2.0 * (hi - lo)) }
    }

    /// Whether these are the bounds of all blocks with such scales.
    #[inline(always)]
    pub fn hold(&self, scales: &[f32]) -> bool {
        scales.iter().fold(true, |hold, &scale| hold & (scale <= self.safe))
    }

    /// A block with these bounds, or narrower ones where its scale is huge. With what [`Bounds::hold`] has found, the
    /// bounds of a loop's blocks are constants of the loop.
    #[inline(always)]
    pub fn block(&self, scale: f32, zero: f32, hold: bool) -> Block {
        let these = hold || scale <= self.safe;
        let (lo, hi) = if these { (self.lo, self.hi) } else { self.narrow(scale, zero) };
        Block { scale, zero, lo, hi }
    }

    /// Bounds within which no value of the code times a huge scale is infinite, so that every reader of the codes
    /// gets numbers. (Numbers in and out: a struct would make the callers keep theirs in memory.)
    #[cold]
    fn narrow(&self, scale: f32, zero: f32) -> (f32, f32) {
        let block = Block { scale, zero, lo: self.lo, hi: self.hi };
        let values = (0..=self.code.mask()).map(|code| self.code.decode(code));
        // NaN, infinities and the fourth code of Ternary are outside.
        let finite = values.filter(|v| (self.lo..=self.hi).contains(v) && block.value(*v).is_finite());
        finite.fold((self.hi, self.lo), |(lo, hi), v| (lo.min(v), hi.max(v)))
    }
}

/// Scales and zero points of a tensor, ready for its loops.
#[derive(Clone, Copy)]
pub(super) struct Blocks<'a> {
    pub code: Code,
    pub block: usize,
    pub scales: &'a [f32],
    pub zeros: Option<&'a [f32]>,
    pub bounds: Bounds,
}

impl<'a> Blocks<'a> {
    /// Of a tensor of `n` elements. Panics when the lengths do not agree.
    pub fn new(
        op: &str,
        code: Code,
        n: usize,
        block: usize,
        scales: &'a [f32],
        zeros: Option<&'a [f32]>,
    ) -> Self {
        code.check(op);
        let blocks = count(op, n, block);
        check_len(op, "scales", scales.len(), blocks);
        if let Some(zeros) = zeros {
            check_len(op, "zeros", zeros.len(), blocks);
        }
        Self { code, block, scales, zeros, bounds: Bounds::new(code) }
    }

    /// The block of this number.
    #[inline(always)]
    pub fn get(&self, index: usize) -> Block {
        let zero = match self.zeros {
            Some(zeros) => zeros[index],
            None => 0.0,
        };
        self.bounds.block(self.scales[index], zero, false)
    }

    /// Some of the blocks.
    fn part(self, from: usize, to: usize) -> Self {
        Self { scales: &self.scales[from..to], zeros: self.zeros.map(|zeros| &zeros[from..to]), ..self }
    }

    /// Calls `f` for pieces of `out`, in any order, with their blocks and the position of their first element.
    ///
    /// A piece is whole blocks, or a part of one block.
    pub fn for_each_piece<T: Send>(self, out: &mut [T], f: impl Fn(Blocks<'a>, usize, &mut [T]) + Sync) {
        let block = self.block;
        if let Some(per) = per_piece(block) {
            let each = |(i, out): (usize, &mut [T])| {
                let first = i * per;
                f(self.part(first, first + out.len() / block), first * block, out);
            };
            match out.len() <= per * block {
                // Waking other threads takes longer than a piece.
                true if out.is_empty() => {}
                true => each((0, out)),
                false => out.par_chunks_mut(per * block).enumerate().for_each(each),
            }
        } else {
            for (i, out) in out.chunks_mut(block).enumerate() {
                let blocks = self.part(i, i + 1);
                let each = |(j, out): (usize, &mut [T])| f(blocks, i * block + j * PIECE, out);
                out.par_chunks_mut(PIECE).enumerate().for_each(each);
            }
        }
    }
}
