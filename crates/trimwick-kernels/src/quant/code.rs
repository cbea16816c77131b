//! What one quantized value can be.

use super::minifloat::{self, Minifloat};
use super::simd::{Array, Simd};

/// 1.5·2²³: adding it leaves a rounded integer, two's complement, in the low bits of an `f32`.
const INTEGER: f32 = 12_582_912.0;

/// The set of values a quantized element takes before its scale.
///
/// | code | values | encoded as |
/// |---|---|---|
/// | `Int { bits }` | integers from −2^(bits−1) to 2^(bits−1) − 1 | two's complement |
/// | `Ternary` | −1, 0, 1 | two's complement in two bits |
/// | `Uint { bits }` | integers from 0 to 2^bits − 1, with a zero point | as it is |
/// | `E2M1` | 0 .5 1 1.5 2 3 4 6 and negatives | sign, exponent, mantissa |
/// | `E2M3` | multiples of 1/8 up to 7.5, coarser above 2 | the same |
/// | `E3M2` | up to 28, subnormals to 1/16 | the same |
/// | `E4M3` | up to 448, subnormals to 2⁻⁹ | the same; 0x7f and 0xff are NaN |
/// | `E5M2` | up to 57344, subnormals to 2⁻¹⁶ | the same; the last exponent is infinity and NaN |
///
/// Floats as in the OCP Microscaling (MX) specification 1.0 and OFP8. A code takes [`Code::bits`] low bits of a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// Signed integers of 2 to 8 bits, used symmetrically: zero is exact and needs no zero point.
    Int {
        /// Bits of a value, 2 to 8.
        bits: u8,
    },
    /// −1, 0 and 1.
    Ternary,
    /// Unsigned integers of 1 to 8 bits, used with an integer zero point.
    Uint {
        /// Bits of a value, 1 to 8.
        bits: u8,
    },
    /// A float of 4 bits: NVFP4 and MXFP4.
    E2M1,
    /// A float of 6 bits with more precision: MXFP6.
    E2M3,
    /// A float of 6 bits with more range: MXFP6.
    E3M2,
    /// A float of 8 bits: FP8 and MXFP8.
    E4M3,
    /// A float of 8 bits with more range: FP8.
    E5M2,
}

impl Code {
    /// Bits of one code.
    pub fn bits(self) -> u32 {
        match self {
            Code::Int { bits } | Code::Uint { bits } => u32::from(bits),
            Code::Ternary => 2,
            Code::E2M1 | Code::E2M3 | Code::E3M2 | Code::E4M3 | Code::E5M2 => self.float().bits,
        }
    }

    /// The smallest value.
    pub fn min(self) -> f32 {
        match self {
            Code::Int { bits } => -pow2_int(bits - 1),
            Code::Ternary => -1.0,
            Code::Uint { .. } => 0.0,
            _ => -self.max(),
        }
    }

    /// The largest value.
    pub fn max(self) -> f32 {
        match self {
            Code::Int { bits } => pow2_int(bits - 1) - 1.0,
            Code::Ternary => 1.0,
            Code::Uint { bits } => pow2_int(bits) - 1.0,
            _ => self.float().max(),
        }
    }

    /// The nearest value to `x`, ties to the even code, saturating at [`Code::min`] and [`Code::max`].
    ///
    /// A result of zero is +0.0, whatever the sign of x. NaN gives NaN.
    pub fn round(self, x: f32) -> f32 {
        self.round_lanes(x)[0]
    }

    /// The code of [`Code::round`] of `x`, in the low [`Code::bits`] bits. A zero has code 0, never the one of −0.
    ///
    /// `x` must not be NaN.
    pub fn encode(self, x: f32) -> u8 {
        let value = self.round_lanes(x);
        let code = match self.family() {
            Family::Integer(integer) => integer.encode(Array, value),
            Family::Float(format) => format.encode(Array, value),
        };
        code[0] as u8 & self.mask()
    }

