//! Activations, as they are and as bytes.

use rayon::prelude::*;

use super::weight::UNIT;
use crate::cpu::wide;

/// Inputs of a block with a scale of its own, where activations are rounded in blocks.
pub(super) const BLOCK: usize = 32;
/// Rows that are multiplied together, the most and less.
const TOGETHER: [usize; 3] = [8, 4, 1];

/// How activations enter a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arithmetic {
    /// As f32: nothing is rounded but sums.
    Float,
    /// As int8 with a scale amax / 127 for 32 consecutive inputs, as llama.cpp does for Q4_0 and Q8_0.
    Blocks,
    /// As int8 with a scale amax / 127 for each row, which is a token: W8A8.
    Tokens,
}

/// The activations `[m, k]` of one product or several.
#[derive(Clone, Debug, Default)]
pub struct Activations {
    m: usize,
    k: usize,
    /// Rows of `k` filled up with zeros to whole blocks.
    floats: Vec<f32>,
    blocks: Rounded,
    tokens: Rounded,
}

/// Activations as bytes, by rows that are multiplied together.
#[derive(Clone, Debug, Default)]
pub(super) struct Rounded {
    /// Whether these are the codes of the floats beside them.
    ready: bool,
    /// Inputs, filled up to whole blocks.
    pub k: usize,
    /// Two's complement, of M rows together: [k/16][M][16], behind those of the rows before.
    pub codes: Vec<u8>,
    /// The same codes and 128, unsigned.
    pub raised: Vec<u8>,
    /// [k/32][M], all the same for a token.
    pub scales: Vec<f32>,
    /// Of the codes of a unit: [k/16][M].
    pub sums: Vec<i32>,
}

/// The first of M rows that are multiplied together, and M.
pub(super) fn together(m: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut first = 0;
    std::iter::from_fn(move || {
        let size = TOGETHER.into_iter().find(|&size| first + size <= m)?;
        first += size;
        Some((first - size, size))
    })
}

impl Activations {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes `x` `[m, k]`. The buffers of before are used again.
    ///
    /// # Panics
    /// When `x` does not have the length of its shape.
    pub fn set(&mut self, x: &[f32], m: usize, k: usize) {
        assert!(Some(x.len()) == m.checked_mul(k), "activations: {} elements, expected {m}×{k}", x.len());
        (self.m, self.k) = (m, k);
        let padded = k.next_multiple_of(BLOCK);
        self.floats.clear();
        self.floats.resize(m * padded, 0.);
        for (to, x) in self.floats.chunks_exact_mut(padded.max(1)).zip(x.chunks_exact(k.max(1))) {
            to[..k].copy_from_slice(x);
        }
        (self.blocks.ready, self.tokens.ready) = (false, false);
    }

    /// Rounds the activations for an arithmetic, unless that was done.
    pub fn prepare(&mut self, arithmetic: Arithmetic) {
        let (rounded, block) = match arithmetic {
            Arithmetic::Float => return,
            Arithmetic::Blocks => (&mut self.blocks, Some(BLOCK)),
            Arithmetic::Tokens => (&mut self.tokens, None),
        };
        if !rounded.ready {
            rounded.round(&self.floats, self.m, self.k.next_multiple_of(BLOCK), block);
        }
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.m
    }

    /// Inputs.
    pub fn inputs(&self) -> usize {
        self.k
    }

    /// The activations as they were given, in rows of [`Activations::padded`].
    pub(super) fn floats(&self) -> &[f32] {
        &self.floats
    }

    /// Inputs filled up to whole blocks.
    pub(super) fn padded(&self) -> usize {
        self.k.next_multiple_of(BLOCK)
    }

    /// Panics unless [`Activations::prepare`] was called.
    pub(super) fn rounded(&self, arithmetic: Arithmetic) -> &Rounded {
        let rounded = if arithmetic == Arithmetic::Tokens { &self.tokens } else { &self.blocks };
        assert!(rounded.ready, "activations were not prepared for {arithmetic:?}");
        rounded
    }
}

impl Rounded {
    fn round(&mut self, x: &[f32], m: usize, padded: usize, block: Option<usize>) {
        let block = block.unwrap_or(padded).max(1);
        let (blocks, summed) = (padded / BLOCK, padded / UNIT);
        self.k = padded;
        self.ready = true;
        self.codes.clear();
        self.codes.resize(m * padded, 0);
        self.raised.clear();
        self.raised.resize(m * padded, 0);
        self.scales.clear();
        self.scales.resize(m * blocks, 0.);
        self.sums.clear();
        self.sums.resize(m * summed, 0);
        let (mut codes, mut raised) = (&mut self.codes[..], &mut self.raised[..]);
        let (mut scales, mut sums) = (&mut self.scales[..], &mut self.sums[..]);
        let parts: Vec<Part<'_>> = together(m)
            .map(|(first, size)| Part {
                rows: size,
                x: &x[first * padded..][..size * padded],
                block,
                codes: cut(&mut codes, size * padded),
                raised: cut(&mut raised, size * padded),
                scales: cut(&mut scales, size * blocks),
                sums: cut(&mut sums, size * summed),
            })
            .collect();
        match parts.len() {
            _ if padded == 0 => (),
            1 => parts.into_iter().for_each(Part::round),
            _ => parts.into_par_iter().for_each(Part::round),
        }
    }
}

