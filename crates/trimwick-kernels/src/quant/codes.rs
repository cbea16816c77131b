//! Codes of a tensor and back: what an export stores and what its reader computes.

use super::blocks::{Blocks, check_len};
use super::code::{Family, Round};
use super::grid::Grid;
use super::simd::{Level, Loop, Simd};

/// The code of each element, one to a byte, as [`Code::encode`](super::Code::encode) of x / s + z.
///
/// Scales and zeros as in [`fake_quant`](super::fake_quant). x must be finite.
///
/// # Panics
/// When `block` does not divide the elements, codes has another length, or scales or zeros do not have one element
/// for each block.
pub fn encode(grid: Grid, x: &[f32], block: usize, scales: &[f32], zeros: Option<&[f32]>, codes: &mut [u8]) {
    let blocks = Blocks::new("encode", grid.code, x.len(), block, scales, zeros);
    check_len("encode", "codes", codes.len(), x.len());
    encode_at(Level::detect(), blocks, x, codes);
}

pub(super) fn encode_at(level: Level, blocks: Blocks<'_>, x: &[f32], codes: &mut [u8]) {
    blocks.for_each_piece(codes, |blocks, start, codes| {
        let x = &x[start..start + codes.len()];
        match blocks.code.family() {
            Family::Integer(round) => level.run(Encode { blocks, x, codes, round }),
            Family::Float(round) => level.run(Encode { blocks, x, codes, round }),
        }
    });
}

/// y = (value of the code − z) · s: for codes of [`encode`] the bits of [`fake_quant`](super::fake_quant).
///
/// Codes are one to a byte; bits above those of a code are ignored.
///
/// # Panics
/// As [`encode`].
pub fn decode(grid: Grid, codes: &[u8], block: usize, scales: &[f32], zeros: Option<&[f32]>, y: &mut [f32]) {
    let blocks = Blocks::new("decode", grid.code, codes.len(), block, scales, zeros);
    check_len("decode", "y", y.len(), codes.len());
    let values: [f32; 256] = std::array::from_fn(|code| grid.code.decode(code as u8));
    blocks.for_each_piece(y, |blocks, start, y| {
        let codes = &codes[start..start + y.len()];
        for (index, (y, codes)) in y.chunks_mut(block).zip(codes.chunks(block)).enumerate() {
            let block = blocks.get(index);
            for (y, &code) in y.iter_mut().zip(codes) {
                *y = block.value(values[usize::from(code)]);
            }
        }
    });
}

/// A piece to encode.
struct Encode<'a, R> {
    blocks: Blocks<'a>,
    x: &'a [f32],
    codes: &'a mut [u8],
    round: R,
}

impl<R: Round> Loop for Encode<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (blocks, round) = (self.blocks, self.round);
        let mask = simd.splat_bits(u32::from(blocks.code.mask()));
        let pieces = self.x.chunks(blocks.block).zip(self.codes.chunks_mut(blocks.block));
        for (index, (x, codes)) in pieces.enumerate() {
            let block = blocks.get(index).splat::<true, S>(simd);
            let (xs, mut codes) = (x.chunks_exact(S::LANES), codes.chunks_exact_mut(S::LANES));
            let x = xs.remainder();
            for (codes, x) in codes.by_ref().zip(xs) {
                let value = block.round(block.quotient(simd.load(x)), round);
                simd.store_bytes(simd.and(round.encode(simd, value), mask), codes);
            }
            if !x.is_empty() {
                let value = block.round(block.quotient(simd.load_part(x)), round);
                simd.store_bytes_part(simd.and(round.encode(simd, value), mask), codes.into_remainder());
            }
        }
    }
}
