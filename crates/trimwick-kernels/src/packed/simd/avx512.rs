//! AVX-512 with VNNI and VBMI: one register for sixteen rows.
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
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")]
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
        places(x: &[u8; 32]) -> [__m512i; 2] = {
            let x = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
            // Each byte takes the eight bits from its own bit on; two of them are its place.
            let first = _mm512_multishift_epi64_epi8(_mm512_set1_epi64(0x2624_2220_0604_0200), x);
            let second = _mm512_multishift_epi64_epi8(_mm512_set1_epi64(0x2e2c_2a28_0e0c_0a08), x);
            // (a & b) | c
            const AND_OR: i32 = 0b1110_1010;
            let two_bits = _mm512_set1_epi8(3);
            [
                _mm512_ternarylogic_epi32::<AND_OR>(first, two_bits, _mm512_set1_epi32(0x0404_0000)),
                _mm512_ternarylogic_epi32::<AND_OR>(second, two_bits, _mm512_set1_epi32(0x0c0c_0808)),
            ]
        };
        gather(x: &[u8; 16], at: __m512i) -> __m512i =
            _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(x.as_ptr().cast())), at);
        pick(at: __m512i, place: [u8; 4], yes: __m512i, no: __m512i) -> __m512i = {
            let there = _mm512_cmpeq_epi8_mask(at, _mm512_set1_epi32(i32::from_le_bytes(place)));
            _mm512_mask_blend_epi8(there, no, yes)
        };
        splat_byte(x: u8) -> __m512i = _mm512_set1_epi8(x.cast_signed());
        add_bytes(a: __m512i, b: __m512i) -> __m512i = _mm512_add_epi8(a, b);
        splat_int(x: i32) -> __m512i = _mm512_set1_epi32(x);
        dot(acc: __m512i, w: __m512i, x: &[u8; 4]) -> __m512i =
            _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(i32::from_le_bytes(*x)));
        dot_small(acc: __m512i, w: __m512i, x: &[u8; 4]) -> __m512i =
            _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(i32::from_le_bytes(*x)));
        dot_bytes(acc: __m512i, a: __m512i, b: __m512i) -> __m512i = _mm512_dpbusd_epi32(acc, a, b);
        dot_bytes_small(acc: __m512i, a: __m512i, b: __m512i) -> __m512i = _mm512_dpbusd_epi32(acc, a, b);
        add_int(a: __m512i, b: __m512i) -> __m512i = _mm512_add_epi32(a, b);
        sub_int(a: __m512i, b: __m512i) -> __m512i = _mm512_sub_epi32(a, b);
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
        floats(x: &[f32; ROWS]) -> __m512 = _mm512_loadu_ps(x.as_ptr());
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
    fn spread<const J: i32>(self, x: __m512i) -> __m512i {
        // SAFETY: self is a token, so the processor has the features.
        unsafe {
            let of_rows = _mm_set_epi32(0x0c0c_0c0c, 0x0808_0808, 0x0404_0404, 0);
            let at = _mm_add_epi8(of_rows, _mm_set1_epi8(J as i8));
            _mm512_shuffle_epi8(x, _mm512_broadcast_i32x4(at))
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