    /// The value of a code; bits above [`Code::bits`] are ignored.
    ///
    /// All codes of other writers have a value here too: the fourth code of `Ternary` is −2, the sign bit alone of a
    /// float is −0.0, and the codes of `E4M3` and `E5M2` that are not numbers give NaN and infinities.
    pub fn decode(self, code: u8) -> f32 {
        match self {
            Code::Uint { .. } => f32::from(code & self.mask()),
            Code::Int { .. } | Code::Ternary => {
                let above = 8 - self.bits();
                f32::from((code << above) as i8 >> above)
            }
            _ => self.float().decode(u32::from(code)),
        }
    }

    /// How values are rounded, chosen once before a loop.
    pub(super) fn family(self) -> Family {
        match self {
            Code::Int { .. } | Code::Ternary | Code::Uint { .. } => Family::Integer(Integer),
            _ => Family::Float(self.float()),
        }
    }

    /// The bits that a code takes.
    pub(super) fn mask(self) -> u8 {
        u8::MAX >> (8 - self.bits())
    }

    /// The value nearest to `x`, in lanes as the loops have it.
    fn round_lanes(self, x: f32) -> [f32; Array::LANES] {
        let [x, lo, hi] = [x, self.min(), self.max()].map(|v| Array.splat(v));
        let x = Array.clamp(x, lo, hi);
        match self.family() {
            Family::Integer(integer) => integer.round(Array, x),
            Family::Float(format) => format.round(Array, x),
        }
    }

    /// The format of a float code; integers have none, and callers have told them apart.
    fn float(self) -> Minifloat {
        match self {
            Code::E2M1 => minifloat::E2M1,
            Code::E2M3 => minifloat::E2M3,
            Code::E3M2 => minifloat::E3M2,
            Code::E5M2 => minifloat::E5M2,
            _ => minifloat::E4M3,
        }
    }

    /// Panics unless the number of bits is one that a byte can hold.
    pub(super) fn check(self, op: &str) {
        match self {
            Code::Int { bits } => {
                assert!((2..=8).contains(&bits), "{op}: Int of {bits} bits, expected 2 to 8")
            }
            Code::Uint { bits } => {
                assert!((1..=8).contains(&bits), "{op}: Uint of {bits} bits, expected 1 to 8")
            }
            _ => {}
        }
    }
}

fn pow2_int(bits: u8) -> f32 {
    (1u32 << bits) as f32
}

/// The two ways of rounding.
pub(super) enum Family {
    Integer(Integer),
    Float(Minifloat),
}

/// Rounding that a loop is compiled for.
pub(super) trait Round: Copy + Send + Sync {
    /// The nearest value of the code to a value within its bounds, ties to the even code. A zero is +0.0.
    fn round<S: Simd>(self, simd: S, x: S::F) -> S::F;
    /// The code of a value of the code, in the low bits; integers leave bits above them.
    fn encode<S: Simd>(self, simd: S, value: S::F) -> S::U;
}

/// Integers up to 2²².
#[derive(Clone, Copy)]
pub(super) struct Integer;

impl Round for Integer {
    #[inline(always)]
    fn round<S: Simd>(self, simd: S, x: S::F) -> S::F {
        let shift = simd.splat(INTEGER);
        simd.sub(simd.add(x, shift), shift)
    }
    #[inline(always)]
    fn encode<S: Simd>(self, simd: S, value: S::F) -> S::U {
        simd.bits(simd.add(value, simd.splat(INTEGER)))
    }
}

impl Round for Minifloat {
    #[inline(always)]
    fn round<S: Simd>(self, simd: S, x: S::F) -> S::F {
        Minifloat::round(self, simd, x)
    }
    #[inline(always)]
    fn encode<S: Simd>(self, simd: S, value: S::F) -> S::U {
        Minifloat::encode(self, simd, value)
    }
}
