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
use crate::cpu::wide;
use crate::mask::{bits_len, check_bits, mask_chunk_inplace};
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
    const OP: &str = "adamw_8bit";
    let factors = Factors::new(OP, [w.len(), g.len(), m.codes.len(), v.codes.len()], h);
    let blocks = w.len().div_ceil(MOMENT_BLOCK);
    assert!(m.scales.len() == blocks && v.scales.len() == blocks, "{OP}: expected {blocks} blocks of scales");
    if let Some(bits) = keep {
        check_bits(OP, w.len(), bits.len());
    }
    let key = rng.u32_at(0);
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
            let first = chunk * CHUNK;
            let keep = keep.map(|bits| &bits[first / 8..bits_len(first + w.len())]);
            let (m, v) = (Moment8 { codes: mc, scales: ms }, Moment8 { codes: vc, scales: vs });
            // The low word of the index: a tensor of 2³² elements repeats its choices, which harms nobody.
            update(w, g, m, v, keep, first as u32, key, &factors);
        });
}

wide! {
    /// A step of whole blocks, the first of whose elements has the index `first`.
    fn update(
        w: &mut [f32],
        g: &[f32],
        m: Moment8<'_>,
        v: Moment8<'_>,
        keep: Option<&[u8]>,
        first: u32,
        key: u32,
        h: &Factors,
    ) {
        let blocks = w.chunks_mut(MOMENT_BLOCK).zip(g.chunks(MOMENT_BLOCK));
        let codes = m.codes.chunks_mut(MOMENT_BLOCK).zip(v.codes.chunks_mut(MOMENT_BLOCK));
        let scales = m.scales.iter_mut().zip(v.scales);
        for (i, (((w, g), (mc, vc)), (ms, vs))) in blocks.zip(codes).zip(scales).enumerate() {
            let (mut new_m, mut new_v) = ([0f32; MOMENT_BLOCK], [0f32; MOMENT_BLOCK]);
            let (new_m, new_v) = (&mut new_m[..w.len()], &mut new_v[..w.len()]);
            let values = new_m.iter_mut().zip(&mut *new_v);
            for (((w, &g), (m, v)), (&mc, &vc)) in w.iter_mut().zip(g).zip(values).zip(mc.iter().zip(&*vc)) {
                (*m, *v) = (signed(mc) * *ms, unsigned(vc) * *vs);
                h.update(w, g, m, v);
            }
            if let Some(bits) = keep {
                let bits = &bits[i * (MOMENT_BLOCK / 8)..][..bits_len(w.len())];
                for x in [w, &mut *new_m, &mut *new_v] {
                    mask_chunk_inplace(x, bits);
                }
            }
            (*ms, *vs) = (largest(new_m), largest(new_v));
            let first = first.wrapping_add((i * MOMENT_BLOCK) as u32);
            for (j, ((m, v), (mc, vc))) in new_m.iter().zip(&*new_v).zip(mc.iter_mut().zip(vc)).enumerate() {
                let noise = mix(first.wrapping_add(j as u32) ^ key);
                *mc = signed_code(*m, *ms, noise & 0xffff);
                *vc = unsigned_code(*v, *vs, noise >> 16);
            }
        }
    }
}

/// The largest magnitude. Finite, so that what overflowed does not take the rest of its block along.
#[inline(always)]
fn largest(x: &[f32]) -> f32 {
    let mut lanes = [0f32; 16];
    let (chunks, rest) = x.as_chunks::<16>();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(a, x)| *a = a.max(x.abs()));
    }
    lanes.iter().chain(rest).fold(0f32, |a, x| a.max(x.abs())).min(f32::MAX)
}

#[inline(always)]
fn signed(code: u8) -> f32 {
    let sign = u32::from(code & 0x80) << 24;
    f32::from_bits(magnitude(u32::from(code & 0x7f), SIGNED).to_bits() | sign)
}

#[inline(always)]
fn unsigned(code: u8) -> f32 {
    magnitude(u32::from(code), UNSIGNED)
}

#[inline(always)]
fn magnitude(code: u32, largest: u32) -> f32 {
    if code == 0 { 0. } else { f32::from_bits((code + ONE - largest) << CUT) }
}

#[inline(always)]
fn signed_code(x: f32, amax: f32, noise: u32) -> u8 {
    let code = round(x.abs(), amax, noise, SIGNED) as u8;
    // Zero has no sign.
    if code != 0 && x < 0. { code | 0x80 } else { code }
}

#[inline(always)]
fn unsigned_code(x: f32, amax: f32, noise: u32) -> u8 {
    let code = round(x, amax, noise, UNSIGNED) as u8;
    if x > 0. { code.max(1) } else { code }
}

/// The code below or above `x / amax`, by the position between them and 16 random bits.
#[inline(always)]
fn round(x: f32, amax: f32, noise: u32, largest: u32) -> u32 {
    if amax == 0. {
        return 0;
    }
    // Half a unit more, so that the choice is even although the noise is coarser than the bits that go.
    let bits = (x / amax).to_bits() + (noise << (CUT - 16) | 1 << (CUT - 17));
    (bits >> CUT).saturating_sub(ONE - largest).min(largest)
}

/// A bijection of 32-bit words in which each bit depends on all (Wellons, "lowbias32").
#[inline(always)]
fn mix(x: u32) -> u32 {
    let x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
    let x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}
