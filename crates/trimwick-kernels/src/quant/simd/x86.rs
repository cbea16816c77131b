//! Registers of x86-64: AVX2 with 8 lanes, AVX-512 with 16.
//!
//! The tokens [`Avx2`] and [`Avx512`] are made by [`run_avx2`] and [`run_avx512`] alone, which may be called only on a
//! processor that has the features. That is why the methods below may use their instructions.

use std::arch::x86_64::*;

use super::{Loop, Simd};
use crate::levels::intrinsics;

/// AVX2.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

/// AVX-512 as in x86-64-v4.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

/// Runs a loop with 8 lanes.
#[target_feature(enable = "avx2")]
pub(super) fn run_avx2<L: Loop>(work: L) -> L::Output {
    work.run(Avx2(()))
}

/// Runs a loop with 16 lanes.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn run_avx512<L: Loop>(work: L) -> L::Output {
    work.run(Avx512(()))
}

impl Simd for Avx2 {
    const LANES: usize = 8;
    type F = __m256;
    type U = __m256i;
    type M = __m256;

    intrinsics! {
        splat(x: f32) -> __m256 = _mm256_set1_ps(x);
        splat_bits(x: u32) -> __m256i = _mm256_set1_epi32(x as i32);
        load(x: &[f32]) -> __m256 = {
            assert!(x.len() >= 8);
            _mm256_loadu_ps(x.as_ptr())
        };
        bits(x: __m256) -> __m256i = _mm256_castps_si256(x);
        float(x: __m256i) -> __m256 = _mm256_castsi256_ps(x);
        add(a: __m256, b: __m256) -> __m256 = _mm256_add_ps(a, b);
        sub(a: __m256, b: __m256) -> __m256 = _mm256_sub_ps(a, b);
        mul(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps(a, b);
        div(a: __m256, b: __m256) -> __m256 = _mm256_div_ps(a, b);
        // The second operand is the result beside a NaN.
        clamp(x: __m256, lo: __m256, hi: __m256) -> __m256 = _mm256_min_ps(hi, _mm256_max_ps(lo, x));
        min(a: __m256, b: __m256) -> __m256 = _mm256_min_ps(a, b);
        max(a: __m256, b: __m256) -> __m256 = _mm256_max_ps(a, b);
        less(a: __m256, b: __m256) -> __m256 = _mm256_cmp_ps::<_CMP_LT_OQ>(a, b);
        inside(x: __m256, lo: __m256, hi: __m256) -> __m256 =
            _mm256_and_ps(_mm256_cmp_ps::<_CMP_LE_OQ>(lo, x), _mm256_cmp_ps::<_CMP_LE_OQ>(x, hi));
        select(mask: __m256, a: __m256, b: __m256) -> __m256 = _mm256_blendv_ps(b, a, mask);
        and(a: __m256i, b: __m256i) -> __m256i = _mm256_and_si256(a, b);
        or(a: __m256i, b: __m256i) -> __m256i = _mm256_or_si256(a, b);
        add_bits(a: __m256i, b: __m256i) -> __m256i = _mm256_add_epi32(a, b);
        sub_bits(a: __m256i, b: __m256i) -> __m256i = _mm256_sub_epi32(a, b);
        min_bits(a: __m256i, b: __m256i) -> __m256i = _mm256_min_epu32(a, b);
        max_bits(a: __m256i, b: __m256i) -> __m256i = _mm256_max_epu32(a, b);
        shl(a: __m256i, by: u32) -> __m256i = _mm256_sll_epi32(a, _mm_cvtsi32_si128(by as i32));
        shr(a: __m256i, by: u32) -> __m256i = _mm256_srl_epi32(a, _mm_cvtsi32_si128(by as i32));
        reduce_max(x: __m256) -> f32 = {
            let x = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)))
        };
        reduce_min(x: __m256) -> f32 = {
            let x = _mm_min_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let x = _mm_min_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_min_ss(x, _mm_movehdup_ps(x)))
        };
    }

    #[inline(always)]
    fn store(self, x: __m256, y: &mut [f32]) {
        assert!(y.len() >= 8);
        // SAFETY: self is a token of the feature, and y has room for 8 elements.
        unsafe { _mm256_storeu_ps(y.as_mut_ptr(), x) }
    }

    #[inline(always)]
    fn store_bytes(self, x: __m256i, y: &mut [u8]) {
        assert!(y.len() >= 8);
        // SAFETY: self is a token of the feature, and y has room for 8 elements.
        unsafe {
            // The low bytes of each half in its first four bytes, then the two halves together.
            let low = _mm256_set1_epi32(0x0c08_0400);
            let bytes = _mm256_shuffle_epi8(x, low);
            let (lower, upper) = (_mm256_castsi256_si128(bytes), _mm256_extracti128_si256::<1>(bytes));
            _mm_storel_epi64(y.as_mut_ptr().cast(), _mm_unpacklo_epi32(lower, upper));
        }
    }
}

