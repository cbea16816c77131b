//! AdamW whose moments take 8 bits a value, in place.
//!
//! Dettmers, Lewis, Shleifer and Zettlemoyer (arXiv 2110.02861) keep moments in blocks with a scale and an 8-bit code
//! that is fine near the largest value. Three things differ here:
//!
//! - **A float is its own code.** A magnitude, divided by its block's largest, is stored as the upper bits of its f32:
//!   exponent and three bits of mantissa. Seven bits span 16 octaves for the first moment beside its sign, eight bits
//!   32 octaves for the second, so that a code is an addition and a shift, not a search in a table.
//! - **Rounding is stochastic.** With β₂ = .999 a step changes the second moment by a thousandth, far less than the
//!   distance of two codes: rounded to nearest it would stay where it is for ever. A moment is rounded up with the
//!   probability of its position between two codes, so that on average it moves as it should. The choices are a
//!   function of the step and the element.
//! - **A second moment that is not zero stays above zero**, since one that is rounded to zero makes its weight jump.

use rayon::prelude::*;

use crate::adamw::{AdamW, Factors};
use crate::rng::Rng;

/// Values that share a scale.
pub const MOMENT_BLOCK: usize = 256;

/// Elements one task updates: whole blocks, and whole bytes of a bitset.
const CHUNK: usize = 64 * MOMENT_BLOCK;
const CHUNK_BLOCKS: usize = CHUNK / MOMENT_BLOCK;
/// Bits of an f32 below the three of the mantissa that are kept.
const CUT: u32 = 20;
/// 1.0 without those bits: the code of a block's largest value.
const ONE: u32 = 0x3f80_0000 >> CUT;
/// Largest code of a first moment's magnitude; the bit above it is the sign.
const SIGNED: u32 = 127;
/// Largest code of a second moment.
const UNSIGNED: u32 = 255;

/// A moment: one code for each value and the largest magnitude of each [`MOMENT_BLOCK`] of them (the last block may be
/// shorter).
#[derive(Debug)]
pub struct Moment8<'a> {
    /// First moment: bit 7 is the sign, bits 0 to 6 the magnitude. Second: the magnitude. Code 0 is 0, code c is the
    /// f32 whose bits are `(c − largest code)·2²⁰` above those of 1.0, times the block's scale.
    pub codes: &'a mut [u8],
    /// Largest magnitude of each block.
    pub scales: &'a mut [f32],
}

/// One step of [`adamw`](crate::adamw()) with moments in 8 bits: the same formula on the moments that the codes stand
/// for, and the weight moves by the new ones before they are rounded. What `keep` drops (one bit for each weight) is
/// +0.0 afterwards, in the weight and in both moments. `rng` is the stream of this step and this weight.
///
/// # Panics
/// When lengths do not fit or `h.step` is 0.
pub fn adamw_8bit(
    w: &mut [f32],
    g: &[f32],
    m: Moment8<'_>,
    v: Moment8<'_>,
    keep: Option<&[u8]>,
    rng: &Rng,
    h: &AdamW,
) {
    let (n, blocks) = (w.len(), w.len().div_ceil(MOMENT_BLOCK));
    assert!(g.len() == n && m.codes.len() == n && v.codes.len() == n, "adamw_8bit: lengths differ");
    assert!(m.scales.len() == blocks && v.scales.len() == blocks, "adamw_8bit: {blocks} blocks of scales");
    assert!(keep.is_none_or(|bits| bits.len() == n.div_ceil(8)), "adamw_8bit: length of the bitset");
    let (factors, key) = (Factors::of(h), rng.u32_at(0));
    let moments = (
        m.codes.par_chunks_mut(CHUNK),
        m.scales.par_chunks_mut(CHUNK_BLOCKS),
        v.codes.par_chunks_mut(CHUNK),
        v.scales.par_chunks_mut(CHUNK_BLOCKS),
    );
    (w.par_chunks_mut(CHUNK), g.par_chunks(CHUNK), moments.into_par_iter())
        .into_par_iter()
        .enumerate()
        .for_each(|(chunk, (w, g, (mc, ms, vc, vs)))| {
            let blocks = w.chunks_mut(MOMENT_BLOCK).zip(g.chunks(MOMENT_BLOCK));
            let codes = mc.chunks_mut(MOMENT_BLOCK).zip(vc.chunks_mut(MOMENT_BLOCK));
            let scales = ms.iter_mut().zip(vs);
            for (i, (((w, g), (mc, vc)), (ms, vs))) in blocks.zip(codes).zip(scales).enumerate() {
                let first = chunk * CHUNK + i * MOMENT_BLOCK;
                let keep = keep.map(|bits| &bits[first / 8..(first + w.len()).div_ceil(8)]);
                // The low word of the index: a tensor of 2³² elements repeats its choices, which harms nobody.
                step_block(w, g, (mc, ms), (vc, vs), keep, first as u32, key, &factors);
            }
        });
}