/// The first `len` elements, which are taken off.
fn cut<'a, T>(rest: &mut &'a mut [T], len: usize) -> &'a mut [T] {
    rest.split_off_mut(..len).unwrap_or_default()
}

/// Rows that are multiplied together, as they are and rounded.
struct Part<'a> {
    rows: usize,
    /// [rows][k].
    x: &'a [f32],
    /// Inputs that share a scale.
    block: usize,
    codes: &'a mut [u8],
    raised: &'a mut [u8],
    scales: &'a mut [f32],
    sums: &'a mut [i32],
}

impl Part<'_> {
    fn round(self) {
        let Self { rows, block, .. } = self;
        let padded = self.x.len() / rows;
        let mut codes = vec![0i8; padded];
        for (lane, x) in self.x.chunks_exact(padded).enumerate() {
            let of_block = block / BLOCK;
            for (i, (x, codes)) in x.chunks(block).zip(codes.chunks_mut(block)).enumerate() {
                let scale = round_block(x, codes);
                for b in i * of_block..(i + 1) * of_block {
                    self.scales[b * rows + lane] = scale;
                }
            }
            for (i, unit) in codes.as_chunks::<UNIT>().0.iter().enumerate() {
                let at = i * rows + lane;
                self.codes[at * UNIT..][..UNIT].copy_from_slice(&unit.map(i8::cast_unsigned));
                let raised = unit.map(|code| code.cast_unsigned() ^ 0x80);
                self.raised[at * UNIT..][..UNIT].copy_from_slice(&raised);
                self.sums[at] = unit.iter().map(|&code| i32::from(code)).sum();
            }
        }
    }
}

wide! {
    /// The codes of a block, and its scale.
    fn round_block(x: &[f32], codes: &mut [i8]) -> f32 {
        let mut amax = 0f32;
        for &x in x {
            let x = x.abs();
            amax = if x > amax { x } else { amax };
        }
        // Below that the quotient could be infinite; such a block is zero.
        let inverse = if amax > 1e-30 { 127. / amax } else { 0. };
        for (code, &x) in codes.iter_mut().zip(x) {
            // Adding 1.5·2²³ rounds to an integer, half to even, without a library call.
            let shifted = x * inverse + 12_582_912.;
            *code = (shifted.to_bits() as i32 - 12_582_912f32.to_bits() as i32) as i8;
        }
        amax / 127.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_cut_into_the_largest_pieces() {
        let cut = |m| together(m).collect::<Vec<_>>();
        assert_eq!(cut(1), [(0, 1)]);
        assert_eq!(cut(15), [(0, 8), (8, 4), (12, 1), (13, 1), (14, 1)]);
        assert_eq!(cut(16), [(0, 8), (8, 8)]);
        assert!(cut(0).is_empty());
    }

    #[test]
    fn codes_are_the_nearest_and_sums_are_theirs() {
        let (m, k) = (11, 40);
        let x: Vec<f32> = (0..m * k).map(|i| ((i * 7919 % 401) as f32 - 200.) * 0.013).collect();
        let mut activations = Activations::new();
        activations.set(&x, m, k);
        for arithmetic in [Arithmetic::Blocks, Arithmetic::Tokens] {
            activations.prepare(arithmetic);
            let rounded = activations.rounded(arithmetic);
            assert_eq!(rounded.k, 64);
            let blocks = rounded.scales.len() / m;
            for (first, size) in together(m) {
                for lane in 0..size {
                    for j in 0..64 {
                        let at = first * 64 + 16 * ((j / 16) * size + lane) + j % 16;
                        let code = rounded.codes[at].cast_signed();
                        assert_eq!(i16::from(rounded.raised[at]), i16::from(code) + 128);
                        let scale = rounded.scales[first * blocks + j * blocks / 64 * size + lane];
                        let value = if j < k { x[(first + lane) * k + j] } else { 0. };
                        let error = (f32::from(code) * scale - value).abs();
                        assert!(error <= scale * 0.5001, "{arithmetic:?} {j}: {error} of {scale}");
                    }
                    for s in 0..4 {
                        let code = |j: usize| {
                            let at = first * 64 + 16 * ((j / 16) * size + lane) + j % 16;
                            i32::from(rounded.codes[at].cast_signed())
                        };
                        let want: i32 = (16 * s..16 * s + 16).map(code).sum();
                        assert_eq!(rounded.sums[first * 4 + s * size + lane], want);
                    }
                }
            }
        }
    }
}
