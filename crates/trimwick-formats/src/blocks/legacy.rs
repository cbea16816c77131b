//! Blocks of 32 values with one scale: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
//!
//! A byte of a 4-bit block holds value j in its low and value j + 16 in its high nibble. The fifth bits of a 5-bit
//! block are a little-endian word, bit j for value j.

use super::half_at;

/// `f16 d; nibbles[16]`.
pub(super) fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    nibbles(&block[2..], out, |n, _| d * (n as f32 - 8.0));
}

/// `f16 d; f16 m; nibbles[16]`.
pub(super) fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    nibbles(&block[4..], out, |n, _| d * n as f32 + m);
}

/// `f16 d; u32 fifth bits; nibbles[16]`.
pub(super) fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    let fifth = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    nibbles(&block[6..], out, |n, j| d * (with_fifth(n, fifth, j) as f32 - 16.0));
}

/// `f16 d; f16 m; u32 fifth bits; nibbles[16]`.
pub(super) fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    let fifth = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
    nibbles(&block[8..], out, |n, j| d * with_fifth(n, fifth, j) as f32 + m);
}

/// `f16 d; i8[32]`.
pub(super) fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (value, &q) in out.iter_mut().zip(&block[2..]) {
        *value = d * q.cast_signed() as f32;
    }
}

fn nibbles(packed: &[u8], out: &mut [f32; 32], value: impl Fn(u8, usize) -> f32) {
    let (low, high) = out.split_at_mut(16);
    for (j, ((&byte, low), high)) in packed.iter().zip(low).zip(high).enumerate() {
        *low = value(byte & 15, j);
        *high = value(byte >> 4, j + 16);
    }
}

fn with_fifth(nibble: u8, fifth: u32, j: usize) -> u8 {
    nibble | ((fifth >> j & 1) << 4) as u8
}
