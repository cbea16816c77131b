//! Mixed precision: a scheme for each layer, under a budget of bits that counts the scales.
//!
//! [`by_gradient`] or [`by_divergence`] says what each candidate scheme costs in each group of layers, [`assign`] chooses.
//! Layers that share an input (q, k and v; gate and up) are decided together, since runtimes fuse them.

mod choose;
mod score;

pub use choose::{Assignment, Budget, assign};
pub use score::{by_divergence, by_gradient, groups};

use serde::{Deserialize, Serialize};

/// What each candidate costs in each group of layers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sensitivities {
    /// How the scores were found: `"gradient"` or `"divergence"`.
    pub method: String,
    /// The candidates as text, in the order of every group's costs.
    pub schemes: Vec<String>,
    /// Layers that are decided together.
    pub groups: Vec<Group>,
}

/// Layers that are decided together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Layer paths.
    pub layers: Vec<String>,
    /// Weights of all of them.
    pub weights: u64,
    /// One for each candidate.
    pub costs: Vec<Cost>,
}

/// What a candidate costs a group.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// What quantizing adds to the loss, or is thought to: ≥ 0, the sum over calibration data.
    pub score: f64,
    /// Bits of the weights in an export, scales counted.
    pub bits: f64,
}
