//! From ranges to scales, a register of blocks at a time.

use super::code::{Integer, Round};
use super::grid::ScaleFormat;
use super::minifloat::{E4M3, F16, pow2, round_bf16};
use super::simd::{Loop, Simd};

/// 2⁻¹²⁷, the smallest E8M0 scale, as bits: a subnormal `f32`, which is exact.
const E8M0_MIN: u32 = 1 << 22;
/// The exponent of 2¹²⁷, the largest E8M0 scale, as it is stored in an `f32`.
const E8M0_MAX: u32 = 254;
/// The mantissa bits of an `f32`.
const MANTISSA: u32 = (1 << 23) - 1;
/// The mantissa of the largest `f32` below √2.
const SQRT_2: u32 = 0x35_04f3;
/// Keeps sums of exponents above zero.
const OFFSET: u32 = 64;

/// The scale format of a grid with all that does not depend on the block.
#[derive(Clone, Copy)]
pub(super) struct Scaler {
    format: ScaleFormat,
    /// Largest value of the code.
    max: f32,
    /// Smallest and largest scale: with more, the largest value of the code would overflow.
    least: f32,
    most: f32,
    global: f32,
}

impl Scaler {
    pub fn new(max: f32, format: ScaleFormat, global: f32) -> Self {
        let cap = finite_times(max);
        let (least, most) = match format {
            ScaleFormat::F16 => (F16.smallest(), F16.max()),
            ScaleFormat::E4M3 => (E4M3.smallest(), E4M3.max()),
            // A positive number rounds down to a bfloat16 by dropping bits.
            ScaleFormat::BF16 => (f32::MIN_POSITIVE, f32::from_bits(cap.to_bits() & 0xffff_0000)),
            _ => (f32::MIN_POSITIVE, cap),
        };
        Self { format, max, least, most, global }
    }

    /// The scale of a tensor whose block scales are E4M3 multiples of it.
    pub fn global(max: f32, tensor_amax: f32) -> f32 {
        let largest = max * E4M3.max();
        let global = (tensor_amax / largest).max(f32::MIN_POSITIVE / E4M3.smallest());
        global.min(finite_times(largest))
    }

    /// Of blocks with these largest magnitudes.
    #[inline(always)]
    pub fn scale<S: Simd>(&self, simd: S, amax: S::F) -> S::F {
        let scale = match self.format {
            // One division, by 6·g for E2M1.
            ScaleFormat::E4M3 => self.multiple(simd, simd.div(amax, simd.splat(self.max * self.global))),
            ScaleFormat::E8M0Ceil | ScaleFormat::E8M0Floor => self.power(simd, amax),
            _ => self.round(simd, simd.div(amax, simd.splat(self.max))),
        };
        let none = if self.format == ScaleFormat::E4M3 { self.global } else { 1.0 };
        simd.select(simd.less(simd.splat(0.0), amax), scale, simd.splat(none))
    }

    /// The nearest representable scales.
    #[inline(always)]
    pub fn round<S: Simd>(&self, simd: S, s: S::F) -> S::F {
        let clamped = simd.clamp(s, simd.splat(self.least), simd.splat(self.most));
        match self.format {
            ScaleFormat::F32 => clamped,
            ScaleFormat::F16 => F16.round(simd, clamped),
            ScaleFormat::BF16 => round_bf16(simd, clamped),
            ScaleFormat::E4M3 => self.multiple(simd, simd.div(s, simd.splat(self.global))),
            ScaleFormat::E8M0Ceil | ScaleFormat::E8M0Floor => exponent_above(simd, s, 0, SQRT_2),
        }
    }

    /// Scales and zero points of blocks with these smallest and largest values.
    #[inline(always)]
    pub fn affine<S: Simd>(&self, simd: S, lo: S::F, hi: S::F) -> (S::F, S::F) {
        let (none, steps, max) = (simd.splat(0.0), simd.splat(self.max), simd.splat(f32::MAX));
        let (lo, hi) = (simd.min(lo, none), simd.max(hi, none));
        // The range may be beyond f32; then half of it is taken, and twice its scale.
        let (range, half) = (simd.sub(hi, lo), simd.splat(0.5));
        let fits = simd.inside(range, none, max);
        let range = simd.select(fits, range, simd.sub(simd.mul(hi, half), simd.mul(lo, half)));
        let times = simd.select(fits, simd.splat(1.0), simd.splat(2.0));
        let scale = match self.format {
            ScaleFormat::E8M0Ceil | ScaleFormat::E8M0Floor => {
                simd.clamp(simd.mul(self.power(simd, range), times), none, simd.splat(pow2(127)))
            }
            _ => self.round(simd, simd.mul(simd.div(range, steps), times)),
        };
        let scale = simd.select(simd.less(none, range), scale, simd.splat(1.0));
        let zero = simd.div(simd.sub(none, lo), scale);
        (scale, Integer.round(simd, simd.clamp(zero, none, steps)))
    }

