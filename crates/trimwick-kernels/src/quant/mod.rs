//! Quantization grids: the one definition of what a weight or an activation becomes.
//!
//! A [`Grid`] is a [`Code`] (the values one element can take) and a [`ScaleFormat`] (what a scale can be). An element
//! becomes (round(clamp(x / s + z)) − z) · s. Everything is `f32`.
//!
//! **Blocks.** Every granularity is a run of `block` consecutive row-major elements that share a scale: the whole
//! tensor, a row (an output channel, or a token of activations), or a group of 16 to 128 inputs. `scales` and `zeros`
//! have one element for each.
//!
//! **One definition.** [`fake_quant`] is what training computes with, [`encode`] what an export stores and [`decode`]
//! what its reader computes; the first equals the last of the second bit for bit, for every grid. A zero is +0.0 in
//! all of them, so a masked weight stays +0.0.

mod blocks;
mod code;
mod codes;
mod fake;
mod gradient;
mod grid;
mod minifloat;
mod one;
mod pack;
mod range;
mod scaler;
mod scales;
mod simd;

pub use code::Code;
pub use codes::{decode, encode};
pub use fake::{fake_quant, fake_quant_dynamic};
pub use gradient::{fake_quant_backward, lsq_backward};
pub use grid::{Grid, ScaleFormat};
pub use one::Rounder;
pub use pack::{pack_bits, packed_len, unpack_bits};
pub use range::{block_amax, block_range};
pub use scales::scales;

#[cfg(test)]
mod tests;
