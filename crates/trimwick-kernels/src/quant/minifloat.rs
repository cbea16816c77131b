//! Floats of a few bits: rounded, encoded and decoded with the arithmetic of `f32`.
//!
//! A format has `mantissa` bits after the leading one, normal numbers from 2^`emin` up to `max`, and subnormals below.
//! Near x its values are the multiples of a quantum q = 2^(max(⌊log₂|x|⌋, emin) − mantissa). Adding and subtracting
//! 2²³·q rounds to such a multiple, half to even, in the adder itself; and as consecutive codes are consecutive
//! multiples, an even multiple is an even code. No table, no branch: the loop over values vectorizes.

use super::simd::Simd;

/// Bits of an `f32` that hold its exponent.
const EXPONENT: u32 = 0x7f80_0000;
/// The bit of an `f32` that holds its sign.
const SIGN: u32 = 1 << 31;
/// Mantissa bits of an `f32`.
const MANTISSA: u32 = 23;

/// 2^e for an exponent of a normal `f32`, −126 to 127.
#[inline(always)]
pub(crate) const fn pow2(e: i32) -> f32 {
    f32::from_bits(((e + 127) as u32) << MANTISSA)
}

/// A format of sign, exponent and mantissa, with the mantissa in the low bits of its code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Minifloat {
    /// Mantissa bits, 1 to 22.
    pub mantissa: u32,
    /// Exponent of the smallest normal number.
    pub emin: i32,
    /// Bits of a code, sign included.
    pub bits: u32,
    /// What the codes above the largest number mean.
    pub special: Special,
}

/// What a format does with the codes of its largest exponent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Special {
    /// They are numbers like all others.
    None,
    /// The last code of each sign is NaN.
    LastIsNan,
    /// As in IEEE 754: infinity and NaN.
    Ieee,
}

pub(crate) const E2M1: Minifloat = Minifloat { mantissa: 1, emin: 0, bits: 4, special: Special::None };
pub(crate) const E2M3: Minifloat = Minifloat { mantissa: 3, emin: 0, bits: 6, special: Special::None };
pub(crate) const E3M2: Minifloat = Minifloat { mantissa: 2, emin: -2, bits: 6, special: Special::None };
pub(crate) const E4M3: Minifloat = Minifloat { mantissa: 3, emin: -6, bits: 8, special: Special::LastIsNan };
pub(crate) const E5M2: Minifloat = Minifloat { mantissa: 2, emin: -14, bits: 8, special: Special::Ieee };
pub(crate) const F16: Minifloat = Minifloat { mantissa: 10, emin: -14, bits: 16, special: Special::Ieee };

impl Minifloat {
    /// The code of the largest number.
    const fn last(self) -> u32 {
        let all = (1 << (self.bits - 1)) - 1;
        match self.special {
            Special::None => all,
            Special::LastIsNan => all - 1,
            Special::Ieee => all - (1 << self.mantissa),
        }
    }

    /// The largest number.
    pub const fn max(self) -> f32 {
        self.magnitude(self.last())
    }

    /// The smallest number above zero.
    pub const fn smallest(self) -> f32 {
        pow2(self.emin - self.mantissa as i32)
    }

    /// The number of a code without its sign, at most [`Minifloat::last`].
    const fn magnitude(self, code: u32) -> f32 {
        let (exponent, fraction) = (code >> self.mantissa, code & ((1 << self.mantissa) - 1));
        if exponent == 0 {
            fraction as f32 * self.smallest()
        } else {
            (fraction + (1 << self.mantissa)) as f32 * self.smallest() * pow2(exponent as i32 - 1)
        }
    }

    /// The number of a code; codes that are not numbers give NaN or an infinity.
    pub fn decode(self, code: u32) -> f32 {
        let sign = code >> (self.bits - 1) & 1;
        let code = code & ((1 << (self.bits - 1)) - 1);
        let infinity = self.special == Special::Ieee && code == self.last() + 1;
        let magnitude = match code <= self.last() {
            true => self.magnitude(code),
            false if infinity => f32::INFINITY,
            false => f32::NAN,
        };
        if sign == 1 { -magnitude } else { magnitude }
    }

    /// The nearest number to `x`, ties to the even code, for |x| ≤ max. A zero is +0.0, and NaN gives NaN.
    #[inline(always)]
    pub fn round<S: Simd>(self, simd: S, x: S::F) -> S::F {
        let bits = simd.bits(x);
        let smallest = simd.splat_bits(((self.emin + 127) as u32) << MANTISSA);
        let exponent = simd.max_bits(simd.and(bits, simd.splat_bits(EXPONENT)), smallest);
        let shift = simd.add_bits(exponent, simd.splat_bits((MANTISSA - self.mantissa) << MANTISSA));
        // With the sign of x, so that one addition rounds numbers of both signs.
        let shift = simd.float(simd.or(shift, simd.and(bits, simd.splat_bits(SIGN))));
        simd.sub(simd.add(x, shift), shift)
    }

    /// The code of a number of this format, of which a zero is +0.0.
    #[inline(always)]
    pub fn encode<S: Simd>(self, simd: S, x: S::F) -> S::U {
        let sign = simd.shr(simd.and(simd.bits(x), simd.splat_bits(SIGN)), 32 - self.bits);
        // Adding the smallest normal number to a subnormal one makes its mantissa that of a normal number.
        let (magnitude, least) = (simd.abs(x), simd.splat(pow2(self.emin)));
        let subnormal = simd.less(magnitude, least);
        let normal = simd.add(magnitude, simd.select(subnormal, least, simd.splat(0.0)));
        let code = simd.shr(simd.bits(normal), MANTISSA - self.mantissa);
        // The exponent of the smallest normal number is code 1, and 0 is that of what was added to.
        let first = simd.splat(pow2(self.emin - 1));
        let first = simd.shr(simd.bits(simd.select(subnormal, least, first)), MANTISSA - self.mantissa);
        simd.or(simd.sub_bits(code, first), sign)
    }
}

/// The nearest bfloat16 to positive finite numbers, ties to even; infinity beyond the largest.
#[inline(always)]
pub(crate) fn round_bf16<S: Simd>(simd: S, x: S::F) -> S::F {
    let bits = simd.bits(x);
    let even = simd.and(simd.shr(bits, 16), simd.splat_bits(1));
    let half = simd.add_bits(even, simd.splat_bits(0x7fff));
    simd.float(simd.and(simd.add_bits(bits, half), simd.splat_bits(0xffff_0000)))
}
