//! Super-blocks of 256 values whose sub-block scales are quantized themselves: Q4_K, Q5_K, Q6_K.

use super::half_at;

/// `f16 d; f16 dmin; scales[12]; nibbles[128]`.
pub(super) fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    sub_blocks(block, &block[16..], out, |nibble, _, _| nibble);
}

/// `f16 d; f16 dmin; scales[12]; fifth bits[32]; nibbles[128]`: bit s of byte l belongs to value l of sub-block s.
pub(super) fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let fifth = &block[16..48];
    sub_blocks(block, &block[48..], out, |nibble, s, l| nibble | (fifth[l] >> s & 1) << 4);
}

/// The eight sub-blocks of 32 values that Q4_K and Q5_K share: `d·scale·q − dmin·min`.
///
/// 32 bytes hold two sub-blocks, the even one in the low and the odd one in the high nibbles; `q(nibble, s, l)`
/// completes value l of sub-block s.
fn sub_blocks(head: &[u8], packed: &[u8], out: &mut [f32; 256], q: impl Fn(u8, usize, usize) -> u8) {
    let (d, dmin) = (half_at(head, 0), half_at(head, 2));
    for (s, values) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = scale_and_min(&head[4..16], s);
        let (scale, min) = (d * scale as f32, dmin * min as f32);
        let bytes = &packed[s / 2 * 32..][..32];
        let shift = s % 2 * 4;
        for (l, (value, &byte)) in values.iter_mut().zip(bytes).enumerate() {
            *value = scale * q(byte >> shift & 15, s, l) as f32 - min;
        }
    }
}

/// Scale and minimum of sub-block `s`, 6 bits each, from their 12 bytes.
///
/// The low six bits of bytes 0–3 and 4–7 are scales and minima 0–3. Bytes 8–11 hold the low nibbles of scales and
/// minima 4–7, whose upper two bits are the top bits of bytes 0–3 and 4–7.
fn scale_and_min(packed: &[u8], s: usize) -> (u8, u8) {
    if s < 4 {
        (packed[s] & 63, packed[s + 4] & 63)
    } else {
        let low = packed[s + 4];
        (low & 15 | packed[s - 4] >> 6 << 4, low >> 4 | packed[s] >> 6 << 4)
    }
}

/// `low nibbles[128]; upper bit pairs[64]; i8 scales[16]; f16 d`.
///
/// Either half of 128 values has 64 bytes of nibbles and 32 bytes of bit pairs. Quarter k of a half takes the low
/// (k < 2) or high nibbles of the even or odd 32 bytes, and bit pair k of each of the 32.
pub(super) fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let d = half_at(block, 208);
    let scales = &block[192..208];
    for (quarter, values) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (half, k) = (quarter / 4, quarter % 4);
        let nibbles = &block[half * 64 + k % 2 * 32..][..32];
        let pairs = &block[128 + half * 32..][..32];
        for (l, value) in values.iter_mut().enumerate() {
            let q = nibbles[l] >> (k / 2 * 4) & 15 | (pairs[l] >> (2 * k) & 3) << 4;
            let scale = scales[2 * quarter + l / 16].cast_signed();
            *value = d * scale as f32 * (q as f32 - 32.0);
        }
    }
}
