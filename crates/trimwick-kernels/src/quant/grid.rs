//! Codes with scales: the grid of one block, and how its scale follows from its range.

use super::code::Code;
use super::minifloat::{self, pow2, round_bf16};

/// Largest block scale of NVFP4 before the tensor's own scale.
const E4M3_MAX: f32 = 448.0;
/// Smallest block scale of NVFP4 before the tensor's own scale, 2⁻⁹.
const E4M3_MIN: f32 = 0.001_953_125;
/// 2⁻¹²⁷, the smallest E8M0 scale. A subnormal `f32`, which is exact.
const E8M0_MIN: f32 = f32::from_bits(1 << 22);
/// Exponents of E8M0, both ends included; its last code is NaN.
const E8M0_RANGE: (i32, i32) = (-127, 127);

/// What a scale can be.
///
/// A scale is rounded to its format before it is used, in training too: what is trained is what is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScaleFormat {
    /// Any `f32` from 2⁻¹²⁶ up.
    F32,
    /// IEEE half precision, subnormals included: GGUF's Q8_0 and Q4_0.
    F16,
    /// bfloat16, from 2⁻¹²⁶ up.
    BF16,
    /// An E4M3 number times one `f32` for the whole tensor, the global scale: NVFP4.
    E4M3,
    /// A power of two, the smallest with which nothing in the block saturates: e = ⌈log₂(amax / max)⌉.
    E8M0Ceil,
    /// A power of two by the rule of the OCP MX specification: e = ⌊log₂ amax⌋ − ⌊log₂ max⌋. The largest values of a
    /// block may saturate.
    E8M0Floor,
}

/// A code with the format of its scales: everything about a quantizer but its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Grid {
    /// What one value can be.
    pub code: Code,
    /// What a scale can be.
    pub scale: ScaleFormat,
}

impl Grid {
    /// The tensor's own scale: amax / (max · 448) for [`ScaleFormat::E4M3`], 1 for all others and for an amax of 0.
    ///
    /// At least 2⁻¹¹⁷, so that the smallest block scale times it is a normal number.
    pub fn global(&self, tensor_amax: f32) -> f32 {
        let largest = self.code.max() * E4M3_MAX;
        match self.scale {
            ScaleFormat::E4M3 if tensor_amax != 0.0 => {
                (tensor_amax / largest).max(f32::MIN_POSITIVE / E4M3_MIN).min(finite_times(largest))
            }
            _ => 1.0,
        }
    }

    /// The scale of a block whose largest magnitude is `amax`, rounded to the format.
    ///
    /// Finite and positive for any finite amax ≥ 0: it saturates at the ends of its format, and never so large that
    /// the largest value of the code times it would overflow. An amax of 0 gives 1, or `global` itself where scales
    /// are multiples of it. `global` is what [`Grid::global`] gives; formats other than E4M3 ignore it.
    pub fn scale(&self, amax: f32, global: f32) -> f32 {
        let max = self.code.max();
        match self.scale {
            ScaleFormat::E4M3 if amax == 0.0 => global,
            _ if amax == 0.0 => 1.0,
            ScaleFormat::E4M3 => self.e4m3(amax / (max * global), global),
            ScaleFormat::E8M0Ceil | ScaleFormat::E8M0Floor => self.power(f64::from(amax)),
            _ => self.round_scale(amax / max, global),
        }
    }

    /// The representable scale nearest to any positive one, such as a learned or a searched scale.
    ///
    /// Rounds half to even and saturates like [`Grid::scale`]. A power of two is the nearest in the exponent, for both
    /// E8M0 rules: a learned scale keeps its exponent until it has moved by half of an octave. A scale that
    /// [`Grid::scale`] returned comes back unchanged.
    pub fn round_scale(&self, s: f32, global: f32) -> f32 {
        let cap = finite_times(self.code.max());
        match self.scale {
            ScaleFormat::F32 => s.clamp(f32::MIN_POSITIVE, cap),
            ScaleFormat::BF16 => {
                // A positive number rounds down to a bfloat16 by dropping bits.
                let cap = f32::from_bits(cap.to_bits() & 0xffff_0000);
                round_bf16(s.clamp(f32::MIN_POSITIVE, cap))
            }
            ScaleFormat::F16 => {
                let half = minifloat::F16;
                half.round(s.clamp(half.smallest(), half.max()))
            }
            ScaleFormat::E4M3 => self.e4m3(s / global, global),
            ScaleFormat::E8M0Ceil | ScaleFormat::E8M0Floor => {
                // x·√2 has the exponent to which x is nearest.
                e8m0(split(f64::from(s) * std::f64::consts::SQRT_2).0)
            }
        }
    }

    /// Scale and zero point of a block whose values lie between `min` and `max`, for [`Code::Uint`].
    ///
    /// The range is widened to hold 0, and the zero point is an integer of the code, so zero is exact. A range of
    /// nothing but zero gives (1, 0). Finite for any finite range, ±`f32::MAX` included. Scales in the format E4M3
    /// have a global scale of 1 here.
    pub fn affine(&self, min: f32, max: f32) -> (f32, f32) {
        let (lo, hi, steps) = (min.min(0.0), max.max(0.0), self.code.max());
        if lo == hi {
            return (1.0, 0.0);
        }
        let scale = match self.scale {
            ScaleFormat::E8M0Ceil | ScaleFormat::E8M0Floor => self.power(f64::from(hi) - f64::from(lo)),
            _ if (hi - lo).is_finite() => self.round_scale((hi - lo) / steps, 1.0),
            // The range is not an f32, but its steps are.
            _ => self.round_scale(((f64::from(hi) - f64::from(lo)) / f64::from(steps)) as f32, 1.0),
        };
        (scale, (-lo / scale).round_ties_even().clamp(0.0, steps))
    }

    /// An E4M3 multiple of the global scale.
    fn e4m3(&self, multiple: f32, global: f32) -> f32 {
        let multiple = minifloat::E4M3.round(multiple.clamp(E4M3_MIN, E4M3_MAX));
        (multiple * global).clamp(f32::MIN_POSITIVE, f32::MAX)
    }

    /// The power of two of a range from 0 to `amax`, by the format's rule, without rounding anything before it.
    fn power(&self, amax: f64) -> f32 {
        let (exponent, mantissa) = split(amax);
        let (max_exponent, max_mantissa) = split(f64::from(self.code.max()));
        let above = self.scale == ScaleFormat::E8M0Ceil && mantissa > max_mantissa;
        e8m0(exponent - max_exponent + i32::from(above))
    }
}

/// ⌊log₂ x⌋ and the mantissa bits of a positive normal f64, which every positive f32 is.
fn split(x: f64) -> (i32, u64) {
    ((x.to_bits() >> 52) as i32 - 1023, x.to_bits() & ((1 << 52) - 1))
}

fn e8m0(exponent: i32) -> f32 {
    let exponent = exponent.clamp(E8M0_RANGE.0, E8M0_RANGE.1);
    if exponent == E8M0_RANGE.0 { E8M0_MIN } else { pow2(exponent) }
}

/// The largest number that `factor` ≥ 1 multiplies to a finite one.
fn finite_times(factor: f32) -> f32 {
    let cap = f32::MAX / factor;
    if (cap * factor).is_finite() { cap } else { cap.next_down() }
}