fn step_block(
    w: &mut [f32],
    g: &[f32],
    (mc, ms): (&mut [u8], &mut f32),
    (vc, vs): (&mut [u8], &mut f32),
    keep: Option<&[u8]>,
    first: u32,
    key: u32,
    factors: &Factors,
) {
    let n = w.len();
    let (mut m, mut v) = ([0f32; MOMENT_BLOCK], [0f32; MOMENT_BLOCK]);
    for i in 0..n {
        m[i] = signed(mc[i]) * *ms;
        v[i] = unsigned(vc[i]) * *vs;
        factors.update(&mut w[i], g[i], &mut m[i], &mut v[i]);
    }
    if let Some(bits) = keep {
        for i in (0..n).filter(|i| bits[i / 8] >> (i % 8) & 1 == 0) {
            (w[i], m[i], v[i]) = (0., 0., 0.);
        }
    }
    // Finite, so that what overflowed does not take the rest of its block along.
    let amax = |x: &[f32]| x.iter().fold(0f32, |a, x| a.max(x.abs())).min(f32::MAX);
    (*ms, *vs) = (amax(&m[..n]), amax(&v[..n]));
    for i in 0..n {
        let noise = mix(first.wrapping_add(i as u32) ^ key);
        mc[i] = signed_code(m[i], *ms, noise & 0xffff);
        vc[i] = unsigned_code(v[i], *vs, noise >> 16);
    }
}

fn signed(code: u8) -> f32 {
    let sign = u32::from(code & 0x80) << 24;
    f32::from_bits(magnitude(u32::from(code & 0x7f), SIGNED).to_bits() | sign)
}

fn unsigned(code: u8) -> f32 {
    magnitude(u32::from(code), UNSIGNED)
}

fn magnitude(code: u32, largest: u32) -> f32 {
    if code == 0 { 0. } else { f32::from_bits((code + ONE - largest) << CUT) }
}

fn signed_code(x: f32, amax: f32, noise: u32) -> u8 {
    let code = round(x.abs(), amax, noise, SIGNED) as u8;
    // Zero has no sign.
    if code != 0 && x < 0. { code | 0x80 } else { code }
}

fn unsigned_code(x: f32, amax: f32, noise: u32) -> u8 {
    let code = round(x, amax, noise, UNSIGNED) as u8;
    if x > 0. { code.max(1) } else { code }
}

/// The code below or above `x / amax`, by the position between them and 16 random bits.
fn round(x: f32, amax: f32, noise: u32, largest: u32) -> u32 {
    if amax == 0. {
        return 0;
    }
    // Half a unit more, so that the choice is even although the noise is coarser than the bits that go.
    let bits = (x / amax).to_bits() + (noise << (CUT - 16) | 1 << (CUT - 17));
    (bits >> CUT).saturating_sub(ONE - largest).min(largest)
}

/// A bijection of 32-bit words in which each bit depends on all (Wellons, "lowbias32").
fn mix(x: u32) -> u32 {
    let x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
    let x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}
