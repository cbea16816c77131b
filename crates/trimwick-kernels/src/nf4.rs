//! NF4: four bits a value for weights that are stored, never trained (QLoRA, arXiv 2305.14314).
//!
//! Sixteen levels at the quantiles of a normal distribution, scaled to [−1, 1] with an exact zero; a block shares
//! the largest magnitude of its values. Two codes share a byte, the first in the low nibble.

use rayon::prelude::*;

/// The levels, ascending; level 7 is 0 (arXiv 2305.14314, appendix E).
pub const NF4_LEVELS: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Bytes of codes for a block of `block` values.
fn code_bytes(block: usize) -> usize {
    block.div_ceil(2)
}

/// Codes and scales of x in blocks of `block` consecutive values: `block / 2` bytes (rounded up) and one largest
/// magnitude for each. The nearest level is taken; halfway, the one nearer to zero.
///
/// Values must be finite; a NaN becomes level 0.
///
/// # Panics
/// When `block` is 0 or does not divide x, or codes and scales have other lengths.
pub fn nf4_encode(x: &[f32], block: usize, codes: &mut [u8], scales: &mut [f32]) {
    check("nf4_encode", x.len(), block, codes.len(), scales.len());
    let bytes = code_bytes(block);
    (x.par_chunks(block), codes.par_chunks_mut(bytes), scales.par_iter_mut()).into_par_iter().for_each(
        |(x, codes, scale)| {
            let amax = x.iter().fold(0f32, |m, v| m.max(v.abs()));
            *scale = amax;
            for (byte, pair) in codes.iter_mut().zip(x.chunks(2)) {
                let high = pair.get(1).map_or(0, |&v| nearest(v, amax));
                *byte = nearest(pair[0], amax) | high << 4;
            }
        },
    );
}

/// The values of codes and scales that [`nf4_encode`] wrote.
///
/// # Panics
/// As [`nf4_encode`].
pub fn nf4_decode(codes: &[u8], scales: &[f32], block: usize, x: &mut [f32]) {
    check("nf4_decode", x.len(), block, codes.len(), scales.len());
    let bytes = code_bytes(block);
    (x.par_chunks_mut(block), codes.par_chunks(bytes), scales.par_iter()).into_par_iter().for_each(
        |(x, codes, &scale)| {
            for (pair, &byte) in x.chunks_mut(2).zip(codes) {
                for (j, v) in pair.iter_mut().enumerate() {
                    *v = NF4_LEVELS[usize::from(byte >> (4 * j) & 15)] * scale;
                }
            }
        },
    );
}

fn nearest(x: f32, amax: f32) -> u8 {
    const ZERO: u8 = 7;
    if amax == 0. {
        return ZERO;
    }
    let x = x / amax;
    let distance = |level: u8| (NF4_LEVELS[usize::from(level)] - x).abs();
    let closer = |best, level| if distance(level) < distance(best) { level } else { best };
    // From zero outwards, so that halfway the smaller magnitude stays.
    if x < 0. { (0..ZERO).rev().fold(ZERO, closer) } else { (ZERO + 1..16).fold(ZERO, closer) }
}

fn check(op: &str, n: usize, block: usize, codes: usize, scales: usize) {
    assert!(block > 0 && n.is_multiple_of(block), "{op}: {n} values in blocks of {block}");
    let blocks = n / block;
    assert!(scales == blocks, "{op}: {scales} scales for {blocks} blocks");
    assert!(codes == blocks * code_bytes(block), "{op}: {codes} bytes of codes for {blocks} blocks");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;

    fn there_and_back(x: &[f32], block: usize) -> Vec<f32> {
        let blocks = x.len() / block;
        let (mut codes, mut scales) = (vec![0; blocks * block.div_ceil(2)], vec![0.; blocks]);
        nf4_encode(x, block, &mut codes, &mut scales);
        let mut y = vec![f32::NAN; x.len()];
        nf4_decode(&codes, &scales, block, &mut y);
        y
    }

    #[test]
    fn levels_come_back_as_they_are() {
        let x: Vec<f32> = NF4_LEVELS.iter().map(|l| l * 0.75).collect();
        assert_eq!(there_and_back(&x, 16), x);
        assert!(NF4_LEVELS.windows(2).all(|w| w[0] < w[1]));
    }

    #[test]
    fn every_value_goes_to_its_nearest_level() {
        for (case, block) in [64, 1, 7, 32].into_iter().enumerate() {
            let mut x = vec![0f32; block * 50];
            Rng::new(1, "test", case as u64, "nf4").fill_normal(0., 1., &mut x);
            let y = there_and_back(&x, block);
            for (x, y) in x.chunks(block).zip(y.chunks(block)) {
                let amax = x.iter().fold(0f32, |m, v| m.max(v.abs()));
                for (x, y) in x.iter().zip(y) {
                    let best = NF4_LEVELS.iter().map(|l| (l * amax - x).abs()).fold(f32::INFINITY, f32::min);
                    assert!((x - y).abs() <= best * (1. + 1e-5) + 1e-7, "{x} became {y}");
                }
            }
        }
    }

    #[test]
    fn extremes_stay_finite() {
        let x = [0., -0., f32::MAX, f32::MIN, 1e-45, f32::MIN_POSITIVE, 1., -1.];
        assert!(there_and_back(&x, 8).iter().all(|v| v.is_finite()));
        assert_eq!(there_and_back(&[0.; 8], 8), [0.; 8]);
        assert_eq!(there_and_back(&[1e-45, 0.], 2), [1e-45, 0.]);
    }
}
