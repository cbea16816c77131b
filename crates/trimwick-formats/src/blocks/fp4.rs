//! Blocks of E2M1 codes: MXFP4 (32 values, a power of two) and NVFP4 (4 × 16 values, an E4M3 scale each).
//!
//! ggml keeps E2M1 doubled, as integers, and halves the scale. Every product here has at most 8 significant bits, so the
//! order does not matter but where the halved scale would be subnormal, and there too it is exact.

use crate::minifloat;

/// E2M1 times two; the code of −0 is worth +0 here.
const DOUBLED: [f32; 16] = [0., 1., 2., 3., 4., 6., 8., 12., 0., -1., -2., -3., -4., -6., -8., -12.];

/// `u8 exponent + 127; nibbles[16]`: byte j holds value j in its low and value j + 16 in its high nibble.
pub(super) fn mxfp4(block: &[u8; 17], out: &mut [f32; 32]) {
    let half = match block[0] {
        e @ ..2 => f32::from_bits(0x0020_0000 << e),
        e => f32::from_bits(u32::from(e - 1) << 23),
    };
    nibbles(&block[1..], half, out);
}

/// `u8 scales[4]; nibbles[4][8]`: byte j of a sub-block holds its value j in the low and j + 8 in the high nibble.
pub(super) fn nvfp4(block: &[u8; 36], out: &mut [f32; 64]) {
    nvfp4_times(block, out, 1.);
}

/// The same times the scale of the tensor, which is multiplied into each E4M3 scale first.
pub(super) fn nvfp4_times(block: &[u8; 36], out: &mut [f32; 64], global: f32) {
    let (scales, packed) = block.split_at(4);
    for ((scale, packed), out) in scales.iter().zip(packed.chunks_exact(8)).zip(out.as_chunks_mut::<16>().0) {
        nibbles(packed, 0.5 * (unsigned_e4m3(*scale) * global), out);
    }
}

/// An E4M3 scale as ggml reads it: without a sign, and its NaN is 0.
fn unsigned_e4m3(byte: u8) -> f32 {
    match byte {
        0x7f => 0.,
        // The one code above the largest that ggml does not treat apart.
        0xff => 480.,
        byte => minifloat::e4m3(byte & 0x7f),
    }
}

fn nibbles(packed: &[u8], half: f32, out: &mut [f32]) {
    let (low, high) = out.split_at_mut(packed.len());
    for ((&byte, low), high) in packed.iter().zip(low).zip(high) {
        *low = half * DOUBLED[usize::from(byte & 15)];
        *high = half * DOUBLED[usize::from(byte >> 4)];
    }
}
