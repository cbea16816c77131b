//! Tensors as runs of equal blocks, and blocks as work for threads.
//!
//! Work is cut by the shapes alone. Where a block fits in a piece, a piece holds whole blocks; a larger block is cut
//! into pieces of its own.

use std::ops::Range;

use super::code::{Code, clamp};

/// Elements one task works on, about.
pub(super) const PIECE: usize = 16 * 1024;

/// Elements a loop body works on: one vector of 512 bits, two of 256 or four of 128.
pub(super) const LANES: usize = 16;

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

/// Blocks of one task: at least one.
pub(super) fn per_piece(block: usize) -> usize {
    (PIECE / block.max(1)).max(1)
}

/// Elements of one task that may begin and end inside of a block.
pub(super) fn piece_len(block: usize) -> usize {
    if block > PIECE { PIECE } else { per_piece(block) * block.max(1) }
}

/// The parts of a piece that lie in one block each: (block, range within the piece).
pub(super) struct Segments {
    start: usize,
    at: usize,
    len: usize,
    block: usize,
    index: usize,
    /// First element of the next block, counted from the start of the tensor.
    next: usize,
}

impl Segments {
    /// Of the piece that begins at element `start` of the tensor and has `len` elements.
    #[inline(always)]
    pub fn new(start: usize, len: usize, block: usize) -> Self {
        let index = start / block;
        Self { start, at: 0, len, block, index, next: (index + 1) * block }
    }
}

impl Iterator for Segments {
    type Item = (usize, Range<usize>);

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        if self.at == self.len {
            return None;
        }
        let end = (self.next - self.start).min(self.len);
        let item = (self.index, self.at..end);
        self.at = end;
        self.index += 1;
        self.next += self.block;
        Some(item)
    }
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
    /// A value of the code before it is rounded, and whether it lies within the bounds.
    #[inline(always)]
    pub fn quotient(&self, x: f32) -> f32 {
        x / self.scale + self.zero
    }

    /// Whether a quotient is left as it is by the clamp.
    #[inline(always)]
    pub fn inside(&self, quotient: f32) -> bool {
        (self.lo <= quotient) & (quotient <= self.hi)
    }

    /// A quotient within the bounds.
    #[inline(always)]
    pub fn clamp(&self, quotient: f32) -> f32 {
        clamp(quotient, self.lo, self.hi)
    }

    /// The number of a value of the code. Adding 0 makes a zero positive and changes nothing else.
    #[inline(always)]
    pub fn value(&self, code: f32) -> f32 {
        (code - self.zero) * self.scale + 0.0
    }
}

/// Scales and zero points of a tensor, ready for its loops.
#[derive(Clone, Copy)]
pub(super) struct Blocks<'a> {
    pub code: Code,
    pub block: usize,
    pub scales: &'a [f32],
    pub zeros: Option<&'a [f32]>,
    lo: f32,
    hi: f32,
    /// With scales up to this one, no value of the code overflows.
    safe: f32,
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
        let (lo, hi) = (code.min(), code.max());
        Self { code, block, scales, zeros, lo, hi, safe: f32::MAX / (2.0 * (hi - lo)) }
    }

    /// The block of this number.
    #[inline(always)]
    pub fn get(&self, index: usize) -> Block {
        let scale = self.scales[index];
        let zero = match self.zeros {
            Some(zeros) => zeros[index],
            None => 0.0,
        };
        let all = Block { scale, zero, lo: self.lo, hi: self.hi };
        if scale <= self.safe { all } else { self.finite(all) }
    }

    /// Bounds within which no value of the code times a huge scale is infinite, so that every reader of the codes
    /// gets numbers.
    #[cold]
    fn finite(&self, block: Block) -> Block {
        let values = (0..=self.code.mask()).map(|code| self.code.decode(code)).filter(|v| v.is_finite());
        let finite = values.filter(|&v| block.value(v).is_finite());
        let (lo, hi) = finite.fold((self.hi, self.lo), |(lo, hi), v| (lo.min(v), hi.max(v)));
        Block { lo, hi, ..block }
    }
}
