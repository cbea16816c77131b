//! Optimal brain surgery on the weight of a linear layer: change its columns one after the other, and let the columns
//! to the right make up for the error (SparseGPT, arXiv 2301.00774; GPTQ, arXiv 2210.17323).
//!
//! With H = (2/n)·Σ x xᵀ + λI over the n inputs x that the layer saw, and H⁻¹ = Uᵀ·U for an upper triangular U
//! ([`Factor`]), setting w_j to q_j raises the layer's squared output error by ((w_j − q_j) / U_jj)²; the least that can
//! be had is reached when (w_j − q_j) / U_jj times row j of U is taken from the columns after j ([`solve`]). What a
//! weight becomes is the business of a [`Compress`]: nothing at all ([`Prune`]), a value of a grid, or either
//! ([`Quantize`]).
//!
//! All of it is in f64 and every row belongs to one thread, so the result does not depend on the number of threads.

mod factor;
mod prune;
mod quantize;
mod solve;

pub use factor::{Factor, FactorError};
pub use prune::{Prune, Select};
pub use quantize::{Find, QuantRow, Quantize};
pub use solve::{Compress, solve};
