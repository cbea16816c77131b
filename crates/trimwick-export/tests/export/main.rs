//! Tensors through every grid, into files and back.

mod damaged;
mod file;
mod gguf;
mod invariant;
mod reference;
mod support;