    /// An E4M3 multiple of the global scale.
    #[inline(always)]
    fn multiple<S: Simd>(&self, simd: S, multiple: S::F) -> S::F {
        let multiple = simd.clamp(multiple, simd.splat(self.least), simd.splat(self.most));
        let scale = simd.mul(E4M3.round(simd, multiple), simd.splat(self.global));
        simd.clamp(scale, simd.splat(f32::MIN_POSITIVE), simd.splat(f32::MAX))
    }

    /// The power of two for a range from 0 to `amax` by the format's rule, without rounding anything before it.
    #[inline(always)]
    fn power<S: Simd>(&self, simd: S, amax: S::F) -> S::F {
        let max = self.max.to_bits();
        let exponent = (max >> 23) - 127;
        let ceil = self.format == ScaleFormat::E8M0Ceil;
        // A range is above max · 2^e when its mantissa is above that of max.
        exponent_above(simd, amax, exponent, if ceil { max & MANTISSA } else { MANTISSA })
    }
}

/// 2^(⌊log₂ x⌋ − less), or twice that where the mantissa of x is above `mantissa`; within E8M0.
#[inline(always)]
fn exponent_above<S: Simd>(simd: S, x: S::F, less: u32, mantissa: u32) -> S::F {
    // Subnormal numbers are made normal, 24 exponents higher.
    let small = simd.less(x, simd.splat(f32::MIN_POSITIVE));
    let x = simd.bits(simd.mul(x, simd.select(small, simd.splat(pow2(24)), simd.splat(1.0))));
    let normal = simd.float(simd.splat_bits(OFFSET - less));
    let subnormal = simd.float(simd.splat_bits(OFFSET - less - 24));
    let offset = simd.bits(simd.select(small, subnormal, normal));
    // The difference is negative, and its top bit set, where the mantissa is above.
    let fraction = simd.and(x, simd.splat_bits(MANTISSA));
    let above = simd.shr(simd.sub_bits(simd.splat_bits(mantissa), fraction), 31);
    let exponent = simd.add_bits(simd.add_bits(simd.shr(x, 23), offset), above);
    let exponent = simd.sub_bits(simd.max_bits(exponent, simd.splat_bits(OFFSET)), simd.splat_bits(OFFSET));
    let exponent = simd.min_bits(exponent, simd.splat_bits(E8M0_MAX));
    // An exponent of 0 is not that of a normal number: its scale is the smallest.
    simd.float(simd.max_bits(simd.shl(exponent, 23), simd.splat_bits(E8M0_MIN)))
}

/// The largest number that `factor` ≥ 1 multiplies to a finite one.
fn finite_times(factor: f32) -> f32 {
    let cap = f32::MAX / factor;
    if (cap * factor).is_finite() { cap } else { cap.next_down() }
}

/// Replaces largest magnitudes by scales.
#[inline(always)]
pub(super) fn fill<S: Simd>(simd: S, scaler: &Scaler, amax: &mut [f32]) {
    let mut parts = amax.chunks_exact_mut(S::LANES);
    for part in &mut parts {
        simd.store(scaler.scale(simd, simd.load(part)), part);
    }
    let rest = parts.into_remainder();
    if !rest.is_empty() {
        simd.store_part(scaler.scale(simd, simd.load_part(rest)), rest);
    }
}

/// Replaces smallest and largest values by scales and zero points.
#[inline(always)]
pub(super) fn fill_affine<S: Simd>(simd: S, scaler: &Scaler, lo: &mut [f32], hi: &mut [f32]) {
    let (mut los, mut his) = (lo.chunks_exact_mut(S::LANES), hi.chunks_exact_mut(S::LANES));
    for (lo, hi) in los.by_ref().zip(his.by_ref()) {
        let (scale, zero) = scaler.affine(simd, simd.load(lo), simd.load(hi));
        simd.store(scale, lo);
        simd.store(zero, hi);
    }
    let (lo, hi) = (los.into_remainder(), his.into_remainder());
    if !lo.is_empty() {
        let (scale, zero) = scaler.affine(simd, simd.load_part(lo), simd.load_part(hi));
        simd.store_part(scale, lo);
        simd.store_part(zero, hi);
    }
}

/// [`fill`] and [`fill_affine`] as loops.
pub(super) enum Fill<'a> {
    Symmetric(Scaler, &'a mut [f32]),
    Affine(Scaler, &'a mut [f32], &'a mut [f32]),
}

impl Loop for Fill<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self {
            Fill::Symmetric(scaler, amax) => fill(simd, &scaler, amax),
            Fill::Affine(scaler, lo, hi) => fill_affine(simd, &scaler, lo, hi),
        }
    }
}
