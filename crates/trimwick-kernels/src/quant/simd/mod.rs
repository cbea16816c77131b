//! One loop for registers of any width; the processor decides which is run.
//!
//! Loops are written against [`Simd`], the few operations that grids need on registers of so many lanes, and compiled
//! for AVX-512, AVX2 and plain arrays, of which the compiler makes what the target has (SSE2, NEON). Each lane sees
//! the same IEEE operations in the same order at every width, nothing is contracted to a fused multiply-add, and what
//! is summed over lanes is summed elsewhere in a fixed order. So all widths give the same bits, and every loop is
//! tested against its twin on arrays.
//!
//! Explicit registers, because the compiler's own vectorization of short blocks is luck: loops over a block of 32 are
//! unrolled first, and then gathered element by element from many blocks at once.

mod array;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "x86_64")]
use crate::cpu;
use crate::levels::levels;

pub(super) use array::Array;

/// Lanes of the widest register.
const WIDEST: usize = 16;

/// Registers of `f32` and of `u32` with the same number of lanes. Every operation is lane by lane.
pub(super) trait Simd: Copy + Send + Sync {
    /// Lanes of a register, at most 16.
    const LANES: usize;
    /// A register of floats.
    type F: Copy;
    /// A register of integers.
    type U: Copy;
    /// A truth value for each lane.
    type M: Copy;

    fn splat(self, x: f32) -> Self::F;
    fn splat_bits(self, x: u32) -> Self::U;
    /// The first [`Simd::LANES`] elements.
    fn load(self, x: &[f32]) -> Self::F;
    /// Writes the first [`Simd::LANES`] elements.
    fn store(self, x: Self::F, y: &mut [f32]);
    /// Writes the low byte of each lane to the first [`Simd::LANES`] elements.
    fn store_bytes(self, x: Self::U, y: &mut [u8]);

    /// The bits of floats.
    fn bits(self, x: Self::F) -> Self::U;
    /// The floats of bits.
    fn float(self, x: Self::U) -> Self::F;

    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// lo where x < lo, hi where x > hi, x elsewhere: NaN stays NaN.
    fn clamp(self, x: Self::F, lo: Self::F, hi: Self::F) -> Self::F;
    /// The smaller; either of two zeros, and anything beside a NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// The larger; either of two zeros, and anything beside a NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// a < b; false for NaN.
    fn less(self, a: Self::F, b: Self::F) -> Self::M;
    /// lo ≤ x ≤ hi; false for NaN.
    fn inside(self, x: Self::F, lo: Self::F, hi: Self::F) -> Self::M;
    /// a where the mask is true, b elsewhere.
    fn select(self, mask: Self::M, a: Self::F, b: Self::F) -> Self::F;

    fn and(self, a: Self::U, b: Self::U) -> Self::U;
    fn or(self, a: Self::U, b: Self::U) -> Self::U;
    /// Wraps around.
    fn add_bits(self, a: Self::U, b: Self::U) -> Self::U;
    /// Wraps around.
    fn sub_bits(self, a: Self::U, b: Self::U) -> Self::U;
    /// The smaller unsigned integer.
    fn min_bits(self, a: Self::U, b: Self::U) -> Self::U;
    /// The larger unsigned integer.
    fn max_bits(self, a: Self::U, b: Self::U) -> Self::U;
    /// Shifted left by less than 32.
    fn shl(self, a: Self::U, by: u32) -> Self::U;
    /// Shifted right by less than 32; zeros come in.
    fn shr(self, a: Self::U, by: u32) -> Self::U;

    /// The largest lane; no lane may be NaN.
    fn reduce_max(self, x: Self::F) -> f32;
    /// The smallest lane; no lane may be NaN.
    fn reduce_min(self, x: Self::F) -> f32;

    /// Without their signs.
    #[inline(always)]
    fn abs(self, x: Self::F) -> Self::F {
        self.float(self.and(self.bits(x), self.splat_bits(!(1 << 31))))
    }

    /// The elements of a slice too short for a register, and zeros.
    #[inline(always)]
    fn load_part(self, x: &[f32]) -> Self::F {
        let mut padded = [0.0; WIDEST];
        padded[..x.len()].copy_from_slice(x);
        self.load(&padded)
    }

    /// The first lanes, as many as the slice has elements.
    #[inline(always)]
    fn store_part(self, x: Self::F, y: &mut [f32]) {
        let mut padded = [0.0; WIDEST];
        self.store(x, &mut padded);
        y.copy_from_slice(&padded[..y.len()]);
    }

    /// The low bytes of the first lanes, as many as the slice has elements.
    #[inline(always)]
    fn store_bytes_part(self, x: Self::U, y: &mut [u8]) {
        let mut padded = [0; WIDEST];
        self.store_bytes(x, &mut padded);
        y.copy_from_slice(&padded[..y.len()]);
    }
}

levels! {
    "x86_64" Avx512: cpu::has_avx512() => x86::run_avx512,
    "x86_64" Avx2: cpu::has_avx2() => x86::run_avx2,
    baseline: Array,
}
