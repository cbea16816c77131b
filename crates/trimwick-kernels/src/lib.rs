//! CPU loops on plain slices: the one numeric definition of every operation in Trimwick.
//!
//! Everything above this crate (layers, optimizers, pruning algorithms, exports) calls the functions here, so that
//! a number is defined once: what a layer computes in training is what an export writes and what a check reads back.
//! There is no tensor type and no candle: slices go in, slices come out, shapes are numbers, and a caller with
//! another tensor library can use the same loops.
//!
//! # Conventions
//!
//! - **Layout.** Every tensor is row-major and contiguous; a shape comment such as `[b, t, h, d]` reads slowest first.
//! - **Types.** Float functions are generic over [`Real`], which is `f32` and `f64`. `f32` is the type of training;
//!   `f64` exists so that every backward can be checked against central differences.
//! - **Outputs** are overwritten, whatever they held (NaN included), unless a parameter named `accumulate` says
//!   otherwise.
//! - **Panics.** Lengths that do not fit the stated shapes are programmer errors and panic. Data that a user can
//!   bring (a NaN score) is an [`Error`].
//!
//! # The same bits on any number of threads
//!
//! A run that is stopped and resumed, perhaps on a machine with more cores, has to produce the same bytes. So work is
//! always cut into pieces whose size depends on the shapes alone; each piece is computed by one thread in a fixed
//! order, and partial sums are added in the order of the pieces. Reductions inside a piece run over a fixed number of
//! lanes: the compiler may use vectors of any width for them, without changing a bit. Hot loops are compiled for several
//! widths, of which the processor's is chosen at run time. The matrix products come from faer's kernels, in tiles of the
//! output that are cut by the shape; the inner dimension is never split over threads.
//!
//! # Randomness
//!
//! [`Rng`] is counter based: value `i` of a stream is a pure function of (seed, stream, step, name, i). There is no
//! state to save, no order of calls to preserve, and any part of a stream can be filled by any thread. [`permute`]
//! gives the data order in the same spirit: the position of sample `i` is computed, never stored.
//!
//! # Masks
//!
//! A mask is a bitset, one bit for each element of the row-major weight, least significant bit first, 1 for kept. It
//! is never inferred from zeros in the weight. A dropped element is written as +0.0, sign bit included, because that
//! is what is proved on the exported bytes ([`violations_nm`]).
//!
//! # One-shot compression
//!
//! [`obs`] is the solver behind SparseGPT and GPTQ: one loop over the columns of a weight, whatever a weight becomes.
//!
//! # Grids
//!
//! [`quant`] defines what a quantized number is, once for training, exports and the checks that read them back: a
//! [`quant::Grid`] is the values a code can take (integers, FP8, FP6, FP4) with the format of its scales (floats, the
//! two levels of NVFP4, powers of two), and a scale belongs to `block` consecutive elements: a tensor, a row or a
//! group. It is f32 alone, and its loops are written with explicit registers, whose twins on plain arrays give the same
//! bits. A finite number never becomes NaN or infinity, a NaN is
//! an error with its position, and a zero is +0.0 on every grid, so that masks survive them.

mod adamw;
mod adamw8;
mod add;
mod attention;
mod attention_backward;
mod cpu;
mod dropout;
mod embedding;
mod error;
mod gemm;
mod head;
mod levels;
mod loss;
mod low_rank;
mod mask;
mod math;
mod nf4;
mod norm;
pub mod obs;
pub mod packed;
mod permute;
pub mod quant;
mod real;
mod reduce;
mod rng;
mod rope;
mod select;
mod swiglu;
mod words;

pub use adamw::{AdamW, adamw, adamw_masked};
pub use adamw8::{MOMENT_BLOCK, Moment8, adamw_8bit};
pub use add::{add, add_assign, add_row, scale, scale_into, sum_rows, zeros};
pub use attention::{AttentionDims, attention};
pub use attention_backward::attention_backward;
pub use dropout::dropout;
pub use embedding::{embedding, embedding_backward};
pub use error::{Error, Result};
pub use gemm::{
    MatMut, MatRef, Threading, add_gram, matmul_nn, matmul_nt, matmul_strided, matmul_tn, mirror,
};
pub use head::{LossMix, token_losses, token_losses_gradient};
pub use loss::{cross_entropy, cross_entropy_backward, kl_divergence, kl_divergence_backward};
pub use low_rank::low_rank;
pub use mask::{apply_mask, apply_mask_inplace, bits_len, count_kept, mask_backward_decayed, violations_nm};
pub use nf4::{NF4_LEVELS, nf4_decode, nf4_encode};
pub use norm::{layer_norm, layer_norm_backward, rms_norm, rms_norm_backward};
pub use permute::permute;
pub use real::Real;
pub use reduce::{all_finite, sum_squares};
pub use rng::Rng;
pub use rope::rope;
pub use select::{select_nm, select_top};
pub use swiglu::{swiglu, swiglu_backward};
pub use words::{Words, WordsWriter};
