//! NEON: four registers for sixteen rows, with the products of the `dotprod` feature or without.
//!
//! NEON is part of every aarch64 that Rust is built for. What its intrinsics do not have yet, SDOT and the conversion of
//! half precision, is assembly. The token of `dotprod` is made by [`run_dot`] alone, which may be called only on a
//! processor that has it.

use std::arch::aarch64::*;
use std::arch::asm;

use super::{Loop, ROWS, Simd};
use crate::levels::intrinsics;

/// Four registers of 16 bytes; whether the processor has SDOT.
#[derive(Clone, Copy)]
pub(super) struct Neon<const DOT: bool>(());

/// Runs a loop.
#[target_feature(enable = "neon")]
pub(super) fn run<L: Loop>(work: L) -> L::Output {
    work.run(Neon::<false>(()))
}

/// Runs a loop with SDOT.
#[target_feature(enable = "neon,dotprod")]
pub(super) fn run_dot<L: Loop>(work: L) -> L::Output {
    work.run(Neon::<true>(()))
}

type Bytes = [uint8x16_t; 4];
type Ints = [int32x4_t; 4];
type Floats = [float32x4_t; 4];

/// The same of all four registers; a closure would be compiled without the instructions.
macro_rules! four {
    (@ $i:ident $at:literal $value:expr) => {{
        let $i = $at;
        $value
    }};
    ($i:ident => $value:expr) => {
        [four!(@ $i 0 $value), four!(@ $i 1 $value), four!(@ $i 2 $value), four!(@ $i 3 $value)]
    };
}

/// acc + the products of four signed bytes with four, for each of four rows.
///
/// # Safety
/// The processor has `dotprod`.
#[inline(always)]
unsafe fn sdot(mut acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: the caller's; nothing but registers is touched.
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "sdot {acc:v}.4s, {a:v}.16b, {b:v}.16b",
            acc = inout(vreg) acc, a = in(vreg) a, b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}

/// Four halves as floats.
///
/// # Safety
/// None beyond NEON.
#[inline(always)]
unsafe fn fcvtl(x: uint16x4_t) -> float32x4_t {
    let out;
    // SAFETY: nothing but registers is touched.
    unsafe {
        asm!(
            "fcvtl {out:v}.4s, {x:v}.4h",
            out = out(vreg) out, x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    out
}

/// The sums of the products of four 16-bit numbers with four, for each of four rows.
///
/// # Safety
/// None beyond NEON.
#[inline(always)]
unsafe fn sums(a: [int16x8_t; 2], b: [int16x8_t; 2]) -> int32x4_t {
    // SAFETY: NEON alone.
    unsafe {
        let first = vmull_s16(vget_low_s16(a[0]), vget_low_s16(b[0]));
        let second = vmull_high_s16(a[0], b[0]);
        let third = vmull_s16(vget_low_s16(a[1]), vget_low_s16(b[1]));
        let fourth = vmull_high_s16(a[1], b[1]);
        vpaddq_s32(vpaddq_s32(first, second), vpaddq_s32(third, fourth))
    }
}

/// Sixteen signed bytes as 16-bit numbers.
macro_rules! wide_signed {
    ($x:expr) => {{
        let x = vreinterpretq_s8_u8($x);
        [vmovl_s8(vget_low_s8(x)), vmovl_high_s8(x)]
    }};
}

/// Sixteen unsigned bytes as 16-bit numbers.
macro_rules! wide_unsigned {
    ($x:expr) => {{
        let x = $x;
        [vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(x))), vreinterpretq_s16_u16(vmovl_high_u8(x))]
    }};
}

/// Four bytes for every row.
macro_rules! broadcast {
    ($x:expr) => {
        vreinterpretq_u8_u32(vdupq_n_u32(u32::from_le_bytes(*$x)))
    };
}

impl<const DOT: bool> Simd for Neon<DOT> {
    type B = Bytes;
    type I = Ints;
    type F = Floats;

