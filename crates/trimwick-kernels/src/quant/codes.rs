//! Codes of a tensor and back: what an export stores and what its reader computes.

use rayon::prelude::*;

use super::blocks::{Blocks, LANES, Segments, check_len, piece_len};
use super::code::{Family, Round};
use super::grid::Grid;
use super::simd::{Level, Loop};

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
    let len = piece_len(blocks.block);
    (codes.par_chunks_mut(len), x.par_chunks(len)).into_par_iter().enumerate().for_each(
        |(piece, (codes, x))| {
            let start = piece * len;
            match blocks.code.family() {
                Family::Integer(round) => level.run(Encode { blocks, start, x, codes, round }),
                Family::Float(round) => level.run(Encode { blocks, start, x, codes, round }),
            }
        },
    );
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
    let len = piece_len(block);
    (y.par_chunks_mut(len), codes.par_chunks(len)).into_par_iter().enumerate().for_each(
        |(piece, (y, codes))| {
            for (index, range) in Segments::new(piece * len, codes.len(), block) {
                let block = blocks.get(index);
                for (y, &code) in y[range.clone()].iter_mut().zip(&codes[range]) {
                    *y = block.value(values[usize::from(code)]);
                }
            }
        },
    );
}

/// A piece to encode.
struct Encode<'a, R> {
    blocks: Blocks<'a>,
    start: usize,
    x: &'a [f32],
    codes: &'a mut [u8],
    round: R,
}

impl<R: Round> Loop for Encode<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (round, mask) = (self.round, self.blocks.code.mask());
        for (index, range) in Segments::new(self.start, self.x.len(), self.blocks.block) {
            let block = self.blocks.get(index);
            let (xs, x_rest) = self.x[range.clone()].as_chunks::<LANES>();
            let (codes, codes_rest) = self.codes[range].as_chunks_mut::<LANES>();
            for (x, codes) in xs.iter().zip(codes) {
                for (&x, code) in x.iter().zip(codes) {
                    *code = round.encode(round.round(block.clamp(block.quotient(x))), mask);
                }
            }
            for (&x, code) in x_rest.iter().zip(codes_rest) {
                *code = round.encode(round.round(block.clamp(block.quotient(x))), mask);
            }
        }
    }
}
