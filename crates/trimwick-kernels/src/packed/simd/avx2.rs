//! AVX2 with F16C: two registers for sixteen rows.
//!
//! The token [`Avx2`] is made by [`run`] alone, which may be called only on a processor that has the features. That is
//! why the methods below may use their instructions.

use std::arch::x86_64::*;

use super::{Loop, ROWS, Simd};
use crate::levels::intrinsics;

/// Pairs of registers of 32 bytes.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

/// Runs a loop.
#[target_feature(enable = "avx2,f16c")]
pub(super) fn run<L: Loop>(work: L) -> L::Output {
    work.run(Avx2(()))
}

type Bytes = [__m256i; 2];
type Floats = [__m256; 2];

/// The same of both registers; a closure would be compiled without the instructions.
macro_rules! both {
    ($i:ident => $value:expr) => {
        [
            {
                let $i = 0;
                $value
            },
            {
                let $i = 1;
                $value
            },
        ]
    };
}

/// Both halves of 64 bytes.
macro_rules! load {
    ($x:expr) => {{
        let x: &[u8; 64] = $x;
        [_mm256_loadu_si256(x.as_ptr().cast()), _mm256_loadu_si256(x.as_ptr().add(32).cast())]
    }};
}

impl Simd for Avx2 {
    type B = Bytes;
    type I = Bytes;
    type F = Floats;

