//! Floats of a few bits: rounded, encoded and decoded with the arithmetic of `f32`.
//!
//! A format has `mantissa` bits after the leading one, normal numbers from 2^`emin` up to `max`, and subnormals below.
//! Near x its values are the multiples of a quantum q = 2^(max(⌊log₂|x|⌋, emin) − mantissa). Adding and subtracting
//! 2²³·q rounds to such a multiple, half to even, in the adder itself; and as consecutive codes are consecutive
//! multiples, an even multiple is an even code. No table, no branch: the loop over values vectorizes.

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

    /// The nearest number to `x`, ties to the even code, for |x| ≤ max. NaN gives NaN, and a zero has the sign of x.
    #[inline(always)]
    pub fn round(self, x: f32) -> f32 {
        let smallest_exponent = ((self.emin + 127) as u32) << MANTISSA;
        let sign = x.to_bits() & SIGN;
        let magnitude = f32::from_bits(x.to_bits() & !SIGN);
        let exponent = (x.to_bits() & EXPONENT).max(smallest_exponent);
        let shift = f32::from_bits(exponent.wrapping_add((MANTISSA - self.mantissa) << MANTISSA));
        let rounded = (magnitude + shift) - shift;
        f32::from_bits(rounded.to_bits() | sign)
    }

    /// The code of a number of this format. A zero of either sign is code 0.
    #[inline(always)]
    pub fn encode(self, x: f32) -> u32 {
        // Adding the smallest normal number to a subnormal one makes its mantissa that of a normal number.
        let least = pow2(self.emin);
        let magnitude = f32::from_bits(x.to_bits() & !SIGN);
        let subnormal = magnitude < least;
        let normal = if subnormal { magnitude + least } else { magnitude };
        let first = (self.emin + 126 + i32::from(subnormal)) as u32;
        let code = (normal.to_bits() >> (MANTISSA - self.mantissa)).wrapping_sub(first << self.mantissa);
        let sign = if magnitude == 0.0 { 0 } else { x.to_bits() >> 31 };
        code | sign << (self.bits - 1)
    }
}

/// The nearest bfloat16 to a positive finite number, ties to even, as an `f32`; infinity beyond the largest.
#[inline(always)]
pub(crate) fn round_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    let even = bits >> 16 & 1;
    f32::from_bits(bits.wrapping_add(0x7fff + even) & 0xffff_0000)
}
