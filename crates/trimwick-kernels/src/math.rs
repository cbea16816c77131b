//! Reductions over a fixed number of lanes, and a vectorizable exponential.
//!
//! A plain `for` over floats cannot be vectorized, since addition is not associative. Sixteen accumulators, folded as
//! a fixed tree, give the compiler vectors of whatever width the target has and the reader one defined result.

use crate::real::Real;

const LANES: usize = 16;

#[inline(always)]
fn fold<T: Real>(mut acc: [T; LANES], f: impl Fn(T, T) -> T) -> T {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            acc[i] = f(acc[i], acc[i + half]);
        }
        half /= 2;
    }
    acc[0]
}

/// Σ f(x).
#[inline(always)]
pub(crate) fn sum_map<T: Real>(x: &[T], f: impl Fn(T) -> T) -> T {
    let mut acc = [T::ZERO; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (a, &v) in acc.iter_mut().zip(chunk) {
            *a += f(v);
        }
    }
    for (a, &v) in acc.iter_mut().zip(rest) {
        *a += f(v);
    }
    fold(acc, |a, b| a + b)
}

/// Σ f(x, y) over two slices of one length.
#[inline(always)]
pub(crate) fn sum_map2<T: Real>(x: &[T], y: &[T], f: impl Fn(T, T) -> T) -> T {
    let mut acc = [T::ZERO; LANES];
    let (xs, x_rest) = x.as_chunks::<LANES>();
    let (ys, y_rest) = y.as_chunks::<LANES>();
    for (cx, cy) in xs.iter().zip(ys) {
        for ((a, &u), &v) in acc.iter_mut().zip(cx).zip(cy) {
            *a += f(u, v);
        }
    }
    for ((a, &u), &v) in acc.iter_mut().zip(x_rest).zip(y_rest) {
        *a += f(u, v);
    }
    fold(acc, |a, b| a + b)
}

/// Σ f(x, y, z) over three slices of one length.
#[inline(always)]
pub(crate) fn sum_map3<T: Real>(x: &[T], y: &[T], z: &[T], f: impl Fn(T, T, T) -> T) -> T {
    let mut acc = [T::ZERO; LANES];
    let (xs, x_rest) = x.as_chunks::<LANES>();
    let (ys, y_rest) = y.as_chunks::<LANES>();
    let (zs, z_rest) = z.as_chunks::<LANES>();
    for ((cx, cy), cz) in xs.iter().zip(ys).zip(zs) {
        for (((a, &u), &v), &w) in acc.iter_mut().zip(cx).zip(cy).zip(cz) {
            *a += f(u, v, w);
        }
    }
    for (((a, &u), &v), &w) in acc.iter_mut().zip(x_rest).zip(y_rest).zip(z_rest) {
        *a += f(u, v, w);
    }
    fold(acc, |a, b| a + b)
}

/// The largest element; −∞ for an empty slice. A NaN is skipped here and shows in the sum that follows.
#[inline(always)]
pub(crate) fn max<T: Real>(x: &[T]) -> T {
    let larger = |a: T, b: T| if b > a { b } else { a };
    let mut acc = [T::NEG_INFINITY; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (a, &v) in acc.iter_mut().zip(chunk) {
            *a = larger(*a, v);
        }
    }
    for (a, &v) in acc.iter_mut().zip(rest) {
        *a = larger(*a, v);
    }
    fold(acc, larger)
}

/// (Σ f(x, y).0, Σ f(x, y).1) over two slices of one length.
#[inline(always)]
pub(crate) fn sum_pairs<T: Real>(x: &[T], y: &[T], f: impl Fn(T, T) -> (T, T)) -> (T, T) {
    let (mut first, mut second) = ([T::ZERO; LANES], [T::ZERO; LANES]);
    let mut add = |x: &[T], y: &[T]| {
        for (((a, b), &u), &v) in first.iter_mut().zip(&mut second).zip(x).zip(y) {
            let (p, q) = f(u, v);
            *a += p;
            *b += q;
        }
    };
    let (xs, x_rest) = x.as_chunks::<LANES>();
    let (ys, y_rest) = y.as_chunks::<LANES>();
    for (cx, cy) in xs.iter().zip(ys) {
        add(cx, cy);
    }
    add(x_rest, y_rest);
    (fold(first, |a, b| a + b), fold(second, |a, b| a + b))
}

/// Replaces x by exp((x − shift)·scale) and returns the sum of the results.
#[inline(always)]
pub(crate) fn exp_in_place<T: Real>(x: &mut [T], shift: T, scale: T) -> T {
    let mut acc = [T::ZERO; LANES];
    let (chunks, rest) = x.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for (a, v) in acc.iter_mut().zip(chunk) {
            *v = ((*v - shift) * scale).exp_fast();
            *a += *v;
        }
    }
    for (a, v) in acc.iter_mut().zip(rest) {
        *v = ((*v - shift) * scale).exp_fast();
        *a += *v;
    }
    fold(acc, |a, b| a + b)
}

