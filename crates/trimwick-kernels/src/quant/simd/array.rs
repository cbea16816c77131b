//! Registers as arrays: what other levels have to equal, and what runs where there is nothing wider.

use super::Simd;

/// Four lanes, the width of SSE2 and NEON.
#[derive(Clone, Copy, Debug)]
pub(in crate::quant) struct Array;

const LANES: usize = 4;

#[inline(always)]
fn map<A: Copy, B>(a: [A; LANES], f: impl Fn(A) -> B) -> [B; LANES] {
    std::array::from_fn(|i| f(a[i]))
}

#[inline(always)]
fn zip<A: Copy, B: Copy, C>(a: [A; LANES], b: [B; LANES], f: impl Fn(A, B) -> C) -> [C; LANES] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Array {
    const LANES: usize = LANES;
    type F = [f32; LANES];
    type U = [u32; LANES];
    type M = [bool; LANES];

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [x; LANES]
    }
    #[inline(always)]
    fn splat_bits(self, x: u32) -> Self::U {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, x: &[f32]) -> Self::F {
        std::array::from_fn(|i| x[i])
    }
    #[inline(always)]
    fn store(self, x: Self::F, y: &mut [f32]) {
        y[..LANES].copy_from_slice(&x);
    }
    #[inline(always)]
    fn store_bytes(self, x: Self::U, y: &mut [u8]) {
        y[..LANES].copy_from_slice(&map(x, |x| x as u8));
    }
    #[inline(always)]
    fn bits(self, x: Self::F) -> Self::U {
        map(x, f32::to_bits)
    }
    #[inline(always)]
    fn float(self, x: Self::U) -> Self::F {
        map(x, f32::from_bits)
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn clamp(self, x: Self::F, lo: Self::F, hi: Self::F) -> Self::F {
        let x = zip(x, lo, |x, lo| if x < lo { lo } else { x });
        zip(x, hi, |x, hi| if x > hi { hi } else { x })
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn less(self, a: Self::F, b: Self::F) -> Self::M {
        zip(a, b, |a, b| a < b)
    }
    #[inline(always)]
    fn inside(self, x: Self::F, lo: Self::F, hi: Self::F) -> Self::M {
        let above = zip(lo, x, |lo, x| lo <= x);
        zip(above, zip(x, hi, |x, hi| x <= hi), |a, b| a & b)
    }
    #[inline(always)]
    fn select(self, mask: Self::M, a: Self::F, b: Self::F) -> Self::F {
        zip(mask, zip(a, b, |a, b| (a, b)), |m, (a, b)| if m { a } else { b })
    }
    #[inline(always)]
    fn and(self, a: Self::U, b: Self::U) -> Self::U {
        zip(a, b, |a, b| a & b)
    }
    #[inline(always)]
    fn or(self, a: Self::U, b: Self::U) -> Self::U {
        zip(a, b, |a, b| a | b)
    }
    #[inline(always)]
    fn add_bits(self, a: Self::U, b: Self::U) -> Self::U {
        zip(a, b, u32::wrapping_add)
    }
    #[inline(always)]
    fn sub_bits(self, a: Self::U, b: Self::U) -> Self::U {
        zip(a, b, u32::wrapping_sub)
    }
    #[inline(always)]
    fn min_bits(self, a: Self::U, b: Self::U) -> Self::U {
        zip(a, b, u32::min)
    }
    #[inline(always)]
    fn max_bits(self, a: Self::U, b: Self::U) -> Self::U {
        zip(a, b, u32::max)
    }
    #[inline(always)]
    fn shl(self, a: Self::U, by: u32) -> Self::U {
        map(a, |a| a << by)
    }
    #[inline(always)]
    fn shr(self, a: Self::U, by: u32) -> Self::U {
        map(a, |a| a >> by)
    }
    #[inline(always)]
    fn reduce_max(self, x: Self::F) -> f32 {
        let larger = |a: f32, b: f32| if a > b { a } else { b };
        larger(larger(x[0], x[1]), larger(x[2], x[3]))
    }
    #[inline(always)]
    fn reduce_min(self, x: Self::F) -> f32 {
        let smaller = |a: f32, b: f32| if a < b { a } else { b };
        smaller(smaller(x[0], x[1]), smaller(x[2], x[3]))
    }
}