    intrinsics! {
        bytes(x: &[u8; 64]) -> Bytes = four!(i => vld1q_u8(x.as_ptr().add(16 * i)));
        nibbles(x: &[u8; 64]) -> [Bytes; 2] = {
            let x = four!(i => vld1q_u8(x.as_ptr().add(16 * i)));
            [four!(i => vandq_u8(x[i], vdupq_n_u8(15))), four!(i => vshrq_n_u8::<4>(x[i]))]
        };
        lookup(x: Bytes, table: &[u8; 16]) -> Bytes = {
            let table = vld1q_u8(table.as_ptr());
            four!(i => vqtbl1q_u8(table, x[i]))
        };
        places(x: &[u8; 32]) -> [Bytes; 2] = {
            let x = four!(i => vmovl_u16(vreinterpret_u16_u8(vld1_u8(x.as_ptr().add(8 * i)))));
            // Bits 2j and 2j + 1 of the lowest byte come to byte j, where no other copy of it has any.
            macro_rules! spread {
                ($x:expr, $plus:expr) => {{
                    let a = $x;
                    let b = vorrq_u32(a, vshlq_n_u32::<6>(a));
                    let c = vorrq_u32(b, vshlq_n_u32::<12>(b));
                    let c = vandq_u32(c, vdupq_n_u32(0x0303_0303));
                    vreinterpretq_u8_u32(vorrq_u32(c, vdupq_n_u32($plus)))
                }};
            }
            [
                four!(i => spread!(vandq_u32(x[i], vdupq_n_u32(0xff)), 0x0404_0000)),
                four!(i => spread!(vshrq_n_u32::<8>(x[i]), 0x0c0c_0808)),
            ]
        };
        gather(x: &[u8; 16], at: Bytes) -> Bytes = {
            let x = vld1q_u8(x.as_ptr());
            four!(i => vqtbl1q_u8(x, at[i]))
        };
        pick(at: Bytes, place: [u8; 4], yes: Bytes, no: Bytes) -> Bytes = {
            let place = broadcast!(&place);
            four!(i => vbslq_u8(vceqq_u8(at[i], place), yes[i], no[i]))
        };
        splat_byte(x: u8) -> Bytes = [vdupq_n_u8(x); 4];
        add_bytes(a: Bytes, b: Bytes) -> Bytes = four!(i => vaddq_u8(a[i], b[i]));
        splat_int(x: i32) -> Ints = [vdupq_n_s32(x); 4];
        dot(acc: Ints, w: Bytes, x: &[u8; 4]) -> Ints = {
            let xs = broadcast!(x);
            if DOT {
                // Signed bytes are less by 128.
                let sum: i32 = x.iter().map(|&x| i32::from(x.cast_signed())).sum();
                let (top, sum) = (vdupq_n_u8(0x80), vdupq_n_s32(128 * sum));
                four!(i => {
                    let w = vreinterpretq_s8_u8(veorq_u8(w[i], top));
                    sdot(vaddq_s32(acc[i], sum), w, vreinterpretq_s8_u8(xs))
                })
            } else {
                let xs = wide_signed!(xs);
                four!(i => vaddq_s32(acc[i], sums(wide_unsigned!(w[i]), xs)))
            }
        };
        dot_small(acc: Ints, w: Bytes, x: &[u8; 4]) -> Ints = {
            let x = vreinterpretq_s8_u8(broadcast!(x));
            if DOT {
                four!(i => sdot(acc[i], vreinterpretq_s8_u8(w[i]), x))
            } else {
                // 2 · 64 · 127 fits 16 bits.
                four!(i => {
                    let w = vreinterpretq_s8_u8(w[i]);
                    let (a, b) = (vmull_s8(vget_low_s8(w), vget_low_s8(x)), vmull_high_s8(w, x));
                    vpadalq_s16(acc[i], vpaddq_s16(a, b))
                })
            }
        };
        dot_bytes(acc: Ints, a: Bytes, b: Bytes) -> Ints = {
            if DOT {
                let (top, ones) = (vdupq_n_u8(0x80), vdupq_n_s8(1));
                four!(i => {
                    let (a, b) = (vreinterpretq_s8_u8(veorq_u8(a[i], top)), vreinterpretq_s8_u8(b[i]));
                    let less = vshlq_n_s32::<7>(sdot(vdupq_n_s32(0), ones, b));
                    sdot(vaddq_s32(acc[i], less), a, b)
                })
            } else {
                four!(i => vaddq_s32(acc[i], sums(wide_unsigned!(a[i]), wide_signed!(b[i]))))
            }
        };
        dot_bytes_small(acc: Ints, a: Bytes, b: Bytes) -> Ints = {
            // 2 · 255 · 64 fits 16 bits.
            four!(i => {
                let (a, b) = (wide_unsigned!(a[i]), wide_signed!(b[i]));
                vpadalq_s16(acc[i], vpaddq_s16(vmulq_s16(a[0], b[0]), vmulq_s16(a[1], b[1])))
            })
        };
        add_int(a: Ints, b: Ints) -> Ints = four!(i => vaddq_s32(a[i], b[i]));
        sub_int(a: Ints, b: Ints) -> Ints = four!(i => vsubq_s32(a[i], b[i]));
        widen(x: &[u8; 16]) -> Ints = {
            let x = wide_unsigned!(vld1q_u8(x.as_ptr()));
            [
                vmovl_s16(vget_low_s16(x[0])),
                vmovl_high_s16(x[0]),
                vmovl_s16(vget_low_s16(x[1])),
                vmovl_high_s16(x[1]),
            ]
        };
        convert(x: Ints) -> Floats = four!(i => vcvtq_f32_s32(x[i]));
        e4m3(x: Ints) -> Floats = {
            let shift = vreinterpretq_f32_u32(vdupq_n_u32((120 + 127) << 23));
            four!(i => vmulq_f32(vreinterpretq_f32_s32(vshlq_n_s32::<20>(x[i])), shift))
        };
        e8m0(x: Ints) -> Floats = four!(i => {
            let bits = vshlq_n_u32::<23>(vreinterpretq_u32_s32(x[i]));
            vreinterpretq_f32_u32(vmaxq_u32(bits, vdupq_n_u32(1 << 22)))
        });
        f32(x: &[u8; 64]) -> Floats = four!(i => vreinterpretq_f32_u8(vld1q_u8(x.as_ptr().add(16 * i))));
        floats(x: &[f32; ROWS]) -> Floats = four!(i => vld1q_f32(x.as_ptr().add(4 * i)));
        f16(x: &[u8; 32]) -> Floats = four!(i => fcvtl(vreinterpret_u16_u8(vld1_u8(x.as_ptr().add(8 * i)))));
        bf16(x: &[u8; 32]) -> Floats = four!(i => {
            let x = vreinterpret_u16_u8(vld1_u8(x.as_ptr().add(8 * i)));
            vreinterpretq_f32_u32(vshll_n_u16::<16>(x))
        });
        splat(x: f32) -> Floats = [vdupq_n_f32(x); 4];
        add(a: Floats, b: Floats) -> Floats = four!(i => vaddq_f32(a[i], b[i]));
        sub(a: Floats, b: Floats) -> Floats = four!(i => vsubq_f32(a[i], b[i]));
        mul(a: Floats, b: Floats) -> Floats = four!(i => vmulq_f32(a[i], b[i]));
        store(x: Floats, y: &mut [f32; ROWS]) -> () = {
            vst1q_f32(y.as_mut_ptr(), x[0]);
            vst1q_f32(y.as_mut_ptr().add(4), x[1]);
            vst1q_f32(y.as_mut_ptr().add(8), x[2]);
            vst1q_f32(y.as_mut_ptr().add(12), x[3]);
        };
    }

