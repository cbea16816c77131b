//! Products of packed weights, for inference: y = x·Wᵀ from codes and scales, with no copy of the weight in floats.
//!
//! **Layout.** A [`Packed`] weight `[n, k]` is cut into panels of sixteen rows, and a panel into units of eight inputs,
//! whose bytes are in the order in which a register of sixteen rows reads them (`elements.rs` has the table). A lane is
//! a row: nothing is summed across lanes, scales of sixteen rows are loaded as one vector, and one byte of activations
//! is multiplied with all rows at once. Rows are filled up to sixteen and inputs to 32, with zeros. A panel is read
//! from its first byte to its last, so that generating a token, which reads every weight once, runs at the speed of
//! the memory.
//!
//! | [`Element`] | stored | bits for each weight |
//! |---|---|---|
//! | Int8, Uint8 | a byte; of 2:4 weights two of four and their places | 8, 5 |
//! | Int4, Uint4, E2M1 | half a byte; of 2:4 weights two of four and their places | 4, 3 |
//! | E4M3 | a byte | 8 |
//! | plain | f32, f16, bf16 | 32, 16, 16 |
//!
//! Scales, in the narrowest type that holds all of them exactly (a power of two, E4M3 times a number, f16, bf16, f32),
//! come on top: with f16 and groups of 32 half a bit.
//!
//! **Arithmetic.** [`Arithmetic::Blocks`] rounds activations to int8 with a scale for every 32, which is what llama.cpp
//! does for its Q4_0 and Q8_0, and sums integers; E2M1 is an integer too, once it is doubled. It is the default of all
//! integer codes and FP4. [`Arithmetic::Tokens`] has one scale for each row of activations: W8A8 and W4A8 as they are
//! trained. [`Arithmetic::Float`] rounds nothing; it is the only one of FP8 and plain floats, and the one to compare with
//! fake-quantized layers. With one to three rows of activations products read codes directly; a float product of more
//! decodes a tile of the weight and multiplies that, an integer product never leaves the codes.
//!
//! **Instruction sets** are chosen at run time: AVX-512 with VNNI and VBMI, AVX2, NEON with the products of `dotprod` or
//! without, or arrays, all with the same bits.
//!
//! **Threads.** A [`Crew`] keeps the pool's threads awake for the many small products of a token.

mod aligned;
mod attend;
mod crew;
mod element;
mod elements;
mod float;
mod input;
mod integer;
mod out;
mod product;
mod scales;
mod simd;
#[cfg(test)]
mod tests;
mod weight;

pub use attend::{Cached, KvFormat, attend};
pub use crew::Crew;
pub use element::{Element, Groups};
pub use input::{Activations, Arithmetic};
pub use product::product;
pub use weight::Packed;
