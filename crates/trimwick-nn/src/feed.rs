//! What makes the input of which layers: where a scale for each input channel can be absorbed.
//!
//! A layer computes the same when its input is divided by s_c, channel by channel, and column c of its weight is
//! multiplied by s_c. SmoothQuant and AWQ choose s so that both quantize better. The division costs nothing when what
//! makes the input can take it: the gain of a norm, or the rows of a linear layer.

use crate::layer::{Layer, Layers};
use crate::param::Param;

/// What makes an input, and is linear in the parameters named here.
#[derive(Debug, Clone)]
pub enum FeedSource {
    /// A norm over the last axis.
    Norm {
        /// `[channels]`.
        gain: Param,
        /// `[channels]`, of a layer norm.
        offset: Option<Param>,
    },
    /// The outputs of a linear layer, through nothing but sums, and products with what does not depend on it.
    Rows {
        /// The layer whose rows (and bias) are divided.
        layer: Layer,
        /// The row that makes each input channel. A row that makes several (values shared by groups of query heads)
        /// forces one scale on them.
        rows: Vec<usize>,
    },
}

/// Layers that share an input, and what makes it.
#[derive(Debug, Clone)]
pub struct Feed {
    /// What makes the input; `None` when nothing can absorb a scale.
    pub source: Option<FeedSource>,
    /// Every layer that reads the input: one scale for all of them.
    pub layers: Layers,
}
