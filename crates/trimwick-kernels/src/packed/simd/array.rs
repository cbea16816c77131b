//! Plain arrays: the definition that the others are tested against, and what other processors run.

use super::{ROWS, Simd};

/// Arrays of sixteen.
#[derive(Clone, Copy)]
pub(in super::super) struct Array;

type Bytes = [u8; 64];
type Ints = [i32; ROWS];
type Floats = [f32; ROWS];

/// One lane after the other.
macro_rules! lanes {
    ($i:ident => $value:expr) => {{
        let mut out = [Default::default(); ROWS];
        for ($i, out) in out.iter_mut().enumerate() {
            *out = $value;
        }
        out
    }};
}

impl Simd for Array {
    type B = Bytes;
    type I = Ints;
    type F = Floats;

    #[inline(always)]
    fn bytes(self, x: &[u8; 64]) -> Bytes {
        *x
    }

    #[inline(always)]
    fn nibbles(self, x: &[u8; 64]) -> [Bytes; 2] {
        let mut out = [[0; 64]; 2];
        for (i, &x) in x.iter().enumerate() {
            out[0][i] = x & 15;
            out[1][i] = x >> 4;
        }
        out
    }

    #[inline(always)]
    fn lookup(self, x: Bytes, table: &[u8; 16]) -> Bytes {
        let mut out = [0; 64];
        for (out, x) in out.iter_mut().zip(x) {
            *out = table[usize::from(x & 15)];
        }
        out
    }

    #[inline(always)]
    fn places(self, x: &[u8; 32]) -> [Bytes; 2] {
        let mut out = [[0; 64]; 2];
        for (half, out) in out.iter_mut().enumerate() {
            for (i, out) in out.iter_mut().enumerate() {
                let place = x[i / 4 * 2 + half] >> (2 * (i % 4)) & 3;
                *out = place + 4 * (i % 4 / 2) as u8 + 8 * half as u8;
            }
        }
        out
    }

    #[inline(always)]
    fn gather(self, x: &[u8; 16], at: Bytes) -> Bytes {
        at.map(|at| x[usize::from(at & 15)])
    }

    #[inline(always)]
    fn spread<const J: i32>(self, x: Bytes) -> Bytes {
        let mut out = [0; 64];
        for (i, out) in out.iter_mut().enumerate() {
            *out = x[i / 4 * 4 + J as usize];
        }
        out
    }

    #[inline(always)]
    fn pick(self, at: Bytes, place: [u8; 4], yes: Bytes, no: Bytes) -> Bytes {
        let mut out = no;
        for (i, out) in out.iter_mut().enumerate() {
            if at[i] == place[i % 4] {
                *out = yes[i];
            }
        }
        out
    }

    #[inline(always)]
    fn splat_byte(self, x: u8) -> Bytes {
        [x; 64]
    }

    #[inline(always)]
    fn add_bytes(self, a: Bytes, b: Bytes) -> Bytes {
        let mut out = a;
        for (out, b) in out.iter_mut().zip(b) {
            *out = out.wrapping_add(b);
        }
        out
    }

    #[inline(always)]
    fn splat_int(self, x: i32) -> Ints {
        [x; ROWS]
    }

    #[inline(always)]
    fn dot(self, acc: Ints, w: Bytes, x: &[u8; 4]) -> Ints {
        let w = w.as_chunks::<4>().0;
        lanes!(i => {
            let mut sum = acc[i];
            for (&w, x) in w[i].iter().zip(x) {
                sum = sum.wrapping_add(i32::from(w) * i32::from(x.cast_signed()));
            }
            sum
        })
    }

    #[inline(always)]
    fn dot_small(self, acc: Ints, w: Bytes, x: &[u8; 4]) -> Ints {
        self.dot(acc, w, x)
    }

    #[inline(always)]
    fn dot_bytes(self, acc: Ints, a: Bytes, b: Bytes) -> Ints {
        let (a, b) = (a.as_chunks::<4>().0, b.as_chunks::<4>().0);
        lanes!(i => {
            let mut sum = acc[i];
            for (&a, &b) in a[i].iter().zip(&b[i]) {
                sum = sum.wrapping_add(i32::from(a) * i32::from(b.cast_signed()));
            }
            sum
        })
    }

    #[inline(always)]
    fn dot_bytes_small(self, acc: Ints, a: Bytes, b: Bytes) -> Ints {
        self.dot_bytes(acc, a, b)
    }

    #[inline(always)]
    fn add_int(self, a: Ints, b: Ints) -> Ints {
        lanes!(i => a[i].wrapping_add(b[i]))
    }

    #[inline(always)]
    fn sub_int(self, a: Ints, b: Ints) -> Ints {
        lanes!(i => a[i].wrapping_sub(b[i]))
    }

    #[inline(always)]
    fn byte<const J: u32>(self, x: Bytes) -> Ints {
        let x = x.as_chunks::<4>().0;
        lanes!(i => i32::from(x[i][J as usize]))
    }

    #[inline(always)]
    fn widen(self, x: &[u8; 16]) -> Ints {
        lanes!(i => i32::from(x[i]))
    }

    #[inline(always)]
    fn convert(self, x: Ints) -> Floats {
        lanes!(i => x[i] as f32)
    }

    #[inline(always)]
    fn e4m3(self, x: Ints) -> Floats {
        // The exponent's bias is 120 less than that of f32; subnormals come out right by the multiplication.
        let shift = f32::from_bits((120 + 127) << 23);
        lanes!(i => f32::from_bits((x[i] as u32) << 20) * shift)
    }

    #[inline(always)]
    fn fp8<const J: u32>(self, x: Bytes) -> Floats {
        let x = x.as_chunks::<4>().0;
        let shift = f32::from_bits((120 + 127) << 23);
        lanes!(i => {
            let code = u32::from(x[i][J as usize]);
            f32::from_bits((code & 0x7f) << 20 | (code & 0x80) << 24) * shift
        })
    }

    #[inline(always)]
    fn e8m0(self, x: Ints) -> Floats {
        // 2^−127 is the subnormal below the smallest exponent.
        lanes!(i => f32::from_bits(((x[i] as u32) << 23).max(1 << 22)))
    }

    #[inline(always)]
    fn f32(self, x: &[u8; 64]) -> Floats {
        let x = x.as_chunks::<4>().0;
        lanes!(i => f32::from_le_bytes(x[i]))
    }

    #[inline(always)]
    fn floats(self, x: &[f32; ROWS]) -> Floats {
        *x
    }

    #[inline(always)]
    fn f16(self, x: &[u8; 32]) -> Floats {
        let x = x.as_chunks::<2>().0;
        lanes!(i => half::f16::from_le_bytes(x[i]).to_f32_const())
    }

    #[inline(always)]
    fn bf16(self, x: &[u8; 32]) -> Floats {
        let x = x.as_chunks::<2>().0;
        lanes!(i => f32::from_bits(u32::from(u16::from_le_bytes(x[i])) << 16))
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Floats {
        [x; ROWS]
    }

    #[inline(always)]
    fn add(self, a: Floats, b: Floats) -> Floats {
        lanes!(i => a[i] + b[i])
    }

    #[inline(always)]
    fn sub(self, a: Floats, b: Floats) -> Floats {
        lanes!(i => a[i] - b[i])
    }

    #[inline(always)]
    fn mul(self, a: Floats, b: Floats) -> Floats {
        lanes!(i => a[i] * b[i])
    }

    #[inline(always)]
    fn store(self, x: Floats, y: &mut [f32; ROWS]) {
        *y = x;
    }
}