/// 1 / (1 + e⁻ˣ).
#[inline(always)]
pub(crate) fn sigmoid<T: Real>(x: T) -> T {
    T::ONE / (T::ONE + (-x).exp_fast())
}

/// eˣ in f32 without a branch: x = n·ln 2 + r with |r| ≤ ln 2 / 2, a polynomial of degree 6 in r (Cephes' `expf`
/// coefficients), and a scaling by 2ⁿ in two steps so that results in the subnormal range come out right.
#[inline(always)]
pub(crate) fn exp_f32(x: f32) -> f32 {
    // ln 2 in two parts: the first has few enough bits that n·LN2_HI is exact.
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    // Adding 1.5·2²³ rounds to an integer in the low mantissa bits; `round` would be a library call on SSE2.
    const ROUND: f32 = 12_582_912.0;
    // Outside of this range the result is 0 or ∞. The comparisons are written so that a NaN passes through.
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -104.0 { -104.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let exponent = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let r = (x - n * LN2_HI) - n * LN2_LO;
    let mut p = 1.987_569_2e-4;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let y = p * (r * r) + r + 1.0;
    let half = exponent >> 1;
    let scale = |e: i32| f32::from_bits((e.wrapping_add(127) as u32) << 23);
    y * scale(half) * scale(exponent.wrapping_sub(half))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Distance from the true value in units of the last place of the nearest f32.
    fn ulps(got: f32, x: f32) -> f64 {
        let want = f64::from(x).exp();
        let near = want as f32;
        let ulp = f64::from(f32::from_bits(near.to_bits() + 1)) - f64::from(near);
        (f64::from(got) - want).abs() / ulp
    }

    #[test]
    fn exp_is_within_two_ulp_over_the_normal_range() {
        let mut worst = 0.0f64;
        let mut x = -87.3f32;
        while x < 88.7 {
            worst = worst.max(ulps(exp_f32(x), x));
            x += 0.000_37;
        }
        assert!(worst <= 2.0, "worst error {worst} ulp");
    }

    #[test]
    fn exp_near_zero_and_in_the_subnormal_range() {
        let mut x = 1e-30f32;
        while x < 1.0 {
            for x in [x, -x] {
                assert!(ulps(exp_f32(x), x) <= 2.0, "exp({x})");
            }
            x *= 1.01;
        }
        let mut x = -87.3f32;
        while x > -103.9 {
            assert!(ulps(exp_f32(x), x) <= 2.0, "exp({x}) = {:e}", exp_f32(x));
            x -= 0.003;
        }
    }

    #[test]
    fn exp_of_special_values() {
        for (x, want) in [
            (0.0, 1.0),
            (-0.0, 1.0),
            (f32::INFINITY, f32::INFINITY),
            (1e30, f32::INFINITY),
            (88.8, f32::INFINITY),
            (f32::NEG_INFINITY, 0.0),
            (-1e30, 0.0),
            (-104.0, 0.0),
        ] {
            assert_eq!(exp_f32(x).to_bits(), f32::to_bits(want), "exp({x})");
        }
        assert!(exp_f32(f32::NAN).is_nan());
        assert!(exp_f32(-f32::NAN).is_nan());
    }

    #[test]
    fn reductions_cover_every_tail_length() {
        for n in 0..70usize {
            let x: Vec<f64> = (0..n).map(|i| (i as f64 * 0.7).sin()).collect();
            let y: Vec<f64> = (0..n).map(|i| (i as f64 * 0.3).cos()).collect();
            let close = |a: f64, b: f64| (a - b).abs() < 1e-12;
            assert!(close(sum_map(&x, |v| v * v), x.iter().map(|v| v * v).sum()), "length {n}");
            assert!(close(sum_map2(&x, &y, |a, b| a * b), x.iter().zip(&y).map(|(a, b)| a * b).sum()));
            let three: f64 = x.iter().zip(&y).map(|(a, b)| a * b * b).sum();
            assert!(close(sum_map3(&x, &y, &y, |a, b, c| a * b * c), three), "length {n}");
            assert_eq!(max(&x), x.iter().copied().fold(f64::NEG_INFINITY, f64::max), "length {n}");
            let mut e = x.clone();
            let sum = exp_in_place(&mut e, 0.5, 2.0);
            assert!(close(sum, x.iter().map(|v| (2.0 * v - 1.0).exp()).sum()), "length {n}");
            let (first, second) = sum_pairs(&x, &y, |a, b| (a * b, a - b));
            assert!(close(first, sum_map2(&x, &y, |a, b| a * b)), "length {n}");
            assert!(close(second, sum_map2(&x, &y, |a, b| a - b)), "length {n}");
        }
    }
}
