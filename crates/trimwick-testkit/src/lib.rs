//! Checks that find silent faults: central differences, gradient flow, closeness, golden tensors.
//!
//! Everything here panics with a message that says where and by how much: these are assertions for tests.

#![forbid(unsafe_code)]

mod close;
mod flow;
mod golden;
mod gradcheck;

pub use close::{assert_bits_equal, assert_close, values};
pub use flow::{assert_every_gradient, gradient_faults};
pub use golden::Golden;
pub use gradcheck::{assert_gradients, random, worst_gradient_error};