    intrinsics! {
        bytes(x: &[u8; 64]) -> Bytes = load!(x);
        nibbles(x: &[u8; 64]) -> [Bytes; 2] = {
            let x = load!(x);
            let low = _mm256_set1_epi8(15);
            [
                both!(i => _mm256_and_si256(x[i], low)),
                both!(i => _mm256_and_si256(_mm256_srli_epi16::<4>(x[i]), low)),
            ]
        };
        lookup(x: Bytes, table: &[u8; 16]) -> Bytes = {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            both!(i => _mm256_shuffle_epi8(table, x[i]))
        };
        places(x: &[u8; 32]) -> [Bytes; 2] = {
            let two_bits = _mm256_set1_epi8(3);
            let x = both!(i => _mm256_cvtepu16_epi32(_mm_loadu_si128(x.as_ptr().add(16 * i).cast())));
            // Bits 2j and 2j + 1 of the lowest byte come to byte j, where no other copy of it has any.
            macro_rules! spread {
                ($x:expr, $plus:expr) => {{
                    let a = $x;
                    let b = _mm256_or_si256(a, _mm256_slli_epi32::<6>(a));
                    let c = _mm256_or_si256(b, _mm256_slli_epi32::<12>(b));
                    _mm256_or_si256(_mm256_and_si256(c, two_bits), _mm256_set1_epi32($plus))
                }};
            }
            let low = _mm256_set1_epi32(0xff);
            [
                both!(i => spread!(_mm256_and_si256(x[i], low), 0x0404_0000)),
                both!(i => spread!(_mm256_srli_epi32::<8>(x[i]), 0x0c0c_0808)),
            ]
        };
        gather(x: &[u8; 16], at: Bytes) -> Bytes = {
            let x = _mm256_broadcastsi128_si256(_mm_loadu_si128(x.as_ptr().cast()));
            both!(i => _mm256_shuffle_epi8(x, at[i]))
        };
        pick(at: Bytes, place: [u8; 4], yes: Bytes, no: Bytes) -> Bytes = {
            let place = _mm256_set1_epi32(i32::from_le_bytes(place));
            both!(i => _mm256_blendv_epi8(no[i], yes[i], _mm256_cmpeq_epi8(at[i], place)))
        };
        splat_byte(x: u8) -> Bytes = [_mm256_set1_epi8(x.cast_signed()); 2];
        add_bytes(a: Bytes, b: Bytes) -> Bytes = both!(i => _mm256_add_epi8(a[i], b[i]));
        splat_int(x: i32) -> Bytes = [_mm256_set1_epi32(x); 2];
        dot(acc: Bytes, w: Bytes, x: &[u8; 4]) -> Bytes = {
            // As 16-bit numbers, the even and the odd bytes by themselves: nothing saturates.
            let x = _mm256_set1_epi32(i32::from_le_bytes(*x));
            let (even, odd) = (_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x)), _mm256_srai_epi16::<8>(x));
            let low = _mm256_set1_epi16(0xff);
            both!(i => {
                let a = _mm256_madd_epi16(_mm256_and_si256(w[i], low), even);
                let b = _mm256_madd_epi16(_mm256_srli_epi16::<8>(w[i]), odd);
                _mm256_add_epi32(acc[i], _mm256_add_epi32(a, b))
            })
        };
        dot_small(acc: Bytes, w: Bytes, x: &[u8; 4]) -> Bytes = {
            // 2 · 64 · 127 fits 16 bits.
            let (x, ones) = (_mm256_set1_epi32(i32::from_le_bytes(*x)), _mm256_set1_epi16(1));
            both!(i => {
                let pairs = _mm256_maddubs_epi16(w[i], x);
                _mm256_add_epi32(acc[i], _mm256_madd_epi16(pairs, ones))
            })
        };
        dot_bytes(acc: Bytes, a: Bytes, b: Bytes) -> Bytes = {
            let low = _mm256_set1_epi16(0xff);
            both!(i => {
                let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(b[i]));
                let even = _mm256_madd_epi16(_mm256_and_si256(a[i], low), even);
                let odd = _mm256_madd_epi16(_mm256_srli_epi16::<8>(a[i]), _mm256_srai_epi16::<8>(b[i]));
                _mm256_add_epi32(acc[i], _mm256_add_epi32(even, odd))
            })
        };
        dot_bytes_small(acc: Bytes, a: Bytes, b: Bytes) -> Bytes = {
            // 2 · 255 · 64 fits 16 bits.
            let ones = _mm256_set1_epi16(1);
            both!(i => _mm256_add_epi32(acc[i], _mm256_madd_epi16(_mm256_maddubs_epi16(a[i], b[i]), ones)))
        };
        add_int(a: Bytes, b: Bytes) -> Bytes = both!(i => _mm256_add_epi32(a[i], b[i]));
        sub_int(a: Bytes, b: Bytes) -> Bytes = both!(i => _mm256_sub_epi32(a[i], b[i]));
        widen(x: &[u8; 16]) -> Bytes = [
            _mm256_cvtepu8_epi32(_mm_loadl_epi64(x.as_ptr().cast())),
            _mm256_cvtepu8_epi32(_mm_loadl_epi64(x.as_ptr().add(8).cast())),
        ];
        convert(x: Bytes) -> Floats = both!(i => _mm256_cvtepi32_ps(x[i]));
        e4m3(x: Bytes) -> Floats = {
            let shift = _mm256_castsi256_ps(_mm256_set1_epi32((120 + 127) << 23));
            both!(i => _mm256_mul_ps(_mm256_castsi256_ps(_mm256_slli_epi32::<20>(x[i])), shift))
        };
        e8m0(x: Bytes) -> Floats = {
            let least = _mm256_set1_epi32(1 << 22);
            both!(i => _mm256_castsi256_ps(_mm256_max_epu32(_mm256_slli_epi32::<23>(x[i]), least)))
        };
        f32(x: &[u8; 64]) -> Floats =
            [_mm256_loadu_ps(x.as_ptr().cast()), _mm256_loadu_ps(x.as_ptr().add(32).cast())];
        floats(x: &[f32; ROWS]) -> Floats = both!(i => _mm256_loadu_ps(x.as_ptr().add(8 * i)));
        f16(x: &[u8; 32]) -> Floats = [
            _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast())),
            _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().add(16).cast())),
        ];
        bf16(x: &[u8; 32]) -> Floats = {
            let a = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.as_ptr().cast()));
            let b = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.as_ptr().add(16).cast()));
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(a)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(b)),
            ]
        };
        splat(x: f32) -> Floats = [_mm256_set1_ps(x); 2];
        add(a: Floats, b: Floats) -> Floats = both!(i => _mm256_add_ps(a[i], b[i]));
        sub(a: Floats, b: Floats) -> Floats = both!(i => _mm256_sub_ps(a[i], b[i]));
        mul(a: Floats, b: Floats) -> Floats = both!(i => _mm256_mul_ps(a[i], b[i]));
        store(x: Floats, y: &mut [f32; ROWS]) -> () = {
            _mm256_storeu_ps(y.as_mut_ptr(), x[0]);
            _mm256_storeu_ps(y.as_mut_ptr().add(8), x[1]);
        };
    }

    #[inline(always)]
    fn fp8<const J: u32>(self, x: Bytes) -> Floats {
        // SAFETY: self is a token, so the processor has the features.
        unsafe {
            // The byte on top; then its sign above, and its magnitude four bits lower, where f32 has exponents.
            let by = _mm_cvtsi32_si128(24 - 8 * J as i32);
            let kept = _mm256_set1_epi32(0x87f0_0000_u32 as i32);
            let shift = _mm256_castsi256_ps(_mm256_set1_epi32((120 + 127) << 23));
            both!(i => {
                let bits = _mm256_and_si256(_mm256_srai_epi32::<4>(_mm256_sll_epi32(x[i], by)), kept);
                _mm256_mul_ps(_mm256_castsi256_ps(bits), shift)
            })
        }
    }

    #[inline(always)]
    fn spread<const J: i32>(self, x: Bytes) -> Bytes {
        // SAFETY: self is a token, so the processor has the features.
        unsafe {
            let of_rows = _mm_set_epi32(0x0c0c_0c0c, 0x0808_0808, 0x0404_0404, 0);
            let at = _mm256_broadcastsi128_si256(_mm_add_epi8(of_rows, _mm_set1_epi8(J as i8)));
            both!(i => _mm256_shuffle_epi8(x[i], at))
        }
    }

    #[inline(always)]
    fn byte<const J: u32>(self, x: Bytes) -> Bytes {
        // SAFETY: self is a token, so the processor has the features.
        unsafe {
            let (by, low) = (_mm_cvtsi32_si128(8 * J as i32), _mm256_set1_epi32(0xff));
            both!(i => _mm256_and_si256(_mm256_srl_epi32(x[i], by), low))
        }
    }
}
