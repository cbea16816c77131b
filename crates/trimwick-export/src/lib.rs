//! Tensors onto any quantization grid, packed for deployment, proved on the written bytes.
//!
//! What a layer computes in training, `FQ(w)`, is a float tensor whose values lie on a grid. What a runtime loads are
//! the codes of those values, a few bits each, and the scales. This crate writes the second and holds it to the first:
//!
//! ```text
//! dequantize(pack(w)) == fake_quant(w)     bit for bit, for every grid
//! ```
//!
//! That is no hope but a step: [`quantize_file`] reopens what it has written, decodes it from the bytes, quantizes the
//! input once more on its own, and gives the file its name only if not one bit differs. [`Packed`] is a tensor in that
//! form, [`PackedFile`] reads a file of them.
//!
//! Tensors go through one at a time, so that memory is that of the largest tensor in `f32`, whatever the model.
//!
//! Whole models leave by [`deploy`] in the formats of other runtimes ([`Target`]), each proved the same way: [`verify`]
//! opens the files with the readers of `trimwick-models` and compares every value. A grid that a target cannot hold
//! exactly is refused, with the nearest thing that can.
//!
//! # The layout of [`quantize_file`]
//!
//! A weight `P` of shape `[N, ..]` counts as N rows of K values. In a packed file the parts of `P` are, by the code:
//!
//! | code | codes | scales |
//! |---|---|---|
//! | 8-bit integers | `P` I8, in the shape of `P` | `P_scale` |
//! | integers below 8 bits, ternary (as 2 bits) | `P_packed` I32 `[N, ⌈K·b/32⌉]`, q + 2^(b−1); `P_shape` I64 | `P_scale` |
//! | integers with zero points | as above, the codes as they are | `P_scale`, `P_zero_point` I32 `[⌈N·b/32⌉, groups]` |
//! | E4M3, E5M2 | `P` F8_E4M3 or F8_E5M2, in the shape of `P` | `P_scale` |
//! | E2M1, E2M3, E3M2 | `P_packed` U8 `[N, ⌈K·b/8⌉]` | `P_scale` |
//! | int8 and int4 with f16 scales of 32 | `P_packed` U8 `[N, bytes]`: GGUF blocks, Q8_0 and Q4_0 | within |
//!
//! Codes are a dense little-endian stream of bits along the row: of two 4-bit codes in a byte the first is the low one.
//! Zero points are packed the same way along N. `P_scale` is `[1]`, `[N, 1]` or `[N, groups]`, in the type of the
//! scheme: F32, F16, BF16; U8 for powers of two, the exponent + 127; F8_E4M3 for those of NVFP4, each times
//! `P_scale_2`, F32 `[1]`. `P_shape` is also there where the codes alone do not tell the shape.
//!
//! Names, types, shapes and bit order are those of compressed-tensors where it has a layout, which it has not for MXFP6,
//! MXINT8, E5M2 and GGUF blocks. The one difference is the scale of the tensor in NVFP4: it is ModelOpt's multiplier
//! amax/(6·448), because the divisor of compressed-tensors rounds once more and would not give the trained values.
//!
//! `__metadata__` keeps what the input said and adds `trimwick.scheme`, the scheme as text, `trimwick.layout`, the
//! version of this layout, and `trimwick.tensors`, the names of the quantized tensors, a line each.

#![forbid(unsafe_code)]

mod deploy;
mod error;
#[cfg(test)]
mod faults;
mod files;
mod layout;
mod metadata;
mod packed;
mod proof;
mod proved;
mod quantize;
mod reader;
mod report;
mod scales;
mod select;
mod store;

pub use deploy::{
    Dense, DeployOptions, Deployed, Planned, Target, Trained, Verified, check_fit, deploy, verify,
};
pub use error::{Error, Result};
pub use packed::{Packed, Part};
pub use quantize::{Progress, QuantizeOptions, Stage, quantize_file};
pub use reader::{PackedFile, dequantize_file};
pub use report::{Report, TensorReport};