impl Simd for Avx512 {
    const LANES: usize = 16;
    type F = __m512;
    type U = __m512i;
    type M = __mmask16;

    intrinsics! {
        splat(x: f32) -> __m512 = _mm512_set1_ps(x);
        splat_bits(x: u32) -> __m512i = _mm512_set1_epi32(x as i32);
        load(x: &[f32]) -> __m512 = {
            assert!(x.len() >= 16);
            _mm512_loadu_ps(x.as_ptr())
        };
        bits(x: __m512) -> __m512i = _mm512_castps_si512(x);
        float(x: __m512i) -> __m512 = _mm512_castsi512_ps(x);
        add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
        sub(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps(a, b);
        mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
        div(a: __m512, b: __m512) -> __m512 = _mm512_div_ps(a, b);
        // The second operand is the result beside a NaN.
        clamp(x: __m512, lo: __m512, hi: __m512) -> __m512 = _mm512_min_ps(hi, _mm512_max_ps(lo, x));
        min(a: __m512, b: __m512) -> __m512 = _mm512_min_ps(a, b);
        max(a: __m512, b: __m512) -> __m512 = _mm512_max_ps(a, b);
        less(a: __m512, b: __m512) -> __mmask16 = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b);
        inside(x: __m512, lo: __m512, hi: __m512) -> __mmask16 =
            _mm512_cmp_ps_mask::<_CMP_LE_OQ>(lo, x) & _mm512_cmp_ps_mask::<_CMP_LE_OQ>(x, hi);
        select(mask: __mmask16, a: __m512, b: __m512) -> __m512 = _mm512_mask_blend_ps(mask, b, a);
        and(a: __m512i, b: __m512i) -> __m512i = _mm512_and_si512(a, b);
        or(a: __m512i, b: __m512i) -> __m512i = _mm512_or_si512(a, b);
        add_bits(a: __m512i, b: __m512i) -> __m512i = _mm512_add_epi32(a, b);
        sub_bits(a: __m512i, b: __m512i) -> __m512i = _mm512_sub_epi32(a, b);
        min_bits(a: __m512i, b: __m512i) -> __m512i = _mm512_min_epu32(a, b);
        max_bits(a: __m512i, b: __m512i) -> __m512i = _mm512_max_epu32(a, b);
        shl(a: __m512i, by: u32) -> __m512i = _mm512_sll_epi32(a, _mm_cvtsi32_si128(by as i32));
        shr(a: __m512i, by: u32) -> __m512i = _mm512_srl_epi32(a, _mm_cvtsi32_si128(by as i32));
        reduce_max(x: __m512) -> f32 = {
            let x = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x));
            Avx2(()).reduce_max(x)
        };
        reduce_min(x: __m512) -> f32 = {
            let x = _mm256_min_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x));
            Avx2(()).reduce_min(x)
        };
    }

    #[inline(always)]
    fn store(self, x: __m512, y: &mut [f32]) {
        assert!(y.len() >= 16);
        // SAFETY: self is a token of the feature, and y has room for 16 elements.
        unsafe { _mm512_storeu_ps(y.as_mut_ptr(), x) }
    }

    #[inline(always)]
    fn store_bytes(self, x: __m512i, y: &mut [u8]) {
        assert!(y.len() >= 16);
        // SAFETY: self is a token of the feature, and y has room for 16 elements.
        unsafe { _mm_storeu_si128(y.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(x)) }
    }
}
