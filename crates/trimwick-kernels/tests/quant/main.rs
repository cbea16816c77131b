//! Tests of the quantization grids through the public interface: rounding against a search over every value of a
//! code, scales against exact arithmetic, thousands of awkward tensors against the definition written out, gradients
//! against central differences, and the same bits on any number of threads.

mod codes;
mod errors;
mod gradients;
mod packing;
mod reference;
mod scales;
mod tensors;
mod threads;