    #[inline(always)]
    fn spread<const J: i32>(self, x: Bytes) -> Bytes {
        // SAFETY: NEON alone.
        unsafe {
            let of_rows = vreinterpretq_u8_u64(vcombine_u64(
                vcreate_u64(0x0404_0404_0000_0000),
                vcreate_u64(0x0c0c_0c0c_0808_0808),
            ));
            let at = vaddq_u8(of_rows, vdupq_n_u8(J as u8));
            four!(i => vqtbl1q_u8(x[i], at))
        }
    }

    #[inline(always)]
    fn fp8<const J: u32>(self, x: Bytes) -> Floats {
        // SAFETY: NEON alone.
        unsafe {
            // The byte on top; then its sign above, and its magnitude four bits lower, where f32 has exponents.
            let (by, kept) = (vdupq_n_s32(24 - 8 * J as i32), vdupq_n_s32(0x87f0_0000_u32.cast_signed()));
            let shift = vreinterpretq_f32_u32(vdupq_n_u32((120 + 127) << 23));
            four!(i => {
                let top = vshlq_s32(vreinterpretq_s32_u8(x[i]), by);
                vmulq_f32(vreinterpretq_f32_s32(vandq_s32(vshrq_n_s32::<4>(top), kept)), shift)
            })
        }
    }

    #[inline(always)]
    fn byte<const J: u32>(self, x: Bytes) -> Ints {
        // SAFETY: NEON alone.
        unsafe {
            let by = vdupq_n_s32(-(8 * J as i32));
            four!(i => {
                let low = vandq_u32(vshlq_u32(vreinterpretq_u32_u8(x[i]), by), vdupq_n_u32(0xff));
                vreinterpretq_s32_u32(low)
            })
        }
    }
}
