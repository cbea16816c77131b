//! Sixteen rows of a packed weight at a time, by the registers of several processors.
//!
//! A weight's rows stand beside each other in panels of sixteen, so that a lane is a row, a sum over inputs never
//! crosses lanes, and every instruction set computes the same thing. As in [`crate::quant`], loops are written once
//! against [`Simd`] and compiled for AVX-512 (with VNNI and VBMI), AVX2, NEON and plain arrays; nothing is contracted to a
//! fused multiply-add, so that all of them give the same bits.

mod array;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;

#[cfg(target_arch = "x86_64")]
use crate::cpu;
use crate::levels::levels;

pub(super) use array::Array;

/// Rows of a panel.
pub const ROWS: usize = 16;

/// Registers for sixteen rows.
pub(super) trait Simd: Copy + Send + Sync {
    /// Four bytes for each row.
    type B: Copy;
    /// An `i32` for each row.
    type I: Copy;
    /// An `f32` for each row.
    type F: Copy;

    fn bytes(self, x: &[u8; 64]) -> Self::B;
    /// The low halves and the high halves of bytes.
    fn nibbles(self, x: &[u8; 64]) -> [Self::B; 2];
    /// The entry of a table for each byte, all of which are below 16.
    fn lookup(self, x: Self::B, table: &[u8; 16]) -> Self::B;
    /// Of two bytes for each row the first and the second, two bits to a byte, lowest first; 4 is added to the last two,
    /// and 8 to those of the second.
    fn places(self, x: &[u8; 32]) -> [Self::B; 2];
    /// The byte of `x` that each byte of `at`, all of which are below 16, names.
    fn gather(self, x: &[u8; 16], at: Self::B) -> Self::B;
    /// Byte J of each row four times.
    fn spread<const J: i32>(self, x: Self::B) -> Self::B;
    /// `yes` where a byte of `at` is the row's of `place`, else `no`.
    fn pick(self, at: Self::B, place: [u8; 4], yes: Self::B, no: Self::B) -> Self::B;
    fn splat_byte(self, x: u8) -> Self::B;
    fn add_bytes(self, a: Self::B, b: Self::B) -> Self::B;

    fn splat_int(self, x: i32) -> Self::I;
    /// acc + Σ of the products of four unsigned bytes of `w` and four signed ones of `x`, two's complement, wrapping around.
    fn dot(self, acc: Self::I, w: Self::B, x: &[u8; 4]) -> Self::I;
    /// [`Simd::dot`] where the bytes of `w` are at most 64 and those of `x` not −128.
    fn dot_small(self, acc: Self::I, w: Self::B, x: &[u8; 4]) -> Self::I;
    #[inline(always)]
    fn dot_if<const SMALL: bool>(self, acc: Self::I, w: Self::B, x: &[u8; 4]) -> Self::I {
        if SMALL { self.dot_small(acc, w, x) } else { self.dot(acc, w, x) }
    }
    /// acc + Σ of the products of four unsigned bytes of `a` and four signed ones of `b`, wrapping around.
    fn dot_bytes(self, acc: Self::I, a: Self::B, b: Self::B) -> Self::I;
    /// [`Simd::dot_bytes`] where those of `b` are within ±64.
    fn dot_bytes_small(self, acc: Self::I, a: Self::B, b: Self::B) -> Self::I;
    #[inline(always)]
    fn dot_bytes_if<const SMALL: bool>(self, acc: Self::I, a: Self::B, b: Self::B) -> Self::I {
        if SMALL { self.dot_bytes_small(acc, a, b) } else { self.dot_bytes(acc, a, b) }
    }
    fn add_int(self, a: Self::I, b: Self::I) -> Self::I;
    fn sub_int(self, a: Self::I, b: Self::I) -> Self::I;
    /// Byte J of each row, unsigned.
    fn byte<const J: u32>(self, x: Self::B) -> Self::I;
    /// Sixteen unsigned bytes.
    fn widen(self, x: &[u8; 16]) -> Self::I;

    fn convert(self, x: Self::I) -> Self::F;
    /// The E4M3 numbers of codes without a sign; NaN's is 480.
    fn e4m3(self, x: Self::I) -> Self::F;
    /// The E4M3 numbers of byte J of each row; NaN's codes are ±480.
    fn fp8<const J: u32>(self, x: Self::B) -> Self::F;
    /// 2^(x − 127).
    fn e8m0(self, x: Self::I) -> Self::F;
    fn f32(self, x: &[u8; 64]) -> Self::F;
    fn floats(self, x: &[f32; ROWS]) -> Self::F;
    fn f16(self, x: &[u8; 32]) -> Self::F;
    fn bf16(self, x: &[u8; 32]) -> Self::F;
    fn splat(self, x: f32) -> Self::F;
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn store(self, x: Self::F, y: &mut [f32; ROWS]);
}

levels! {
    "x86_64" Avx512: cpu::has_vnni() => avx512::run,
    "x86_64" Avx2: cpu::has_avx2() && is_x86_feature_detected!("f16c") => avx2::run,
    "aarch64" Dot: std::arch::is_aarch64_feature_detected!("dotprod") => neon::run_dot,
    "aarch64" Neon: true => neon::run,
    baseline: Array,
}
