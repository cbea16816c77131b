//! The two float types that kernels compute in.

use std::fmt::{Debug, Display};
use std::ops::{Add, AddAssign, Div, DivAssign, Mul, MulAssign, Neg, Sub, SubAssign};

mod sealed {
    /// With what the matrix products ask of an element.
    pub trait Sealed: faer::traits::ComplexField {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// A float a kernel can compute in: `f32` for training, `f64` for gradient checks. Sealed.
pub trait Real:
    sealed::Sealed
    + Copy
    + Default
    + Debug
    + Display
    + PartialEq
    + PartialOrd
    + Send
    + Sync
    + 'static
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + DivAssign
{
    /// +0.0.
    const ZERO: Self;
    /// 1.0.
    const ONE: Self;
    /// −∞.
    const NEG_INFINITY: Self;

    /// The nearest value of this type (ties to even).
    fn from_f64(x: f64) -> Self;
    /// The same value in `f64`, exactly.
    fn to_f64(self) -> f64;
    /// eˣ from the platform's mathematics library.
    fn exp(self) -> Self;
    /// eˣ for inner loops. In `f32` a branch-free polynomial within 2 ulp that the compiler can vectorize; in `f64`
    /// the same as [`Real::exp`]. NaN gives NaN, −∞ gives 0, and large values give ∞, as they do there.
    fn exp_fast(self) -> Self;
    /// Natural logarithm.
    fn ln(self) -> Self;
    /// Square root, correctly rounded.
    fn sqrt(self) -> Self;
    /// Absolute value.
    fn abs(self) -> Self;
    /// Whether the value is NaN.
    fn is_nan(self) -> bool;
    /// Whether the value is neither NaN nor infinite.
    fn is_finite(self) -> bool;
    /// Whether every bit is zero: true for +0.0, false for −0.0.
    fn is_positive_zero(self) -> bool;
    /// The value itself, every bit of it, or +0.0.
    fn keep_if(self, keep: bool) -> Self;
}

macro_rules! forward_to_std {
    ($t:ty, $bits:ty) => {
        const ZERO: Self = 0.0;
        const ONE: Self = 1.0;
        const NEG_INFINITY: Self = <$t>::NEG_INFINITY;

        #[inline(always)]
        fn to_f64(self) -> f64 {
            f64::from(self)
        }
        #[inline(always)]
        fn exp(self) -> Self {
            <$t>::exp(self)
        }
        #[inline(always)]
        fn ln(self) -> Self {
            <$t>::ln(self)
        }
        #[inline(always)]
        fn sqrt(self) -> Self {
            <$t>::sqrt(self)
        }
        #[inline(always)]
        fn abs(self) -> Self {
            <$t>::abs(self)
        }
        #[inline(always)]
        fn is_nan(self) -> bool {
            <$t>::is_nan(self)
        }
        #[inline(always)]
        fn is_finite(self) -> bool {
            <$t>::is_finite(self)
        }
        #[inline(always)]
        fn is_positive_zero(self) -> bool {
            self.to_bits() == 0
        }
        #[inline(always)]
        fn keep_if(self, keep: bool) -> Self {
            // An `and` of the bits instead of a branch, so that loops over masks vectorize.
            <$t>::from_bits(self.to_bits() & <$bits>::from(keep).wrapping_neg())
        }
    };
}

impl Real for f32 {
    forward_to_std!(f32, u32);

    #[inline(always)]
    fn from_f64(x: f64) -> Self {
        x as f32
    }
    #[inline(always)]
    fn exp_fast(self) -> Self {
        crate::math::exp_f32(self)
    }
}

impl Real for f64 {
    forward_to_std!(f64, u64);

    #[inline(always)]
    fn from_f64(x: f64) -> Self {
        x
    }
    #[inline(always)]
    fn exp_fast(self) -> Self {
        f64::exp(self)
    }
}
