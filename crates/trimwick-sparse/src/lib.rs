//! N:M and unstructured pruning of layers that were built with `trimwick-nn`.
//!
//! A [`Pattern`] says which elements may stay, a [`Method`] chooses them (and may update those that stay), and
//! a [`Mask`] enforces the choice in the forward pass, in the gradient and, through
//! [`trimwick_nn::Param::keep`], on the weight and the optimizer's state.
//!
//! * [`prune`] prunes layers by their weights; [`prune_with`] runs the model once on calibration data first.
//! * [`prune_model`] goes through a language model block after block, each block seeing the outputs of the
//!   already pruned ones, with one block's statistics in memory.
//! * Each of them reports the signal-to-noise ratio of every layer's output, by magnitude and by the method
//!   ([`LayerReport`]).
//! * [`MaskSchedule`] raises the sparsity or chooses masks anew while the model trains.
//!
//! Selection is exact and deterministic: a tie goes to the lowest index, a NaN is an error that names the layer.
//! A mask is saved as a bitset beside the weight and never inferred from zeros: a kept weight may well be zero,
//! and a dropped one that drifted away from zero must not come back unnoticed.

#![forbid(unsafe_code)]

mod error;
mod mask;
mod method;
mod pattern;
mod prune;
mod schedule;
mod sparsegpt;
mod statistics;

pub use error::{Error, Result};
pub use mask::{Count, MASK_BUFFER, Mask, bits, count, fix, lift, refresh, restore};
pub use method::{Magnitude, Method, Pruned, Wanda, Weight};
pub use pattern::Pattern;
pub use prune::{Propagate, prune, prune_model, prune_model_until, prune_with};
pub use schedule::{MaskSchedule, Plan, violations};
pub use sparsegpt::SparseGpt;
pub use statistics::{Collection, InputStats, Needs};
pub use trimwick_nn::{LayerReport, Watch};
