//! Sixteen rows of a packed weight at a time, by the registers of several processors.
//!
//! A weight's rows stand beside each other in panels of sixteen, so that a lane is a row, a sum over inputs never
//! crosses lanes, and every instruction set computes the same thing. As in [`crate::quant`], loops are written once
//! against [`Simd`] and compiled for AVX-512 (with VNNI and VBMI2), AVX2 and plain arrays; nothing is contracted to a
//! fused multiply-add, so that all of them give the same bits.

mod array;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

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
    /// Two bytes of each row put at the set bits of its four, `fill` at the others.
    fn expand(self, kept: &[u8; 32], mask: &[u8; 8], fill: u8) -> Self::B;
    /// The same of the low and of the high halves, looked up.
    fn expand_nibbles(self, kept: &[u8; 32], mask: &[u8; 16], table: &[u8; 16], fill: u8) -> [Self::B; 2];

    fn splat_int(self, x: i32) -> Self::I;
    /// acc + Σ of the products of four unsigned bytes of `w` and four signed ones of `x`, wrapping around.
    fn dot(self, acc: Self::I, w: Self::B, x: [i8; 4]) -> Self::I;
    /// [`Simd::dot`] where the bytes of `w` are at most 64 and those of `x` not −128.
    fn dot_small(self, acc: Self::I, w: Self::B, x: [i8; 4]) -> Self::I;
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
    fn f16(self, x: &[u8; 32]) -> Self::F;
    fn bf16(self, x: &[u8; 32]) -> Self::F;
    fn splat(self, x: f32) -> Self::F;
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn store(self, x: Self::F, y: &mut [f32; ROWS]);
}

levels! {
    avx512: cpu::has_vnni() => avx512::run,
    avx2: cpu::has_avx2() && is_x86_feature_detected!("f16c") => avx2::run,
    baseline: Array,
}
