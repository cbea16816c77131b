//! AVX-512 with VNNI and VBMI2: one register for sixteen rows.
//!
//! The token [`Avx512`] is made by [`run`] alone, which may be called only on a processor that has the features. That
//! is why the methods below may use their instructions.

use std::arch::x86_64::*;

use super::{Loop, ROWS, Simd};
use crate::levels::intrinsics;

/// Registers of 64 bytes.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

/// Runs a loop.
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2")]
pub(super) fn run<L: Loop>(work: L) -> L::Output {
    work.run(Avx512(()))
}

impl Simd for Avx512 {
    type B = __m512i;
    type I = __m512i;
    type F = __m512;

    intrinsics! {
        bytes(x: &[u8; 64]) -> __m512i = _mm512_loadu_si512(x.as_ptr().cast());
        nibbles(x: &[u8; 64]) -> [__m512i; 2] = {
            let x = _mm512_loadu_si512(x.as_ptr().cast());
            let low = _mm512_set1_epi8(15);
            [_mm512_and_si512(x, low), _mm512_and_si512(_mm512_srli_epi16::<4>(x), low)]
        };
        lookup(x: __m512i, table: &[u8; 16]) -> __m512i =
            _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())), x);
        expand(kept: &[u8; 32], mask: &[u8; 8], fill: u8) -> __m512i = {
            let kept = _mm512_castsi256_si512(_mm256_loadu_si256(kept.as_ptr().cast()));
            _mm512_mask_expand_epi8(_mm512_set1_epi8(fill as i8), u64::from_le_bytes(*mask), kept)
        };
        expand_nibbles(kept: &[u8; 32], mask: &[u8; 16], table: &[u8; 16], fill: u8) -> [__m512i; 2] = {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            let low = _mm256_set1_epi8(15);
            let x = _mm256_loadu_si256(kept.as_ptr().cast());
            let a = _mm256_shuffle_epi8(table, _mm256_and_si256(x, low));
            let b = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16::<4>(x), low));
            let masks = u128::from_le_bytes(*mask);
            let fill = _mm512_set1_epi8(fill as i8);
            [
                _mm512_mask_expand_epi8(fill, masks as u64, _mm512_castsi256_si512(a)),
                _mm512_mask_expand_epi8(fill, (masks >> 64) as u64, _mm512_castsi256_si512(b)),
            ]
        };
        splat_int(x: i32) -> __m512i = _mm512_set1_epi32(x);
        dot(acc: __m512i, w: __m512i, x: [i8; 4]) -> __m512i =
            _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(i32::from_le_bytes(x.map(|x| x as u8))));
        dot_small(acc: __m512i, w: __m512i, x: [i8; 4]) -> __m512i =
            _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(i32::from_le_bytes(x.map(|x| x as u8))));
        widen(x: &[u8; 16]) -> __m512i = _mm512_cvtepu8_epi32(_mm_loadu_si128(x.as_ptr().cast()));
        convert(x: __m512i) -> __m512 = _mm512_cvtepi32_ps(x);
        e4m3(x: __m512i) -> __m512 = {
            let shift = _mm512_castsi512_ps(_mm512_set1_epi32((120 + 127) << 23));
            _mm512_mul_ps(_mm512_castsi512_ps(_mm512_slli_epi32::<20>(x)), shift)
        };
        e8m0(x: __m512i) -> __m512 = {
            let bits = _mm512_slli_epi32::<23>(x);
            _mm512_castsi512_ps(_mm512_max_epu32(bits, _mm512_set1_epi32(1 << 22)))
        };
        f32(x: &[u8; 64]) -> __m512 = _mm512_loadu_ps(x.as_ptr().cast());
        f16(x: &[u8; 32]) -> __m512 = _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast()));
        bf16(x: &[u8; 32]) -> __m512 = {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        };
        splat(x: f32) -> __m512 = _mm512_set1_ps(x);
        add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
        sub(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps(a, b);
        mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
        store(x: __m512, y: &mut [f32; ROWS]) -> () = _mm512_storeu_ps(y.as_mut_ptr(), x);
    }

    #[inline(always)]
    fn fp8<const J: u32>(self, x: __m512i) -> __m512 {
        // SAFETY: self is a token, so the processor has the features.
        unsafe {
            // The byte on top; then its sign above, and its magnitude four bits lower, where f32 has exponents.
            let top = _mm512_sll_epi32(x, _mm_cvtsi32_si128(24 - 8 * J as i32));
            let kept = _mm512_set1_epi32(0x87f0_0000_u32 as i32);
            let bits = _mm512_and_si512(_mm512_srai_epi32::<4>(top), kept);
            let shift = _mm512_castsi512_ps(_mm512_set1_epi32((120 + 127) << 23));
            _mm512_mul_ps(_mm512_castsi512_ps(bits), shift)
        }
    }

    #[inline(always)]
    fn byte<const J: u32>(self, x: __m512i) -> __m512i {
        // SAFETY: self is a token, so the processor has the features.
        unsafe {
            _mm512_and_si512(_mm512_srl_epi32(x, _mm_cvtsi32_si128(8 * J as i32)), _mm512_set1_epi32(0xff))
        }
    }
}
