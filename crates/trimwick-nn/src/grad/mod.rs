//! How gradients travel between the operations of this crate.
//!
//! Candle's backward adds every gradient to a store: for each edge of the graph it clears a tensor of the argument's
//! size, adds to it, and allocates the sum. For a language model that is as much memory traffic as all its pointwise
//! operations together, and for its weights a copy of the model in every step. So gradients go past it:
//!
//! * An operation of this crate leaves a **node** of one element in candle's graph, and the tensor that it returns is a
//!   view of the node. An operation that gets such a tensor connects its own node to that node ([`relay`]). Candle walks
//!   the nodes in its order; the gradients themselves wait in [`cell`]s, where each consumer adds its own in place.
//! * A gradient of a variable goes straight into the buffer of a [`GradientSink`] while one is collecting, and is summed
//!   there over micro-batches and over the uses of a tied weight.
//!
//! Operations of candle and of this crate mix freely: where a tensor meets one of candle's, its gradient is handed to
//! candle or taken from it. Without a sink, `backward` gives candle's `GradStore` the gradients of variables as always.
//!
//! An operation keeps what its backward needs and no more. A view, a residual sum and a grid with dynamic scales keep
//! nothing and copy nothing: their consumers are connected to what they were made of.

mod cell;
mod relay;
mod sink;

pub(crate) use cell::buffer;
pub(crate) use relay::{Backward, Inputs, alias, pass_through, record};
pub use sink::GradientSink;
