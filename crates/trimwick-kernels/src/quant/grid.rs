//! Codes with scales: the grid of one block, and how its scale follows from its range.

use super::code::Code;
use super::scaler::Scaler;
use super::simd::{Array, Simd};

/// What a scale can be.
///
/// A scale is rounded to its format before it is used, in training too: what is trained is what is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScaleFormat {
    /// Any `f32` from 2⁻¹²⁶ up.
    F32,
    /// IEEE half precision, subnormals included: GGUF's Q8_0 and Q4_0.
    F16,
    /// bfloat16, from 2⁻¹²⁶ up.
    BF16,
    /// An E4M3 number times one `f32` for the whole tensor, the global scale: NVFP4.
    E4M3,
    /// A power of two, the smallest with which nothing in the block saturates: e = ⌈log₂(amax / max)⌉.
    E8M0Ceil,
    /// A power of two by the rule of the OCP MX specification: e = ⌊log₂ amax⌋ − ⌊log₂ max⌋. The largest values of a
    /// block may saturate.
    E8M0Floor,
}

/// A code with the format of its scales: everything about a quantizer but its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Grid {
    /// What one value can be.
    pub code: Code,
    /// What a scale can be.
    pub scale: ScaleFormat,
}

impl Grid {
    /// The tensor's own scale: amax / (max · 448) for [`ScaleFormat::E4M3`], 1 for all others and for an amax of 0.
    ///
    /// At least 2⁻¹¹⁷, so that the smallest block scale times it is a normal number.
    pub fn global(&self, tensor_amax: f32) -> f32 {
        match self.scale {
            ScaleFormat::E4M3 if tensor_amax != 0.0 => Scaler::global(self.code.max(), tensor_amax),
            _ => 1.0,
        }
    }

    /// The scale of a block whose largest magnitude is `amax`, rounded to the format.
    ///
    /// Finite and positive for any finite amax ≥ 0: it saturates at the ends of its format, and never so large that
    /// the largest value of the code times it would overflow. An amax of 0 gives 1, or `global` itself where scales
    /// are multiples of it. `global` is what [`Grid::global`] gives; formats other than E4M3 ignore it.
    pub fn scale(&self, amax: f32, global: f32) -> f32 {
        self.scaler(global).scale(Array, Array.splat(amax))[0]
    }

    /// The representable scale nearest to any positive one, such as a learned or a searched scale.
    ///
    /// Rounds half to even and saturates like [`Grid::scale`]. A power of two is the nearest in the exponent, for both
    /// E8M0 rules: a learned scale keeps its exponent until it has moved by half of an octave. A scale that
    /// [`Grid::scale`] returned comes back unchanged.
    pub fn round_scale(&self, s: f32, global: f32) -> f32 {
        self.scaler(global).round(Array, Array.splat(s))[0]
    }

    /// Scale and zero point of a block whose values lie between `min` and `max`, for [`Code::Uint`].
    ///
    /// The range is widened to hold 0, and the zero point is an integer of the code, so zero is exact. A range of
    /// nothing but zero gives (1, 0). Finite for any finite range, ±`f32::MAX` included. Scales in the format E4M3
    /// have a global scale of 1 here.
    pub fn affine(&self, min: f32, max: f32) -> (f32, f32) {
        let (scale, zero) = self.scaler(1.0).affine(Array, Array.splat(min), Array.splat(max));
        (scale[0], zero[0])
    }

    /// The rules of the grid, ready for a loop over blocks.
    pub(super) fn scaler(&self, global: f32) -> Scaler {
        Scaler::new(self.code.max(), self.scale, global)
    }
}
